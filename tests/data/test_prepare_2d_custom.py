import json

import numpy as np
import pytest
from custom_files import (
    FORMATS,
    ONE_PERSON,
    alphapose,
    coco_annotations,
    coco_results,
    dump,
    frame_dicts,
    in_layout,
    mediapipe,
    mmpose,
    openpose,
    plain,
    poses_by_frame,
)
from raw_trees import assert_one_line_error, call, untouched
from walkers import FRAMES, SIZE, walkers

from common.files.console import InputError
from common.files.npz import read_custom_2d
from common.files.video import write_video
from common.footage.people import People
from common.footage.tracks import follow_by_overlap
from common.skeleton import coco_to_h36m
from data.prepare_2d_custom import main


@pytest.fixture
def prepare(tmp_path):
    """Run the script on a file; the earlier output must not suffer from a failure."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()

    def run(path, *arguments, size="640x480", fps="30"):
        size = ("--size", size) if size else ()
        fps = ("--fps", fps) if fps else ()
        common = ("--name", "dance", "--data-dir", data_dir)
        return call(main, "--input", path, *common, *size, *fps, *arguments)

    run.output = data_dir / "data_2d_custom_dance.npz"
    run.output.write_bytes(b"an earlier file")
    run.data_dir = data_dir
    return run


def prepared(prepare, path, *arguments, **flags):
    result = prepare(path, *arguments, **flags)
    assert result.status == 0, result.stderr
    return (*read_custom_2d(prepare.output), result)


# ---- formats and layouts ----


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_joints_and_keeps_empty_frames(prepare, tmp_path, name):
    keypoints = walkers(people=1 if name in ONE_PERSON else 2)
    remaining = [coco_to_h36m(person)[..., :2] for person in keypoints.swapaxes(0, 1)]
    keypoints[[3, 4, 10]] = np.nan
    positions, metadata, result = prepared(prepare, FORMATS[name](tmp_path, keypoints, SIZE))
    assert result.stderr == ""
    assert result.stdout.count("filled 3 of them, longest gap 2") == len(positions)
    assert len(positions) == keypoints.shape[1]
    for expected in remaining:
        expected[3] = (2 * expected[2] + expected[5]) / 3
        expected[4] = (expected[2] + 2 * expected[5]) / 3
        expected[10] = (expected[9] + expected[11]) / 2
    for sequence, joints in positions.items():
        assert joints.dtype == np.float32 and joints.shape == (FRAMES, 17, 2)
        errors = [np.abs(joints - expected).max() for expected in remaining]
        assert min(errors) < 1e-4
        remaining.pop(int(np.argmin(errors)))
        info = metadata[sequence]
        assert (info["w"], info["h"], info["fps"], info["first_frame"]) == (640, 480, 30, 0)


def test_the_file_is_the_one_that_the_field_reads(prepare, tmp_path):
    prepared(prepare, mmpose(tmp_path, walkers(), SIZE))
    with np.load(prepare.output, allow_pickle=True) as arrays:
        positions, metadata = arrays["positions_2d"].item(), arrays["metadata"].item()
    assert list(positions) == ["dance_person1", "dance_person2"]
    (keypoints,) = positions["dance_person1"]["custom"]
    assert keypoints.shape == (FRAMES, 17, 2)
    assert metadata["layout_name"] == "h36m" and metadata["num_joints"] == 17
    assert metadata["keypoints_symmetry"] == [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    assert metadata["video_metadata"]["dance_person1"]["w"] == 640


def test_confidences_are_kept_on_demand(prepare, tmp_path):
    keypoints = walkers(people=1)
    keypoints[5] = np.nan
    path = mmpose(tmp_path, keypoints, SIZE)
    assert prepare(path, "--keep-conf").status == 0
    assert prepare.output.read_bytes() == b"an earlier file"
    positions, _ = read_custom_2d(prepare.data_dir / "data_2d_custom_dance_w_conf.npz")
    expected = coco_to_h36m(keypoints[:, 0])[..., 2]
    expected[5] = 0
    np.testing.assert_allclose(positions["dance"][..., 2], expected, atol=1e-6)
    np.save(tmp_path / "xy.npy", walkers(people=1)[:, 0, :, :2])
    with untouched(prepare.data_dir):
        assert_one_line_error(prepare(tmp_path / "xy.npy", "--keep-conf"), "no confidences")


def test_mediapipes_depth_is_no_confidence(prepare, tmp_path):
    keypoints = walkers(people=1)
    points = in_layout(keypoints[:, 0], "mediapipe")
    points[..., 2] = np.random.default_rng(0).normal(size=points.shape[:-1])
    np.save(tmp_path / "xyz.npy", points)
    assert_one_line_error(prepare(tmp_path / "xyz.npy", "--keep-conf"), "no confidences")
    positions, _, _ = prepared(prepare, tmp_path / "xyz.npy")
    expected = coco_to_h36m(keypoints[:, 0])[..., :2]
    np.testing.assert_allclose(positions["dance"], expected, atol=1e-4)


def test_human36m_joints_are_taken_as_they_are(prepare, tmp_path):
    joints = coco_to_h36m(walkers(people=1)[:, 0])
    np.save(tmp_path / "joints.npy", joints)
    positions, _, result = prepared(prepare, tmp_path / "joints.npy", "--layout", "h36m")
    np.testing.assert_array_equal(positions["dance"], joints[..., :2].astype(np.float32))
    assert result.stderr == ""


# ---- people ----


def test_people_are_followed_by_overlap_and_motion_when_they_cross():
    keypoints = walkers(frames=100, people=3)
    frames = np.repeat(np.arange(100), 3)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(3), (100, 1)), axis=1)
    shuffled = np.take_along_axis(keypoints, order[..., None, None], axis=1).reshape(300, 17, 3)
    boxes = np.concatenate([shuffled.min(axis=1)[:, :2], shuffled.max(axis=1)[:, :2]], axis=-1)
    people = People("", "coco", frames, shuffled, boxes, None, None, 100, None)
    numbers = follow_by_overlap(people).reshape(100, 3)
    assert set(np.unique(numbers)) == {1, 2, 3}
    for person in range(3):  # the same number wherever it is the same person
        assert len(set(numbers[order == person])) == 1


def test_the_files_identities_are_believed(prepare, tmp_path):
    keypoints = walkers()
    # Where they cross: identities follow what the file says, not the bodies.
    keypoints[19:] = keypoints[19:, ::-1]
    for arguments in ((), ("--person", "2")):
        path = alphapose(tmp_path, keypoints, SIZE)
        positions, metadata, _ = prepared(prepare, path, *arguments)
        for name, joints in positions.items():
            expected = coco_to_h36m(keypoints[:, metadata[name]["person"] - 1])[..., :2]
            np.testing.assert_allclose(joints, expected, atol=1e-4)
    assert list(positions) == ["dance"] and metadata["dance"]["person"] == 2


# ---- gaps ----


def test_long_gaps_cut_the_sequence_or_are_filled_on_demand(prepare, tmp_path):
    keypoints = walkers(frames=60, people=1)
    keypoints[20:45] = np.nan
    path = mmpose(tmp_path, keypoints, SIZE)
    positions, metadata, _ = prepared(prepare, path)
    lengths = {name: len(joints) for name, joints in positions.items()}
    assert lengths == {"dance_part1": 20, "dance_part2": 15}
    assert metadata["dance_part2"]["first_frame"] == 45
    for arguments in (("--fill-gaps",), ("--max-gap", "25")):
        positions, _, result = prepared(prepare, path, *arguments)
        assert positions["dance"].shape == (60, 17, 2)
        assert "filled 25 of them, longest gap 25" in result.stdout


def test_points_that_were_not_found_are_interpolated_and_none_is_left_at_zero(prepare, tmp_path):
    keypoints = walkers(people=1)
    expected = coco_to_h36m(keypoints[:, 0])[..., :2]
    keypoints[3, 0, 15] = 0  # the left ankle; OpenPose writes 0, 0, 0
    keypoints[:, 0, [10, 8]] = 0  # the right wrist and elbow, never found
    positions, _, result = prepared(prepare, openpose(tmp_path, keypoints, SIZE))
    expected[3, 6] = (expected[2, 6] + expected[4, 6]) / 2
    expected[:, 15:] = expected[:, 14:15]  # where the right shoulder is
    np.testing.assert_allclose(positions["dance"], expected, atol=1e-4)
    assert "filled 61 points in the others" in result.stdout
    assert "never found: right_elbow, right_wrist" in result.stderr


# ---- numbers that contradict their layout ----


def exchanged_hips(keypoints):
    result = keypoints.copy()
    result[:, :, [11, 12]] = keypoints[:, :, [12, 11]]
    return result


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda k: k + [0, 130, 0], "of the keypoints lie outside of the 640x480 picture"),
        (lambda k: k * [1, -1, 1] + [0, 480, 0], "the hips are above the shoulders in 100%"),
        (exchanged_hips, "shoulders and hips contradict each other in 100%"),
        (coco_to_h36m, "hips are above the shoulders in 100% of the frames; is the --layout right"),
    ],
)
def test_contradictions_are_warned_of(prepare, tmp_path, change, says):
    _, _, result = prepared(prepare, plain(tmp_path, change(walkers(people=1)), SIZE))
    assert result.stderr.startswith("warning: ") and says in result.stderr


# ---- the video ----


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "dance.mp4"
    write_video(path, [np.zeros((480, 640, 4), np.uint8)] * FRAMES, fps=25)
    return path


def test_size_and_rate_come_from_the_video(prepare, tmp_path, video):
    path = mediapipe(tmp_path, walkers(people=1), SIZE)
    _, metadata, _ = prepared(prepare, path, "--video", video, size=None, fps=None)
    info = metadata["dance"]
    assert (info["w"], info["h"], info["fps"]) == (640, 480, 25)
    _, metadata, _ = prepared(prepare, path, "--video", video, size=None, fps="50")
    assert metadata["dance"]["fps"] == 50


def test_the_keypoints_and_what_is_said_of_them_must_fit(prepare, tmp_path, video):
    path = plain(tmp_path, walkers(frames=40, people=1), SIZE)
    annotated = coco_annotations(tmp_path, walkers(people=1), SIZE)
    content = json.loads(annotated.read_text())
    content["images"][5]["width"] = 1280
    two_sizes = dump(tmp_path / "two_sizes.json", content)
    no_video = tmp_path / "text.mp4"
    no_video.write_bytes(b"no video")
    large = "1920x1080"
    for source, arguments, flags, says in (
        (path, ("--video", video), {"size": None}, "40 frames of keypoints, but the video has 30"),
        (path, ("--video", no_video), {"size": None}, "text.mp4: "),
        (path, ("--video", video), {"size": large}, "1920x1080 by --size"),
        (annotated, (), {"size": large}, f"1920x1080 by --size, 640x480 by {annotated}"),
        (two_sizes, (), {}, "pictures are of different sizes (640x480, 1280x480)"),
        (path, (), {"size": None}, "the picture's size is not known"),
        (path, (), {"fps": None}, "the frame rate is not known"),
        (path, (), {"size": "0x480"}, "size '0x480': give WIDTHxHEIGHT"),
        (path, (), {"fps": "0"}, "--fps"),
        (path, ("--name", "a/b"), {}, "--name"),
        (path, ("--person", "7"), {}, "--person 7: no such person; there are 1"),
        (path, ("--layout", "halpe26"), {}, "halpe26 has 26 keypoints, but this file has 17"),
        (path, (), {"size": "160x120"}, "keypoints lie outside of the 160x120 picture"),
    ):
        with untouched(prepare.data_dir):
            assert_one_line_error(prepare(source, *arguments, **flags), says)


# ---- bad input ----

FULL = walkers(frames=2, people=1)


def mmpose_frame(**changes):
    """Return MMPose's JSON, with a frame that is not as it should be."""
    point = {"keypoints": FULL[0, 0, :, :2].tolist()}
    frames = [{"frame_id": 1, "instances": [point]}, {"frame_id": 2, "instances": [point]}]
    frames[1].update(changes)
    return {"instance_info": frames}


