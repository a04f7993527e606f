"""A recording's clock and orientation: even times, and keypoints as the video is shown."""

from pathlib import Path

import numpy as np

from common.files.console import warn
from common.files.video import frame_times, stored_rotation
from common.footage.people import People
from common.footage.tracks import Piece
from common.motion import at_times, even_rate

# Keypoints that lie in a picture are inside of it but for this share of them.
_INSIDE = 0.97
# Width / height of pictures that differ by less are of the same shape.
_SAME_SHAPE = 0.02


def uneven_times(video: Path) -> tuple[np.ndarray, float] | None:
    """Return a video's frame times (frames,), s, and the rate to bring them to; None if even."""
    times = frame_times(video)
    rate = even_rate(times)
    return None if rate is None else (times, rate)


def at_even_times(piece: Piece, times: np.ndarray, fps: float) -> Piece:
    """Bring a piece, whose frames are the video's own, to `fps` frames a second from time 0."""
    numbers = piece.first_frame + np.arange(len(piece.keypoints))
    after = np.maximum(numbers - len(times) + 1, 0) / fps  # counts of frames are off by one or two
    own = times[np.minimum(numbers, len(times) - 1)] + after
    first = int(np.ceil(own[0] * fps - 1e-6))
    even = np.arange(first, max(first, int(own[-1] * fps + 1e-6)) + 1)
    keypoints = at_times(piece.keypoints, own, even / fps)
    keypoints[..., 2:] = keypoints[..., 2:].clip(0, piece.keypoints[..., 2:].max(initial=0))
    return piece._replace(first_frame=first, keypoints=keypoints)


def is_stored_size(video: Path, shown: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell whether a size is that of the stored pictures of a video that is shown rotated."""
    return size == shown[::-1] != shown and stored_rotation(video) in (90, 270)


def same_shape(*sizes: tuple[int, int]) -> bool:
    """Tell whether pictures of these (width, height) are alike in width / height."""
    shapes = [width / height for width, height in sizes]
    return max(shapes) / min(shapes) < 1 + _SAME_SHAPE


def as_shown(people: People, video: Path, shown: tuple[int, int]) -> People:
    """Turn keypoints that were found in the stored pictures of a rotated video, and say so.

    They are recognised by the picture's size in their file, by lying in the stored picture and not
    in the shown one, `shown` = (width, height) in pixels; or, at half a turn, upside down.
    """
    rotation = stored_rotation(video)
    if not rotation or rotation % 90:
        return people
    stored = shown if rotation == 180 else shown[::-1]
    if rotation == 180:
        is_of_stored = _upside_down(people)
    else:
        fits_stored = _inside(people, stored) > _INSIDE > _inside(people, shown)
        is_of_stored = fits_stored or people.size == stored != shown
    if not is_of_stored:
        return people
    warn(
        f"{video}: is shown rotated by {rotation} degrees; these keypoints fit the stored "
        f"{stored[0]}x{stored[1]} pictures, so they were turned too"
    )
    keypoints = people.keypoints.copy()
    keypoints[..., :2] = _turned(keypoints[..., :2], stored, rotation)
    corners = _turned(people.boxes.reshape(-1, 2, 2), stored, rotation)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
    return people._replace(keypoints=keypoints, boxes=boxes, size=None)


def _turned(points: np.ndarray, stored: tuple[int, int], rotation: int) -> np.ndarray:
    """Return points (..., 2) of a stored picture where a player shows them, counter-clockwise."""
    (x, y), (width, height) = np.moveaxis(points, -1, 0), stored
    turned = {90: (y, width - x), 180: (width - x, height - y), 270: (height - y, x)}
    return np.stack(turned[rotation], axis=-1)


def _inside(people: People, size: tuple[int, int]) -> float:
    points, half = people.keypoints[..., :2], np.divide(size, 2)
    points = points[np.isfinite(points).all(axis=-1)]
    return float((np.abs(points - half) <= half).all(axis=-1).mean())


def _upside_down(people: People) -> bool:
    # Of Human3.6M the hip and the thorax, of COCO both hips and both shoulders.
    hips, shoulders = ([0], [8]) if people.layout == "h36m" else ([11, 12], [5, 6])
    y = people.keypoints[..., 1]
    down = y[:, hips].mean(axis=1) - y[:, shoulders].mean(axis=1)
    return bool((down < 0).sum() > (down > 0).sum())
