"""Unsure and impossible points, and people whose identities or places contradict themselves."""

import json

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call
from walkers import walkers

from common.files.npz import read_custom_2d
from common.footage.doubtful import default_min_confidence, jumps
from common.skeleton import coco_to_h36m
from data.prepare_2d_custom import main

SIZE = (1280, 720)
FRAMES = 60


def walker(x=400, frames=FRAMES, seed=0):
    """Return (frames, 17, 3): pixels and confidences of someone who walks and swings the limbs."""
    points = walkers(frames, people=1, seed=seed)[:, 0] * [1, 1.5, 1] + [x - 470, 0, 0]
    swing = 40 * np.sin(np.arange(frames)[:, None] / 5)
    points[:, [9, 15], 0] += swing
    points[:, [10, 16], 0] -= swing
    return points


@pytest.fixture
def prepare(tmp_path):
    """Run the script on an array, or on what JSON holds; return its sequences and its result."""

    def run(content, *arguments):
        path = tmp_path / "input"
        if isinstance(content, np.ndarray):
            path = path.with_suffix(".npy")
            np.save(path, content)
        else:
            path.write_text(json.dumps(content))
        size = "x".join(map(str, SIZE))
        common = ("--name", "x", "--size", size, "--fps", 30, "--data-dir", tmp_path)
        result = call(main, "--input", path, *common, *arguments)
        if result.status:
            return None, result
        return read_custom_2d(tmp_path / "data_2d_custom_x.npz")[0], result

    return run


# ---- points ----


def interpolated(keypoints, rows, points):
    """Return joints with these rows on the straight way between the rows around them."""
    expected = keypoints.copy()
    first, last = rows[0] - 1, rows[-1] + 1
    for row in rows:
        share = (row - first) / (last - first)
        way = (1 - share) * keypoints[first] + share * keypoints[last]
        expected[row, points] = way[points]
    return coco_to_h36m(expected)[..., :2]


def test_points_of_a_low_confidence_are_interpolated(prepare):
    keypoints = walker()
    expected = interpolated(keypoints, range(20, 32), [9, 15])
    keypoints[20:32, [9, 15], :2] += [-300, -220]  # longer than a jump may be
    keypoints[20:32, [9, 15], 2] = 0.03
    positions, result = prepare(keypoints)
    np.testing.assert_allclose(positions["x"], expected, atol=1e-3)
    assert "left out 24 points of a confidence below 0.1" in result.stdout
    for arguments in (("--min-confidence", 0), ("--min-confidence", 0.03)):
        positions, _ = prepare(keypoints, *arguments)
        assert np.abs(positions["x"] - expected).max() > 200
    _, result = prepare(keypoints, "--min-confidence", 1)
    assert_one_line_error(result, "all confidences are below 1", "--min-confidence")
    _, result = prepare(keypoints[..., :2], "--min-confidence", 0.3)
    assert_one_line_error(result, "holds no confidences")


@pytest.mark.parametrize(
    ("source", "threshold"),
    [
        ("MediaPipe, layout mediapipe", 0.05),
        ("arrays, layout mediapipe", 0.05),
        ("OpenPose, layout body25", 0.05),
        ("people by frame, layout coco", 0.05),
        ("COCO results, layout coco", 0.1),
    ],
)
def test_the_default_is_that_of_the_estimator(source, threshold):
    assert default_min_confidence(source) == threshold


def test_a_default_that_most_points_are_below_is_not_used(prepare):
    keypoints = walker()
    keypoints[..., 2] /= 20
    positions, result = prepare(keypoints)
    expected = coco_to_h36m(keypoints)[..., :2]
    np.testing.assert_allclose(positions["x"], expected, atol=1e-3)
    assert "most confidences are below 0.1" in result.stderr


