"""The formats in which estimators write keypoints, each recognised by what it holds.

A further format is one function that takes a file's content and returns `Detections`. Its
`@reads(source, *forms)` tells how it is recognised; the first form that fits is taken.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from common.files.console import listing
from common.footage.detections import (
    THESE_ARE_3D,
    Detections,
    Person,
    as_numbers,
    consecutive,
    first_of,
    picture_numbers,
    whole_number,
)

Reader = Callable[[Any], Detections]
READERS: list[tuple[str, set | list, Reader]] = []


def reads(source: str, *forms: set | list) -> Callable[[Reader], Reader]:
    """Register the function that reads what has one of these forms.

    `{"a", "b"}` is a dict that has these keys, `[{"a", "b"}]` a list of dicts that have them, or a
    list of such lists, `[[{"a", "b"}]]` lists in a list only.
    """

    def register(read: Reader) -> Reader:
        READERS.extend((source, form, read) for form in forms)
        return read

    return register


def with_confidence(keypoints: Any, confidence: Any) -> Any:
    """Return x, y of (..., 2 or more) and the confidence (...) in one array (..., 3)."""
    if confidence is None:
        return keypoints
    keypoints, confidence = as_numbers(keypoints)[..., :2], as_numbers(confidence)[..., None]
    return np.concatenate([keypoints, confidence], axis=-1) if keypoints.size else keypoints


def triples(numbers: Any) -> np.ndarray:
    """Return x, y, confidence of each keypoint, (points, 3), from one list of all of them."""
    numbers = as_numbers(numbers)
    if numbers.size % 3:
        raise ValueError(f"{numbers.size} numbers are not x, y and confidence of some keypoints")
    return numbers.reshape(-1, 3)


def by_frame(numbers: Iterable[int], people: Iterable[Person]) -> dict[int, list[Person]]:
    """Return {frame: its people}, from the number of each one's frame."""
    frames = defaultdict(list)
    for number, person in zip(numbers, people, strict=True):
        frames[number].append(person)
    return frames


# Formats of dicts --------------------------------------------------------------------------------


@reads("COCO annotations", {"annotations", "images"})
def coco_annotations(content: dict) -> Detections:
    """COCO's annotations of the pictures of one video, in the order of the pictures' numbers."""
    images = content["images"]
    sizes = {(image["width"], image["height"]) for image in images if "width" in image}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise ValueError(f"its pictures are of different sizes ({listed}); give one video a file")
    numbers = consecutive(picture_numbers([i.get("file_name", i["id"]) for i in images]))
    number_of = dict(zip((image["id"] for image in images), numbers))
    frames: dict[int, list[Person]] = {number: [] for number in numbers}
    for person in content["annotations"]:
        frames[number_of[person["image_id"]]].append(_coco_person(person))
    names = (kind["keypoints"] for kind in content.get("categories", []) if "keypoints" in kind)
    return Detections(frames, next(iter(sizes), None), names=next(names, ()))


@reads("COCO results", [{"image_id", "keypoints"}])
def coco_results(results: list) -> Detections:
    """COCO's results and AlphaPose's: {"image_id", "keypoints", "score", …} of each person."""
    lists = (some if isinstance(some, list) else [some] for some in results)
    results = [person for some in lists for person in some]
    pictures = [person["image_id"] for person in results]
    frames = by_frame(picture_numbers(pictures), map(_coco_person, results))
    is_alphapose = any(isinstance(picture, str) for picture in pictures)
    return Detections(frames, is_from_zero=False, source="AlphaPose" if is_alphapose else "")


def _coco_person(person: dict) -> Person:
    box = first_of(person, "bbox", "box")
    if box is not None and len(box) >= 4:
        left, top, width, height = box[:4]
        box = (left, top, left + width, top + height)
    identity = first_of(person, "track_id", "idx")
    return Person(triples(person["keypoints"]), box, person.get("score"), identity)


@reads("people by frame", [{"frame", "keypoints"}])
def people_by_frame(people: list) -> Detections:
    """{"frame", "bbox", "keypoints"} of each person, as Human3.6M's estimates and detect_2d.py."""
    numbers = (whole_number(person["frame"]) for person in people)
    found = (
        Person(p["keypoints"], p.get("bbox"), p.get("score"), first_of(p, "track_id", "id"))
        for p in people
    )
    return Detections(by_frame(numbers, found))


