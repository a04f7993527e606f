import numpy as np
import pytest

from common.skeleton import (
    BONES,
    COCO_NAMES,
    COCO_TO_H36M,
    FLIP_PERMUTATION,
    JOINT_NAMES,
    JOINTS_32_TO_17,
    LEFT_JOINTS,
    PARENTS,
    RIGHT_JOINTS,
    SIDES,
    coco_to_h36m,
)


def mirrored_name(name):
    return {"L": "R", "R": "L"}[name[0]] + name[1:]


def test_left_and_right_are_mirror_images_by_name():
    sided = {j for j, name in enumerate(JOINT_NAMES) if name[0] in "LR"}
    assert {*LEFT_JOINTS, *RIGHT_JOINTS} == sided
    for joint, name in enumerate(JOINT_NAMES):
        other = mirrored_name(name) if joint in sided else name
        assert JOINT_NAMES[FLIP_PERMUTATION[joint]] == other
        side = {"L": "left", "R": "right"}[name[0]] if joint in sided else "middle"
        assert SIDES[joint] == side


def test_the_tree_hangs_on_the_hip_and_is_symmetric():
    assert PARENTS[0] == -1
    assert all(parent < child for child, parent in BONES)
    assert len(BONES) == 16
    for child, parent in BONES:
        assert PARENTS[FLIP_PERMUTATION[child]] == FLIP_PERMUTATION[parent]
    parents_by_name = {JOINT_NAMES[c]: JOINT_NAMES[p] for c, p in BONES}
    assert parents_by_name["LShoulder"] == parents_by_name["RShoulder"] == "Thorax"
    assert parents_by_name["LWrist"] == "LElbow"
    assert parents_by_name["RFoot"] == "RKnee"


def test_the_17_of_32_joints_are_those_that_the_field_keeps():
    dropped = {4, 5, 9, 10, 11, 16, *range(20, 25), *range(28, 32)}
    assert set(range(32)) - set(JOINTS_32_TO_17) == dropped
    assert list(JOINTS_32_TO_17) == sorted(JOINTS_32_TO_17)


def test_coco_becomes_h36m_as_in_the_golden_vectors(golden):
    np.testing.assert_allclose(coco_to_h36m(golden["coco"]), golden["coco_as_h36m"], atol=1e-9)


def test_coco_becomes_h36m_by_hand():
    keypoints = np.random.default_rng(0).normal(size=(2, 17, 3))
    by_name = {name: keypoints[:, i] for i, name in enumerate(COCO_NAMES)}
    joints = coco_to_h36m(keypoints)
    shoulders = (by_name["left_shoulder"] + by_name["right_shoulder"]) / 2
    hips = (by_name["left_hip"] + by_name["right_hip"]) / 2
    expected = {
        "Hip": hips,
        "Thorax": shoulders,
        "Spine": (hips + shoulders) / 2,
        "Neck/Nose": (by_name["nose"] + shoulders) / 2,
        "Head": (by_name["left_eye"] + by_name["right_eye"]) / 2,
        "RFoot": by_name["right_ankle"],
        "LWrist": by_name["left_wrist"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(joints[:, JOINT_NAMES.index(name)], value, atol=1e-12)


def test_conversion_commutes_with_the_flip():
    keypoints = np.random.default_rng(1).normal(size=(4, 17, 2))
    swap = {"left": "right", "right": "left"}
    mirror = [
        COCO_NAMES.index("_".join(swap.get(part, part) for part in name.split("_")))
        for name in COCO_NAMES
    ]
    flipped_before = coco_to_h36m(keypoints[:, mirror])
    flipped_after = coco_to_h36m(keypoints)[:, list(FLIP_PERMUTATION)]
    np.testing.assert_allclose(flipped_before, flipped_after, atol=1e-12)


def test_conversion_keeps_precision_and_refuses_other_shapes():
    assert coco_to_h36m(np.zeros((3, 17, 2), np.float32)).dtype == np.float32
    for shape in [(3, 16, 2), (17,), (3, 2)]:
        with pytest.raises(ValueError, match="17"):
            coco_to_h36m(np.zeros(shape))


def test_nothing_here_can_be_edited():
    with pytest.raises(ValueError, match="read-only"):
        COCO_TO_H36M[0, 0] = 1
    for constant in (JOINT_NAMES, PARENTS, LEFT_JOINTS, FLIP_PERMUTATION, JOINTS_32_TO_17):
        assert isinstance(constant, tuple)
