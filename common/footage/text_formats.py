"""Keypoints in text: tables (csv) of one column a coordinate, and Ultralytics' label files."""

import csv
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files.console import InputError, listing, shown
from common.footage.detections import (
    THESE_ARE_3D,
    Detections,
    Person,
    first_of,
    picture_numbers,
)
from common.footage.layouts import KEYPOINT_NAMES

_FRAME = ("frame", "frame_id", "frameid", "frame_idx", "frame_index", "frame_number", "frame_no")
_PICTURE = ("image", "image_id", "image_name", "file", "filename", "file_name", "picture")
_PERSON = ("person", "person_id", "id", "track_id", "track", "identity", "idx")
_CHANNELS = {"x": "x", "y": "y", "z": "z"} | dict.fromkeys(
    ("c", "conf", "confidence", "score", "visibility", "vis", "v", "likelihood", "p", "prob"), "c"
)
_NO_POINT = ("bbox", "box", "center", "centre")
_NUMBERED = ("keypoint", "kp", "kpt", "point", "landmark", "joint")
_UNITS = ("px", "pixel", "pixels", "m", "mm", "norm", "normalized", "normalised")


def is_picture_or_number(key: Any) -> bool:
    """Tell whether a dict's key names a frame: 12, "12", "frame_12" or "0012.jpg"."""
    if not isinstance(key, str):
        return isinstance(key, int | np.integer) and not isinstance(key, bool)
    pattern = r"(frame|image|img|picture)?[ _-]?\d+|.*\d.*\.(jpe?g|png|bmp|tiff?|webp)"
    return re.fullmatch(pattern, key, re.IGNORECASE) is not None


# Tables ------------------------------------------------------------------------------------------


def table(text: str) -> Detections:
    """Read a row for each frame, or person in a frame: frame, nose_x, nose_y, nose_conf, ….

    Points have names, or numbers from which their layout follows. Columns of anything else are
    left out; a cell without a number is a point that was not found.

    Raises:
        ValueError: if the columns are not these, or there is no row.
    """
    header, *rows = _rows(text)
    columns = {column.strip().lower(): place for place, column in reversed([*enumerate(header)])}
    points: dict[str, dict[str, int]] = defaultdict(dict)  # {point: {channel: place}}
    for place, column in enumerate(header):
        point, channel = _point_and_channel(column)
        points[point].setdefault(channel, place)
    points = {point: places for point, places in points.items() if {"x", "y"} <= places.keys()}
    if not points:
        raise ValueError(f"no columns such as nose_x and nose_y, but {listing(header)}")
    if not rows:
        raise ValueError("a table without rows")
    has_confidence = all("c" in places for places in points.values())
    has_depth = any("z" in places for places in points.values())
    if has_depth and not has_confidence and len(points) != len(KEYPOINT_NAMES["mediapipe"]):
        raise ValueError(THESE_ARE_3D)
    names = list(points)
    if are_numbers := all(name.isdecimal() for name in names):
        names.sort(key=int)
    channels = ("x", "y", "c") if has_confidence else ("x", "y")
    order = [[points[name][channel] for channel in channels] for name in names]
    numbers = np.array([list(map(_number, row)) for row in rows])
    place, identity = first_of(columns, *_FRAME, *_PICTURE), first_of(columns, *_PERSON)
    frames = range(len(rows))
    if place is not None:
        frames = picture_numbers([re.sub(r"\.0*$", "", row[place].strip()) for row in rows])
    if identity is None and len(set(frames)) < len(frames):
        raise ValueError("two rows of one frame, and no column 'person'; add one")
    people = defaultdict(list)
    for frame, row in zip(frames, numbers):
        who = None if identity is None else row[identity]
        people[frame].append(Person(row[order], identity=who))
    return Detections(people, source="table", names=() if are_numbers else names)


def _rows(text: str) -> list[list[str]]:
    """Return the cells of each line, of equally many columns, separated by ',', ';' or a tab."""
    lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
    if not lines:
        raise ValueError("an empty table")
    separator = max(",;\t", key=lines[0].count)
    rows = list(csv.reader(lines, delimiter=separator))
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} cells, the first has {len(rows[0])}")
    if separator == ";":  # a decimal comma
        rows[1:] = [[cell.replace(",", ".") for cell in row] for row in rows[1:]]
    return rows


def _point_and_channel(column: str) -> tuple[str, str]:
    """Return ("nose", "x") of "nose_x", "Nose.X", "x_nose" and "nose_x_px"; ("3", "x") of "x3".

    The channel of what is no point's coordinate is empty.
    """
    words = re.findall(r"[A-Za-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column))
    if len(words) > 2 and words[-1].lower() in _UNITS:
        words.pop()
    for place in (-1, 0):
        channel = _CHANNELS.get(words[place].lower()) if len(words) > 1 else None
        if channel:
            words.pop(place)
            numbers = [word for word in words if word.isdecimal()]
            is_numbered = words[0].lower() in _NUMBERED or words == numbers
            point = numbers[-1] if is_numbered and numbers else "_".join(words)
            return point, "" if point.lower() in _NO_POINT else channel
    return column, ""


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


# Ultralytics' labels -----------------------------------------------------------------------------


def labels_folder(paths: Sequence[Path]) -> Detections:
    """Read what `save_txt` writes: clip_1.txt, …, for each frame in which there is somebody.

    A row is class, box (centre, width, height), x, y (and confidence) of each point, in shares of
    the picture, then perhaps the person's confidence and identity.
    """
    numbers = picture_numbers([path.stem for path in paths])
    first = min([1, *numbers])  # of a video's frames Ultralytics counts the first as 1
    rows = [_label_rows(path) for path in paths]
    widths = {len(row) for of_frame in rows for row in of_frame}
    if len(widths) != 1:
        raise ValueError(f"rows of {listing(sorted(widths)) or 'no'} numbers; give one video's")
    all_rows = np.array([row for of_frame in rows for row in of_frame])
    points, channels, has_score, has_identity = _label_columns(all_rows)
    end = 5 + points * channels

    def person(row: np.ndarray) -> Person:
        keypoints, score = row[5:end].reshape(points, channels), row[end] if has_score else None
        return Person(keypoints, score=score, identity=row[-1] if has_identity else None)

    frames = {n - first: list(map(person, of_frame)) for n, of_frame in zip(numbers, rows)}
    return Detections(frames, source="Ultralytics' labels")


def _label_rows(path: Path) -> list[np.ndarray]:
    try:
        lines = path.read_text().splitlines()
        return [np.array(list(map(float, line.split()))) for line in lines if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: no labels of Ultralytics ({shown(str(error))})") from error


def _label_columns(rows: np.ndarray) -> tuple[int, int, bool, bool]:
    """Return the number of points, of their channels, and whether confidence and identity follow.

    COCO's 17 come first: 52 numbers are these with one more, not 26 points without confidences.
    """
    width = rows.shape[1] - 5
    counts = dict.fromkeys([17, *map(len, KEYPOINT_NAMES.values())])
    for count, channels in itertools.product(counts, (3, 2)):
        more, last = width - count * channels, rows[:, -1]
        if 0 <= more <= 2:
            is_whole = bool(more and (last == last.round()).all() and (last >= 1).all())
            return count, channels, more == 2 or (more == 1 and not is_whole), is_whole
    if width <= 0:
        raise ValueError("boxes without keypoints; run Ultralytics with a model for poses")
    raise ValueError(f"rows of {width + 5} numbers are no known layout of Ultralytics' keypoints")
