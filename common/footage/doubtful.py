"""Points that an estimator is not sure of, or that cannot be where it puts them."""

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from common.files.console import InputError
from common.footage.missing import interpolated
from common.footage.people import People, boxes_around

# What a file was read as where a point is a guess below 0.05 only, not below 0.1 as elsewhere:
# MediaPipe's guesses at hidden points are good, and detect_2d.py writes "people by frame".
_GOOD_GUESSES = ("mediapipe", "people by frame", "openpose")
# A point that jumps comes back after so many frames at most,
_MAX_JUMP_FRAMES = 8
# and is so far from its way, in units of how far a body's points lie from its middle.
_JUMP = 0.5


def default_min_confidence(source: str) -> float:
    """Return the confidence below which a point is a guess, by the source of `People`."""
    return 0.05 if any(word in source.lower() for word in _GOOD_GUESSES) else 0.1


def without_unsure(people: People, threshold: float) -> People:
    """Return people with NaN in the place of x and y of points of less confidence.

    People without any other point are left out.

    Raises:
        InputError: if nobody is left.
    """
    keypoints, boxes = people.keypoints.copy(), people.boxes.copy()
    if keypoints.shape[-1] == 2:
        return people
    is_unsure = keypoints[..., 2] < threshold
    keypoints[is_unsure, :2] = np.nan
    changed = is_unsure.any(axis=1)
    boxes[changed] = boxes_around(keypoints[changed])
    rows = np.isfinite(keypoints[..., 0]).any(axis=1)
    if not rows.any():
        raise InputError(f"all confidences are below {threshold:g}; give a lower --min-confidence")
    arrays = {"frames": people.frames, "scores": people.scores, "identities": people.identities}
    arrays |= {"keypoints": keypoints, "boxes": boxes}
    return people._replace(**{name: array[rows] for name, array in arrays.items()})


def jumps(frames: Sequence[int], keypoints: np.ndarray) -> np.ndarray:
    """Return (found, points): whether a point jumps away from the body's motion, and comes back.

    In one step it is far from the straight way between before and after, stays about there for
    at most `_MAX_JUMP_FRAMES`, and comes back in one step. Takes increasing frames (found,) and
    keypoints (found, points, 2 or 3), NaN for a point that was not found.
    """
    frames, xy = np.asarray(frames, dtype=float), _without_nan(keypoints[..., :2])
    xy = xy - np.median(xy, axis=1, keepdims=True)
    far = _JUMP * np.median(np.linalg.norm(xy, axis=-1), axis=1)
    result = np.zeros(xy.shape[:2], dtype=bool)
    for length in range(1, min(_MAX_JUMP_FRAMES, len(frames) - 2) + 1):
        count = len(frames) - length - 1
        before, after = xy[:count], xy[length + 1 :]
        passed = frames[length + 1 :] - frames[:count]
        inside = [xy[i : i + count] for i in range(1, length + 1)]
        shares = [(frames[i : i + count] - frames[:count]) / passed for i in range(1, length + 1)]
        ways = [before + (after - before) * share[:, None, None] for share in shares]
        away = np.min([np.linalg.norm(x - w, axis=-1) for x, w in zip(inside, ways)], axis=0)
        steps = [after - before, *(b - a for a, b in pairwise(inside))]
        quiet = np.max([np.linalg.norm(step, axis=-1) for step in steps], axis=0)
        is_jump = (away > far[:count, None]) & (away > 2 * quiet)
        is_jump &= (passed <= _MAX_JUMP_FRAMES + 1)[:, None]
        for i in range(1, length + 1):
            result[i : i + count] |= is_jump
    return result & np.isfinite(keypoints[..., 0])


def _without_nan(xy: np.ndarray) -> np.ndarray:
    """Interpolate (found, points, 2) over the rows; one never found is in the middle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows in which nothing was found
        xy = np.where(np.isfinite(xy).any(axis=0), xy, np.nanmedian(xy, axis=1, keepdims=True))
    return interpolated(xy, np.arange(len(xy)), np.arange(len(xy)))
