"""Files as the estimators' public documentation describes them, from COCO's 17 keypoints.

Every writer takes a folder, keypoints (frames, people, 17, 3), pixels and confidence, NaN for a
person who is not in a frame, and the picture's size; it returns the path.
"""

import json
from functools import partial

import numpy as np

# Where the documentation of each layout has COCO's points: nose, eyes, ears, shoulders, elbows,
# wrists, hips, knees, ankles, left before right.
PLACES = {
    "coco": tuple(range(17)),
    "coco_wholebody": tuple(range(17)),
    "halpe26": tuple(range(17)),
    "body25": (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11),
    "openpose18": (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10),
    "mediapipe": (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28),
}
COUNTS = {"coco_wholebody": 133, "halpe26": 26, "body25": 25, "openpose18": 18, "mediapipe": 33}


def in_layout(keypoints, layout):
    """Put COCO's points (..., 17, 3) where the layout has them, among other points."""
    points = np.full((*keypoints.shape[:-2], COUNTS.get(layout, 17), 3), 7.0)
    points[..., PLACES[layout], :] = keypoints
    return points


def people_of(keypoints):
    """Return for each frame the people who are there, (people, 17, 3)."""
    return [people[np.isfinite(people).all(axis=(1, 2))] for people in keypoints]


def each_person(keypoints):
    """Yield the frame, the number in it, the keypoints (17, 3) and the corners of each person."""
    for frame, people in enumerate(people_of(keypoints)):
        for number, person in enumerate(people):
            yield frame, number, person, [*person[:, :2].min(axis=0), *person[:, :2].max(axis=0)]


def xywh(corners):
    return [*corners[:2], *np.subtract(corners[2:], corners[:2])]


def dump(path, content):
    path.write_text(json.dumps(content, default=lambda array: array.tolist()))
    return path


def save_objects(path, items):
    np.save(path, np.fromiter(items, dtype=object, count=len(items)), allow_pickle=True)
    return path


def mmpose(folder, keypoints, size):
    frames = [{"frame_id": number, "instances": []} for number in range(1, len(keypoints) + 1)]
    for frame, _, person, corners in each_person(keypoints):
        instance = {"keypoints": person[:, :2], "keypoint_scores": person[:, 2]}
        instance |= {"bbox": [corners], "bbox_score": 0.9}
        frames[frame]["instances"].append(instance)
    content = {"meta_info": {"dataset_name": "coco"}, "instance_info": frames}
    return dump(folder / "mmpose.json", content)


def mmpose_inferencer(folder, keypoints, size):
    """Write the bare list, which `MMPoseInferencer` saves; frames count from 0."""
    content = json.loads(mmpose(folder, keypoints, size).read_text())["instance_info"]
    content = [{**frame, "frame_id": frame["frame_id"] - 1} for frame in content]
    return dump(folder / "inferencer.json", content)


def coco_results(folder, keypoints, size):
    content = [
        {"image_id": frame, "category_id": 1, "keypoints": person.ravel(), "score": 0.8}
        for frame, _, person, _ in each_person(keypoints)
    ]
    return dump(folder / "results.json", content)


def coco_annotations(folder, keypoints, size):
    names = [f"dance_{frame:06d}.jpg" for frame in range(len(keypoints))]
    picture = dict(zip(("width", "height"), size))
    images = [{"id": 100 + i, "file_name": name, **picture} for i, name in enumerate(names)]
    people = [
        {"image_id": 100 + frame, "track_id": i, "bbox": xywh(box), "keypoints": person.ravel()}
        for frame, i, person, box in each_person(keypoints)
    ]
    return dump(folder / "annotations.json", {"images": images, "annotations": people})


def alphapose(folder, keypoints, size, layout="coco"):
    content = [
        {
            **{"image_id": f"{frame}.jpg", "category_id": 1, "score": 2.9},
            **{"keypoints": in_layout(person, layout).ravel(), "box": xywh(corners)},
            "idx": [float(number + 1)],
        }
        for frame, number, person, corners in each_person(keypoints)
    ]
    return dump(folder / "alphapose-results.json", content)


def openpose(folder, keypoints, size, layout="body25"):
    folder = folder / "openpose"
    folder.mkdir(exist_ok=True)
    for frame, people in enumerate(people_of(keypoints)):
        flat = [points.ravel() for points in in_layout(people, layout)]
        found = [{"person_id": [-1], "pose_keypoints_2d": numbers} for numbers in flat]
        content = {"version": 1.3, "people": found}
        dump(folder / f"dance_{frame:012d}_keypoints.json", content)
    return folder


