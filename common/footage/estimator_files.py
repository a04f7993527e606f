"""Reading an estimator's file, or a folder of a file for each frame; `formats` has the formats."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.files.console import InputError, shown
from common.files.safe_load import read_npy, read_npz, read_pickle
from common.footage import formats
from common.footage.detections import Detections, consecutive, picture_numbers
from common.footage.text_formats import is_picture_or_number, labels_folder, table

# What programs of people's own put the list of frames under.
_WRAPPERS = ("frames", "predictions", "results")
_SPACE = re.compile(r"\s*")


def read_detections(path: Path, first_frame: int = 0) -> Detections:
    """Read an estimator's file, or a folder of a JSON or text file for each frame.

    `first_frame` is the number of the video's first frame in COCO's and AlphaPose's results.

    Raises:
        InputError, ValueError: if the file is damaged, unsafe, or of an unknown form.
        TypeError, LookupError, AttributeError: if it is not quite of the form that it seems.
    """
    found = _read_folder(path) if path.is_dir() else recognise(_read_content(path))
    found = found.in_known_order()
    shift = 0 if found.is_from_zero else first_frame
    return found._replace(frames={n - shift: people for n, people in found.frames.items()})


def _read_folder(folder: Path) -> Detections:
    """Read files of a frame each, whose number is the one in which their names differ."""
    paths = sorted(folder.glob("*.json"))
    for labels in (folder, folder / "labels"):
        if not paths and (texts := sorted(labels.glob("*.txt"))):
            return labels_folder(texts)
    if not paths:
        raise ValueError(
            "no *.json in this folder; OpenPose writes one a frame (--write_json), MMPose one a "
            "picture (--pred-out-dir), Ultralytics *.txt (save_txt)"
        )
    numbers = consecutive(picture_numbers([path.stem for path in paths]))
    found = []
    for path in paths:
        try:
            found.append(_recognise_frame(_read_content(path)))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    return _one_frame_each(dict(zip(numbers, found)))


def _one_frame_each(found: dict[int, Detections]) -> Detections:
    """Put what was found in each frame, or picture, together."""
    frames = {
        number: [person for people in of_frame.frames.values() for person in people]
        for number, of_frame in found.items()
    }
    about = next((d for d in found.values() if any(d.frames.values())), Detections({}))
    return about._replace(frames=frames, is_from_zero=True)


def _read_content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        return read_npy(path)
    if start.startswith(b"\x80"):
        return read_pickle(path)
    if start.startswith(b"PK"):
        arrays = read_npz(path)
        is_bare = len(arrays) == 1 and "reconstruction" not in arrays
        return next(iter(arrays.values())) if is_bare else arrays
    try:
        text = path.read_text("utf-8-sig")
        return _parsed(text) if text.lstrip().startswith(("{", "[")) else table(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: neither npy, npz, csv nor JSON ({error}); write it again with the estimator"
        ) from error


def _parsed(text: str) -> Any:
    """Return what JSON holds: a value, or several; texts in it may be JSON themselves."""
    decoder, values, end = json.JSONDecoder(), [], 0
    while (start := _SPACE.match(text, end).end()) < len(text):
        value, end = decoder.raw_decode(text, start)
        values.append(value)
    content = values[0] if len(values) == 1 else values
    # Ultralytics' to_json gives a text.
    items = list(content.values() if isinstance(content, dict) else content)
    if items and all(isinstance(item, str) for item in items):
        parsed = map(json.loads, items)
        content = dict(zip(content, parsed)) if isinstance(content, dict) else list(parsed)
    return content


def recognise(content: Any) -> Detections:
    """Return what the content of a file holds, by the first of `READERS` whose form it has.

    Raises:
        ValueError: if it is of an unknown form.
    """
    if isinstance(content, Detections):  # a table
        return content
    if isinstance(content, np.ndarray) and content.ndim and content.dtype.hasobject:
        content = list(content)
    is_dict, keys = isinstance(content, dict), _keys(content)
    for source, form, read in formats.READERS:
        if isinstance(form, set) == is_dict and _fits(content, keys, form):
            found = read(content)
            return found._replace(source=found.source or source)
    if is_dict and keys and all(map(is_picture_or_number, keys)):
        return _by_frame(content)
    if is_dict and (wrapper := next((key for key in _WRAPPERS if key in keys), None)):
        return recognise(content[wrapper])
    if not keys and (isinstance(content, list) or getattr(content, "ndim", 0)):
        return formats.from_arrays(content)
    known = ", ".join(
        dict.fromkeys(source for source, *_ in formats.READERS if source != "3D poses")
    )
    raise ValueError(
        f"of an unknown form, with {shown(sorted(map(str, keys)))}; "
        f"known are {known}, and arrays (frames, people, points, 2 or 3)"
    )


def _by_frame(content: dict) -> Detections:
    """Take a dict of what each frame holds, by its number or by its picture's name."""
    names = [int(key) if isinstance(key, np.integer) else key for key in content]
    numbers = picture_numbers(names) if any(isinstance(n, str) for n in names) else names
    contents = dict(zip(numbers, content.values(), strict=True))
    if not any(map(_keys, contents.values())):
        return formats.from_frames(contents)._replace(source="poses by frame")
    found = {number: _recognise_frame(frame) for number, frame in contents.items()}
    return _one_frame_each(found)._replace(is_from_zero=False)


def _recognise_frame(content: Any) -> Detections:
    """Return what a file or a dict has for one frame; a list there is one of people, or points."""
    if isinstance(content, dict) and "keypoints" in content:
        content = [content]
    return recognise([content] if isinstance(content, list) else [] if content is None else content)


def _fits(content: Any, keys: set, form: set | list) -> bool:
    if isinstance(form, set):
        return keys >= form
    if isinstance(form[0], set):
        return keys >= form[0]
    return keys >= form[0][0] and not any(isinstance(item, dict) for item in content)


def _keys(content: Any) -> set:
    """Return the keys of a dict, of all dicts in a list, or of those in the first list in it."""
    if isinstance(content, dict):
        return set(content)
    items = content if isinstance(content, list) else []
    keys = set().union(*(item for item in items if isinstance(item, dict)))
    first = next((item for item in items if isinstance(item, list) and item), None)
    return keys or (_keys(first) if first else keys)