def truncated(folder):
    (folder / "bad.json").write_text(json.dumps(mmpose_frame())[:-20])
    return folder / "bad.json"


def folder_of_other_json(folder):
    (folder / "other").mkdir()
    dump(folder / "other" / "frame_1.json", {"a": 1})
    return folder / "other"


# What is said about a content that is written as JSON, about an array or the file of a function.
BAD = {
    "no person in any frame: all": np.zeros((4, 17, 3)),
    "no person in any frame": [[], []],
    "frame 0: keypoints (3,), expected": np.zeros((17, 3)),
    "frame 2: keypoints (), expected": [{"frame": 2, "keypoints": None}],
    "frame 1: keypoints (17, 2), others (17, 3)": [
        {"frame": i, "keypoints": FULL[0, 0, :, : 3 - i].tolist()} for i in (0, 1)
    ],
    "frame 0: [[...], [...], [...]] holds no numbers (could not convert": [
        {"frame": 0, "keypoints": [["a", "b", "c"]] * 3}
    ],
    "no numbers (could not convert": np.array(["a", "b"]),
    "of an unknown form, with []": np.array(3.0),
    "frame number -1 is outside": [{"frame": -1, "keypoints": FULL[0, 0].tolist()}],
    "of an unknown form, with ['hello']; known are COCO": {"hello": [1, 2]},
    "neither npy, npz, csv nor JSON": truncated,
    "frame number 'x' is no integer": mmpose_frame(frame_id="x"),
    "not quite in a known form (KeyError: 'instances')": {"instance_info": [{"frame_id": 0}]},
    "no *.json in this folder": lambda folder: folder / "data",
    "frame_1.json: of an unknown form": folder_of_other_json,
    "frame 1 is there twice; give": mmpose_frame(frame_id=1),
    "no layout has 21 keypoints; there are coco 17": np.ones((4, 21, 3)),
    "frame number 600000 is outside": [{"frame": 600_000, "keypoints": FULL[0, 0].tolist()}],
    "has no number": [{"image_id": "a.jpg", "keypoints": [1.0] * 51}],
    "50 numbers are not x, y": [{"image_id": 1, "keypoints": [1.0] * 50}],
    "No such file": lambda folder: folder / "missing.json",
}


