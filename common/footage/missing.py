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
        told = "keypoints are shares of the picture, no pixels"
        raise ValueError(f"{told}; multiply them by its size")
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
    numbers = np.arange(len(points))
    if causal:
        last = np.maximum.accumulate(np.where(is_found, numbers[:, None], 0))
        filled = np.take_along_axis(points, last[..., None], axis=0)
    else:
        filled = interpolated(points, numbers, numbers)
    is_filled = np.isfinite(filled)
    count = np.maximum(is_filled.sum(axis=1, keepdims=True), 1)
    filled = np.where(is_filled, filled, np.nansum(filled, axis=1, keepdims=True) / count)
    first = int(is_filled.any(axis=(1, 2)).argmax())
    filled[:first] = filled[first]
    return filled


def interpolated(points: np.ndarray, frames: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return points (frames, points, 2) in other frames, (wanted, points, 2), linearly in time.

    Before the first and after the last frame in which a point was found, it is held; one that never
    was is NaN.
    """

    def in_time(values: np.ndarray) -> np.ndarray:
        rows = np.isfinite(values)
        if not rows.any():
            return np.full(len(wanted), np.nan)
        return np.interp(wanted, frames[rows], values[rows])

    return np.apply_along_axis(in_time, 0, points)