@reads("MMPose", {"instance_info"}, [{"instances"}], [{"keypoints", "keypoint_scores"}])
def mmpose(content: Any) -> Detections:
    """MMPose's predictions: of a video, as its inferencer's bare list, or of one picture."""
    about = content.get("meta_info", {}) if isinstance(content, dict) else {}
    frames = content["instance_info"] if isinstance(content, dict) else content
    if any("keypoints" in frame for frame in frames):
        frames = [frames]  # one picture
    frames = [{"instances": frame} if isinstance(frame, list) else frame for frame in frames]
    numbers = consecutive([whole_number(f.get("frame_id", n)) for n, f in enumerate(frames)])
    people = [list(map(_mmpose_person, _flat(frame["instances"]))) for frame in frames]
    names = about.get("keypoint_id2name") or {}
    names = [names[key] for key in sorted(names, key=int)]
    layout = str(about.get("dataset_name") or "")
    return Detections(dict(zip(numbers, people)), layout=layout, names=names)


def _mmpose_person(person: dict) -> Person:
    if as_numbers(person["keypoints"]).shape[-1:] == (3,):  # beside their scores
        raise ValueError(THESE_ARE_3D)
    keypoints = with_confidence(person["keypoints"], person.get("keypoint_scores"))
    return Person(keypoints, person.get("bbox"), person.get("bbox_score"), person.get("track_id"))


def _flat(people: list) -> list:
    """Return the people of a picture, which the inferencer puts into a list of one batch."""
    while people and isinstance(people[0], list):
        people = people[0]
    return people


@reads("MMPose 0", [{"preds", "image_paths"}])
def mmpose_tested(batches: list) -> Detections:
    """What tools/test.py of MMPose 0 saves: poses of some pictures, and these pictures' names."""
    poses = [Person(pose) for batch in batches for pose in batch["preds"]]
    names = [name for batch in batches for name in batch["image_paths"]]
    return Detections(by_frame(picture_numbers(names), poses), is_from_zero=False)


@reads("OpenPose", {"people"}, [{"people"}], {"bodies", "version"})
def openpose(content: Any) -> Detections:
    """OpenPose's files of a frame each, AlphaPose's in its form, or a list of what they hold."""
    frames = defaultdict(list)
    for index, frame in enumerate([content] if isinstance(content, dict) else content):
        number = whole_number(frame.get("frame", index))
        for person in first_of(frame, "people", "bodies"):
            flat = first_of(person, "pose_keypoints_2d", "pose_keypoints", "joints", "keypoints")
            if not flat and person.get("pose_keypoints_3d"):
                raise ValueError(THESE_ARE_3D)
            found = Person(triples(flat or []), identity=person.get("person_id"))
            frames[number] += [found] if flat else []  # empty where only hands were found
    return Detections(frames)


_LANDMARKS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark")
_NUMBER = ("frame", "frame_id", "frameId", "frame_number", "frameNumber", "frameIndex")
_MAX_PEOPLE = 10  # in a list of people; a longer one is of frames


@reads("MediaPipe", *({key} for key in _LANDMARKS), *([{key}] for key in (*_LANDMARKS, "x")))
def mediapipe(content: Any) -> Detections:
    """MediaPipe's landmarks {"x", "y", "visibility"} of each frame, of one person or several."""
    if isinstance(content, dict):
        inner = first_of(content, *_LANDMARKS)
        lists = isinstance(inner, list) and all(isinstance(i, list) or i is None for i in inner)
        is_video = lists and (len(inner) > _MAX_PEOPLE or not all(inner))
        content = inner if is_video else [content]  # or one picture
    elif isinstance(content[0], dict) and "x" in content[0]:
        content = [content]  # one picture
    frames, number, names = {}, -1, []
    for frame in content:
        given = first_of(frame, *_NUMBER) if isinstance(frame, dict) else None
        number = number + 1 if given is None else given
        while isinstance(frame, dict):  # {"pose_landmarks": {"landmark": […]}}
            frame = first_of(frame, *_LANDMARKS)
        people = frame if frame and isinstance(frame[0], list) else [frame] if frame else []
        people = [landmarks for landmarks in people if landmarks]
        frames[whole_number(number)] = list(map(_of_points, people))
        names = names or (_names_of(people[0]) if people else [])
    return Detections(frames, names=names)


