"""Files as the estimators' public documentation describes them, from COCO's 17 keypoints.

Every writer takes a folder, keypoints (frames, people, 17, 3), pixels and confidence, NaN for a
person who is not in a frame, and the picture's size; it returns the path.
"""

import json
import pickle
from functools import partial

import numpy as np

# Where the documentation of each layout has COCO's points: nose, eyes, ears, shoulders, elbows,
# wrists, hips, knees, ankles, left before right.
PLACES = {
    "coco": tuple(range(17)),
    "coco_wholebody": tuple(range(17)),
    "halpe26": tuple(range(17)),
    "halpe136": tuple(range(17)),
    "body25": (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11),
    "openpose18": (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10),
    "mediapipe": (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28),
}
COUNTS = {"coco_wholebody": 133, "halpe26": 26, "halpe136": 136}
COUNTS |= {"body25": 25, "openpose18": 18, "mediapipe": 33}
COCO = [
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder"),
    *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip"),
    *("right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
]


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


def save(path, *array, **arrays):
    (np.savez if path.suffix == ".npz" else np.save)(path, *array, **arrays)
    return path


def objects(items):
    return np.fromiter(items, dtype=object, count=len(items))


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
    return dump(folder / "inferencer.json", [{**f, "frame_id": f["frame_id"] - 1} for f in content])


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
        path = folder / f"dance_{frame:012d}_keypoints.json"
        dump(path, {"version": 1.3, "people": found})
    return folder


def ultralytics(folder, keypoints, size):
    """Save `result.keypoints.data` of each frame, (people, 17, 3), as an object array."""
    return save(folder / "ultralytics.npy", objects(people_of(keypoints)))


def rtmlib(folder, keypoints, size, layout="halpe26"):
    """Save what `keypoints, scores = body(frame)` gives for every frame."""
    people = [in_layout(people, layout) for people in people_of(keypoints)]
    points, scores = objects([p[..., :2] for p in people]), objects([p[..., 2] for p in people])
    return save(folder / "rtmlib.npz", keypoints=points, scores=scores)


def mediapipe(folder, keypoints, size):
    frames = [people[0] if people else [] for people in landmarks_of(keypoints, size)]
    return dump(folder / "mediapipe.json", frames)


def mediapipe_array(folder, keypoints, size):
    """Save (frames, 33, 4): x, y as shares of the picture, z, visibility; NaN without a person."""
    array = np.insert(in_layout(keypoints[:, 0], "mediapipe") / [*size, 1], 2, -0.1, axis=-1)
    array[np.isnan(keypoints[:, 0, 0, 0])] = np.nan
    return save(folder / "mediapipe.npy", array)


def frame_dicts(folder, keypoints, size):
    people = [
        {"frame": frame, "bbox": np.array([*corners, 0.9]), "keypoints": person}
        for frame, _, person, corners in each_person(keypoints)
    ]
    return save(folder / "people.npy", objects(people))


def poses_by_frame(folder, keypoints, size):
    found = enumerate(people_of(keypoints))
    content = {frame: people[:1] if len(people) else None for frame, people in found}
    return save(folder / "poses.npy", content)


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
    arrays = {"boxes": boxes, "segments": np.array(None), "keypoints": points}
    return save(folder / "dance.mp4.npz", **arrays, metadata=dict(zip("wh", size)))


def plain(folder, keypoints, size):
    return save(folder / "plain.npy", keypoints[:, 0])


def plain_people(folder, keypoints, size):
    """Save (frames, people, 17, 3) as npz, zero where a person is missing."""
    return save(folder / "plain.npz", np.nan_to_num(keypoints))


def mmpose_pictures(folder, keypoints, size):
    """Write `--pred-out-dir` of a folder of pictures: a list of the people of each."""
    (folder / "predictions").mkdir(exist_ok=True)
    for frame, people in enumerate(people_of(keypoints)):
        found = [{"keypoints": p[:, :2], "keypoint_scores": p[:, 2]} for p in people]
        dump(folder / "predictions" / f"cam2_img_{frame:05d}.json", found)
    return folder / "predictions"


def by_frame(keypoints, describe):
    """Return a list for each frame: what `describe` makes of keypoints, corners and number."""
    frames = [[] for _ in keypoints]
    for frame, number, person, corners in each_person(keypoints):
        frames[frame].append(describe(person, corners, number))
    return frames


def mmpose0_person(person, corners, number):
    box = np.array([*corners, 0.9])
    return {"bbox": box, "keypoints": person, "track_id": number, "area": 4.0}


def mmpose0(folder, keypoints, size):
    """Write the lists of `pose_results` that version 0 returns for each frame."""
    return dump(folder / "mmpose0.json", by_frame(keypoints, mmpose0_person))


def mmpose0_tested(folder, keypoints, size):
    """Write `tools/test.py --out` of version 0: batches of poses and of their pictures' names."""
    found = [(frame, person) for frame, _, person, _ in each_person(keypoints)]
    batches = [zip(*found[i : i + 7]) for i in range(0, len(found), 7)]
    content = [
        {"preds": people, "image_paths": [f"data/clip1/{frame:06d}.jpg" for frame in frames]}
        for frames, people in batches
    ]
    return dump(folder / "tested.json", content)


def ultralytics_people(keypoints):
    """Return what `to_json` gives for each frame."""

    def describe(person, corners, number):
        box = dict(zip(("x1", "y1", "x2", "y2"), corners))
        points = dict(zip(("x", "y", "visible"), person.T.tolist()))
        about = {"name": "person", "class": 0, "confidence": 0.9, "box": box}
        return about | {"track_id": number + 1, "keypoints": points}

    return by_frame(keypoints, describe)


def ultralytics_json(folder, keypoints, size):
    return dump(folder / "u.json", ultralytics_people(keypoints))


def ultralytics_texts(folder, keypoints, size, by_number=False, written=False):
    """Write the texts that `to_json` returns: in a list or a dict, or one after the other."""
    texts = [json.dumps(people, indent=2) for people in ultralytics_people(keypoints)]
    path = dump(folder / "texts.json", dict(enumerate(texts)) if by_number else texts)
    if written:
        path.write_text("\n".join(texts))
    return path


def ultralytics_by_number(folder, keypoints, size):
    return dump(folder / "by_number.json", dict(enumerate(ultralytics_people(keypoints))))


def ultralytics_labels(folder, keypoints, size):
    """Write `save_txt`, with `save_conf` and a tracker, of a video: frames count from 1."""
    (folder / "labels").mkdir(exist_ok=True)
    rows = {}
    for frame, number, person, (left, top, right, bottom) in each_person(keypoints):
        box = np.array([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)]) / 2
        shares = (person / [*size, 1]).ravel()
        row = [0, *box / np.tile(size, 2), *shares, 0.9, number + 1]
        rows.setdefault(frame + 1, []).append(" ".join(f"{value:.8g}" for value in row))
    for frame, lines in rows.items():
        (folder / "labels" / f"clip_{frame}.txt").write_text("\n".join(lines) + "\n")
    return folder