@pytest.mark.parametrize("says", BAD)
def test_bad_input_is_named(prepare, tmp_path, says):
    path, content = tmp_path / "bad.json", BAD[says]
    if callable(content):
        path = content(tmp_path)
    elif isinstance(content, np.ndarray):
        path = tmp_path / "bad.npy"
        np.save(path, content)
    else:
        dump(path, content)
    with untouched(prepare.data_dir):
        assert_one_line_error(prepare(path), path, says)


def test_absurd_coordinates_count_as_not_found_and_frames_may_be_out_of_order(prepare, tmp_path):
    keypoints = walkers(people=1)
    expected = coco_to_h36m(keypoints[:, 0])[..., :2]
    expected[4, 6] = (expected[3, 6] + expected[5, 6]) / 2
    keypoints[4, 0, 15, 1] = 1e300
    content = np.load(frame_dicts(tmp_path, keypoints, SIZE), allow_pickle=True)
    np.save(tmp_path / "shuffled.npy", np.random.default_rng(0).permutation(content))
    positions, _, _ = prepared(prepare, tmp_path / "shuffled.npy")
    np.testing.assert_allclose(positions["dance"], expected, atol=1e-4)


def test_a_person_twice_in_a_frame_is_the_one_of_the_higher_score(prepare, tmp_path):
    keypoints = walkers(people=1)
    content = json.loads(alphapose(tmp_path, keypoints, SIZE).read_text())
    worse = {**content[3], "score": 0.1, "keypoints": [9.0] * 51}
    path = dump(tmp_path / "twice.json", [worse, *content])
    positions, _, result = prepared(prepare, path)
    expected = coco_to_h36m(keypoints[:, 0])[..., :2]
    np.testing.assert_allclose(positions["dance"], expected, atol=1e-4)
    assert "1 people are twice in a frame" in result.stderr


