from contextlib import contextmanager

import cdflib
import numpy as np
import pytest
from raw_trees import (
    CDF_DOUBLE,
    RAW_ACTIONS,
    assert_one_line_error,
    call,
    cdf_path,
    untouched,
    world_poses,
    write_cdf,
    write_cdf_tree,
)

from common.camera import load_cameras
from common.h36m_dataset import SUBJECTS
from data.prepare_data_h36m import main

KEPT_JOINTS = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
CANONICAL = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}


def load_item(path, member):
    with np.load(path, allow_pickle=True) as arrays:
        return arrays[member].item()


def to_camera_by_hand(point, camera):
    """Express one world point in a camera's coordinates, through the rotation matrix."""
    w, x, y, z = camera.orientation
    columns = (  # of the matrix that rotates camera to world
        (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)),
        (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)),
        (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)),
    )
    offset = [float(p) - t for p, t in zip(point, camera.translation_m)]
    return [sum(c * o for c, o in zip(column, offset)) for column in columns]


def project_by_hand(point, camera):
    """Project one point in camera coordinates, with the distortion written out."""
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = camera.intrinsics
    x = min(1.0, max(-1.0, point[0] / point[2]))
    y = min(1.0, max(-1.0, point[1] / point[2]))
    r2 = x**2 + y**2
    factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    return fx * (x * factor + p1 * r2) + cx, fy * (y * factor + p2 * r2) + cy


def assert_sequence_by_hand(poses_mm, positions_3d, views_2d, subject, frames):
    """Compare some frames of one sequence, every joint and camera, with plain arithmetic."""
    for frame in frames:
        np.testing.assert_allclose(positions_3d[frame], poses_mm[frame] / 1000, atol=1e-6)
        for camera, view in zip(load_cameras()[subject], views_2d):
            for kept, joint in enumerate(KEPT_JOINTS):
                point_m = [float(x) / 1000 for x in poses_mm[frame, joint]]
                expected = project_by_hand(to_camera_by_hand(point_m, camera), camera)
                assert np.abs(view[frame, kept] - expected).max() < 1e-3


