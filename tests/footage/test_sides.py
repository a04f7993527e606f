"""Exchanges of left and right, on real keypoints and made in known frames."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from raw_trees import call

from common.files.npz import read_custom_2d
from common.footage.people import read_people
from common.footage.sides import _CHANGE, PAIRS, _cheapest, find_exchanges, reorder
from common.skeleton import COCO_NAMES, JOINT_NAMES, LEFT_JOINTS, RIGHT_JOINTS, coco_to_h36m
from data.prepare_2d_custom import main

REAL = Path(__file__).parents[1] / "data" / "real_footage"
CAMERAS = ("cam01", "cam02", "cam03")
ESTIMATORS = (
    *("mp_lite.npy", "mp_full.npy", "mp_heavy.npy"),
    *("lightning.json", "thunder.json", "multipose.json"),
)
LIMBS = [*LEFT_JOINTS, *RIGHT_JOINTS]


def error_px(joints, camera):
    """Return the mean distance from the triangulated truth over the 12 limb joints."""
    with np.load(REAL / f"{camera}_truth.npz") as truth:
        return np.linalg.norm((joints - truth["pixels"])[:, LIMBS], axis=-1).mean()


def prepare(path, folder, *arguments):
    common = ("--name", "x", "--data-dir", folder, "--size", "1080x1920", "--fps", 60)
    result = call(main, "--input", path, *common, *arguments)
    assert result.status == 0, result.stderr
    return read_custom_2d(folder / "data_2d_custom_x.npz")[0], result


@pytest.mark.parametrize("camera", CAMERAS)
def test_no_estimator_of_real_footage_gets_worse_and_no_warning_is_false(tmp_path, camera):
    for estimator in ESTIMATORS:
        path = REAL / f"{camera}_{estimator}"
        before = error_px(coco_to_h36m(read_people(path).keypoints)[..., :2], camera)
        positions, result = prepare(path, tmp_path)
        assert error_px(positions["x"], camera) < before + 0.01, estimator
        if (camera, estimator) != ("cam02", "mp_lite.npy"):
            assert result.stderr == "", estimator


def test_the_exchanges_of_real_footage_are_put_right(tmp_path):
    path = REAL / "cam02_mp_full.npy"
    positions, result = prepare(path, tmp_path)
    assert error_px(positions["x"], "cam02") < 15
    assert "of 100 frames (the whole body 30, the arms 2" in result.stdout
    positions, result = prepare(path, tmp_path, "--keep-sides")
    assert error_px(positions["x"], "cam02") > 80
    assert "left as they are (--keep-sides)" in result.stderr


def test_without_a_majority_nothing_is_exchanged_and_a_warning_says_so(tmp_path):
    path = REAL / "cam02_mp_lite.npy"  # 56 of 100 frames are exchanged
    positions, result = prepare(path, tmp_path)
    as_it_is = coco_to_h36m(read_people(path).keypoints)[..., :2]
    np.testing.assert_array_equal(positions["x"], as_it_is.astype(np.float32))
    assert "which of them are right is not clear" in result.stderr


@pytest.fixture(params=CAMERAS)
def truth(request):
    with np.load(REAL / f"{request.param}_truth.npz") as arrays:
        return arrays["pixels"]


@pytest.mark.parametrize("parts", [("legs",), ("arms",), ("arms", "legs")])
@pytest.mark.parametrize("stride", [1, 2])
def test_exchanges_made_in_known_frames_are_found_in_exactly_these(truth, parts, stride):
    joints = truth[::stride]
    frames = np.arange(len(joints))
    assert find_exchanges(frames, joints, "h36m")[1:] == (0, 0, 0, False)
    exchanged = joints.copy()
    for part in parts:
        left, right = PAIRS["h36m"][part]
        exchanged[np.ix_(range(21, 33), left + right)] = joints[21:33, right + left]
    found = find_exchanges(frames, exchanged, "h36m")
    np.testing.assert_array_equal(reorder(exchanged, found.order), joints)
    counts = {("arms", "legs"): (12, 0, 0), ("arms",): (0, 12, 0), ("legs",): (0, 0, 12)}
    assert found[1:] == (*counts[parts], False)


def test_points_and_frames_that_were_not_found_do_not_look_like_an_exchange(truth):
    random = np.random.default_rng(0)
    joints = np.where(random.random(truth.shape[:2])[..., None] < 0.2, np.nan, truth)
    frames = np.flatnonzero(random.random(len(truth)) < 0.7)
    assert find_exchanges(frames, joints[frames], "h36m")[1:] == (0, 0, 0, False)
    for nothing in (np.full_like(joints, np.nan), np.ones_like(joints)):
        assert find_exchanges(np.arange(100), nothing, "h36m")[1:] == (0, 0, 0, False)


def test_exchanges_are_found_where_a_point_is_never_found(truth):
    joints = truth.copy()
    joints[:, JOINT_NAMES.index("LWrist")] = np.nan
    joints[21:33] = joints[21:33][:, [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]]
    assert find_exchanges(np.arange(100), joints, "h36m")[1:] == (12, 0, 0, False)


def test_the_states_are_the_cheapest_of_all_sequences():
    costs = np.random.default_rng(0).exponential(size=(4, 4, 4, 4))

    def cost_of(states):
        start = _CHANGE * (states[0] != states[1])
        return start + sum(costs[step][states[step : step + 3]] for step in range(4))

    best = min(itertools.product(range(4), repeat=6), key=cost_of)
    assert tuple(_cheapest(costs)) == best


def test_pairs_are_all_points_of_two_sides():
    for layout, names in {"coco": COCO_NAMES, "h36m": JOINT_NAMES}.items():
        pairs = [pair for left, right in PAIRS[layout].values() for pair in zip(left, right)]
        for left, right in pairs:
            swapped = names[left].replace("left", "right").replace("L", "R", 1)
            assert names[right] == swapped != names[left]
        assert len({point for pair in pairs for point in pair}) == (16, 12)[layout == "h36m"]