def ultralytics(folder, keypoints, size):
    """Save `result.keypoints.data` of each frame, (people, 17, 3), as an object array."""
    return save_objects(folder / "ultralytics.npy", people_of(keypoints))


def rtmlib(folder, keypoints, size, layout="halpe26"):
    """Save what `keypoints, scores = body(frame)` gives for every frame."""
    points, scores = (np.empty(len(keypoints), dtype=object) for _ in range(2))
    for frame, people in enumerate(people_of(keypoints)):
        arranged = in_layout(people, layout)
        points[frame], scores[frame] = arranged[..., :2], arranged[..., 2]
    np.savez(folder / "rtmlib.npz", keypoints=points, scores=scores)
    return folder / "rtmlib.npz"


def mediapipe(folder, keypoints, size):
    frames = [[] for _ in keypoints]
    for frame, _, person, _ in each_person(keypoints):
        shares = in_layout(person, "mediapipe") / [*size, 1]
        frames[frame] = [{"x": x, "y": y, "z": -0.2, "visibility": v} for x, y, v in shares]
    return dump(folder / "mediapipe.json", frames)


def mediapipe_array(folder, keypoints, size):
    """Save (frames, 33, 4): x, y as shares of the picture, z, visibility; NaN without a person."""
    array = np.insert(in_layout(keypoints[:, 0], "mediapipe") / [*size, 1], 2, -0.1, axis=-1)
    array[np.isnan(keypoints[:, 0, 0, 0])] = np.nan
    np.save(folder / "mediapipe.npy", array)
    return folder / "mediapipe.npy"


def frame_dicts(folder, keypoints, size):
    people = [
        {"frame": frame, "bbox": np.array([*corners, 0.9]), "keypoints": person}
        for frame, _, person, corners in each_person(keypoints)
    ]
    return save_objects(folder / "people.npy", people)


def poses_by_frame(folder, keypoints, size):
    found = enumerate(people_of(keypoints))
    content = {frame: people[:1] if len(people) else None for frame, people in found}
    np.save(folder / "poses.npy", content, allow_pickle=True)
    return folder / "poses.npy"


def detectron(folder, keypoints, size):
    """Save VideoPose3D's arrays: per frame and class, boxes (n, 5) and keypoints (n, 4, 17)."""
    boxes, points = (np.empty((len(keypoints), 2), dtype=object) for _ in range(2))
    for frame in range(len(keypoints)):
        boxes[frame] = [], np.zeros((0, 5))
        points[frame] = [], np.zeros((0, 4, 17))
    for frame, _, person, corners in each_person(keypoints):
        x, y, probability = person.T
        boxes[frame, 1] = np.append(boxes[frame, 1], [[*corners, 0.99]], axis=0)
        rows = [[x, y, np.zeros(17), probability]]
        points[frame, 1] = np.append(points[frame, 1], rows, axis=0)
    metadata = {"w": size[0], "h": size[1]}
    path = folder / "dance.mp4.npz"
    np.savez(path, boxes=boxes, segments=np.array(None), keypoints=points, metadata=metadata)
    return path


def plain(folder, keypoints, size):
    np.save(folder / "plain.npy", keypoints[:, 0])
    return folder / "plain.npy"


def plain_people(folder, keypoints, size):
    """Save (frames, people, 17, 3) as npz, zero where a person is missing."""
    np.savez(folder / "plain.npz", np.nan_to_num(keypoints))
    return folder / "plain.npz"


FORMATS = {
    "MMPose": mmpose,
    "MMPose, the inferencer's": mmpose_inferencer,
    "COCO results": coco_results,
    "COCO annotations": coco_annotations,
    "AlphaPose": alphapose,
    "AlphaPose, Halpe": partial(alphapose, layout="halpe26"),
    "OpenPose, BODY_25": openpose,
    "OpenPose, COCO": partial(openpose, layout="openpose18"),
    "Ultralytics": ultralytics,
    "rtmlib, Halpe": rtmlib,
    "rtmlib, whole body": partial(rtmlib, layout="coco_wholebody"),
    "MediaPipe": mediapipe,
    "MediaPipe, array": mediapipe_array,
    "dicts of people": frame_dicts,
    "poses by frame": poses_by_frame,
    "VideoPose3D's Detectron": detectron,
    "plain": plain,
    "plain, people": plain_people,
}
ONE_PERSON = {"MediaPipe", "MediaPipe, array", "poses by frame", "plain"}
