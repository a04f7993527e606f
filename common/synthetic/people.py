"""People who do anything: of any stature, in random poses that change smoothly, on the floor.

Where a pose comes from does not matter much for a lifter, that it can be any does: limbs move
anywhere within the limits of their joints.
"""

import numpy as np
from numpy.random import Generator

from common.h36m_dataset import FPS
from common.synthetic.bodies import (
    BOWING,
    CROUCHING,
    LIMITS,
    ON_THE_FLOOR,
    SITES,
    SITTING,
    STANDING,
    at,
    find_floor,
    hold,
    make_bodies,
    place_joints,
    pose,
    roam,
    steps,
    walk,
)

_CHILDREN = 0.1  # of the people
_ADULT_M, _CHILD_M = (1.69, 0.1), (1.05, 1.6)  # mean and deviation; least and greatest
# Estimators mark joints differently, and people differ.
_BONE_SPREAD = 0.07
_WALKING, _MOVING_ON = 0.2, 0.6  # of the clips; of the walkers, others are on a treadmill
# What legs and trunk do, where they are not at random: how often, and the pose.
_KNEELING = pose(STANDING, hip=(5, 4, 5), knee=(95,), ankle=(-40,))
_POSES = (
    (5, STANDING),
    (1, pose(STANDING, hip=(8, 20, 12), knee=(12,))),
    (2, BOWING),
    (1, pose(STANDING, pelvis=(60,), hip=(70, 4, 6), waist=(28,), chest=(20,))),
    (2, CROUCHING),
    (2, SITTING),
    (1, ON_THE_FLOOR),
    (1, pose(STANDING, pelvis=(-8,), hip=(92, 25, 20), knee=(60,), waist=(22,))),
    (1, _KNEELING),
    (1, pose(_KNEELING, right_hip=(90, 5), right_knee=(90,))),
    (1, pose(STANDING, pelvis=(8,), right_hip=(75, 5), right_knee=(75,), left_hip=(-20, 3))),
    (1, pose(STANDING, pelvis=(-88,), hip=(30, 8), knee=(50,))),
    (1, pose(STANDING, pelvis=(80,), hip=(2, 5), ankle=(-30,))),
    (0.5, pose(STANDING, pelvis=(0, 88), hip=(25, 3), knee=(35,))),
)
_LEGS, _ARMS = ("hip", "knee", "ankle"), ("collar", "shoulder", "elbow")
_RANDOM_LEGS, _HANGING_ARMS = 0.6, 0.15
_THIGH = np.radians((-20, 110))  # how far it is bent at random
_REACHES = {"pelvis": 0.02, "hip": 0.25, "knee": 0.3, "ankle": 0.2}
_REACHES |= {"waist": 0.3, "chest": 0.3, "collar": 0.3}
_REACH = np.array([_REACHES.get(site.split("_")[-1], 0.5) for site in SITES])[:, None]


def make_person(random: Generator, frames: int) -> np.ndarray:
    """Return a person's joints (frames, 37, 3), metres, z up, at `FPS`.

    The hip moves about the origin, and the lowest joint of all frames is on the floor, at zero.
    """
    stature = random.normal(*_ADULT_M)
    if random.random() < _CHILDREN:
        stature = random.uniform(*_CHILD_M)
    body = make_bodies(random, np.array([stature]), anatomical=True, spread=_BONE_SPREAD)[0]
    poses = np.stack([_random_pose(random), _random_pose(random)])
    angles = hold(random, poses[: random.integers(1, 3)], frames, 1.5, random.uniform(0.5, 1.2))
    walks, reach = random.random() < _WALKING, _REACH * 0.5 * np.exp(0.7 * random.normal())
    if walks:
        _walk_anyhow(random, angles)
        reach = np.where(_is_part_of(_LEGS), 0.3 * reach, reach)
    joints = place_joints(body, roam(random, angles, reach.clip(0, 2), random.uniform(0.3, 2)))
    joints[..., 2] -= find_floor(joints) if random.random() < 0.5 else 0
    if walks and random.random() < _MOVING_ON:
        joints[..., 0] += np.cumsum(steps(joints))[:, None]
    turning = random.normal(0, 1 if random.random() < 0.3 else 0.15)  # radians a second
    heading = random.uniform(0, 2 * np.pi) + turning * np.arange(frames)[:, None] / FPS
    c, s = np.cos(heading), np.sin(heading)
    x, y, z = np.moveaxis(joints, -1, 0)
    joints = np.stack([c * x - s * y, s * x + c * y, z - find_floor(joints).min()], axis=-1)
    joints[..., :2] -= joints[:, :1, :2].mean(axis=0)
    return joints


def _is_part_of(parts: tuple[str, ...]) -> np.ndarray:
    return np.array([site.endswith(parts) for site in SITES])[:, None]


def _random_pose(random: Generator) -> np.ndarray:
    """Return the angles (17, 3) of a pose that somebody might take."""
    shares, poses = zip(*_POSES)
    angles = poses[random.choice(len(poses), p=np.array(shares) / sum(shares))].copy()
    anyhow = LIMITS[..., 0] + np.ptp(LIMITS, axis=-1) * random.beta(1.2, 1.2, LIMITS.shape[:2])
    for side in ("right", "left"):
        anyhow[SITES.index(f"{side}_hip"), 0] = random.uniform(*_THIGH)
    if random.random() < _RANDOM_LEGS:
        angles = np.where(_is_part_of(_LEGS), anyhow, angles)
    for side in ("right", "left"):
        if random.random() >= _HANGING_ARMS:
            own = _is_part_of(tuple(f"{side}_{part}" for part in _ARMS))
            angles = np.where(own, anyhow, angles)
    return angles


def _walk_anyhow(random: Generator, angles: np.ndarray) -> None:
    """Let angles (frames, 17, 3) walk or run, with their own arms or swinging ones."""
    runs = random.random() < 0.3
    hz = random.uniform(1.1, 1.6) if runs else random.uniform(0.55, 1.15)
    phase = 2 * np.pi * (hz * np.arange(len(angles)) / FPS + random.random())
    angles[:] = np.where(_is_part_of(_ARMS), angles, STANDING)
    at(angles, "pelvis")[..., 0] += np.radians(random.uniform(-2, 10) + 6 * runs)
    walk(angles, phase, np.full(len(angles), random.uniform(0.5, 1.25)))
    if random.random() < 0.6:
        swing, elbow = np.radians((random.uniform(5, 40), random.uniform(8, 30) + 50 * runs))
        for side, own in (("right", phase), ("left", phase + np.pi)):
            arm = np.stack([-swing * np.cos(own), np.full(len(own), 0.16), 0 * own], axis=-1)
            at(angles, f"{side}_shoulder")[:] = arm
            at(angles, f"{side}_elbow")[..., 0] = elbow + 0.3 * swing * (1 - np.cos(own))
