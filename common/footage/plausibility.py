"""Whether keypoints look like the layout that they are taken for."""

import numpy as np

from common.footage.layouts import to_h36m
from common.skeleton import COCO_NAMES, JOINT_NAMES

# A pair of points tells left from right where it is seen this wide, in units of the trunk.
_CLEAR_WIDTH = 0.15
_MOST = 0.5


def contradictions(keypoints: np.ndarray, layout: str) -> list[str]:
    """Return one phrase for each thing that in most frames contradicts the layout.

    Keypoints are (frames, 17, 2 or 3), pixels, y down; the layout is "coco" or "h36m".
    """
    joints = to_h36m(keypoints, layout)
    x, y = (dict(zip(JOINT_NAMES, joints[..., axis].T)) for axis in range(2))
    trunk = np.hypot(x["Hip"] - x["Thorax"], y["Hip"] - y["Thorax"])
    # Widths are how far points of the left lie to the right of their partners.
    shoulders = x["LShoulder"] - x["RShoulder"]
    others = {"hips": x["LHip"] - x["RHip"]}
    if layout == "coco":
        coco = dict(zip(COCO_NAMES, keypoints.swapaxes(0, 1)))
        # Eyes are closer to each other than shoulders.
        others["eyes"] = 3 * (coco["left_eye"] - coco["right_eye"])[:, 0]
    phrases = {
        "the hips are above the shoulders in {:.0%} of the frames; is the --layout right, and does "
        "y point down?": np.mean(y["Hip"] < y["Thorax"]),
    }
    for pair, width in others.items():
        # Frames in which the person is seen from the side tell nothing, few others not enough.
        is_clear = np.minimum(np.abs(shoulders), np.abs(width)) > _CLEAR_WIDTH * trunk
        if is_clear.mean() > 0.1:
            phrase = f"left and right of shoulders and {pair} contradict each other in "
            phrase += "{:.0%} of the frames; is the --layout right?"
            phrases[phrase] = np.mean((shoulders * width < 0)[is_clear])
    return [phrase.format(share) for phrase, share in phrases.items() if share > _MOST]
