import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from raw_trees import (
    RAW_ACTIONS,
    Calls,
    assert_one_line_error,
    call,
    npy_path,
    person,
    random_keypoints,
    untouched,
    world_poses,
    write_detections_tree,
    write_npy,
)

from common.camera import CAMERA_IDS
from common.files.npz import write_positions_3d
from common.h36m_dataset import SUBJECTS
from data.prepare_2d_estimation import convert_file, main

# COCO: 0 nose, 1-2 eyes, 3-4 ears, 5-6 shoulders, 7-8 elbows, 9-10 wrists, 11-12 hips, 13-14
# knees, 15-16 ankles, left before right. For each of Human3.6M's joints, whose mean it is.
H36M_FROM_COCO = (
    *((11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (11, 12, 5, 6), (5, 6)),
    *((0, 0, 5, 6), (1, 2), (5,), (7,), (9,), (6,), (8,), (10,)),
)
CANONICAL = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}


def to_h36m_by_hand(keypoints):
    """Convert (17, channels), joint by joint."""
    return np.array(
        [[sum(float(keypoints[s, c]) for s in sources) / len(sources)
          for c in range(keypoints.shape[1])] for sources in H36M_FROM_COCO]
    )  # fmt: skip


def canonical(action):
    return " ".join(CANONICAL.get(word, word) for word in action.split(" "))


def load_item(path):
    with np.load(path, allow_pickle=True) as arrays:
        return arrays["positions_2d"].item()


# ---- one file ----


def read(tmp_path, content):
    """Return what is made of a file of Human3.6M's joints, which are not converted."""
    write_npy(tmp_path / "raw.npy", content)
    return convert_file(tmp_path / "raw.npy", layout="h36m", keep_conf=True)


def test_the_highest_score_wins_and_the_later_one_on_a_tie(tmp_path):
    poses = random_keypoints(8)
    frames, scores = (0, 0, 0, 1, 1, 2, 2, 2), (0.5, 0.9, 0.7, 0.3, 0.3, 0.9, 0.9, 0.1)
    sequence = read(tmp_path, list(map(person, frames, scores, poses)))
    np.testing.assert_array_equal(sequence.keypoints, poses[[1, 4, 6]])
    assert (sequence.filled_frames, sequence.longest_gap) == (0, 0)


def test_gaps_take_the_previous_pose_and_leading_ones_the_first(tmp_path):
    poses = random_keypoints(3)
    people = [person(np.int32(f), 0.5, p) for f, p in zip((2, 3, 7), poses)]
    sequence = read(tmp_path, people[::-1])  # people may come in any order
    np.testing.assert_array_equal(sequence.keypoints, poses[[0, 0, 0, 1, 1, 1, 1, 2]])
    assert (sequence.filled_frames, sequence.longest_gap) == (5, 3)
    content = {0: None, np.int64(4): poses[1][None], 2: None, 1: poses[0][None], 5: None, 6: None}
    sequence = read(tmp_path, content)  # the end is without a detection
    np.testing.assert_array_equal(sequence.keypoints, poses[[0, 0, 0, 0, 1, 1, 1]])
    assert (sequence.filled_frames, sequence.longest_gap) == (5, 2)


