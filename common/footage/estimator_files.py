"""The files in which estimators write keypoints, each recognised by what it holds.

A further format is one function that takes a file's content and returns `Detections`. Its
`@reads(source, *forms)` tells how it is recognised: `{"a", "b"}` is a dict that has these keys,
`[{"a", "b"}]` a list of dicts that have them. The first form that fits is taken.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.files.console import InputError, shown
from common.files.safe_load import read_npy, read_npz


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


Reader = Callable[[Any], Detections]
_READERS: list[tuple[str, set | list, Reader]] = []


def reads(source: str, *forms: set | list) -> Callable[[Reader], Reader]:
    """Register the function that reads what has one of these forms."""

    def register(read: Reader) -> Reader:
        _READERS.extend((source, form, read) for form in forms)
        return read

    return register


def read_detections(path: Path, first_frame: int = 0) -> Detections:
    """Read an estimator's file, or a folder of a JSON file for each frame.

    `first_frame` is the number of the video's first frame in COCO's and AlphaPose's results.

    Raises:
        InputError, ValueError: if the file is damaged, unsafe, or of an unknown form.
        TypeError, LookupError, AttributeError: if it is not quite of the form that it seems.
    """
    found = _read_folder(path) if path.is_dir() else _recognise(_read_content(path))
    shift = 0 if found.is_from_zero else first_frame
    return found._replace(frames={n - shift: people for n, people in found.frames.items()})


def _read_folder(folder: Path) -> Detections:
    """Read files of a frame each, whose number is the last one in the file's name."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError("no *.json in this folder; OpenPose writes one a frame (--write_json)")
    numbers = _consecutive([_last_number(path.stem.removesuffix("_keypoints")) for path in paths])
    frames = {}
    for number, path in zip(numbers, paths):
        try:
            found = _recognise(_read_content(path))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        frames[number] = [person for people in found.frames.values() for person in people]
    return Detections(frames, source=found.source)


def _read_content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        return read_npy(path)
    if start.startswith(b"PK"):
        arrays = read_npz(path)
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: neither npy, npz nor JSON ({error}); write it again with the estimator"
        ) from error


def _recognise(content: Any) -> Detections:
    if isinstance(content, np.ndarray) and content.ndim and content.dtype.hasobject:
        content = list(content)
    is_dict = isinstance(content, dict)
    keys = set(content) if is_dict else _keys_within(content)
    for source, form, read in _READERS:
        if isinstance(form, set) == is_dict and keys >= (form if is_dict else form[0]):
            found = read(content)
            return found._replace(source=found.source or source)
    if is_dict and all(isinstance(key, (int, np.integer)) for key in keys):
        return _from_frames(content, "poses by frame")
    if not keys and (isinstance(content, list) or getattr(content, "ndim", 0)):
        return _from_frames(dict(enumerate(content)), "arrays")
    known = ", ".join(dict.fromkeys(source for source, *_ in _READERS))
    raise ValueError(
        f"of an unknown form, with {shown(sorted(map(str, keys)))}; "
        f"known are {known}, and arrays (frames, people, points, 2 or 3)"
    )


def _keys_within(content: Any) -> set:
    """Return all keys of the dicts in a list, or in the first list that is in it."""
    items = content if isinstance(content, list) else []
    keys = set().union(*(item for item in items if isinstance(item, dict)))
    first = next((item for item in items if isinstance(item, list) and item), None)
    return keys or (_keys_within(first) if first else keys)


# Formats of dicts --------------------------------------------------------------------------------


@reads("COCO annotations", {"annotations", "images"})
def coco_annotations(content: dict) -> Detections:
    """COCO's annotations of the pictures of one video, in the order of the pictures' numbers."""
    images = content["images"]
    sizes = {(image["width"], image["height"]) for image in images if "width" in image}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise ValueError(f"its pictures are of different sizes ({listed}); give one video a file")
    numbers = _consecutive([_last_number(i.get("file_name", i["id"])) for i in images])
    number_of = dict(zip((image["id"] for image in images), numbers))
    frames: dict[int, list[Person]] = {number: [] for number in numbers}
    for person in content["annotations"]:
        frames[number_of[person["image_id"]]].append(_coco_person(person))
    return Detections(frames, next(iter(sizes), None))