def test_real_motion_agrees_with_brute_force(real_mocap, real_chain):
    data_dir, _ = real_chain
    positions_3d = load_item(data_dir / "data_3d_h36m.npz", "positions_3d")
    positions_2d = load_item(data_dir / "data_2d_h36m_gt.npz", "positions_2d")
    for subject in SUBJECTS:
        folder = real_mocap / "cdf_files" / subject / "MyPoseFeatures" / "D3_Positions"
        names = sorted(path.stem for path in folder.glob("*.cdf"))
        canonical = {n: " ".join(CANONICAL.get(w, w) for w in n.split(" ")) for n in names}
        expected = set(canonical.values()) - ({"Directions"} if subject == "S11" else set())
        assert set(positions_3d[subject]) == set(positions_2d[subject]) == expected
        for name, action in canonical.items():
            if action not in expected:
                continue
            pose = cdflib.CDF(folder / f"{name}.cdf").varget("Pose")
            frames = pose.shape[1]
            assert positions_3d[subject][action].shape == (frames, 32, 3)
            assert [v.shape for v in positions_2d[subject][action]] == [(frames, 17, 2)] * 4
            poses = pose.reshape(frames, 32, 3)
            views = positions_2d[subject][action]
            assert_sequence_by_hand(poses, positions_3d[subject][action], views, subject, [0])
    last = [frames - 1, frames // 2]
    assert_sequence_by_hand(poses, positions_3d[subject][action], views, subject, last)


def test_the_counts_are_said(real_chain):
    data_dir, outputs = real_chain
    positions_2d = load_item(data_dir / "data_2d_h36m_gt.npz", "positions_2d")
    frames = sum(len(v) for s in ("S9", "S11") for views in positions_2d[s].values() for v in views)
    for text in (
        *("left out S11 Directions", "S1, S5, S6, S7, S8: 150 sequences", "1,559,752"),
        *("S9, S11: 59 sequences", "543,344", f"{frames:,} frames"),
    ):
        assert text in outputs[("prepare_data_h36m.py",)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """CDF files of two subjects and what was written into them."""
    folder = tmp_path_factory.mktemp("raw") / "cdf_files"
    return folder, write_cdf_tree(folder, ("S1", "S11"))


@pytest.fixture
def prepare(tree, tmp_path):
    """Run the script on the synthetic files, into a folder that holds earlier outputs."""
    folder, _ = tree
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    for name in ("data_3d_h36m.npz", "data_2d_h36m_gt.npz"):
        (data_dir / name).write_bytes(b"an earlier file")

    def run(*arguments, subjects="S1,S11"):
        where = ("--data-dir", data_dir, "--cdf-dir", folder)
        return call(main, *where, "--subjects", subjects, *arguments)

    run.data_dir = data_dir
    return run


def test_both_outputs_replace_the_earlier_ones(tree, prepare):
    result = prepare()
    assert result.status == 0, result.stderr
    positions_3d = load_item(prepare.data_dir / "data_3d_h36m.npz", "positions_3d")
    positions_2d = load_item(prepare.data_dir / "data_2d_h36m_gt.npz", "positions_2d")
    assert list(positions_3d) == ["S1", "S11"]
    assert [len(actions) for actions in positions_3d.values()] == [30, 29]
    assert positions_3d["S1"]["Photo"].dtype == np.float32
    for subject, raw, action in [("S1", "TakingPhoto", "Photo"), ("S11", "Sitting 2", "Sitting 2")]:
        found = positions_3d[subject][action], positions_2d[subject][action]
        assert_sequence_by_hand(tree[1][subject, raw], *found, subject, range(3))


def test_per_camera_holds_camera_coordinates(tree, prepare):
    assert prepare("--per-camera").status == 0
    positions = load_item(prepare.data_dir / "data_3d_h36m.npz", "positions_3d")
    for subject in ("S1", "S11"):
        views, poses = positions[subject]["Walking 1"], tree[1][subject, "Walking 1"] / 1000
        for camera, view in zip(load_cameras()[subject], views, strict=True):
            assert view.shape == (3, 32, 3) and view.dtype == np.float32
            expected = [to_camera_by_hand(point_m, camera) for point_m in poses[2].astype(float)]
            np.testing.assert_allclose(view[2], expected, atol=1e-6)


def test_a_subject_that_there_is_not_is_a_line(prepare):
    assert_one_line_error(prepare(subjects="S1,S3"), "no subject 'S3'")


@pytest.mark.parametrize("place", ["cwd", "data", "preprocess"])
def test_the_cdf_folder_is_looked_for_in_three_places(tree, tmp_path, monkeypatch, place):
    folder, _ = tree
    data_dir, cwd = tmp_path / "data", tmp_path / "cwd"
    for path in (data_dir / "preprocess", cwd):
        path.mkdir(parents=True)
    parent = {"cwd": cwd, "data": data_dir, "preprocess": data_dir / "preprocess"}[place]
    (parent / "cdf_files").symlink_to(folder)
    monkeypatch.chdir(cwd)
    result = call(main, "--data-dir", data_dir, "--subjects", "S1")
    assert result.status == 0, result.stderr
    assert (data_dir / "data_3d_h36m.npz").is_file()
    (parent / "cdf_files").unlink()
    result = call(main, "--data-dir", data_dir, "--subjects", "S1")
    places = (cwd, data_dir / "cdf_files", data_dir / "preprocess")
    assert_one_line_error(result, "cdf_files: no such folder", *places)


@contextmanager
def replaced(path, pose=None, content=None, **options):
    """Exchange one CDF file for another for a while; without `pose` and `content`, remove it."""
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        if pose is not None:
            write_cdf(path, pose, **options)
        elif content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("options", [{"by_record": True}, {"data_type": CDF_DOUBLE}])
def test_every_form_of_the_variable_is_read(tree, prepare, frames, options):
    poses = world_poses(frames, seed=9).astype(np.float64 if "data_type" in options else np.float32)
    with replaced(cdf_path(tree[0], "S1", "Eating"), poses.reshape(frames, 96), **options):
        result = prepare(subjects="S1")
    assert result.status == 0, result.stderr
    positions = load_item(prepare.data_dir / "data_3d_h36m.npz", "positions_3d")
    np.testing.assert_array_equal(positions["S1"]["Eating"], np.float32(poses / 1000.0))


def test_files_that_are_no_sequences_are_not_even_read(tree, prepare):
    strange = [cdf_path(tree[0], "S1", name) for name in ("_ALL", "_ALL 1", "._Eating")]
    for path in strange:
        path.write_bytes(b"not read")
    with replaced(cdf_path(tree[0], "S11", "Directions"), content=b"corrupt"):
        result = prepare()
    for path in strange:
        path.unlink()
    assert result.status == 0, result.stderr
    assert "left out S11 Directions" in result.stdout


def test_everything_that_is_missing_is_named_at_once(tree, prepare):
    folder, _ = tree
    with (
        replaced(cdf_path(folder, "S1", "Eating 1")),
        replaced(cdf_path(folder, "S11", "TakingPhoto")),
        untouched(prepare.data_dir),
    ):
        result = prepare(subjects="S1,S5,S9,S11")
    assert_one_line_error(
        result,
        *(folder, "S5 is missing", "S9 is missing"),
        *("S1 has 1 of 2 takes of Eating", "S11 has 1 of 2 takes of Photo"),
    )


NAN = np.zeros((2, 96), np.float32)
NAN[1, 5] = np.nan
BAD_FILES = {
    "no variable Pose; it holds Other": {"pose": NAN, "variable": "Other"},
    "Pose is (1, 2, 95)": {"pose": NAN[:, :95]},
    "NaN or infinite coordinates, first in frame 1": {"pose": NAN},
    "not a CDF file": {"content": b"text"},
}


@pytest.mark.parametrize("says", BAD_FILES)
def test_a_bad_file_is_named(tree, prepare, says):
    path = cdf_path(tree[0], "S1", "Smoking 2")
    with replaced(path, **BAD_FILES[says]), untouched(prepare.data_dir):
        assert_one_line_error(prepare(), path, says)


def test_a_truncated_or_damaged_file_is_named(tree, prepare):
    path = cdf_path(tree[0], "S1", RAW_ACTIONS[0])  # the first to be read
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x1f\x8b") + 40] ^= 1  # in the numbers, which gzip's checksum protects
    with untouched(prepare.data_dir):
        for content in (*(whole[:size] for size in range(0, len(whole) * 9 // 10, 150)), flipped):
            with replaced(path, content=content):
                assert_one_line_error(prepare(), path)


def test_millimetres_that_are_not_are_noticed(tree, prepare):
    far = world_poses(2) + np.float32([20_000, 20_000, 0])
    path = cdf_path(tree[0], "S1", "Smoking 2")
    with replaced(path, far.reshape(2, 96)):
        result = prepare(subjects="S1")
    assert result.status == 0
    assert f"warning: {path}: joints behind camera" in result.stderr


@pytest.mark.parametrize("output", ["3d", "2d"])
def test_neither_output_changes_when_one_cannot_be_written(prepare, monkeypatch, output):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"common.files.npz.write_positions_{output}", full)
    with untouched(prepare.data_dir):
        assert_one_line_error(prepare(), prepare.data_dir, "the disk is full")
