"""Files as the estimators' public documentation describes them, from COCO's 17 keypoints.

Every writer takes keypoints (frames, people, 17, 3), pixels and confidence, NaN for a person who is
not in a frame, and the picture's size; it returns the path.
"""

import json

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
    """Yield (frame, [people's arrays]) without those who are not there."""
    for frame, people in enumerate(keypoints):
        yield frame, [person for person in people if np.isfinite(person).all()]


def box_of(person):
    return [*person[:, :2].min(axis=0).tolist(), *person[:, :2].max(axis=0).tolist()]


def xywh(person):
    left, top, right, bottom = box_of(person)
    return [left, top, right - left, bottom - top]


def dump(path, content):
    path.write_text(json.dumps(content))
    return path


def mmpose(folder, keypoints, size, layout="coco"):
    frames = []
    for frame, people in people_of(keypoints):
        instances = []
        for person in people:
            points = in_layout(person, layout)
            instances.append(
                {
                    "keypoints": points[:, :2].tolist(),
                    "keypoint_scores": points[:, 2].tolist(),
                    "bbox": [box_of(person)],
                    "bbox_score": 0.9,
                }
            )
        frames.append({"frame_id": frame + 1, "instances": instances})
    content = {"meta_info": {"dataset_name": "coco"}, "instance_info": frames}
    return dump(folder / "mmpose.json", content)


def mmpose_inferencer(folder, keypoints, size):
    """Write the bare list, which `MMPoseInferencer` saves; frames count from 0."""
    content = json.loads(mmpose(folder, keypoints, size).read_text())["instance_info"]
    content = [{**frame, "frame_id": frame["frame_id"] - 1} for frame in content]
    return dump(folder / "inferencer.json", content)


def coco_results(folder, keypoints, size):
    content = [
        {
            "image_id": frame,
            "category_id": 1,
            "keypoints": person.ravel().tolist(),
            "score": 0.8,
        }
        for frame, people in people_of(keypoints)
        for person in people
    ]
    return dump(folder / "results.json", content)


def coco_annotations(folder, keypoints, size):
    width, height = size
    images = [
        {"id": 100 + i, "file_name": f"dance_{i:06d}.jpg", "width": width, "height": height}
        for i in range(len(keypoints))
    ]
    annotations = [
        {
            "id": 1,
            "image_id": 100 + frame,
            "track_id": number,
            "bbox": xywh(person),
            "keypoints": person.ravel().tolist(),
        }
        for frame, people in people_of(keypoints)
        for number, person in enumerate(people)
    ]
    return dump(folder / "annotations.json", {"images": images, "annotations": annotations})


def alphapose(folder, keypoints, size, layout="coco"):
    content = [
        {
            "image_id": f"{frame}.jpg",
            "category_id": 1,
            "keypoints": in_layout(person, layout).ravel().tolist(),
            "score": 2.9,
            "box": xywh(person),
            "idx": [float(number + 1)],
        }
        for frame, people in people_of(keypoints)
        for number, person in enumerate(people)
    ]
    return dump(folder / "alphapose-results.json", content)


def openpose(folder, keypoints, size, layout="body25"):
    folder = folder / "openpose"
    folder.mkdir(exist_ok=True)
    for frame, people in people_of(keypoints):
        content = {
            "version": 1.3,
            "people": [
                {
                    "person_id": [-1],
                    "pose_keypoints_2d": in_layout(person, layout).ravel().tolist(),
                    "face_keypoints_2d": [],
                    "hand_left_keypoints_2d": [],
                }
                for person in people
            ],
        }
        dump(folder / f"dance_{frame:012d}_keypoints.json", content)
    return folder


def ultralytics(folder, keypoints, size):
    """Save `result.keypoints.data` of each frame, (people, 17, 3), as an object array."""
    frames = [np.array(people).reshape(-1, 17, 3) for _, people in people_of(keypoints)]
    content = np.empty(len(frames), dtype=object)
    content[:] = frames
    np.save(folder / "ultralytics.npy", content, allow_pickle=True)
    return folder / "ultralytics.npy"