def alphapose_form(folder, keypoints, size, people="bodies", points="joints"):
    """Write AlphaPose's `--format cmu`, or open: a dict by pictures."""
    frames = {
        f"{frame}.jpg": {
            "version": "AlphaPose v0.3",
            people: [{points: in_layout(p, "openpose18").ravel()} for p in found],
        }
        for frame, found in enumerate(people_of(keypoints))
    }
    return dump(folder / "cmu.json", frames)


def poseflow(folder, keypoints, size):
    def describe(person, corners, number):
        return {"keypoints": person.ravel(), "scores": 2.5, "idx": number + 1}

    people = by_frame(keypoints, describe)
    return dump(folder / "flow.json", {f"{frame}.jpg": p for frame, p in enumerate(people)})


def videopose3d(folder, keypoints, size):
    metadata = {"layout_name": "coco", "num_joints": 17}
    metadata["video_metadata"] = {"a.mp4": dict(zip("wh", size))}
    positions = {"a.mp4": {"custom": [keypoints[:, 0, :, :2]]}}
    return save(folder / "custom.npz", positions_2d=positions, metadata=metadata)


def people_first(folder, keypoints, size):
    return save(folder / "first.npz", keypoints=np.nan_to_num(keypoints).swapaxes(0, 1))


def csv_table(folder, keypoints, size, columns=("frame", "{}_x", "{}_y", "{}_conf"), separator=","):
    """Write a column for each coordinate, in an order that is not COCO's, with a row a person."""
    names = sorted(COCO)
    header = [column.format(name) for name in names for column in columns[1:]]
    lines = [separator.join(["person", "unused", columns[0], *header])]
    for frame, number, person, _ in each_person(keypoints):
        values = person[[COCO.index(name) for name in names]].ravel()
        cells = [str(number + 1), "text", str(frame), *(f"{value:.6f}" for value in values)]
        decimal = (cell.replace(".", "," if separator == ";" else ".") for cell in cells)
        lines.append(separator.join(decimal))
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def landmarks_of(keypoints, size):
    """Return, for each frame and person, MediaPipe's landmarks."""

    def describe(person, corners, number):
        shares = in_layout(person, "mediapipe") / [*size, 1]
        return [{"x": x, "y": y, "z": -0.2, "visibility": v} for x, y, v in shares]

    return by_frame(keypoints, describe)