def _of_points(points: list[dict]) -> Person:
    """Take a dict of each point: x, y and, where all have it, how sure the estimator is."""
    sure = [k for k in ("visibility", "score") if all(p.get(k) is not None for p in points)]
    return Person([[point[key] for key in ("x", "y", *sure[:1])] for point in points])


def _names_of(points: Any) -> list[str]:
    """Return the points' names, where each has one."""
    is_named = all(isinstance(point, dict) and "name" in point for point in points)
    return [point["name"] for point in points] if is_named else []


@reads("people of each frame", [[{"keypoints"}]])
@reads("MMPose 0", [[{"bbox", "keypoints"}]])
@reads("Ultralytics", [{"box", "class", "keypoints"}])
def people_of_frames(content: list) -> Detections:
    """A list of people for each frame: of MMPose 0, Ultralytics, AlphaPose's PoseFlow, TF.js."""
    if isinstance(next(iter(content), None), dict):
        content = [content]  # one picture
    content = [_flat(people or []) for people in content]
    frames = {number: list(map(_any_person, people)) for number, people in enumerate(content)}
    frames = {number: [p for p in people if len(p.keypoints)] for number, people in frames.items()}
    first = next((people[0] for people in content if people), {})
    return Detections(frames, names=_names_of(first["keypoints"]))


def _any_person(person: dict) -> Person:
    points, box = person["keypoints"], person.get("bbox")
    if isinstance(points, dict):  # a list for each coordinate
        columns = [points[key] for key in ("x", "y", "visible") if points.get(key) is not None]
        points = list(zip(*columns, strict=True))
    elif len(points) and isinstance(points[0], dict):
        points = _of_points(points).keypoints
    else:
        points = as_numbers(points)
        points = triples(points) if points.ndim == 1 else points
    score = first_of(person, "score", "scores", "confidence")
    score = box[4] if score is None and box is not None and len(box) == 5 else score
    return Person(points, score=score, identity=first_of(person, "track_id", "idx", "id"))


@reads("easy_ViTPose", {"keypoints", "skeleton"})
def easy_vitpose(content: dict) -> Detections:
    """easy_ViTPose's --save-json: {identity: rows of y, x, score} of each frame; the names."""
    frames = [
        [Person(as_numbers(rows)[:, [1, 0, 2]], identity=int(i)) for i, rows in people.items()]
        for people in content["keypoints"]
    ]
    names = [content["skeleton"][key] for key in sorted(content["skeleton"], key=int)]
    return Detections(dict(enumerate(frames)), names=names)


_IN_METRES = ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks")
_IN_METRES += ("keypoints3D", "keypoints_3d")


@reads("3D poses", *({key} for key in _IN_METRES), *([{key}] for key in _IN_METRES))
def poses_3d(_: Any) -> Detections:
    """MediaPipe's landmarks in metres, and others, without those in the picture beside them."""
    raise ValueError(THESE_ARE_3D)


# Formats of arrays -------------------------------------------------------------------------------


@reads("VideoPose3D's Detectron", {"boxes", "keypoints", "metadata"})
def detectron(arrays: dict[str, Any]) -> Detections:
    """VideoPose3D's npz: boxes and keypoints have a list for each class; the last is the people.

    Those are boxes (people, 5), and keypoints (people, 4, 17): rows of x, y, logit, probability.
    """
    frames = [
        [Person(rows[[0, 1, -1]].T, box) for rows, box in zip(np.asarray(points[-1]), boxes[-1])]
        for points, boxes in zip(arrays["keypoints"], arrays["boxes"], strict=True)
    ]
    metadata = arrays["metadata"]
    return Detections(dict(enumerate(frames)), (int(metadata["w"]), int(metadata["h"])))