@reads("COCO results", [{"image_id", "keypoints"}])
def coco_results(results: list) -> Detections:
    """COCO's results and AlphaPose's: {"image_id", "keypoints", "score", …} of each person."""
    frames = defaultdict(list)
    for person in results:
        frames[_last_number(person["image_id"])].append(_coco_person(person))
    is_alphapose = any(isinstance(person["image_id"], str) for person in results)
    return Detections(frames, is_from_zero=False, source="AlphaPose" if is_alphapose else "")


def _coco_person(person: dict) -> Person:
    box = _first_of(person, "bbox", "box")
    if box is not None and len(box) >= 4:
        left, top, width, height = box[:4]
        box = (left, top, left + width, top + height)
    identity = _first_of(person, "track_id", "idx")
    return Person(_triples(person["keypoints"]), box, person.get("score"), identity)


@reads("people by frame", [{"frame", "keypoints"}])
def people_by_frame(people: list) -> Detections:
    """{"frame", "bbox", "keypoints"} of each person, as Human3.6M's estimates and detect_2d.py."""
    frames = defaultdict(list)
    for person in people:
        identity = _first_of(person, "track_id", "id")
        found = Person(person["keypoints"], person.get("bbox"), person.get("score"), identity)
        frames[_whole_number(person["frame"])].append(found)
    return Detections(frames)


@reads("MMPose", {"instance_info"}, [{"instances"}], [{"keypoints", "keypoint_scores"}])
def mmpose(content: Any) -> Detections:
    """MMPose's predictions: of a video, as its inferencer's bare list, or of one picture."""
    frames = content["instance_info"] if isinstance(content, dict) else content
    if any("keypoints" in frame for frame in frames):
        frames = [{"frame_id": 0, "instances": frames}]
    numbers = _consecutive([_whole_number(frame["frame_id"]) for frame in frames])
    people = [list(map(_mmpose_person, frame["instances"])) for frame in frames]
    return Detections(dict(zip(numbers, people)))


def _mmpose_person(person: dict) -> Person:
    keypoints = _with_confidence(person["keypoints"], person.get("keypoint_scores"))
    return Person(keypoints, person.get("bbox"), person.get("bbox_score"), person.get("track_id"))


@reads("OpenPose", {"people"}, [{"people"}])
def openpose(content: Any) -> Detections:
    """OpenPose's files of a frame each, or a list of what they hold."""
    frames = defaultdict(list)
    for number, frame in enumerate([content] if isinstance(content, dict) else content):
        for person in frame["people"]:
            flat = _first_of(person, "pose_keypoints_2d", "pose_keypoints")
            found = Person(_triples(flat or []), identity=person.get("person_id"))
            frames[number] += [found] if flat else []  # empty where only hands were found
    return Detections(frames)


_LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")


@reads("MediaPipe", *({key} for key in _LANDMARKS), *([{key}] for key in (*_LANDMARKS, "x")))
def mediapipe(content: Any) -> Detections:
    """MediaPipe's landmarks {"x", "y", "visibility"} of each frame, of one person or several."""
    if isinstance(content, dict) or (isinstance(content[0], dict) and "x" in content[0]):
        content = [content]  # one picture
    frames, number = {}, -1
    for frame in content:
        number = frame.get("frame", number + 1) if isinstance(frame, dict) else number + 1
        while isinstance(frame, dict):  # {"pose_landmarks": {"landmark": […]}}
            frame = _first_of(frame, *_LANDMARKS)
        people = frame if frame and isinstance(frame[0], list) else [frame] if frame else []
        frames[_whole_number(number)] = list(map(_mediapipe_person, people))
    return Detections(frames)


