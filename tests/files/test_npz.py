"""The 2D and 3D files: NumPy reads what is written, and what is read passes the schema."""

import re
from pathlib import Path

import numpy as np
import pytest
from raw_trees import random_keypoints, world_poses

from common.files.console import InputError
from common.files.npz import (
    KEYPOINTS_METADATA,
    npz_path,
    read_positions_2d,
    read_positions_3d,
    write_npz,
    write_positions_2d,
    write_positions_3d,
)

CAMERA = random_keypoints(3, 2)
POSITIONS_2D = {"S1": {"Sitting 1": [random_keypoints(3, 2, seed=i) for i in range(4)]}}
POSITIONS_3D = {"S1": {"Sitting 1": world_poses(3) / 1000}}
PER_CAMERA = {"S1": {"Sitting 1": [world_poses(3, i) / 1000 for i in range(4)]}}


def test_2d_is_read_by_plain_numpy(tmp_path):
    write_positions_2d(tmp_path / "a.npz", POSITIONS_2D)
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        np.testing.assert_equal(arrays["positions_2d"].item(), POSITIONS_2D)
        assert arrays["metadata"].item() == {
            "num_joints": 17,
            "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
        }
    read = read_positions_2d(tmp_path / "a.npz")
    np.testing.assert_equal(read, POSITIONS_2D)
    assert {view.dtype for view in read["S1"]["Sitting 1"]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("positions", [POSITIONS_3D, PER_CAMERA], ids=["world", "per camera"])
def test_3d_is_read_by_plain_numpy(tmp_path, positions):
    write_positions_3d(tmp_path / "a.npz", positions)
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        np.testing.assert_equal(arrays["positions_3d"].item(), positions)
    np.testing.assert_equal(read_positions_3d(tmp_path / "a.npz"), positions)


def test_lists_of_numbers_are_read_as_arrays(tmp_path):
    write_positions_2d(tmp_path / "a.npz", {"S1": {"A": [CAMERA.tolist()] * 4}})
    np.testing.assert_array_equal(read_positions_2d(tmp_path / "a.npz")["S1"]["A"][2], CAMERA)


def views_2d(*last):
    return {"S1": {"Walking": [CAMERA] * (4 - len(last)) + list(last)}}


BAD_2D = {
    "expected a dict of subjects": [1, 2],
    "'S1' is not a dict of actions": {"S1": [1]},
    "'S1' or an action of it has no text as its name": {"S1": {None: [CAMERA] * 4}},
    "S1, Walking: expected a list of 4 cameras' arrays": {"S1": {"Walking": [CAMERA] * 3}},
    "camera 3: expected numbers (frames, 17, 2 or 3), got lists that differ": views_2d([[1], []]),
    "camera 3: expected numbers (frames, 17, 2 or 3), got <U1": views_2d(np.full((2, 17, 2), "a")),
    "camera 3: expected an array (frames, 17, 2 or 3), got (2, 16, 2)": views_2d(
        np.zeros((2, 16, 2))
    ),
    "camera 3: holds NaN or infinite": views_2d(np.full((2, 17, 2), 1e39)),
    "camera 3: has no frames": views_2d(np.zeros((0, 17, 2))),
    "some arrays have a confidence": views_2d(random_keypoints(3, 3)),
}
BAD_3D = {
    "S1, Walking: expected an array (frames, 32, 3), got (3, 17, 3)": np.zeros((3, 17, 3)),
    "S1, Walking: expected a list of 4 cameras": [np.zeros((3, 32, 3))] * 2,
}


@pytest.mark.parametrize("message", [*BAD_2D, *BAD_3D])
def test_positions_of_another_form_are_refused(tmp_path, message):
    path = tmp_path / "a.npz"
    read = read_positions_2d if message in BAD_2D else read_positions_3d
    if message in BAD_2D:
        write_positions_2d(path, BAD_2D[message])
    else:
        write_positions_3d(path, {"S1": {"Walking": BAD_3D[message]}})
    with pytest.raises(InputError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read(path)


def test_a_file_without_the_array_says_what_it_holds(tmp_path):
    write_positions_2d(tmp_path / "a.npz", POSITIONS_2D)
    with pytest.raises(InputError, match=r"metadata.*positions_2d.*no array 'positions_3d'"):
        read_positions_3d(tmp_path / "a.npz")


def test_an_output_goes_to_the_data_folder_unless_absolute(tmp_path):
    for name, written in (("a", "a.npz"), ("a.npz", "a.npz"), ("a.b", "a.b.npz")):
        assert npz_path(tmp_path, name) == tmp_path / written
    assert npz_path(Path("elsewhere"), str(tmp_path / "a.npz")) == tmp_path / "a.npz"
    for nothing in ("", ".", "..", "a/.."):
        with pytest.raises(InputError, match="give the name of a file"):
            npz_path(tmp_path, nothing)


COCO_PAIRS = [list(range(1, 17, 2)), list(range(2, 17, 2))]


def test_an_npz_that_says_coco_is_converted(tmp_path, capsys):
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": COCO_PAIRS}
    write_npz(tmp_path / "a.npz", positions_2d=POSITIONS_2D, metadata=metadata)
    read, views = read_positions_2d(tmp_path / "a.npz"), POSITIONS_2D["S1"]["Sitting 1"]
    for found, coco in zip(read["S1"]["Sitting 1"], views):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:, 3], coco[:, 16])  # the right foot
        np.testing.assert_allclose(found[:, 0], (coco[:, 11] + coco[:, 12]) / 2, rtol=1e-5)
    assert "COCO's keypoints" in capsys.readouterr().err


CONTRADICTIONS = {
    "layout 'mpii', 17 joints": {"layout_name": "mpii"},
    "layout 'h36m', 16 joints": {"num_joints": 16},
    "layout coco and left and right joints": {"layout_name": "coco", **KEYPOINTS_METADATA},
    "layout h36m and left and right joints [": {"keypoints_symmetry": COCO_PAIRS},
    "layout h36m and left and right joints 5": {"keypoints_symmetry": 5},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_metadata_that_contradicts_the_joints_is_refused(tmp_path, message):
    path = tmp_path / "a.npz"
    write_npz(path, positions_2d=POSITIONS_2D, metadata=CONTRADICTIONS[message])
    with pytest.raises(InputError, match=re.escape(f"{path}: its metadata says {message}")):
        read_positions_2d(path)