def mediapipe_tasks(folder, keypoints, size):
    """Write JavaScript's `PoseLandmarker` results: landmarks of all people, and in metres."""
    frames = landmarks_of(keypoints, size)
    return dump(folder / "tasks.json", [{"landmarks": f, "worldLandmarks": f} for f in frames])


def mediapipe_script(folder, keypoints, size):
    """Write JavaScript's older results by frame, null where nobody is found."""
    frames = [people[0] if people else None for people in landmarks_of(keypoints, size)]
    content = {str(i): {"poseLandmarks": landmarks} for i, landmarks in enumerate(frames)}
    return dump(folder / "script.json", {"fps": 30, "frames": content})


def pickled(folder, keypoints, size):
    """Dump MMPose 0's results as people's own scripts do."""
    (folder / "mmpose0.pkl").write_bytes(pickle.dumps(by_frame(keypoints, mmpose0_person)))
    return folder / "mmpose0.pkl"


def own_json(folder, keypoints, size):
    """Write what many scripts do: the number of each frame in which somebody is, and the people."""
    frames = enumerate(by_frame(keypoints, lambda person, *_: {"keypoints": person}))
    return dump(folder / "own.json", [{"frame": i, "people": people} for i, people in frames])


def easy_vitpose(folder, keypoints, size):
    frames = [{} for _ in keypoints]
    for frame, number, person, _ in each_person(keypoints):
        frames[frame][str(number)] = np.insert(person[:, [1, 0, 2]], 5, 0, axis=0)
    names = dict(enumerate([*COCO[:5], "neck", *COCO[5:]]))
    return dump(folder / "easy.json", {"keypoints": frames, "skeleton": names})


def tensorflow_script(folder, keypoints, size):
    def describe(person, corners, number):
        points = [dict(zip(("x", "y", "score"), row)) for row in person.tolist()]
        points = [{**point, "name": name} for point, name in zip(points, COCO)]
        return {"keypoints": points[::-1], "keypoints3D": points, "score": 0.8}

    return dump(folder / "tf.json", by_frame(keypoints, describe))


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
    "MMPose, pictures": mmpose_pictures,
    "MMPose 0": mmpose0,
    "MMPose 0, tested": mmpose0_tested,
    "Ultralytics, to_json": ultralytics_json,
    "Ultralytics, texts": ultralytics_texts,
    "Ultralytics, texts by number": partial(ultralytics_texts, by_number=True),
    "Ultralytics, written texts": partial(ultralytics_texts, written=True),
    "Ultralytics, by number": ultralytics_by_number,
    "Ultralytics, save_txt": ultralytics_labels,
    "AlphaPose, Halpe's 136": partial(alphapose, layout="halpe136"),
    "AlphaPose, cmu": alphapose_form,
    "AlphaPose, open": partial(alphapose_form, people="people", points="pose_keypoints_2d"),
    "PoseFlow": poseflow,
    "VideoPose3D": videopose3d,
    "people first": people_first,
    "table": csv_table,
    "table, other names": partial(
        csv_table, columns=("Frame_Number", "x_{}", "y_{}", "score_{}"), separator=";"
    ),
    "MediaPipe, tasks": mediapipe_tasks,
    "MediaPipe, JavaScript": mediapipe_script,
    "TensorFlow.js": tensorflow_script,
    "MMPose 0, pickled": pickled,
    "people of numbered frames": own_json,
    "easy_ViTPose": easy_vitpose,
}
ONE_PERSON = {"MediaPipe", "MediaPipe, array", "poses by frame", "plain", "VideoPose3D"}
ONE_PERSON |= {"MediaPipe, JavaScript"}