def test_the_first_frame_may_have_another_number(prepare, tmp_path):
    keypoints = walkers(people=1)
    content = json.loads(coco_results(tmp_path, keypoints, SIZE).read_text())
    path = dump(tmp_path / "from1.json", [{**p, "image_id": p["image_id"] + 1} for p in content])
    _, metadata, _ = prepared(prepare, path)
    assert metadata["dance"]["first_frame"] == 1
    _, metadata, _ = prepared(prepare, path, "--first-frame", "1")
    assert metadata["dance"]["first_frame"] == 0
    assert_one_line_error(prepare(path, "--first-frame", "2"), "frame number -1", "--first-frame")
    keypoints[:4] = np.nan
    _, metadata, _ = prepared(prepare, poses_by_frame(tmp_path, keypoints, SIZE))
    assert metadata["dance"]["first_frame"] == 4


def test_what_is_no_custom_file_is_named(tmp_path):
    path = tmp_path / "data_2d_custom_x.npz"
    metadata = {"layout_name": "h36m", "video_metadata": {}}
    good = {"v": {"custom": [np.ones((2, 17, 2), np.float32)]}}
    for says, arrays in (
        ("no 'positions_2d'", {"a": np.zeros(1)}),
        ("size of v", {"positions_2d": good, "metadata": metadata}),
        ("one camera's array", {"positions_2d": {"v": {"custom": []}}, "metadata": metadata}),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=says):
            read_custom_2d(path)


def test_the_input_is_not_written_over(prepare, tmp_path):
    path = prepare.output
    np.savez(path, walkers(people=1)[:, 0])
    (tmp_path / "link.npz").symlink_to(path)
    with untouched(prepare.data_dir):
        for source in (path, tmp_path / "link.npz"):
            assert_one_line_error(prepare(source), path, "is the same file as")
