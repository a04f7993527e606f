"""Layouts of keypoints that estimators answer with, and the way from each to Human3.6M's joints.

A further layout is one entry of `KEYPOINT_NAMES`. Every one but Human3.6M's own holds COCO's 17
keypoints, by these names; the others of its keypoints are left out, because lifters are trained on
joints that are made from COCO's.
"""

import re
from collections.abc import Sequence

import numpy as np

from common.files.console import listing
from common.skeleton import COCO_NAMES, JOINT_NAMES, PARENTS, coco_to_h36m

_OPENPOSE_ARMS = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
)
_LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_OPENPOSE_FACE = ("right_eye", "left_eye", "right_ear", "left_ear")
_TOES = ("big_toe", "small_toe", "heel")
_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in _TOES)


def _of_both_sides(*parts: str) -> list[str]:
    return [f"{side}_{part}" for part in parts for side in ("left", "right")]


_HALPE26 = (*COCO_NAMES, "head_top", "neck", "mid_hip", *_of_both_sides(*_TOES))
# {layout: names of its keypoints, in order}. The names of COCO-WholeBody's face and hands, which
# are not used, are numbers.
KEYPOINT_NAMES = {
    "coco": COCO_NAMES,
    "coco_wholebody": (*COCO_NAMES, *_FEET, *(f"face_or_hand_{i}" for i in range(68 + 2 * 21))),
    "halpe26": _HALPE26,
    "halpe136": (*_HALPE26, *(f"face_or_hand_{i}" for i in range(68 + 2 * 21))),
    "body25": (*_OPENPOSE_ARMS, "mid_hip", *_LEGS, *_OPENPOSE_FACE, *_FEET),
    "openpose18": (*_OPENPOSE_ARMS, *_LEGS, *_OPENPOSE_FACE),
    "mediapipe": (
        "nose",
        *("left_eye_inner", "left_eye", "left_eye_outer"),
        *("right_eye_inner", "right_eye", "right_eye_outer"),
        *("left_ear", "right_ear", "mouth_left", "mouth_right"),
        *_of_both_sides("shoulder", "elbow", "wrist", "pinky", "index", "thumb"),
        *_of_both_sides("hip", "knee", "ankle", "heel", "foot_index"),
    ),
    "h36m": JOINT_NAMES,
}
LAYOUTS = tuple(KEYPOINT_NAMES)
# What files call these layouts, and joints of Human3.6M, in other words.
_LAYOUT_SYNONYMS = {"halpe": "halpe136", "body_25": "body25", "human36m": "h36m"}
_NAME_SYNONYMS = {"root": "hip", "pelvis": "hip", "neck_base": "neck_nose"}
# Parent of each point of the two layouts that `body_points` gives, -1 for the root.
POINT_PARENTS = {
    "coco": (-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    "h36m": PARENTS,
}


def layout_of(count: int) -> str:
    """Return the layout that has this many keypoints; COCO for 17, which Human3.6M has too."""
    for layout, names in KEYPOINT_NAMES.items():
        if len(names) == count:
            return layout
    known = ", ".join(f"{layout} {len(names)}" for layout, names in KEYPOINT_NAMES.items())
    raise ValueError(f"no layout has {count} keypoints; there are {known}")


def layout_in_file(name: str, count: int) -> str:
    """Return the layout that a file calls so, or, without a name, that has this many keypoints."""
    plain = name.lower().replace("-", "_")
    layout = _LAYOUT_SYNONYMS.get(plain, plain) if name else layout_of(count)
    if layout not in LAYOUTS:
        raise ValueError(
            f"the file says that its layout is '{name[:80]}', which is none of "
            f"{', '.join(LAYOUTS)}; --layout names one that it has nevertheless"
        )
    return layout


def places_by_name(names: Sequence[str]) -> tuple[str, list[int]]:
    """Tell where a file that names its keypoints has COCO's 17, or Human3.6M's.

    "left_hip", "LEFT_HIP", "LHip", "leftHip" and "hip left" are the same. Returns the layout,
    "coco" or "h36m", and each point's place, -1 for one of COCO's face that is not there.
    """
    there = [_plain_name(name) for name in names]
    for layout in ("coco", "h36m"):
        wanted = [_plain_name(name) for name in KEYPOINT_NAMES[layout]]
        places = [there.index(name) if name in there else -1 for name in wanted]
        if min(places[5:] if layout == "coco" else places) >= 0:
            return layout, places
    raise ValueError(
        f"its keypoints are {listing(names)}; among them are neither COCO's shoulders, elbows, "
        "wrists, hips, knees and ankles nor Human3.6M's 17 joints"
    )


def _plain_name(name: str) -> str:
    """Return "left_hip" for every way to write it, the side first."""
    words = re.sub(r"([a-z])([A-Z])|([LR])(?=[A-Z][a-z])", r"\1\3 \2", str(name))
    words = re.findall(r"[a-z]+|[0-9]+", words.lower())
    words = [{"l": "left", "r": "right"}.get(word, word) for word in words]
    words.sort(key=lambda word: word not in ("left", "right"))
    plain = "_".join(words)
    return _NAME_SYNONYMS.get(plain, plain)


def body_points(keypoints: np.ndarray, layout: str) -> np.ndarray:
    """Return COCO's 17 of keypoints (..., points, channels), Human3.6M's joints as they are."""
    if layout == "h36m":
        return keypoints
    names = KEYPOINT_NAMES[layout]
    return keypoints[..., [names.index(name) for name in COCO_NAMES], :]


def to_h36m(keypoints: np.ndarray, layout: str) -> np.ndarray:
    """Turn keypoints (..., points, 2 or 3) of one of `LAYOUTS` into Human3.6M's 17 joints.

    Raises:
        ValueError: if the layout is unknown or has another number of points.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout '{layout}'; there are {', '.join(LAYOUTS)}")
    count = len(KEYPOINT_NAMES[layout])
    if keypoints.ndim < 2 or keypoints.shape[-2] != count:
        raise ValueError(f"layout {layout}: {keypoints.shape} is not (..., {count}, channels)")
    points = body_points(keypoints, layout)
    return points if layout == "h36m" else coco_to_h36m(points)
