"""Human3.6M's 15 actions: the poses between which a body moves, when it walks, and where.

To add an action, add a row to `ACTIONS`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from common.camera import Camera, project, world_to_camera
from common.h36m_dataset import FPS
from common.synthetic import bodies
from common.synthetic.bodies import (
    BOWING,
    CROUCHING,
    ON_THE_FLOOR,
    SITES,
    SITTING,
    STANDING,
    at,
    steps,
    walk,
)


class Arm(NamedTuple):
    """A pose of an arm: angles in degrees as in `bodies`; how far it takes part in other motion."""

    bend: float
    spread: float
    twist: float
    elbow: float
    swing: float = 0.0  # in walking, 0 to 1
    wave: float = 0.0  # in waving, 0 to 1


HANG = Arm(3, 9, 0, 16, swing=1)
POINT_AHEAD, POINT_ASIDE, SHAKE = Arm(82, 10, 0, 8), Arm(45, 75, 0, 10), Arm(42, 0, -10, 42)
RAISED = Arm(10, 78, 82, 85, wave=1)
ON_THIGH, ON_TABLE, ON_HIP = Arm(14, 8, -15, 42), Arm(28, 6, -35, 75), Arm(-22, 42, -45, 95)
AT_EAR, AT_MOUTH, AT_CAMERA = Arm(68, 12, -25, 143), Arm(52, 12, -45, 132), Arm(62, 8, -42, 125)
CHEST, CHEST_WIDE, LOW = Arm(28, 5, -40, 85), Arm(30, 22, 5, 80), Arm(22, 12, -20, 50)
CROSSED, BEHIND = Arm(22, 2, -72, 95), Arm(-38, 14, -60, 62)
OVERHEAD, SPREAD, FLEXED = Arm(155, 12, 0, 20), Arm(5, 88, 0, 12), Arm(8, 82, 80, 110)
SHELF, BASKET, LEASH = Arm(85, 5, 0, 18), Arm(15, 8, -15, 78), Arm(40, 6, -15, 28)


class Act(NamedTuple):
    """What somebody does: body and arms go from one of their poses to another, again and again."""

    arm: tuple[Arm, ...]  # of the hand that acts
    other_arm: tuple[Arm, ...] | None = (HANG,)  # None: both arms do the same together
    body: tuple[np.ndarray, ...] = (STANDING,)
    walks: tuple[float, ...] = (0.0,)  # 1 walks, 0 stands
    pose_s: float = 2.4  # how long an arm's pose is held


_TALKING = (CHEST, CHEST_WIDE, LOW)
_STEPS = (0.0, 0.0, 0.0, 0.8)
_POSES = (ON_HIP, OVERHEAD, SPREAD, FLEXED, HANG, AT_CAMERA)
ACTIONS = {
    "Directions": Act((POINT_AHEAD, POINT_ASIDE, CHEST), (HANG, ON_HIP), walks=_STEPS),
    "Discussion": Act(_TALKING, _TALKING, pose_s=1.3),
    "Eating": Act((ON_TABLE, AT_MOUTH), (ON_TABLE, ON_THIGH), (SITTING,), pose_s=1.8),
    "Greeting": Act((RAISED, RAISED, SHAKE, HANG), (HANG,), (STANDING, STANDING, BOWING)),
    "Phoning": Act((AT_EAR,), (HANG, ON_HIP, CHEST_WIDE), walks=(0, 0.8)),
    "Photo": Act((AT_CAMERA, AT_CAMERA, CHEST), None, (STANDING, STANDING, CROUCHING, BOWING)),
    "Posing": Act(_POSES, _POSES, (STANDING, bodies.pose(STANDING, chest=(0, 12, 20)))),
    "Purchases": Act((SHELF, BASKET, LOW), (BASKET,), (STANDING, BOWING), (0, 0, 0.9)),
    "Sitting": Act((ON_THIGH, CROSSED, CHEST_WIDE), (ON_THIGH, CROSSED), (SITTING,)),
    "SittingDown": Act((HANG, ON_THIGH), None, (STANDING, SITTING, CROUCHING, ON_THE_FLOOR)),
    "Smoking": Act((AT_MOUTH, LOW), (HANG, ON_HIP, CROSSED), walks=_STEPS, pose_s=3.0),
    "Waiting": Act((CROSSED, BEHIND, HANG, ON_HIP), None, walks=_STEPS, pose_s=3.0),
    "WalkDog": Act((LEASH, LEASH, LOW), (HANG,), walks=(0.9, 0.7)),
    "Walking": Act((HANG,), walks=(0.95, 0.85)),
    "WalkTogether": Act((HANG, *_TALKING), (HANG,), walks=(0.85, 0.75)),
}

# How far joints roam, see `bodies.roam`: a planted leg hardly, the trunk a little, arms more.
_REACHES = {"pelvis": 0.01, "hip": 0.02, "ankle": 0.02, "neck": 0.5, "head": 0.5}
_REACHES |= {"waist": 0.15, "chest": 0.15, "shoulder": 0.2, "elbow": 0.2}
_REACH = np.array([_REACHES.get(site.split("_")[-1], 0.06) for site in SITES])
_MARGIN = 0.003  # between a body and the edge of the picture, as a share of the picture


def perform(
    random: Generator, action: str, body: np.ndarray, frames: int, cameras: Sequence[Camera]
) -> np.ndarray:
    """Let a body (37, 3) perform one of `ACTIONS` where all cameras see it.

    Returns joints in the world, (frames, 37, 3), metres.
    """
    act = ACTIONS[action]
    walks = bodies.hold(random, np.array(act.walks), frames, 4.0, move_s=0.8)
    cycles = np.cumsum(random.uniform(0.82, 1.0) * (0.5 + 0.5 * walks)) / FPS
    phase = 2 * np.pi * (cycles + random.uniform(0, 1))
    angles = bodies.hold(random, np.array(act.body), frames, 3.5, move_s=1.5)
    # Between standing and sitting the trunk bends forward, over the feet.
    seated = ((at(angles, "right_knee")[..., 0] - np.radians(20)) / np.radians(70)).clip(0, 1)
    at(angles, "waist")[..., 0] += np.radians(30) * 4 * seated * (1 - seated)
    walk(angles, phase, walks)
    _move_arms(random, act, angles, phase, walks)
    joints = bodies.place_joints(body, bodies.roam(random, angles, _REACH[:, None], 0.7))
    # In standing the feet stay in one place, whatever the knees do.
    ankles = joints[:, [3, 8], :2].mean(axis=1, keepdims=True)
    joints[..., :2] -= (1 - walks)[:, None, None] * ankles
    joints[..., 2] -= bodies.find_floor(joints)
    return _place_in_room(random, joints, np.cumsum(np.where(walks > 0, steps(joints), 0)), cameras)


def _move_arms(
    random: Generator, act: Act, angles: np.ndarray, phase: np.ndarray, walks: np.ndarray
) -> None:
    """Move the arms from pose to pose; let them swing against the legs, and wave."""
    right = left = bodies.hold(random, np.array(act.arm), len(phase), act.pose_s, 0.7)
    if act.other_arm is not None:
        left = bodies.hold(random, np.array(act.other_arm), len(phase), act.pose_s, 0.7)
    if random.random() >= 0.8:  # left-handed
        right, left = left, right
    waving = np.sin(2 * np.pi * random.uniform(1.3, 1.8) * np.arange(len(phase)) / FPS)
    for side, own_phase, arm in (("right", phase, right), ("left", phase + np.pi, left)):
        bend, spread, twist, elbow, swing, wave = np.moveaxis(arm, -1, 0)
        swing = swing * walks
        bend = bend - 24 * swing * np.cos(own_phase)
        elbow = elbow + 12 * swing * (1 - np.cos(own_phase)) + 25 * wave * waving
        at(angles, f"{side}_shoulder")[:] = np.radians(np.stack([bend, spread, twist], axis=-1))
        at(angles, f"{side}_elbow")[..., 0] = np.radians(elbow)
        at(angles, f"{side}_collar")[..., 1] = np.radians(0.2 * spread)


def _place_in_room(
    random: Generator, joints: np.ndarray, walked: np.ndarray, cameras: Sequence[Camera]
) -> np.ndarray:
    """Let a body stand somewhere, or walk in a circle, where the cameras around it see all of it.

    `joints` are (frames, joints, 3), metres, x forward; `walked` (frames,) says how far along the
    circle. Returns joints in the world.
    """
    walks = np.ptp(walked) > 0.5
    radius = random.uniform(0.8, 1.5) if walks else 1.5 * np.sqrt(random.uniform())
    start, facing = random.uniform(0, 2 * np.pi, 2)
    turn = random.choice([-1, 1])  # 1: to the left
    middle = np.mean([camera.translation_m[:2] for camera in cameras], axis=0)
    x, y, z = np.moveaxis(joints, -1, 0)
    for _ in range(30):
        angle = (start + turn * walked / radius)[:, None]
        heading = angle + (turn * np.pi / 2 if walks else facing)
        place_x, place_y = middle[0] + radius * np.cos(angle), middle[1] + radius * np.sin(angle)
        c, s = np.cos(heading), np.sin(heading)
        placed = np.stack([place_x + c * x - s * y, place_y + s * x + c * y, z], axis=-1)
        seen = [
            project(world_to_camera(placed, c.orientation, c.translation_m), c.intrinsics)
            / [c.width, c.height]
            for c in cameras
        ]
        if np.min(seen) > _MARGIN and np.max(seen) < 1 - _MARGIN:
            return placed
        radius *= 0.85
    raise RuntimeError("the cameras do not see the whole body in the middle of the room")
