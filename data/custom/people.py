"""The people that an estimator found in a video, whatever file they come from."""

from typing import Any, NamedTuple

import numpy as np

from common.detections import MAX_FRAMES
from common.layouts import layout_of, num_keypoints

NO_IDENTITY = -1
# Far outside of every picture; what is not below it counts as not found.
MAX_COORDINATE = 1e6


class People(NamedTuple):
    """The people that were detected in one video."""

    source: str  # what wrote the file, such as "MMPose"
    layout: str  # what the keypoints are, one of `LAYOUTS`
    frames: np.ndarray  # (people,), in increasing order, from 0
    # (people, points, 2 or 3), float64: x, y, then confidence where there is one; NaN for a point
    # that was not found.
    keypoints: np.ndarray
    boxes: np.ndarray  # (people, 4): left, top, right, bottom
    scores: np.ndarray  # (people,), how sure the estimator is of the person
    identities: np.ndarray  # (people,), `NO_IDENTITY` where the file has none
    num_frames: int  # that the file tells of, with and without people
    size: tuple[int, int] | None  # (width, height) in pixels where the file tells it


class Person(NamedTuple):
    """One person in one frame, as a file has it."""

    frame: int
    keypoints: Any
    box: Any = None
    score: Any = None
    identity: Any = None


class Content(NamedTuple):
    """What a file holds: whose it is, its people, its number of frames, its picture size."""

    source: str
    people: list[Person]
    num_frames: int = 0
    size: tuple[int, int] | None = None


def collect(content: Content, layout: str | None) -> People:
    """Arrange a file's people in arrays; without a layout, their number of points tells it.

    Raises:
        ValueError: if there is nobody, the keypoints are not the layout's, or a frame number is
            out of bounds.
    """
    if not content.people:
        raise ValueError("no person in any frame")
    keypoints = _stack(content.people)
    layout = layout or layout_of(keypoints.shape[1])
    if keypoints.shape[1] != num_keypoints(layout):
        raise ValueError(
            f"layout {layout} has {num_keypoints(layout)} keypoints, "
            f"but this file has {keypoints.shape[1]}; choose another --layout"
        )
    keypoints = _without_depth(keypoints)
    xy = keypoints[..., :2]
    is_found = (np.abs(xy) < MAX_COORDINATE).all(axis=-1) & (xy != 0).any(axis=-1)
    is_found &= np.isfinite(keypoints).all(axis=-1)
    keypoints[~is_found] = np.nan
    keep = is_found.any(axis=1)
    if not keep.any():
        raise ValueError("no person in any frame: all keypoints are zero or NaN")
    people = [person for person, kept in zip(content.people, keep) if kept]
    keypoints = keypoints[keep]
    frames = np.array([person.frame for person in people], dtype=np.int64)
    outside = frames[(frames < 0) | (frames >= MAX_FRAMES)]
    if len(outside):
        raise ValueError(
            f"frame number {outside[0]} is outside of 0 … {MAX_FRAMES - 1}; --first-frame says "
            "which number the first one has"
        )
    order = np.argsort(frames, kind="stable")
    return People(
        source=content.source,
        layout=layout,
        frames=frames[order],
        keypoints=keypoints[order],
        boxes=_boxes(people, keypoints)[order],
        scores=_scores(people, keypoints)[order],
        identities=np.array([_identity(person.identity) for person in people])[order],
        num_frames=max(content.num_frames, int(frames.max()) + 1),
        size=content.size,
    )


def _stack(people: list[Person]) -> np.ndarray:
    """Stack to (people, points, channels), float64, all of one shape."""
    arrays: list[np.ndarray] = []
    for person in people:
        where = f"frame {person.frame}:"
        try:
            array = np.asarray(person.keypoints, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where} the keypoints are no (points, 2 or 3) numbers") from error
        if array.ndim != 2 or not 2 <= array.shape[1] <= 5:
            raise ValueError(f"{where} keypoints are {array.shape}, expected (points, 2 or 3)")
        arrays.append(array)
        if array.shape != arrays[0].shape:
            raise ValueError(f"{where} keypoints are {array.shape}, others {arrays[0].shape}")
    return np.stack(arrays)


def _without_depth(keypoints: np.ndarray) -> np.ndarray:
    """Leave x, y and the confidence of x, y, z, visibility(, presence), as MediaPipe orders them.

    A third and last channel below zero is z: no confidence is negative.
    """
    if keypoints.shape[-1] >= 4:
        return keypoints[..., [0, 1, 3]]
    if keypoints.shape[1] == num_keypoints("mediapipe") and (keypoints[..., 2:] < 0).any():
        return keypoints[..., :2].copy()
    return keypoints


def _boxes(people: list[Person], keypoints: np.ndarray) -> np.ndarray:
    """Return (people, 4): the boxes of the file, otherwise those around the keypoints."""
    xy = keypoints[..., :2]
    around = np.concatenate([np.nanmin(xy, axis=1), np.nanmax(xy, axis=1)], axis=-1)
    for row, person in enumerate(people):
        box = np.asarray(np.nan if person.box is None else person.box, dtype=np.float64)
        if (np.abs(box) < MAX_COORDINATE).all():
            around[row] = box
    return around


def _scores(people: list[Person], keypoints: np.ndarray) -> np.ndarray:
    """Return (people,): the scores of the file, otherwise the means of the confidences, or 1."""
    has_confidence = keypoints.shape[-1] == 3
    own = np.nanmean(keypoints[..., 2], axis=1) if has_confidence else np.ones(len(people))
    scores = (person.score for person in people)
    given = [np.nan if score is None else float(np.ravel(score)[0]) for score in scores]
    return np.where(np.isfinite(given), given, own)


def _identity(identity: Any) -> int:
    """Return one number of what files hold: 3, 3.0, [3], [[3.0]], [-1], None."""
    numbers = np.ravel([] if identity is None else identity)
    return int(numbers[0]) if len(numbers) and float(numbers[0]) >= 0 else NO_IDENTITY
