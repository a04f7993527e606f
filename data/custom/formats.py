"""What estimators write about a video, recognised by content: people with keypoints, by frame.

JSON: MMPose's predictions, COCO's results and annotations, AlphaPose's results, OpenPose's folder
of a file a frame, MediaPipe's landmarks. npy and npz: arrays as Ultralytics and rtmlib give them,
the dicts that `prepare_2d_estimation.py` reads, VideoPose3D's Detectron files.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.console import InputError, shown
from common.detections import whole_number
from common.npz_io import read_npy, read_npz
from data.custom.people import Content, People, Person, collect

# Python's objects take five to ten times the room of the text that they are read from.
MAX_JSON_BYTES = 256 << 20
_LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")
_CONFIDENCES = ("scores", "keypoint_scores", "conf", "confidences")


def read_people(path: Path, layout: str | None = None, first_frame: int = 0) -> People:
    """Read the people in an estimator's file, or in a folder of OpenPose's.

    Without a layout, the keypoints' number tells it. `first_frame` is the number that the video's
    first frame has in files that list people only, COCO's and AlphaPose's.

    Raises:
        InputError: if the file is missing, damaged, unsafe, too large, of an unknown form, of
            another layout, or without a person.
    """
    try:
        is_folder = path.is_dir()
        content = _read_openpose_folder(path) if is_folder else _recognise_file(path, first_frame)
        return collect(content, layout)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, LookupError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: damaged, or not quite in a known form ({type(error).__name__}: {error}); "
            "write it again with the estimator"
        ) from error


def _recognise_file(path: Path, first_frame: int) -> Content:
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        return _recognise_arrays(read_npy(path))
    if start.startswith(b"PK"):
        return _recognise_npz(read_npz(path))
    return _recognise_json(_read_json(path), first_frame)


# JSON --------------------------------------------------------------------------------------------


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(
            f"{path}: {path.stat().st_size / 1e6:,.0f} MB of JSON are too many to read at once; "
            f"split it into parts below {MAX_JSON_BYTES / 1e6:,.0f} MB, or save npy"
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: neither npy, npz nor JSON ({error})") from error


def _recognise_json(content: Any, first_frame: int) -> Content:
    if isinstance(content, dict):
        if "instance_info" in content:
            return _from_mmpose(content["instance_info"])
        if "annotations" in content and "images" in content:
            return _from_coco_annotations(content)
        if "people" in content:
            return _from_openpose([content])
        if any(key in content for key in _LANDMARKS):
            return _from_mediapipe([content])
    if isinstance(content, list) and content:
        keys = set().union(*(item for item in content if isinstance(item, dict)))
        if "instances" in keys:
            return _from_mmpose(content)
        if {"keypoints", "image_id"} <= keys:
            return _from_coco_results(content, first_frame)
        if {"keypoints", "frame"} <= keys:
            return _from_frame_dicts(content)
        if {"keypoints", "keypoint_scores"} <= keys:  # MMPose's answer to one picture
            return _from_mmpose([{"frame_id": 0, "instances": content}])
        if "people" in keys:
            return _from_openpose(content)
        if keys & {*_LANDMARKS, "x"} or _holds_landmarks(content):
            return _from_mediapipe(content)
        if not keys:
            return _from_frames("arrays", content)
    raise ValueError(
        "JSON of an unknown form; known are MMPose's predictions, COCO's results and annotations, "
        "AlphaPose's results, OpenPose's files and MediaPipe's landmarks"
    )


def _from_mmpose(frames: list) -> Content:
    numbers = _consecutive([whole_number(frame["frame_id"]) for frame in frames])
    people = []
    for number, frame in zip(numbers, frames):
        for person in frame["instances"]:
            box = np.ravel(person["bbox"])[:4] if person.get("bbox") else None
            keypoints = _with_confidence(person["keypoints"], person.get("keypoint_scores"))
            score = person.get("bbox_score")
            people.append(Person(number, keypoints, box, score, person.get("track_id")))
    return Content("MMPose", people, max(numbers) + 1)


def _from_coco_results(results: list, first_frame: int) -> Content:
    is_alphapose = any(isinstance(person["image_id"], str) for person in results)
    people = []
    for person in results:
        box = person.get("bbox", person.get("box"))
        identity = person.get("track_id", person.get("idx"))
        frame = _last_number(person["image_id"]) - first_frame
        keypoints = _triples(person["keypoints"])
        people.append(Person(frame, keypoints, _corners(box), person.get("score"), identity))
    return Content("AlphaPose" if is_alphapose else "COCO results", people)


def _from_coco_annotations(content: dict) -> Content:
    sizes = {(i["width"], i["height"]) for i in content["images"] if "width" in i and "height" in i}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise ValueError(f"its pictures are of different sizes ({listed}); give one video a file")
    ids = [image["id"] for image in content["images"]]
    names = [image.get("file_name", image["id"]) for image in content["images"]]
    frame_of = dict(zip(ids, _consecutive([_last_number(name) for name in names])))
    people = []
    for person in content["annotations"]:
        keypoints = _triples(person["keypoints"])
        frame, box = frame_of[person["image_id"]], _corners(person.get("bbox"))
        people.append(Person(frame, keypoints, box, person.get("score"), person.get("track_id")))
    return Content("COCO annotations", people, max(frame_of.values()) + 1, next(iter(sizes), None))


def _read_openpose_folder(folder: Path) -> Content:
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError("no *.json in this folder; OpenPose writes one a frame (--write_json)")
    contents = []
    for path in paths:
        content = _read_json(path)
        if not isinstance(content, dict) or "people" not in content:
            raise InputError(f"{path}: holds no 'people', so it is none of OpenPose's files")
        contents.append(content)
    numbers = [_last_number(path.stem.removesuffix("_keypoints")) for path in paths]
    return _from_openpose(contents, _consecutive(numbers))


def _from_openpose(contents: list, numbers: Sequence[int] | None = None) -> Content:
    numbers = range(len(contents)) if numbers is None else numbers
    people = []
    for number, content in zip(numbers, contents):
        for person in content["people"]:
            flat = person.get("pose_keypoints_2d", person.get("pose_keypoints"))
            if flat:  # empty where only hands or a face were found
                people.append(Person(number, _triples(flat), identity=person.get("person_id")))
    return Content("OpenPose", people, max(numbers) + 1)


def _holds_landmarks(content: list) -> bool:
    first = next((item for item in content if item), None)
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, dict) and "x" in first


def _from_mediapipe(frames: list) -> Content:
    if isinstance(frames[0], dict) and "x" in frames[0]:  # the landmarks of one picture
        frames = [frames]
    people, number = [], -1
    for frame in frames:
        number += 1
        if isinstance(frame, dict):
            number = whole_number(frame.get("frame", number))
            frame = next((frame[key] for key in _LANDMARKS if key in frame), None)
        if isinstance(frame, dict):  # {"pose_landmarks": {"landmark": […]}}
            frame = frame["landmark"]
        if not frame:
            continue
        for landmarks in frame if isinstance(frame[0], list) else [frame]:
            points = [[p["x"], p["y"], p.get("visibility")] for p in landmarks]
            has_visibility = all(point[2] is not None for point in points)
            people.append(Person(number, [point[: 2 + has_visibility] for point in points]))
    return Content("MediaPipe", people, number + 1)


# npy and npz -------------------------------------------------------------------------------------


def _recognise_npz(arrays: dict[str, Any]) -> Content:
    if {"boxes", "keypoints", "metadata"} <= arrays.keys():
        return _from_detectron(arrays)
    confidence = next((arrays[name] for name in _CONFIDENCES if name in arrays), None)
    named = [arrays[name] for name in ("keypoints", "xy") if name in arrays]
    if not named and len(arrays) != 1:
        raise ValueError(f"holds {sorted(arrays)}, but no array 'keypoints'")
    keypoints = named[0] if named else next(iter(arrays.values()))
    if confidence is None:
        return _recognise_arrays(keypoints)
    return _from_frames("arrays", list(zip(keypoints, confidence, strict=True)))


def _recognise_arrays(content: Any) -> Content:
    if isinstance(content, dict):
        numbers = list(map(whole_number, content))
        return _from_frames("poses by frame", list(content.values()), numbers)
    items = content if isinstance(content, list | np.ndarray) and np.ndim(content) else []
    if len(items) and all(isinstance(item, dict) for item in items):
        return _from_frame_dicts(items)
    return _from_frames("arrays", items)


def _from_frame_dicts(people: Iterable[dict]) -> Content:
    found = []
    for person in people:
        box = np.ravel(person["bbox"]) if person.get("bbox") is not None else np.empty(0)
        score = box[4] if len(box) > 4 else person.get("score")
        identity = person.get("track_id", person.get("id"))
        frame = whole_number(person["frame"])
        box = box[:4] if len(box) >= 4 else None
        found.append(Person(frame, person["keypoints"], box, score, identity))
    return Content("people by frame", found)


def _from_frames(source: str, frames: Sequence, numbers: Sequence[int] | None = None) -> Content:
    """Take what stands for each frame: (points, 2 or more), (people, points, …), or nothing.

    A tuple is such an array and another one with its confidences.
    """
    numbers = range(len(frames)) if numbers is None else numbers
    people = []
    for number, frame in zip(numbers, frames):
        if isinstance(frame, tuple):
            frame = _with_confidence(*frame)
        frame = np.asarray([] if frame is None else frame)
        if frame.size:
            all_keypoints = frame[None] if frame.ndim <= 2 else frame
            people += [Person(number, keypoints) for keypoints in all_keypoints]
    return Content(source, people, max(numbers, default=-1) + 1)


def _from_detectron(arrays: dict[str, Any]) -> Content:
    """Take the arrays of VideoPose3D's files: for each frame, a list for each class.

    The last class is the people: boxes (people, 5), and keypoints (people, 4, 17) with rows of x,
    y, logit, probability.
    """
    frames, boxes, metadata = arrays["keypoints"], arrays["boxes"], arrays["metadata"]
    people = []
    for number, (classes, class_boxes) in enumerate(zip(frames, boxes, strict=True)):
        found = np.asarray(classes[-1], dtype=np.float64)
        if found.size:
            found_boxes = np.asarray(class_boxes[-1], dtype=np.float64)
            for keypoints, box in zip(found, found_boxes, strict=True):
                people.append(Person(number, keypoints[[0, 1, -1]].T, box[:4], box[4]))
    size = (int(metadata["w"]), int(metadata["h"]))
    return Content("VideoPose3D's Detectron", people, len(frames), size)


# Details of files -------------------------------------------------------------------------------


def _with_confidence(keypoints: Any, confidence: Any) -> Any:
    if confidence is None:
        return keypoints
    confidence = np.asarray(confidence, dtype=np.float64)[..., None]
    keypoints = np.asarray(keypoints, dtype=np.float64)[..., :2]
    return np.concatenate([keypoints, confidence], axis=-1) if keypoints.size else keypoints


def _triples(numbers: Any) -> np.ndarray:
    """Return x, y, confidence of each keypoint, (points, 3), from one list of all of them."""
    numbers = np.ravel(numbers)
    if numbers.size % 3:
        raise ValueError(f"{numbers.size} numbers are not x, y and confidence of some keypoints")
    return numbers.reshape(-1, 3)


def _corners(box: Any) -> np.ndarray | None:
    """Turn COCO's (left, top, width, height) into (left, top, right, bottom)."""
    if box is None or len(box) < 4:
        return None
    left, top, width, height = np.asarray(box[:4], dtype=np.float64)
    return np.array([left, top, left + width, top + height])


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
        return whole_number(name)
    numbers = re.findall(r"\d+", Path(name).stem)
    if not numbers:
        place = "so its place in the video is unknown"
        raise ValueError(f"picture {shown(name)} has no number, {place}")
    return int(numbers[-1])