def rtmlib(folder, keypoints, size, layout="halpe26"):
    """Save what `keypoints, scores = body(frame)` gives for every frame."""
    points, scores = (np.empty(len(keypoints), dtype=object) for _ in range(2))
    for frame, people in people_of(keypoints):
        arranged = in_layout(np.array(people).reshape(-1, 17, 3), layout)
        points[frame], scores[frame] = arranged[..., :2], arranged[..., 2]
    np.savez(folder / "rtmlib.npz", keypoints=points, scores=scores)
    return folder / "rtmlib.npz"


def mediapipe(folder, keypoints, size, normalised=True):
    frames = []
    for _, people in people_of(keypoints):
        scale = size if normalised else (1, 1)
        points = in_layout(people[0], "mediapipe") if people else []
        frames.append(
            [
                {"x": x / scale[0], "y": y / scale[1], "z": -0.2, "visibility": visibility}
                for x, y, visibility in points
            ]
        )
    return dump(folder / "mediapipe.json", frames)


def mediapipe_array(folder, keypoints, size):
    """Save (frames, 33, 4): x, y as shares of the picture, z, visibility; NaN without a person."""
    points = in_layout(keypoints[:, 0], "mediapipe")
    array = np.insert(points, 2, -0.1, axis=-1)
    array[..., :2] /= size
    array[np.isnan(keypoints[:, 0, 0, 0])] = np.nan
    np.save(folder / "mediapipe.npy", array)
    return folder / "mediapipe.npy"


def frame_dicts(folder, keypoints, size):
    people = [
        {"frame": frame, "bbox": np.array([*box_of(person), 0.9]), "keypoints": person}
        for frame, people in people_of(keypoints)
        for person in people
    ]
    np.save(folder / "people.npy", np.array(people, dtype=object), allow_pickle=True)
    return folder / "people.npy"


def poses_by_frame(folder, keypoints, size):
    content = {f: np.array(people[:1]) if people else None for f, people in people_of(keypoints)}
    np.save(folder / "poses.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder / "poses.npy"


def detectron(folder, keypoints, size):
    """Save VideoPose3D's arrays: per frame and class, boxes (n, 5) and keypoints (n, 4, 17)."""
    boxes, points = (np.empty((len(keypoints), 2), dtype=object) for _ in range(2))
    for frame, people in people_of(keypoints):
        rows = [[p[:, 0], p[:, 1], np.zeros(17), p[:, 2]] for p in people]
        boxes[frame, 0], points[frame, 0] = [], []
        boxes[frame, 1] = np.array([[*box_of(p), 0.99] for p in people]).reshape(-1, 5)
        points[frame, 1] = np.array(rows).reshape(-1, 4, 17)
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
    "MMPose, whole body": lambda *a: mmpose(*a, layout="coco_wholebody"),
    "COCO results": coco_results,
    "COCO annotations": coco_annotations,
    "AlphaPose": alphapose,
    "AlphaPose, Halpe": lambda *a: alphapose(*a, layout="halpe26"),
    "OpenPose, BODY_25": openpose,
    "OpenPose, COCO": lambda *a: openpose(*a, layout="openpose18"),
    "Ultralytics": ultralytics,
    "rtmlib, Halpe": rtmlib,
    "rtmlib, COCO": lambda *a: rtmlib(*a, layout="coco"),
    "rtmlib, whole body": lambda *a: rtmlib(*a, layout="coco_wholebody"),
    "MediaPipe": mediapipe,
    "MediaPipe, pixels": lambda *a: mediapipe(*a, normalised=False),
    "MediaPipe, array": mediapipe_array,
    "dicts of people": frame_dicts,
    "poses by frame": poses_by_frame,
    "VideoPose3D's Detectron": detectron,
    "plain": plain,
    "plain, people": plain_people,
}
ONE_PERSON = {
    *("MediaPipe", "MediaPipe, pixels", "MediaPipe, array", "poses by frame", "plain"),
}