def _mediapipe_person(landmarks: list[dict]) -> Person:
    is_seen = all(point.get("visibility") is not None for point in landmarks)
    keys = ("x", "y", "visibility") if is_seen else ("x", "y")
    return Person([[point[key] for key in keys] for point in landmarks])


# Formats of arrays -------------------------------------------------------------------------------


@reads("VideoPose3D's Detectron", {"boxes", "keypoints", "metadata"})
def detectron(arrays: dict[str, Any]) -> Detections:
    """VideoPose3D's npz: boxes and keypoints have a list for each class; the last is the people.

    Those are boxes (people, 5), and keypoints (people, 4, 17): rows of x, y, logit, probability.
    """
    frames = {}
    pairs = zip(arrays["keypoints"], arrays["boxes"], strict=True)
    for number, (keypoints, boxes) in enumerate(pairs):
        people = zip(np.asarray(keypoints[-1]), boxes[-1])
        frames[number] = [Person(rows[[0, 1, -1]].T, box) for rows, box in people]
    metadata = arrays["metadata"]
    return Detections(frames, (int(metadata["w"]), int(metadata["h"])))


@reads("npz of keypoints", {"keypoints"}, {"xy"})
def named_arrays(arrays: dict[str, Any]) -> Detections:
    """Keypoints of each frame, perhaps with an array of confidences beside them."""
    keypoints = _first_of(arrays, "keypoints", "xy")
    confidence = _first_of(arrays, "scores", "keypoint_scores", "conf", "confidences")
    if confidence is not None:
        pairs = zip(keypoints, confidence, strict=True)
        keypoints = [_with_confidence(*pair) for pair in pairs]
    return _from_frames(dict(enumerate(keypoints)), "arrays")


def _from_frames(poses: dict[int, Any], source: str) -> Detections:
    """Take what stands for each frame: (points, 2 or more), (people, points, …), or nothing."""
    frames = {}
    for number, pose in poses.items():
        pose = as_numbers([] if pose is None else pose)
        people = [] if not pose.size else [pose] if pose.ndim <= 2 else pose
        frames[int(number)] = list(map(Person, people))
    return Detections(frames, source=source)


# Details of files --------------------------------------------------------------------------------


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


def _first_of(values: dict, *keys: str) -> Any:
    """Return what the first of these keys that is there holds, or None."""
    return next((values[key] for key in keys if key in values), None)


def _with_confidence(keypoints: Any, confidence: Any) -> Any:
    if confidence is None:
        return keypoints
    keypoints, confidence = as_numbers(keypoints)[..., :2], as_numbers(confidence)[..., None]
    return np.concatenate([keypoints, confidence], axis=-1) if keypoints.size else keypoints


def _triples(numbers: Any) -> np.ndarray:
    """Return x, y, confidence of each keypoint, (points, 3), from one list of all of them."""
    numbers = as_numbers(numbers)
    if numbers.size % 3:
        raise ValueError(f"{numbers.size} numbers are not x, y and confidence of some keypoints")
    return numbers.reshape(-1, 3)


def _consecutive(numbers: list[int]) -> list[int]:
    """Count from the smallest number, where a file lists all frames; each may be there once."""
    for number, count in Counter(numbers).items():
        if count > 1:
            raise ValueError(f"frame {number} is there twice; give one video's frames, each once")
    first = min(numbers, default=0)
    return [number - first for number in numbers]


def _last_number(name: Any) -> int:
    """Return 12 for 12, "12", "0012.jpg" and "video2_frame_0012.jpg"."""
    if not isinstance(name, str):
        return _whole_number(name)
    numbers = re.findall(r"\d+", Path(name).stem)
    if not numbers:
        raise ValueError(f"picture {shown(name)} has no number, which tells its place in the video")
    return int(numbers[-1])


def _whole_number(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"frame number {shown(number)} is no integer")
    return int(number)