@pytest.mark.parametrize("length", [1, 5, 8])
def test_points_that_jump_and_come_back_are_interpolated(prepare, length):
    keypoints = walker()
    rows = range(20, 20 + length)
    expected = interpolated(keypoints, rows, [10])
    keypoints[20 : 20 + length, 10, :2] += [150, -120]
    positions, result = prepare(keypoints[..., :2])  # no confidence says so
    np.testing.assert_allclose(positions["x"], expected, atol=1e-3)
    assert f"left out {length} points that jump and come back" in result.stdout


def test_fast_motion_is_no_jump():
    keypoints = walker()
    time = np.arange(FRAMES)
    reach = 250 * np.exp(-(((time - 30) / 3.0) ** 2))  # a punch: out and back in 12 frames
    keypoints[:, 9, 0] += reach
    keypoints[:, 15, 1] -= 100 * np.abs(np.sin(time / 2))
    assert not jumps(time, keypoints).any()
    keypoints[40:, 10] += 200  # and what does not come back
    assert not jumps(time, keypoints).any()


def test_single_far_points_do_not_decide_that_shares_are_pixels(prepare):
    keypoints = walker()
    expected = interpolated(keypoints, range(10, 11), [9, 10])
    shares = keypoints / [*SIZE, 1]
    shares[10, [9, 10], :2] = [[2.15, 0.5], [-2.2, 0.4]]
    for confidence in (0.004, 0.9):
        shares[10, [9, 10], 2] = confidence
        positions, result = prepare(shares)
        np.testing.assert_allclose(positions["x"], expected, atol=1e-3)
        assert result.stderr == ""


# ---- people ----


def alphapose(people, identities):
    """Return AlphaPose's results of people (frames, 17, 3), with identities (people, frames)."""
    return [
        {"image_id": f"{i}.jpg", "category_id": 1, "score": 2.5 + 0.1 * (i % 2), "idx": int(name)}
        | {"keypoints": keypoints[i].ravel().tolist()}
        for i in range(FRAMES)
        for keypoints, name in zip(people, np.transpose(identities)[i])
    ]


@pytest.mark.parametrize(
    ("identities", "says"),
    [
        (np.zeros((2, FRAMES)), "60 people are twice in a frame"),
        ([np.arange(FRAMES) % 20 < 5, np.arange(FRAMES) % 20 >= 5], "jumps from one place"),
    ],
)
def test_identities_that_contradict_themselves_are_not_used(prepare, identities, says):
    people = walker(300), walker(800, seed=1)
    positions, result = prepare(alphapose(people, identities))
    assert len(positions) == 2 and says in result.stderr
    for joints in positions.values():
        errors = [np.abs(joints - coco_to_h36m(person)[..., :2]).max() for person in people]
        assert min(errors) < 1e-3


def test_a_sequence_is_cut_where_the_estimator_jumps_to_another_person(prepare):
    # They are closer to each other than the boxes are wide.
    first, other = walker(400), walker(520, seed=1)
    mixed = first.copy()
    mixed[30:] = other[30:]
    positions, result = prepare(mixed)
    assert {len(joints) for joints in positions.values()} == {30}
    assert "jumps from one person to another 1 times, at first in frame 30" in result.stderr
    mixed[36:] = first[36:]
    positions, result = prepare(mixed)
    expected = interpolated(first, range(30, 36), range(17))
    np.testing.assert_allclose(positions["x"], expected, atol=1e-3)
    assert "jumps from one person to another 2 times" in result.stderr
    assert "left out: 1, who are found in 6 frames at most" in result.stdout


def test_parts_of_a_few_frames_are_left_out_and_said_so(prepare):
    keypoints = walker(frames=90)
    keypoints[30:55], keypoints[55:58], keypoints[58:] = np.nan, keypoints[29], np.nan
    positions, result = prepare(keypoints)
    assert {name: len(joints) for name, joints in positions.items()} == {"x": 30}
    assert "person 1: left out 1 parts of fewer than 10 frames" in result.stdout
    positions, _ = prepare(keypoints, "--min-frames", 1)
    assert [len(joints) for joints in positions.values()] == [30, 3]
