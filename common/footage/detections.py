"""What an estimator's file holds, whatever its format: people, numbers, numbers of frames."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from common.files.console import shown
from common.footage.layouts import places_by_name

THESE_ARE_3D = "these are 3D poses; give the 2D predictions"
# Pictures further apart than this are no frames of one video.
_MAX_STEP = 10


class Person(NamedTuple):
    """One person in one frame, as a file has it."""

    keypoints: Any  # (points, 2 or more): x, y, confidence; or x, y, z, visibility
    box: Any = None  # left, top, right, bottom, and perhaps the score
    score: Any = None
    identity: Any = None


class Detections(NamedTuple):
    """What an estimator found in one video."""

    frames: dict[int, list[Person]]  # in any order; frames without people may be left out
    size: tuple[int, int] | None = None  # (width, height) of the picture, where the file tells it
    is_from_zero: bool = True  # whether the video's first frame is known to have the number 0
    source: str = ""  # what wrote the file, if it is not what `reads` says
    layout: str = ""  # the name of the keypoints' layout, where the file tells it
    names: Sequence[str] = ()  # of the keypoints, where the file tells them

    def in_known_order(self) -> "Detections":
        """Return COCO's or Human3.6M's points alone, in their order, where the points have names.

        Raises:
            ValueError: if the names are of neither.
        """
        if not self.names:
            return self
        layout, places = places_by_name(self.names)

        def arranged(person: Person) -> Person:
            points = as_numbers(person.keypoints)
            if points.ndim != 2 or len(points) != len(self.names):
                raise ValueError(f"keypoints {points.shape}, but {len(self.names)} names of them")
            points = np.append(points, np.full((1, points.shape[1]), np.nan), axis=0)
            return person._replace(keypoints=points[places])

        frames = {number: list(map(arranged, people)) for number, people in self.frames.items()}
        return self._replace(frames=frames, layout=layout, names=())


def as_numbers(value: Any) -> np.ndarray:
    """Return an array, a number, or nested lists of numbers, as float64; None in them becomes NaN.

    Raises:
        ValueError: if it is none of these.
    """
    first, depth = value, 0
    while isinstance(first, list | tuple) and first:
        first, depth = first[0], depth + 1
        if depth > 4:  # NumPy would unroll what a pickle nests in little space
            raise ValueError("the lists are nested too deep")
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{shown(value)} holds no numbers ({error})") from error


def first_of(values: dict, *keys: str) -> Any:
    """Return what the first of these keys that is there holds, or None."""
    return next((values[key] for key in keys if key in values), None)


def refuse_3d(keypoints: np.ndarray, layout: str) -> None:
    """Refuse (people, points, x, y and z): a confidence is neither negative nor in the hundreds.

    So are metres: x and y about zero, and more than 1 in the place of the confidence. MediaPipe's
    z stands beside x and y in the picture.
    """
    points = keypoints[np.isfinite(keypoints).all(axis=-1)]
    if keypoints.shape[-1] != 3 or layout == "mediapipe" or not len(points):
        return
    xy, third = points[:, :2], points[:, 2]
    is_metres = np.percentile(np.abs(xy), 99) < 5 and (xy < 0).mean() > 0.2
    is_metres &= (third > 1.05).mean() > 0.05
    if (third < -0.01).mean() > 0.1 or np.median(third) > 100 or is_metres:
        raise ValueError(THESE_ARE_3D)


def consecutive(numbers: Sequence[int]) -> list[int]:
    """Count from the smallest number, where a file lists all frames; each may be there once."""
    for number, count in Counter(numbers).items():
        if count > 1:
            raise ValueError(f"frame {number} is there twice; give one video's frames, each once")
    first = min(numbers, default=0)
    return [number - first for number in numbers]


def picture_numbers(names: Sequence[Any]) -> list[int]:
    """Return the number of each picture: 12 of 12, "12", "0012.jpg" and "video2_frame_0012.jpg".

    Raises:
        ValueError: if the names differ in anything but one number, or this does not count frames.
    """
    parts = {name: _parts(name) for name in dict.fromkeys(names)}
    first, *others = parts.values()
    varying = {i for other in others for i, (a, b) in enumerate(zip(first, other)) if a != b}
    is_alike = all(len(other) == len(first) for other in others)
    if not is_alike or len(varying) > 1 or any(i % 2 == 0 for i in varying):
        listed = ", ".join(map(shown, list(parts)[:3]))
        raise ValueError(
            f"which frames its pictures are cannot be told from their names ({listed}, …): "
            "name them alike but for one number, such as frame_0012.jpg"
        )
    if len(first) == 1:
        told = f"picture {shown(names[0])} has no number"
        raise ValueError(f"{told}, which tells its place in the video")
    place = varying.pop() if varying else len(first) - 2
    number_of = {name: of_name[place] for name, of_name in parts.items()}
    steps = np.diff(sorted(set(number_of.values())))
    if len(steps) > 1 and np.median(steps) > _MAX_STEP:
        raise ValueError(
            f"the numbers of its pictures go in steps of {np.median(steps):g}: times, or a choice "
            "of pictures; give every frame of a video, numbered one by one"
        )
    return [number_of[name] for name in names]


def _parts(name: Any) -> list:
    """Return the text before, between and after the numbers of a name, and these, in turn."""
    if not isinstance(name, str):
        return ["", whole_number(name), ""]
    parts: list = re.split(r"(\d+)", re.sub(r"\.[A-Za-z]\w*$", "", name))
    parts[1::2] = [int(digits[:18]) for digits in parts[1::2]]
    return parts


def whole_number(number: Any) -> int:
    """Return an integer of a file.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"frame number {shown(number)} is no integer")
    return int(number)
