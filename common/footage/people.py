"""The people that an estimator found in a video, whatever file they come from."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.files.console import InputError
from common.footage.detections import Detections, Person, as_numbers, refuse_3d
from common.footage.estimator_files import read_detections
from common.footage.layouts import KEYPOINT_NAMES, body_points, layout_in_file

# Nearly three hours at 50 Hz; a damaged frame number would otherwise fill the memory.
MAX_FRAMES = 500_000
NO_IDENTITY, MAX_IDENTITY = -1, 2.0**53
# Far outside of every picture; what is not below it counts as not found.
MAX_COORDINATE = 1e6


class People(NamedTuple):
    """The people who were found in one video; each row of the arrays is a person in a frame."""

    source: str  # what wrote the file, and its layout, in words
    layout: str  # of the 17 points: "coco", also where the file's layout has more, or "h36m"
    frames: np.ndarray  # (people,), in increasing order, from 0
    # (people, 17, 2 or 3), float64: x, y, then confidence where there is one; NaN for a point that
    # was not found.
    keypoints: np.ndarray
    boxes: np.ndarray  # (people, 4): left, top, right, bottom
    scores: np.ndarray  # (people,), how sure the estimator is of the person
    identities: np.ndarray  # (people,), `NO_IDENTITY` where the file has none
    num_frames: int  # that the file tells of, with and without people
    size: tuple[int, int] | None  # (width, height) in pixels where the file tells it


def read_people(path: Path, layout: str | None = None, first_frame: int = 0) -> People:
    """Read the people in an estimator's file, or in a folder of a file for each frame.

    Without a layout, the file or the keypoints' number tells it. `first_frame` is as in
    `read_detections`. A point at (0, 0) counts as not found.

    Raises:
        InputError: if the file is bad, of another layout, or without a person.
    """
    try:
        return _arrange(read_detections(path, first_frame), layout)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged, or not quite in a known form ({type(error).__name__}: {error}); "
            "write it again with the estimator"
        ) from error


def best_of_each_frame(frames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the row of each frame's person with the highest score, the later one on a tie.

    Takes frames and scores (people,), in any order; returns (distinct frames,), in their order.
    """
    order = np.lexsort((scores, frames))
    is_last_of_frame = np.diff(frames[order], append=-1) != 0
    return order[is_last_of_frame]


def _arrange(found: Detections, layout: str | None) -> People:
    outside = [number for number in found.frames if not 0 <= number < MAX_FRAMES]
    if outside:
        hint = "" if found.is_from_zero else "; --first-frame is the number of the first one"
        raise ValueError(f"frame number {outside[0]} is outside of 0 … {MAX_FRAMES - 1}{hint}")
    people = [(frame, person) for frame in sorted(found.frames) for person in found.frames[frame]]
    if not people:
        raise ValueError("no person in any frame")
    keypoints = _stack(people)
    points = keypoints.shape[1]
    layout = layout or layout_in_file(found.layout, points)
    refuse_3d(keypoints, layout)
    if points != (count := len(KEYPOINT_NAMES[layout])):
        told = f"layout {layout} has {count} keypoints, but this file has {points}"
        raise ValueError(f"{told}; choose another --layout")
    keypoints = body_points(_without_depth(keypoints, layout), layout)
    xy = keypoints[..., :2]
    is_found = np.isfinite(keypoints).all(axis=-1) & (np.abs(xy).max(axis=-1) < MAX_COORDINATE)
    keypoints[~(is_found & (xy != 0).any(axis=-1))] = np.nan
    rows = np.flatnonzero(np.isfinite(keypoints[..., 0]).any(axis=1))
    if not len(rows):
        raise ValueError("no person in any frame: all keypoints are zero or NaN")
    people, keypoints = [people[row] for row in rows], keypoints[rows]
    boxes, scores = _boxes_and_scores(people, keypoints)
    identities = np.array([_number(person.identity) for _, person in people])
    is_identity = (identities >= 0) & (identities < MAX_IDENTITY)
    return People(
        source=f"{found.source}, layout {layout}",
        layout="h36m" if layout == "h36m" else "coco",
        frames=np.array([frame for frame, _ in people]),
        keypoints=keypoints,
        boxes=boxes,
        scores=scores,
        identities=np.where(is_identity, identities, NO_IDENTITY).astype(np.int64),
        num_frames=max(found.frames) + 1,
        size=found.size,
    )


def _stack(people: list[tuple[int, Person]]) -> np.ndarray:
    """Stack to (people, points, channels), float64, all of one shape."""
    arrays: list[np.ndarray] = []
    for frame, person in people:
        try:
            array = as_numbers(person.keypoints)
            if array.ndim != 2 or not 2 <= array.shape[1] <= 5:
                raise ValueError(f"keypoints {array.shape}, expected (points, 2 or 3)")
            arrays.append(array)
            if array.shape != arrays[0].shape:
                raise ValueError(f"keypoints {array.shape}, others {arrays[0].shape}")
        except ValueError as error:
            raise ValueError(f"frame {frame}: {error}") from error
    return np.array(arrays)


def _without_depth(keypoints: np.ndarray, layout: str) -> np.ndarray:
    """Leave x, y and the confidence of x, y, z, visibility(, presence), as MediaPipe orders them.

    A third and last channel below zero is z: no confidence is negative.
    """
    if keypoints.shape[-1] >= 4:
        return keypoints[..., [0, 1, 3]]
    if layout == "mediapipe" and (keypoints[..., 2:] < 0).any():
        return keypoints[..., :2]
    return keypoints


def boxes_around(keypoints: np.ndarray) -> np.ndarray:
    """Return left, top, right and bottom, (people, 4), of keypoints (people, points, 2 or more)."""
    xy = keypoints[..., :2]
    return np.concatenate([np.fmin.reduce(xy, axis=1), np.fmax.reduce(xy, axis=1)], axis=1)


def _boxes_and_scores(
    people: list[tuple[int, Person]], keypoints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (people, 4) and scores (people,) of the file, or else of the keypoints."""
    confidences = keypoints[..., 2:]
    own = np.nanmean(confidences[..., 0], axis=1) if confidences.size else np.ones(len(people))
    given = np.full((len(people), 5), np.nan)
    for row, (_, person) in zip(given, people):
        numbers = as_numbers([] if person.box is None else person.box).ravel()[:5]
        row[: len(numbers)] = numbers
        if person.score is not None:
            row[4] = _number(person.score)
    is_box = (np.abs(given[:, :4]) < MAX_COORDINATE).all(axis=1, keepdims=True)
    boxes = np.where(is_box, given[:, :4], boxes_around(keypoints))
    return boxes, np.where(np.isfinite(given[:, 4]), given[:, 4], own)


def _number(value: Any) -> float:
    """Return one number of what files hold: 3, 3.0, [3], [[3.0]]; NaN of None and []."""
    if value is None:
        return np.nan
    return float(np.append(as_numbers(value), np.nan)[0])