@reads("VideoPose3D's custom npz", {"positions_2d", "metadata"})
def videopose3d(arrays: dict[str, Any]) -> Detections:
    """VideoPose3D's npz of own videos, if it is of one: {video: {"custom": [(frames, …)]}}."""
    positions, metadata = arrays["positions_2d"], arrays["metadata"]
    if "video_metadata" not in metadata:
        raise ValueError("2D of Human3.6M, which is ready to train on; no estimator's file")
    if len(positions) != 1:
        told = f"holds {len(positions)} videos, {listing(positions)}"
        raise ValueError(f"{told}; lift.py takes data_2d_custom_NAME.npz as it is (-k NAME)")
    ((video, actions),) = positions.items()
    about = metadata["video_metadata"][video]
    (keypoints,) = next(iter(actions.values()))
    found = from_arrays(keypoints, layout=str(metadata.get("layout_name", "")))
    return found._replace(size=(int(about["w"]), int(about["h"])))


@reads("MHFormer's demo", {"reconstruction"})
def reconstruction(arrays: dict[str, Any]) -> Detections:
    """The keypoints of the demos of MHFormer and its successors, in Human3.6M's layout."""
    return from_arrays(arrays["reconstruction"], layout="h36m")


@reads("npz of keypoints", {"keypoints"}, {"xy"})
def named_arrays(arrays: dict[str, Any]) -> Detections:
    """Keypoints of each frame, perhaps with an array of confidences beside them."""
    keypoints = first_of(arrays, "keypoints", "xy")
    confidence = first_of(arrays, "scores", "keypoint_scores", "conf", "confidences")
    if confidence is not None:
        keypoints = [with_confidence(*pair) for pair in zip(keypoints, confidence, strict=True)]
    return from_arrays(keypoints)


def from_arrays(content: Any, layout: str = "") -> Detections:
    """Take (frames, points, 2 or more), (frames, people, points, …) or (people, frames, …)."""
    try:
        array = as_numbers(content)
    except ValueError:  # of different lengths
        array = _padded(list(map(as_numbers, content))) if len(content) <= _MAX_PEOPLE else None
    if array is not None and array.ndim == 4 and _people_come_first(array):
        poses = enumerate(array.swapaxes(0, 1))
        frames = {n: [Person(p, identity=1 + i) for i, p in enumerate(found)] for n, found in poses}
        return Detections(frames, source="arrays with people first", layout=layout)
    return from_frames(dict(enumerate(content)))._replace(layout=layout)


def from_frames(poses: dict[int, Any]) -> Detections:
    """Take what stands for each frame: (points, 2 or more), (people, points, …), or nothing."""
    frames = {}
    for number, pose in poses.items():
        pose = as_numbers([] if pose is None else pose)
        people = [] if not pose.size else [pose] if pose.ndim <= 2 else pose
        frames[int(number)] = list(map(Person, people))
    return Detections(frames, source="arrays")


def _padded(arrays: list[np.ndarray]) -> np.ndarray | None:
    """Stack arrays (length, points, 2 or more) of different lengths, NaN after their ends."""
    if len({array.shape[1:] for array in arrays}) != 1 or arrays[0].ndim != 3:
        return None
    padded = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), np.nan)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return padded


def _people_come_first(array: np.ndarray) -> bool:
    """Tell whether (A, B, points, 2 or more) has people before frames: who moves in small steps.

    Raises:
        ValueError: if they may be cameras, because the people are all the time in one place.
    """
    if len(array) >= array.shape[1]:
        return False
    xy = np.where((array[..., :2] == 0).all(axis=-1, keepdims=True), np.nan, array[..., :2])
    low, high = np.fmin.reduce(xy, axis=2), np.fmax.reduce(xy, axis=2)
    size, centers = _median((high - low).max(axis=-1)), (high + low) / 2
    if _median(np.linalg.norm(np.diff(xy, axis=1), axis=-1)) >= 0.2 * size:
        return False
    for person, other in zip(*np.triu_indices(len(array), k=1)):
        if _median(np.linalg.norm(centers[person] - centers[other], axis=-1)) < 0.25 * size:
            raise ValueError(
                f"{array.shape}: the first axis seems to be cameras, or one person twice; "
                "give one camera's (frames, points, 2 or 3)"
            )
    return True


def _median(values: np.ndarray) -> float:
    """Return the median of what is finite, or infinity."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else np.inf
