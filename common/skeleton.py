"""The 17-joint Human3.6M skeleton: names, kinematic tree, sides, and the way from other layouts."""

import numpy as np

JOINT_NAMES = (
    *("Hip", "RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot"),
    *("Spine", "Thorax", "Neck/Nose", "Head"),
    *("LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist"),
)
# Other programs would take the slash of "Neck/Nose" for a path.
SAFE_NAMES = [name.replace("/", "_") for name in JOINT_NAMES]
NUM_JOINTS = len(JOINT_NAMES)
ROOT = JOINT_NAMES.index("Hip")

# Parent of each joint, -1 for the root. Shoulders hang on the thorax, not on the neck.
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
BONES = tuple((child, parent) for child, parent in enumerate(PARENTS) if parent >= 0)

LEFT_JOINTS = (4, 5, 6, 11, 12, 13)
RIGHT_JOINTS = (1, 2, 3, 14, 15, 16)
SIDES = tuple(
    "left" if j in LEFT_JOINTS else "right" if j in RIGHT_JOINTS else "middle"
    for j in range(NUM_JOINTS)
)

# Human3.6M's motion capture has 32 joints, of which these 17 move on their own.
NUM_JOINTS_32 = 32
JOINTS_32_TO_17 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

COCO_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)


def _coco_weights() -> np.ndarray:
    """Return the (17, 17) matrix whose row j makes Human3.6M joint j from COCO's keypoints."""
    hips, shoulders = ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")
    sources = {
        "Hip": hips,
        "Spine": hips + shoulders,
        "Thorax": shoulders,
        # Half-way between the nose and the thorax.
        "Neck/Nose": ("nose", "nose", *shoulders),
        "Head": ("left_eye", "right_eye"),
    }
    for letter, side in (("L", "left"), ("R", "right")):
        for part in ("Hip", "Knee", "Shoulder", "Elbow", "Wrist"):
            sources[letter + part] = (f"{side}_{part.lower()}",)
        sources[letter + "Foot"] = (f"{side}_ankle",)
    weights = np.zeros((NUM_JOINTS, len(COCO_NAMES)))
    for row, joint in enumerate(JOINT_NAMES):
        for name in sources[joint]:
            weights[row, COCO_NAMES.index(name)] += 1 / len(sources[joint])
    return weights


COCO_TO_H36M = _coco_weights()


def coco_to_h36m(keypoints: np.ndarray) -> np.ndarray:
    """Turn COCO's 17 keypoints into Human3.6M's 17 joints.

    The joints that COCO lacks are means of those that it has: the hip and the thorax lie between
    the hips and the shoulders, the spine between those two, the neck between thorax and nose, the
    head between the eyes. A confidence channel is averaged in the same way.

    Takes and returns (..., 17, channels), pixels, then confidence, in the order of `COCO_NAMES` and
    of `JOINT_NAMES`, in one precision.
    """
    return COCO_TO_H36M.astype(keypoints.dtype) @ keypoints
