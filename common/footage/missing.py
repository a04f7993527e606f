"""Points that an estimator did not find, NaN or (0, 0), in keypoints that are lifted directly."""

import numpy as np

# What is not larger is no pixel but a share of the picture, or normalised already.
_MAX_SHARE = 1.5


def one_person(keypoints: np.ndarray | None) -> np.ndarray | None:
    """Return a frame's points (points, 2), NaN for what was not found; None if nobody is there.

    Takes (points, 2 or more), or (1, points, 2 or more), pixels; None or nothing for nobody.

    Raises:
        ValueError: if they are several people's, or not in pixels.
    """
    if keypoints is None or np.size(keypoints) == 0:
        return None
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.ndim == 3 and len(keypoints) == 1:
        keypoints = keypoints[0]
    if keypoints.ndim != 2 or keypoints.shape[-1] < 2:
        raise ValueError(f"{keypoints.shape} is not one person's (points, 2 or 3); choose one")
    points = found_points(keypoints)
    return points if np.isfinite(points).any() else None


def found_points(keypoints: np.ndarray) -> np.ndarray:
    """Return x and y (..., 2), float64, of keypoints in pixels; NaN where nothing was found.

    Raises:
        ValueError: if they are shares of the picture.
    """
    points = np.asarray(keypoints, dtype=np.float64)[..., :2]
    is_found = np.isfinite(points).all(axis=-1) & points.any(axis=-1)
    if is_found.any() and np.abs(points[is_found]).max() <= _MAX_SHARE:
        raise ValueError(
            "keypoints are shares of the picture, no pixels; multiply them by its size"
        )
    return np.where(is_found[..., None], points, np.nan)


def fill(points: np.ndarray, causal: bool) -> np.ndarray:
    """Fill what is NaN in points (frames, points, 2): interpolated in time, or held if `causal`.

    A point that was never found, or not yet, is put in the middle of the others; frames before
    anybody is there get the first one's.

    Raises:
        ValueError: if nobody is in any of the frames.
    """
    is_found = np.isfinite(points[..., 0])
    if is_found.all() and len(points):
        return points
    if not is_found.any():
        raise ValueError("nobody is in any of the frames")
    filled, numbers = points.copy(), np.arange(len(points))
    for index in range(points.shape[1]):
        there = np.flatnonzero(is_found[:, index])
        if len(there) and causal:
            last = np.searchsorted(there, numbers, side="right") - 1
            held = points[there[np.maximum(last, 0)], index]
            filled[:, index] = np.where(last[:, None] < 0, np.nan, held)
        elif len(there):
            for axis in range(2):
                filled[:, index, axis] = np.interp(numbers, there, points[there, index, axis])
    is_filled = np.isfinite(filled)
    count = np.maximum(is_filled.sum(axis=1, keepdims=True), 1)
    filled = np.where(
        is_filled, filled, np.where(is_filled, filled, 0).sum(1, keepdims=True) / count
    )
    first = int(is_filled.any(axis=(1, 2)).argmax())
    filled[:first] = filled[first]
    return filled
