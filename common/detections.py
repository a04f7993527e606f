"""Reading an estimator's raw file of one sequence: one person a frame, gaps filled.

Three forms are recognised: people (dicts of frame, box and keypoints, any number of them a frame),
poses by frame (a dict whose values may be None), and plain arrays.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.console import InputError, listing, shown
from common.npz_io import as_array, read_npy

NUM_KEYPOINTS = 17
CHANNELS = (2, 3)  # without and with confidence
PERSON_KEYS = ("frame", "bbox", "keypoints")
BOX_SHAPE = (5,)  # left, top, right, bottom, score
# Nearly three hours at 50 Hz; a damaged frame number would otherwise fill the memory.
MAX_FRAMES = 500_000


class Detections(NamedTuple):
    """The poses that were detected in one sequence, one for each frame that has any."""

    frames: np.ndarray  # (detected,), increasing, zero-based
    keypoints: np.ndarray  # (detected, 17, 2 or 3), float32, pixels, then confidence
    num_frames: int  # length of the sequence


class FilledSequence(NamedTuple):
    """A sequence without gaps."""

    keypoints: np.ndarray  # (frames, 17, 2 or 3), float32, pixels, then confidence
    filled: int  # number of frames that had no detection
    longest_gap: int  # number of such frames in succession, at most


def read_detections(path: Path) -> Detections:
    """Read an estimator's file of one sequence, choosing one person a frame.

    Args:
        path: an npy file with people, `{frame, bbox (5,), keypoints (17, 2 or 3)}` each, of whom
            the one with the highest box score is chosen, the later one on a tie; or with
            `{frame: (1, 17, 2 or 3) or None}`; or with an array (frames, 17, 2 or 3).

    Raises:
        InputError: if the file is missing, damaged, unsafe, of another form, without a detection,
            or holds NaN or infinity.
    """
    content = read_npy(path)
    try:
        detections = _recognise(content)
        finite = np.isfinite(detections.keypoints).all(axis=(1, 2))
        if not finite.all():
            frame = detections.frames[finite.argmin()]
            raise ValueError(f"NaN or infinite coordinates, first in frame {frame}")
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return detections


def choose_people(frames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the index of each frame's person with the highest score, the later one on a tie.

    Takes frames and scores (people,), in any order; returns (distinct frames,), in their order.
    """
    order = np.lexsort((np.arange(len(frames)), scores, frames))
    is_last_of_frame = np.diff(frames[order], append=-1) != 0
    return order[is_last_of_frame]


def fill_gaps(detections: Detections) -> FilledSequence:
    """Give a frame without a detection the previous one's keypoints, leading ones the first's."""
    frames, keypoints, num_frames = detections
    previous = np.searchsorted(frames, np.arange(num_frames), side="right") - 1
    gaps = np.diff(frames, prepend=-1, append=num_frames) - 1
    return FilledSequence(keypoints[np.maximum(previous, 0)], int(gaps.sum()), int(gaps.max()))


def _recognise(content: Any) -> Detections:
    if isinstance(content, dict):
        return _from_poses_by_frame(content)
    if isinstance(content, np.ndarray) and content.ndim and content.dtype.kind in "fiu":
        frames = np.arange(len(content))
        return Detections(frames, _stack(list(content), frames), len(content))
    is_sequence = isinstance(content, list) or (isinstance(content, np.ndarray) and content.ndim)
    if is_sequence and all(isinstance(person, dict) for person in content):
        return _from_people(content)
    raise ValueError(
        "neither a list of {frame, bbox, keypoints}, nor a dict {frame: keypoints or None}, "
        "nor an array (frames, 17, 2 or 3)"
    )


def _from_poses_by_frame(poses: dict) -> Detections:
    poses = {_frame_number(frame): pose for frame, pose in poses.items()}
    frames = np.array(sorted(f for f, pose in poses.items() if pose is not None), dtype=np.int64)
    keypoints = _stack([poses[frame] for frame in frames.tolist()], frames, people=(1,))
    return Detections(frames, keypoints, max(poses) + 1)


def _from_people(people: Sequence[dict]) -> Detections:
    for person in people:
        if not all(key in person for key in PERSON_KEYS):
            raise ValueError(f"a person has {shown(list(person))}, expected {listing(PERSON_KEYS)}")
    frames = np.array([_frame_number(person["frame"]) for person in people], dtype=np.int64)
    boxes = [
        _numbers(person["bbox"], [BOX_SHAPE], f"frame {frame}: a bbox is {{}}, expected (5,)")
        for person, frame in zip(people, frames)
    ]
    scores = np.array([box[-1] for box in boxes], dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("the score of a bbox is NaN or infinite")
    chosen = choose_people(frames, scores)
    keypoints = _stack([people[i]["keypoints"] for i in chosen], frames[chosen])
    return Detections(frames[chosen], keypoints, int(frames.max()) + 1)


def whole_number(number: Any) -> int:
    """Return a frame's number as an int.

    Raises:
        ValueError: if it is no integer.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"frame number {shown(number)} is no integer")
    return int(number)


def _frame_number(number: Any) -> int:
    if not 0 <= whole_number(number) < MAX_FRAMES:
        raise ValueError(f"frame number {shown(number)} is outside of 0 … {MAX_FRAMES - 1}")
    return int(number)


def _stack(poses: list, frames: np.ndarray, people: tuple[int, ...] = ()) -> np.ndarray:
    """Stack poses (*people, 17, 2 or 3), all of one shape, to (frames, 17, 2 or 3), float32."""
    if not poses:
        raise ValueError("no frame has a detection")
    shapes = [(*people, NUM_KEYPOINTS, channels) for channels in CHANNELS]
    expected = f"expected ({', '.join(map(str, (*people, NUM_KEYPOINTS)))}, 2 or 3)"
    arrays = []
    for frame, pose in zip(frames, poses):
        message = f"frame {frame}: keypoints are {{}}, {expected}, the same in every frame"
        arrays.append(_numbers(pose, shapes, message))
        shapes = [arrays[0].shape]
    with np.errstate(over="ignore"):  # what float32 cannot hold is found to be infinite
        return np.array(arrays, dtype=np.float32).reshape(len(arrays), *shapes[0][-2:])


def _numbers(value: Any, shapes: Sequence[tuple[int, ...]], message: str) -> np.ndarray:
    """Return an array, or nested lists of numbers, of one of `shapes`, or say what it is."""
    try:
        array = as_array(value)
    except ValueError as error:
        raise ValueError(message.format(error)) from error
    if array.shape not in shapes:
        raise ValueError(message.format(array.shape))
    return array
