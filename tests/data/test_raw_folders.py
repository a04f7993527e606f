import shutil

import numpy as np
import pytest
from custom_files import mmpose, mmpose_pictures
from raw_trees import (
    RAW_ACTIONS,
    assert_one_line_error,
    call,
    random_keypoints,
    write_detections_tree,
    write_npy,
)

from common.camera import CAMERA_IDS
from common.files.npz import read_positions_2d
from common.h36m_dataset import canonical_action
from common.skeleton import coco_to_h36m
from data.prepare_2d_estimation import main


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return the keypoints of a subject's files, by subject, action and camera."""
    return write_detections_tree(tmp_path_factory.mktemp("raw"), ["S1"])


@pytest.fixture
def prepare(tmp_path_factory):
    """Run the script on a folder."""
    data_dir = tmp_path_factory.mktemp("data")

    def run(folder):
        where = ("--detections-dir", folder, "--data-dir", data_dir)
        return call(main, "--detector", "own", *where, "--subjects", "S1")

    run.output = data_dir / "data_2d_h36m_own.npz"
    return run


@pytest.mark.parametrize(
    "place_of",
    [
        lambda folder, s, action, c: folder / s / f"{action}.{c}.npy",
        lambda folder, s, action, c: folder / s / f"{s}_{action.replace(' ', '_')}.{c}.mp4.npy",
        lambda folder, s, action, c: folder / s / f"{action} {c}.npy",
        lambda folder, s, action, c: folder / s / c / f"{action}.npy",
        lambda folder, s, action, c: folder / f"{s}_{action}.{c}.npy",
    ],
    ids=["dot", "underscores", "space", "folder a camera", "no folder a subject"],
)
def test_raw_files_may_be_named_as_people_name_them(tree, prepare, tmp_path, place_of):
    folder = tmp_path / "other"
    for (subject, action, camera), keypoints in tree.items():
        write_npy(place_of(folder, subject, action, camera), keypoints)
    (folder / "notes.txt").touch()
    result = prepare(folder)
    assert result.status == 0, result.stderr
    found = read_positions_2d(prepare.output)["S1"]
    for (_, action, camera), keypoints in tree.items():
        view = found[canonical_action(action)][CAMERA_IDS.index(camera)]
        expected = coco_to_h36m(keypoints.astype(float))[..., :2].astype("f")
        np.testing.assert_array_equal(view, expected)


def test_other_formats_and_folders_of_pictures_are_read_too(prepare, tmp_path):
    folder = tmp_path / "other"
    (folder / "S1").mkdir(parents=True)
    keypoints = random_keypoints(3)[:, None].astype(float)
    for number, action in enumerate(RAW_ACTIONS):
        for camera in CAMERA_IDS:
            view = folder / "S1" / f"{action}.{camera}"
            write = mmpose if number else mmpose_pictures  # a folder of a file for each picture
            written = write(tmp_path, keypoints, (1000, 1000))
            shutil.move(written, view.with_name(view.name + written.suffix))
    result = prepare(folder)
    assert result.status == 0, result.stderr
    found = read_positions_2d(prepare.output)
    expected = [coco_to_h36m(frame[0])[:, :2] for frame in keypoints]
    for action in map(canonical_action, RAW_ACTIONS):
        np.testing.assert_allclose(found["S1"][action], [expected] * 4, rtol=1e-5)


@pytest.mark.parametrize("place", ["S1", ""])
def test_a_folder_of_which_no_file_fits_says_what_is_there(prepare, tmp_path, place):
    files = tmp_path / place
    files.mkdir(exist_ok=True)
    for number in range(3):
        (files / f"Directions_cam{number}.npy").touch()
    result = prepare(tmp_path)
    assert not prepare.output.exists()
    found = f"{files}: found 3 files, such as Directions_cam0.npy, Directions_cam1.npy; none is "
    assert_one_line_error(result, found, "<ACTION>_<CAMERA>_pose_sequence.npy", CAMERA_IDS[0])
