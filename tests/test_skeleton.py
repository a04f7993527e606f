import numpy as np

from common.skeleton import (
    BONES,
    JOINT_NAMES,
    JOINTS_32_TO_17,
    LEFT_JOINTS,
    PARENTS,
    RIGHT_JOINTS,
    SIDES,
    coco_to_h36m,
)

# Of each joint, its mirror image by name.
MIRRORED = [
    JOINT_NAMES.index({"L": "R", "R": "L"}.get(name[0], name[0]) + name[1:]) for name in JOINT_NAMES
]


def test_left_and_right_are_mirror_images_by_name():
    sides = [{"L": "left", "R": "right"}.get(name[0], "middle") for name in JOINT_NAMES]
    assert list(SIDES) == sides
    assert [MIRRORED[j] for j in LEFT_JOINTS] == list(RIGHT_JOINTS)


def test_the_tree_hangs_on_the_hip_and_is_symmetric():
    assert PARENTS[0] == -1 and len(BONES) == 16
    assert all(parent < child for child, parent in BONES)
    assert all(PARENTS[MIRRORED[child]] == MIRRORED[parent] for child, parent in BONES)
    parents = {JOINT_NAMES[c]: JOINT_NAMES[p] for c, p in BONES}
    assert (parents["LShoulder"], parents["LWrist"]) == ("Thorax", "LElbow")
    assert (parents["RFoot"], parents["RHip"]) == ("RKnee", "Hip")


def test_the_17_of_32_joints_are_those_that_the_field_keeps():
    dropped = {4, 5, 9, 10, 11, 16, *range(20, 25), *range(28, 32)}
    assert list(JOINTS_32_TO_17) == sorted(set(range(32)) - dropped)


def test_coco_becomes_h36m_as_in_the_golden_vectors(golden):
    np.testing.assert_allclose(coco_to_h36m(golden["coco"]), golden["coco_as_h36m"], atol=1e-9)
    assert coco_to_h36m(np.zeros((3, 17, 2), np.float32)).dtype == np.float32
