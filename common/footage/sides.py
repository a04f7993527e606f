"""Left and right of arms and legs that an estimator exchanges in some frames, put right."""

from typing import NamedTuple

import numpy as np

from common.skeleton import COCO_NAMES, JOINT_NAMES

_COCO_PAIRS = {
    "arms": ("shoulder", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle"),
    "face": ("eye", "ear"),
}
_H36M_PAIRS = {"arms": ("Shoulder", "Elbow", "Wrist"), "legs": ("Hip", "Knee", "Foot"), "face": ()}
# {layout: {part: (left points, right points)}}
PAIRS = {
    "coco": {
        part: tuple([COCO_NAMES.index(f"{side}_{n}") for n in names] for side in ("left", "right"))
        for part, names in _COCO_PAIRS.items()
    },
    "h36m": {
        part: tuple([JOINT_NAMES.index(side + n) for n in names] for side in "LR")
        for part, names in _H36M_PAIRS.items()
    },
}
# A frame's state: 0 as it is, 1 arms exchanged, 2 legs exchanged, 3 the whole body exchanged.
_ARMS, _LEGS = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
# What a change of state costs, in units of the trunk, beside the motion of 12 points. It keeps
# limbs that cross each other, or lie on each other, from being exchanged.
_CHANGE = 0.5
# A velocity tells where a point is so many frames later; after that its last place does.
_PREDICTED_FRAMES = 2
# Beyond this share, which of two assignments is the right one is a guess.
_MAX_MINORITY = 0.4


class Sides(NamedTuple):
    """A person's keypoints, with left and right put right where that can be told."""

    keypoints: np.ndarray  # as they came, or put right
    whole: int = 0  # frames in which left and right of the whole body were exchanged
    arms: int = 0  # of the arms alone
    legs: int = 0  # of the legs alone
    is_open: bool = False  # whether no assignment has a clear majority; then nothing was changed


def put_sides_right(frames: np.ndarray, keypoints: np.ndarray, layout: str) -> Sides:
    """Find the frames in which left and right are exchanged, and exchange them back.

    Such a frame moves the points of both sides by far more than the exchange of left and right
    does. The cheapest sequence of states is found (Viterbi); the assignment of most frames counts
    as right.

    Args:
        frames: (found,), increasing numbers of the frames.
        keypoints: (found, 17, 2 or 3), pixels, NaN for a point that was not found.
        layout: "coco" or "h36m".
    """
    states = _cheapest(_costs(frames, keypoints, layout))
    is_exchanged = {"arms": _ARMS[states] == 1, "legs": _LEGS[states] == 1}
    for part, exchanged in is_exchanged.items():
        is_exchanged[part] = exchanged ^ (exchanged.mean() > 0.5)
    arms, legs = is_exchanged["arms"], is_exchanged["legs"]
    counts = {"whole": arms & legs, "arms": arms & ~legs, "legs": legs & ~arms}
    counts = {what: int(which.sum()) for what, which in counts.items()}
    if max(arms.mean(), legs.mean()) > _MAX_MINORITY:
        return Sides(keypoints, **counts, is_open=True)
    result = keypoints.copy()
    for part, rows in {"arms": arms, "legs": legs, "face": arms & legs}.items():
        left, right = PAIRS[layout][part]
        result[np.ix_(rows, left + right)] = keypoints[np.ix_(rows, right + left)]
    return Sides(result, **counts)


def _costs(frames: np.ndarray, keypoints: np.ndarray, layout: str) -> np.ndarray:
    """Return what each state costs after each two: (found - 2, 4, 4, 4), in units of the trunk.

    It is how far the points lie from where constant velocity expects them.
    """
    pairs = PAIRS[layout]
    middles = [keypoints[:, sum(pairs[part], []), :2].mean(axis=1) for part in ("arms", "legs")]
    trunk = np.nanmedian(np.linalg.norm(middles[0] - middles[1], axis=-1))
    by_part = {}
    for part in ("arms", "legs"):
        left, right = pairs[part]
        points = np.stack([keypoints[:, left + right, :2], keypoints[:, right + left, :2]])
        by_part[part] = _residuals(frames, points) / max(trunk, 1e-9)
    before, last, now = np.ix_(range(4), range(4), range(4))
    costs = sum(
        by_part[part][:, bits[before], bits[last], bits[now]]
        for part, bits in (("arms", _ARMS), ("legs", _LEGS))
    )
    return costs + _CHANGE * (last != now)


def _residuals(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (found - 2, 2, 2, 2): the sum over the points of how far they are from expectation.

    Takes points (2, found, points, 2), as they are and exchanged; the axes of the result are that
    choice two frames before, one before, and now. Points that are not found cost nothing.
    """
    passed = np.diff(frames)
    is_near = (passed[:-1] <= _PREDICTED_FRAMES) & (passed[1:] <= _PREDICTED_FRAMES)
    factor = np.where(is_near, passed[1:] / passed[:-1], 0)[:, None, None]
    before, last, now = (points[:, start : start + len(factor)] for start in range(3))
    expected = last + (last - before[:, None]) * factor
    distances = np.linalg.norm(now - expected[:, :, None], axis=-1)
    return np.where(np.isfinite(distances), distances, 0).sum(axis=-1).transpose(3, 0, 1, 2)


def _cheapest(costs: np.ndarray) -> np.ndarray:
    """Return the states (found,) with the least sum of costs (found - 2, 4, 4, 4), by Viterbi."""
    total = _CHANGE * (1 - np.eye(4))  # of the states of the last two frames
    came_from = np.empty(costs.shape[:1] + (4, 4), dtype=np.int64)
    for step, cost in enumerate(costs):
        sums = total[:, :, None] + cost
        came_from[step] = sums.argmin(axis=0)
        total = sums.min(axis=0)
    states = list(np.unravel_index(total.argmin(), total.shape))[::-1]
    for source in came_from[::-1]:
        states.append(source[states[-1], states[-2]])
    return np.array(states[::-1])
