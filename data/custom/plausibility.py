"""Whether keypoints look like the layout that they are taken for."""

import numpy as np

from common.layouts import to_h36m
from common.skeleton import COCO_NAMES, JOINT_NAMES

_SIDES = {"shoulders": "Shoulder", "hips": "Hip"}
# A pair of points tells left from right where it is seen this wide, in units of the trunk.
_CLEAR_WIDTH = 0.15
_CONFIDENT = 0.8
_MOST = 0.5


def contradictions(keypoints: np.ndarray, layout: str) -> list[str]:
    """Return one phrase for each thing that in most frames contradicts the layout.

    Keypoints are (frames, 17, 2 or 3), pixels, y down, of COCO's keypoints or, if `layout` is
    "h36m", Human3.6M's joints; `layout` is what they were taken for.
    """
    joints = to_h36m(keypoints, "h36m" if layout == "h36m" else "coco")
    at = {name: joints[:, index] for index, name in enumerate(JOINT_NAMES)}
    found = []
    upside_down = np.mean(at["Hip"][:, 1] < at["Thorax"][:, 1])
    if upside_down > _MOST:
        found.append(
            f"the hips are above the shoulders in {upside_down:.0%} of the frames; is {layout} "
            "the right --layout, and does y point down?"
        )
    trunk = np.linalg.norm(at["Hip"][:, :2] - at["Thorax"][:, :2], axis=-1)
    widths = {pair: at[f"L{name}"][:, 0] - at[f"R{name}"][:, 0] for pair, name in _SIDES.items()}
    if layout != "h36m":
        coco = {name: keypoints[:, index] for index, name in enumerate(COCO_NAMES)}
        # Eyes are closer to each other than shoulders.
        widths["eyes"] = 3 * (coco["left_eye"][:, 0] - coco["right_eye"][:, 0])
    shoulders = widths.pop("shoulders")
    for pair, width in widths.items():
        share = _share(shoulders * width < 0, trunk, shoulders, width)
        if share > _MOST:
            found.append(
                f"left and right of shoulders and {pair} contradict each other in {share:.0%} of "
                f"the frames; is {layout} the right --layout?"
            )
    if layout != "h36m" and keypoints.shape[-1] == 3:
        face = np.min([coco[name][:, 2] for name in ("nose", "left_eye", "right_eye")], axis=0)
        is_exchanged = (shoulders < 0) & (face > _CONFIDENT)
        share = _share(is_exchanged, trunk, shoulders)
        if share > _MOST:
            found.append(
                f"left and right seem to be exchanged in {share:.0%} of the frames: the face is "
                "seen clearly, but the left shoulder is on the left, as from behind"
            )
    return found


def _share(holds: np.ndarray, trunk: np.ndarray, *widths: np.ndarray) -> float:
    """Return in which share of the frames with clear widths something holds; 0 without any."""
    is_clear = np.all([np.abs(width) > _CLEAR_WIDTH * trunk for width in widths], axis=0)
    # Frames in which the person is seen from the side tell nothing, few others not enough.
    return float(holds[is_clear].mean()) if is_clear.mean() > 0.1 else 0.0
