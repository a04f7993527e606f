"""Frames in which an estimator exchanges left and right of the body, of the arms or the legs."""

from typing import NamedTuple

import numpy as np

# {layout: {part: (left points, right points)}}
PAIRS = {
    "coco": {
        "arms": ([5, 7, 9], [6, 8, 10]),
        "legs": ([11, 13, 15], [12, 14, 16]),
        "face": ([1, 3], [2, 4]),
    },
    "h36m": {
        "arms": ([11, 12, 13], [14, 15, 16]),
        "legs": ([4, 5, 6], [1, 2, 3]),
        "face": ([], []),
    },
}
# A frame's state: 0 as it is, 1 arms exchanged, 2 legs exchanged, 3 the whole body exchanged.
_ARMS, _LEGS = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
# Length of the trunk in relation to the diagonal around arms and legs.
_TRUNK = 0.35
# What a change of state costs, in units of the trunk, beside the motion of 12 points: limbs that
# lie on each other are not exchanged.
_CHANGE = 0.5
# What it costs that the lines through the hips and the shoulders differ, in units of the same.
_TWIST = 0.5
# How much of the cost of a motion is how far it is from constant velocity; the rest is how long it
# is. The first tells crossing limbs apart, the second an exchange that takes several frames.
_VELOCITY = 0.25
# A velocity tells where a point is so many frames later; after that its last place does.
_PREDICTED_FRAMES = 2
# Beyond this share, which of two assignments is the right one is a guess.
_MAX_MINORITY = 0.37


class Exchanges(NamedTuple):
    """Where left and right of a person are exchanged, and how that is undone."""

    order: np.ndarray  # (found, 17): the point that belongs in each place
    whole: int = 0  # frames in which left and right of the whole body are exchanged
    arms: int = 0  # of the arms alone
    legs: int = 0  # of the legs alone
    is_open: bool = False  # whether too many frames have either assignment to tell the right one


def find_exchanges(frames: np.ndarray, keypoints: np.ndarray, layout: str) -> Exchanges:
    """Find the frames in which left and right are exchanged.

    An exchange moves the points of both sides by far more than a person does. The sequence of
    states in which they move least is found (Viterbi); the assignment of most frames is right.

    Takes the increasing numbers of the frames (found,), keypoints (found, 17, 2 or 3), pixels, NaN
    for a point that was not found, and the layout, "coco" or "h36m".
    """
    order = np.tile(np.arange(keypoints.shape[1]), (len(frames), 1))
    if len(frames) < 3:
        return Exchanges(order)
    states = _cheapest(_costs(frames, keypoints, layout))
    arms, legs = (part[states] == 1 for part in (_ARMS, _LEGS))
    arms, legs = arms ^ (arms.mean() > 0.5), legs ^ (legs.mean() > 0.5)
    for part, is_exchanged in {"arms": arms, "legs": legs, "face": arms & legs}.items():
        left, right = PAIRS[layout][part]
        order[np.ix_(is_exchanged, left + right)] = right + left
    counts = [int(which.sum()) for which in (arms & legs, arms & ~legs, legs & ~arms)]
    return Exchanges(order, *counts, is_open=bool(max(arms.mean(), legs.mean()) > _MAX_MINORITY))


def reorder(keypoints: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Undo the exchanges in keypoints (found, 17, channels); a second time, make them again."""
    return np.take_along_axis(keypoints, order[..., None], axis=1)


def _costs(frames: np.ndarray, keypoints: np.ndarray, layout: str) -> np.ndarray:
    """Return what each state costs after each two: (found - 2, 4, 4, 4), in units of the trunk."""
    points = {
        part: np.stack([keypoints[:, left + right, :2], keypoints[:, right + left, :2]])
        for part, (left, right) in PAIRS[layout].items()
    }
    arms, legs = points["arms"], points["legs"]
    body = np.concatenate([arms[0], legs[0]], axis=1)
    sizes = np.linalg.norm(np.fmax.reduce(body, axis=1) - np.fmin.reduce(body, axis=1), axis=-1)
    is_found = np.isfinite(sizes)
    trunk_px = _TRUNK * np.median(sizes[is_found]) if is_found.any() else 0.0
    before, last, now = np.ix_(range(4), range(4), range(4))
    costs = sum(
        _motion(frames, points)[:, part[before], part[last], part[now]]
        for points, part in ((arms, _ARMS), (legs, _LEGS))
    )
    half = arms.shape[2] // 2  # of the points: the left ones, from shoulder or hip on
    shoulders, hips = (part[0, 2:, 0] - part[0, 2:, half] for part in (arms, legs))
    signs = np.where(_ARMS == _LEGS, 1, -1)[:, None, None]
    twist = np.nan_to_num(np.linalg.norm(shoulders - signs * hips, axis=-1)).T
    return (costs + _TWIST * twist[:, None, None]) / (trunk_px or np.inf) + _CHANGE * (last != now)


def _motion(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return what the motion of points costs, (found - 2, 2, 2, 2), pixels, summed over the points.

    Takes points (2, found, points, 2), as they are and exchanged; the axes of the result are that
    choice two frames before, one before, and now. Points that are not found cost nothing.
    """
    passed = np.diff(frames)
    is_near = (passed[:-1] <= _PREDICTED_FRAMES) & (passed[1:] <= _PREDICTED_FRAMES)
    factor = np.where(is_near, passed[1:] / passed[:-1], 0)[:, None, None]
    before, last, now = (points[:, start : start + len(factor)] for start in range(3))
    expected = last + (last - before[:, None]) * factor
    moved = np.linalg.norm(now - last[:, None], axis=-1)
    surprise = np.linalg.norm(now - expected[:, :, None], axis=-1)
    costs = np.nan_to_num((1 - _VELOCITY) * moved + _VELOCITY * surprise)
    return costs.sum(axis=-1).transpose(3, 0, 1, 2)


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