@pytest.mark.parametrize("lost", [(0, 0, 0.3), (np.nan, 5, 0.5), (80, 90, 0)])
def test_points_that_were_not_found_lie_between_their_neighbours(tmp_path, lost):
    keypoints = 1 + random_keypoints(4).astype(np.float64)
    keypoints[1:3, 5] = lost
    sequence = read(tmp_path, keypoints)
    before, after = keypoints[[0, 3], 5, :2]
    between = [before + (after - before) * part for part in (1 / 3, 2 / 3)]
    np.testing.assert_allclose(sequence.keypoints[1:3, 5, :2], between, rtol=1e-5)
    np.testing.assert_array_equal(sequence.keypoints[1:3, 5, 2], 0)
    np.testing.assert_allclose(np.delete(sequence.keypoints, 5, 1), np.delete(keypoints, 5, 1))
    assert (sequence.filled_points, sequence.filled_frames) == (2, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_plain_arrays_are_taken_as_they_are_also_if_all_confidences_are_zero(tmp_path, dtype):
    keypoints = (1 + random_keypoints(4) / 7).astype(dtype)
    for factor in (1, 0):
        keypoints[..., 2] *= dtype(factor)
        joints = read(tmp_path, keypoints).keypoints
        np.testing.assert_array_equal(joints, keypoints.astype(np.float32))
        assert joints.dtype == np.float32


# ---- the script, on synthetic files ----


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "h36m_own"
    return folder, write_detections_tree(folder, ("S1", "S11"))


@pytest.fixture
def detector(tree, tmp_path):
    """Run the script on the synthetic files of an estimator, beside an earlier output."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "data_2d_h36m_own.npz").write_bytes(b"an earlier file")

    def run(*arguments, subjects="S1,S11"):
        fixed = ("--detector", "own", "--detections-dir", tree[0], "--data-dir", data_dir)
        return call(main, *fixed, "--subjects", subjects, *arguments)

    @contextmanager
    def replaced(path, content=None, raw=None):
        aside = path.with_suffix(".aside")
        path.rename(aside)
        try:
            if content is not None:
                write_npy(path, content)
            elif raw is not None:
                path.write_bytes(raw)
            yield
        finally:
            path.unlink(missing_ok=True)
            aside.rename(path)

    run.folder, run.written, run.data_dir, run.replaced = *tree, data_dir, replaced
    return run


def test_coco_is_converted_with_and_without_confidences(detector):
    result = detector("--keep-conf")
    assert result.status == 0, result.stderr
    assert (detector.data_dir / "data_2d_h36m_own.npz").read_bytes() == b"an earlier file"
    assert detector().status == 0
    plain = load_item(detector.data_dir / "data_2d_h36m_own.npz")
    with_conf = load_item(detector.data_dir / "data_2d_h36m_own_w_conf.npz")
    assert list(plain) == ["S1", "S11"]
    assert set(plain["S1"]) == {canonical(action) for action in RAW_ACTIONS}
    assert set(plain["S1"]) - set(plain["S11"]) == {"Directions"}
    for (subject, action, camera), keypoints in detector.written.items():
        if (subject, action) == ("S11", "Directions"):
            continue
        camera = CAMERA_IDS.index(camera)
        view = with_conf[subject][canonical(action)][camera]
        assert view.shape == (3, 17, 3) and view.dtype == np.float32
        np.testing.assert_allclose(view[1], to_h36m_by_hand(keypoints[1]), atol=1e-3)
        bare = plain[subject][canonical(action)][camera]
        assert bare.dtype == np.float32
        np.testing.assert_array_equal(bare, view[..., :2])
    assert "left out S11 Directions" in result.stdout
    assert "filled 0 of 708 frames" in result.stdout


def test_what_was_filled_is_said_per_file_and_in_total(detector):
    poses = random_keypoints(40)
    paths = [npy_path(detector.folder, "S1", action, CAMERA_IDS[0]) for action in RAW_ACTIONS[:2]]
    gaps = [{1, 2, 3, 7}, set(range(2, 23))]
    with (
        detector.replaced(paths[0], [person(f, 0.5, poses[f]) for f in {*range(10)} - gaps[0]]),
        detector.replaced(paths[1], [person(f, 0.5, poses[f]) for f in {*range(30)} - gaps[1]]),
    ):
        result, tolerant = detector(subjects="S1"), detector("--max-gap", 21, subjects="S1")
    assert f"S1/{paths[0].name}: filled 4 of 10 frames, longest gap 3" in result.stdout
    assert f"S1/{paths[1].name}: filled 21 of 30 frames, longest gap 21" in result.stdout
    assert "filled 25 of 394 frames, in 2 of 120 files; longest gap 21" in result.stdout
    assert result.stdout.count(": filled") == 2
    assert result.stderr == f"warning: {paths[1]}: no detection in 21 frames in succession\n"
    assert tolerant.stderr == ""


def test_other_files_and_the_corrupt_sequence_are_not_read(detector):
    paths = [npy_path(detector.folder, "S11", "Directions", camera) for camera in CAMERA_IDS]
    strange = ["_ALL_54138969_pose_sequence.npy", "._x_1_pose_sequence.npy", "notes.txt"]
    strange = [detector.folder / "S1" / name for name in strange]
    for path in strange:
        path.write_bytes(b"not read")
    with detector.replaced(paths[0]), detector.replaced(paths[1], raw=b"corrupt"):
        result = detector()
    for path in strange:
        path.unlink()
    assert result.status == 0, result.stderr


@pytest.mark.parametrize("place", ["h36m_own", "preprocess/h36m_own"])
def test_the_raw_folder_is_found_in_the_data_folder(tree, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(tree[0])
    result = call(main, "--detector", "own", "--data-dir", tmp_path, "--subjects", "S11")
    assert result.status == 0, result.stderr
    assert len(load_item(tmp_path / "data_2d_h36m_own.npz")["S11"]) == 29


# ---- bad input ----


def test_everything_that_is_missing_or_unknown_is_named_at_once(detector, tmp_path):
    folder = tmp_path / "h36m_own"
    shutil.copytree(detector.folder, folder)
    missing = [("S1", "Eating", 1), ("S1", "WalkingDog 1", 0), ("S1", "WalkingDog 1", 3)]
    missing += [("S11", "Directions 1", camera) for camera in range(4)]
    for subject, action, camera in missing:
        npy_path(folder, subject, action, CAMERA_IDS[camera]).unlink()
    for action, camera in (("Eating", "123"), ("Running", "54138969"), ("Photo", "54138969")):
        npy_path(folder, "S1", action, camera).touch()
    with untouched(detector.data_dir):
        result = detector("--detections-dir", folder, subjects="S1,S5,S9,S11")
    assert_one_line_error(
        result,
        *(folder, "S5 is missing", "S9 is missing", "S1 Eating lacks camera 55011271"),
        "S1 WalkDog 1 lacks camera 54138969, 60457274",
        *("S11 has 1 of 2 takes of Directions", "S1 has unknown action Running"),
        *("S1 has an unknown camera 123: Eating_123_pose", "S1 has Photo 54138969 twice"),
    )


def test_a_folder_that_is_missing_is_named(tmp_path):
    for name in ("../own", ""):
        result = call(main, "--detector", name, "--data-dir", tmp_path)
        assert_one_line_error(result, f"--detector '{name}': a name")
    result = call(main, "--detector", "own", "--data-dir", tmp_path)
    assert_one_line_error(result, tmp_path / "preprocess" / "h36m_own", "--detections-dir")
    assert_one_line_error(call(main, "--detector", "own", "--layout", "mpii"), "--layout")
    assert not list(tmp_path.iterdir())


def test_3d_decides_which_sequences_there_must_be_and_how_long(detector):
    def run(lengths):
        poses = {action: world_poses(frames) / 1000 for action, frames in lengths.items()}
        poses["Eating"] = [poses["Eating"]] * 4  # as with --per-camera
        write_positions_3d(detector.data_dir / "data_3d_h36m.npz", {"S1": poses})
        return detector(subjects="S1")

    result = run({"Eating": 3, "Phoning 2": 3, "Posing 9": 3})
    assert_one_line_error(result, "S1 lacks Phoning 2, Posing 9, which 3D has")
    result = run({"Eating": 4, "Smoking": 2, "Photo": 3})
    short = (f"S1/Eating_{c}_pose_sequence.npy has 3 frames, 3D has 4" for c in CAMERA_IDS)
    assert_one_line_error(result, "2D is shorter than 3D", *short)
    assert "Smoking" not in result.stderr
    assert (detector.data_dir / "data_2d_h36m_own.npz").read_bytes() == b"an earlier file"
    assert run({"Eating": 3, "Smoking": 2}).status == 0
    positions = load_item(detector.data_dir / "data_2d_h36m_own.npz")
    assert [len(view) for view in positions["S1"]["Smoking"]] == [3, 3, 3, 3]
    (detector.data_dir / "data_3d_h36m.npz").write_bytes(b"PK damaged")
    assert_one_line_error(detector(), detector.data_dir / "data_3d_h36m.npz")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "write it again with the estimator"),
        ([person(0, 0.5, random_keypoints(1)[0]), Calls(os.system, "touch ran")], "system"),
        (random_keypoints(3, channels=2), "run without --keep-conf"),
    ],
    ids=["truncated", "malicious", "without confidences"],
)
def test_a_file_that_cannot_be_used_is_named(detector, tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    path = npy_path(detector.folder, "S11", "Waiting", CAMERA_IDS[3])
    raw = path.read_bytes()[:4] if content is None else None
    with detector.replaced(path, content, raw), untouched(detector.data_dir):
        assert_one_line_error(detector("--keep-conf"), path, says)
    assert not (tmp_path / "ran").exists()


# ---- the estimators' own formats, on real motion ----


@pytest.mark.parametrize("name", ["vitpose", "pct", "moganet", "transpose"])
def test_real_estimates_agree_with_brute_force(real_chain, real_mocap, name):
    data_dir, _ = real_chain
    plain = load_item(data_dir / f"data_2d_h36m_{name}.npz")
    with_conf = load_item(data_dir / f"data_2d_h36m_{name}_w_conf.npz")
    compared = 0
    for subject in SUBJECTS:
        for path in sorted((real_mocap / f"h36m_{name}" / subject).glob("*.npy"))[::9]:
            action, camera = path.name.removesuffix("_pose_sequence.npy").rsplit("_", 1)
            if (subject, action) == ("S11", "Directions"):
                continue
            expected = expected_by_hand(np.load(path, allow_pickle=True))
            view = with_conf[subject][canonical(action)][CAMERA_IDS.index(camera)]
            np.testing.assert_allclose(view, expected, atol=1e-3)
            bare = plain[subject][canonical(action)][CAMERA_IDS.index(camera)]
            np.testing.assert_array_equal(bare, view[..., :2])
            compared += 1
    assert compared > 80
    for positions in (plain, with_conf):
        assert [len(positions[s]) for s in SUBJECTS] == [30] * 6 + [29]


def expected_by_hand(content):
    """Choose, fill and convert with loops; `content` is what plain `np.load` gives."""
    best = {}
    if content.shape == ():
        mapping = content.item()
        best = {f: (0, pose[0]) for f, pose in mapping.items() if pose is not None}
        length = max(mapping) + 1
    else:
        for someone in content:
            frame, score = someone["frame"], someone["bbox"][4]
            if frame not in best or score >= best[frame][0]:
                best[frame] = (score, someone["keypoints"])
        length = max(best) + 1
    current, poses = best[min(best)][1], []
    for frame in range(length):
        current = best[frame][1] if frame in best else current
        poses.append(to_h36m_by_hand(current))
    return np.array(poses)
