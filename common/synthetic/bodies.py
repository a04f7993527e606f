"""Bodies that move: skeletons of any stature, poses, random smooth motion, the floor.

Joints are arrays (frames, 37, 3) in metres, x forward, y to the left, z up: Human3.6M's 32 joints,
then what estimators find in a face: nose, left eye, right eye, left ear, right ear. Poses are
angles (..., 17, 3) in radians: of each joint of `SITES` how far it is bent, spread, twisted.
"""

import numpy as np
from numpy.random import Generator

from common.h36m_dataset import FPS

# Human3.6M's tree: 0 hip; 1-5 right and 6-10 left leg (hip, knee, ankle, ball, toe); 11 spine,
# 12 waist, 13 neck, 14 head, 15 its top; 16-23 left and 24-31 right arm (neck, shoulder, elbow,
# wrist twice, thumb, hand twice). 32-36: the face.
PARENTS = (
    *(-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14),
    *(12, 16, 17, 18, 19, 20, 19, 22, 12, 24, 25, 26, 27, 28, 27, 30, *[14] * 5),
)
# From each joint's parent, mm, of somebody of `_STATURE_M` who stands upright with hanging arms;
# left leg and left arm. The lengths are those of Human3.6M's own skeleton.
_STATURE_M = 1.75
_LEG_MM = ((0, 132.9, 0), (0, 0, -442.9), (0, 0, -454.2), (151, 0, -61), (74, 0, -12))
_TRUNK_MM = ((0, 0, 0), (0, 0, 233.4), (0, 0, 257.1), (42, 0, 114), (-17, 0, 114))
_ARM_MM = (
    *((0, 0, 257.1), (-10, 149, -20), (0, 0, -278.9), (0, 0, -251.7)),
    *((0, 0, 0), (60, 0, -80), (0, 0, -100), (0, 0, 0)),
)
_FACE_MM = ((105, 0, -10), (80, 32, 25), (80, -32, 25), (0, 75, 0), (0, -75, 0))
# Where people's own joints are, as estimators mark them: Human3.6M's hips are 266 mm apart, its
# shoulders low and narrow. Rows of a leg, the trunk and an arm, after Drillis and Contini (1966) in
# Winter's "Biomechanics and motor control of human movement".
_ANATOMY_MM = (
    {0: (0, 88, 0), 1: (0, 0, -428), 2: (0, 0, -425)},
    {1: (0, 0, 250), 2: (0, 0, 274)},
    {0: (0, 0, 274), 1: (-10, 172, -15), 2: (0, 0, -300), 3: (0, 0, -260)},
)
# What varies together between people: legs, trunk and head, arms, the widths of hips and shoulders.
_LEGS, _TRUNK, _ARMS, _WIDTHS = range(4)
_LEG_PARTS, _ARM_PARTS = (_WIDTHS, *[_LEGS] * 4), (_TRUNK, _WIDTHS, *[_ARMS] * 6)
_PARTS = (_TRUNK, *2 * _LEG_PARTS, *[_TRUNK] * 5, *2 * _ARM_PARTS, *[_TRUNK] * 5)
_LEFT_AS_RIGHT = [*range(6), *range(1, 6), *range(11, 24), *range(16, 24), *range(32, 37)]

# How high a joint lies above what touches the floor, metres.
_LEG_ABOVE, _ARM_ABOVE = (0.09, 0.05, 0.073, 0.012, 0), (0.08, 0.07, 0.04, 0.03, 0.03, 0, 0, 0)
_ABOVE_FLOOR = np.array([0.09, *2 * _LEG_ABOVE, *[0.09] * 5, *2 * _ARM_ABOVE, *[0] * 5])
_FLOOR_SOFTNESS_M = 0.004

# How far joints turn, in degrees: bent (as a limb flexes, the trunk forward), spread (a limb
# outward, the trunk to the right, a shoulder up), twisted (a limb outward, the trunk to the left).
_LIMITS = {
    "pelvis": ((-180, 180), (-180, 180), (-180, 180)),
    "hip": ((-25, 125), (-15, 50), (-35, 45)),
    "knee": ((0, 145), (-1, 1), (-1, 1)),
    "ankle": ((-45, 30), (-10, 10), (-10, 10)),
    "waist": ((-15, 45), (-20, 20), (-20, 20)),
    "chest": ((-15, 40), (-20, 20), (-25, 25)),
    "neck": ((-25, 30), (-20, 20), (-40, 40)),
    "head": ((-25, 30), (-15, 15), (-30, 30)),
    "collar": ((-1, 1), (-10, 30), (-15, 20)),
    "shoulder": ((-55, 175), (-15, 130), (-90, 90)),
    "elbow": ((0, 148), (-1, 1), (-1, 1)),
}
# Angles of a walking leg at every tenth of the gait cycle, from one heel strike to the next, in
# degrees, after the normal gait of clinical textbooks.
_GAIT = np.radians(
    [
        [23, 19, 10, -1, -11, -17, -12, 4, 18, 24],  # thigh, forward
        [4, 15, 14, 8, 5, 12, 36, 62, 54, 20],  # knee
        [0, -3, 4, 9, 14, 10, -10, -3, 3, 3],  # ankle, toes up
    ]
)
# The joints that turn whatever hangs on them, the pelvis the whole body; and their rows.
SITES = (
    *("pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("waist", "chest", "neck", "head", "left_collar", "left_shoulder", "left_elbow"),
    *("right_collar", "right_shoulder", "right_elbow"),
)
_SITE_JOINTS = (0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14, 16, 17, 18, 24, 25, 26)
# (17, 3, 2), the least and the greatest angles.
LIMITS = np.radians([_LIMITS[site.split("_")[-1]] for site in SITES])
# Of the angles as rotations about y, x and z.
_SIDES = np.array([-1 if site.startswith("right") else 1 for site in SITES])
_BACKWARD = [site.endswith(("hip", "ankle", "shoulder", "elbow")) for site in SITES]
_SIGNS = np.stack([np.where(_BACKWARD, -1, 1), _SIDES, _SIDES], axis=-1)


def pose(base: np.ndarray | None = None, **degrees: tuple[float, ...]) -> np.ndarray:
    """Return a pose (17, 3): `base`, or all zero, with other angles at the named sites.

    A site is named as in `SITES`, or without its side for both: `pose(knee=(90,))`.
    """
    result = np.zeros((len(SITES), 3)) if base is None else base.copy()
    for name, angles in degrees.items():
        rows = [i for i, site in enumerate(SITES) if name in (site, site.split("_")[-1])]
        result[rows, : len(angles)] = np.radians(angles)
    return result


STANDING = pose(hip=(4, -1, 6), knee=(8,), ankle=(4,), shoulder=(3, 9), elbow=(14,), neck=(5,))
BOWING = pose(STANDING, pelvis=(16,), hip=(22, -1, 6), knee=(12,), ankle=(6,), waist=(14,))
CROUCHING = pose(STANDING, pelvis=(28,), hip=(112, 12, 10), knee=(112,), ankle=(28,), waist=(20,))
SITTING = pose(STANDING, pelvis=(-8,), hip=(80, 8, 5), knee=(90,), ankle=(2,), waist=(18,))
ON_THE_FLOOR = pose(STANDING, pelvis=(-20,), hip=(95, 14), knee=(110,), ankle=(-5,), waist=(36,))


def make_bodies(
    random: Generator, statures_m: np.ndarray, *, anatomical: bool = False, spread: float = 0.0
) -> np.ndarray:
    """Return for people of these heights (people,) where each joint is from its parent.

    That is (people, 37, 3), metres, upright, with the proportions of Human3.6M, or of the human
    body, varied a little; with a `spread` each bone, on both sides alike, by this part more.
    """
    mirrored = np.array([1, -1, 1])
    leg, trunk, arm = (np.array(part, float) for part in (_LEG_MM, _TRUNK_MM, _ARM_MM))
    if anatomical:
        for part, rows in zip((leg, trunk, arm), _ANATOMY_MM):
            part[list(rows)] = list(rows.values())
    limbs = [trunk, arm, arm * mirrored, _FACE_MM]
    offsets = np.concatenate([np.zeros((1, 3)), leg * mirrored, leg, *limbs]) / 1000
    scales = 1 + 0.025 * random.standard_normal((len(statures_m), 4)).clip(-2, 2)
    scales = (scales * statures_m[:, None] / _STATURE_M)[:, _PARTS]
    if spread:
        own = random.standard_normal(scales.shape).clip(-2.5, 2.5)
        scales *= 1 + spread * own[:, _LEFT_AS_RIGHT]
    return offsets * scales[..., None]


def hold(
    random: Generator, choices: np.ndarray, frames: int, seconds: float, move_s: float
) -> np.ndarray:
    """Hold one of `choices` (n, ...) for about `seconds`, then move smoothly to another.

    A move takes `move_s` seconds, with the minimum-jerk profile of human reaching (Flash and Hogan,
    1985): 10u³ − 15u⁴ + 6u⁵. Returns (frames, ...).
    """
    pace = seconds * random.uniform(0.75, 1.3)
    beat = np.arange(frames) / FPS / pace + random.uniform(0, 1)
    count = beat.astype(int)
    picks = choices[random.integers(len(choices), size=count.max() + 2)]
    u = np.clip(1 - (count + 1 - beat) * pace / move_s, 0, 1)
    u = (u**3 * (10 + u * (6 * u - 15))).reshape(-1, *[1] * (choices.ndim - 1))
    return picks[count] + u * (picks[count + 1] - picks[count])


def roam(random: Generator, base: np.ndarray, reach: np.ndarray, fastest_hz: float) -> np.ndarray:
    """Move every joint at random about its angle in `base` (frames, 17, 3), within limits.

    With a `reach` (17, 1) of 0.1 a joint hardly moves, with 2 it explores its `LIMITS`. Near a
    limit it moves less: log(x / (1 - x)) moves freely, where x in (0, 1) is the place between them.
    It follows a sum of four sinusoids, of unit variance.
    """
    frames, *angles = base.shape
    hz = fastest_hz * random.uniform(0.1, 1, (4, 1, *angles))
    phase = random.uniform(0, 2 * np.pi, hz.shape)
    t = np.arange(frames)[:, None, None] / FPS
    curves = sum(np.sin(2 * np.pi * h * t + p) for h, p in zip(hz, phase)) / np.sqrt(2)
    low, high = LIMITS[..., 0], LIMITS[..., 1]
    share = ((base - low) / (high - low)).clip(0.01, 0.99)
    odds = share / (1 - share) * np.exp(reach * curves)
    return low + (high - low) * odds / (1 + odds)


def at(angles: np.ndarray, site: str) -> np.ndarray:
    """Return the angles (frames, 3) at one of `SITES`, to be changed in place."""
    return angles[:, SITES.index(site)]


def walk(angles: np.ndarray, phase: np.ndarray, walks: np.ndarray) -> None:
    """Let the legs go through the gait cycle, as far as the body `walks`, (frames,), 0 to 1.

    `phase` (frames,) is 0 at the right heel's strike and grows by 2 π until the next one.
    """
    # The hip goes forward and up with its leg, the shoulders go against it.
    tilt, turn = np.radians(4) * walks * np.sin(phase), np.radians(6) * walks * np.cos(phase)
    for site, tilts, turns in (("pelvis", -1, 1), ("waist", 0.8, -1.2), ("chest", 0.2, -1)):
        at(angles, site)[..., 1:] += np.stack([tilts * tilt, turns * turn], axis=-1)
    harmonics = np.fft.rfft(_GAIT)[:, :5] / 10 * [1, 2, 2, 2, 2]
    for side, outward, own_phase in (("right", -1, phase), ("left", 1, phase + np.pi)):
        leg = (np.exp(1j * own_phase[..., None] * np.arange(5)) @ harmonics.T).real
        for i, name in enumerate(("hip", "knee", "ankle")):
            bend = at(angles, f"{side}_{name}")[..., 0]
            bend += walks * (leg[..., i] - bend)
        # Legs stay upright and go straight on; feet come down close to the line of the walk.
        inward = np.radians(3) * walks
        at(angles, f"{side}_hip")[..., 1] += outward * tilt - inward
        at(angles, f"{side}_hip")[..., 2] -= outward * turn


def place_joints(body: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return the joints of a body (37, 3) in poses (frames, 17, 3), its hip at the origin."""
    turns = dict(zip(_SITE_JOINTS, np.moveaxis(_rotations(angles * _SIGNS), 1, 0)))
    joints = np.zeros((len(angles), len(PARENTS), 3))
    axes = {0: turns[0]}
    for joint, parent in list(enumerate(PARENTS))[1:]:
        joints[:, joint] = joints[:, parent] + (axes[parent] @ body[joint, :, None])[..., 0]
        axes[joint] = axes[parent] @ turns[joint] if joint in turns else axes[parent]
    return joints


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Return R_y R_x R_z, (..., 3, 3), of the angles about y, x and z, (..., 3), radians."""
    (cy, cx, cz), (sy, sx, sz) = (np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    rows = (
        *(cy * cz + sy * sx * sz, sy * sx * cz - cy * sz, sy * cx),
        *(cx * sz, cx * cz, -sx),
        *(cy * sx * sz - sy * cz, sy * sz + cy * sx * cz, cy * cx),
    )
    return np.stack(rows, axis=-1).reshape(*angles.shape, 3)


def steps(joints: np.ndarray) -> np.ndarray:
    """Return how far a walking body moves forward in each frame, (frames,), metres.

    A step is as long as the foot's way backward, seen from the hip.
    """
    return -np.gradient(joints[:, [4, 9], 0], axis=0).min(axis=-1)


def find_floor(joints: np.ndarray) -> np.ndarray:
    """Return the height of the floor under a body, (frames, 1).

    It is smooth in time, since all joints within some millimetres of the lowest count.
    """
    heights = joints[..., 2] - _ABOVE_FLOOR
    lowest = heights.min(axis=-1, keepdims=True)
    near = np.exp((lowest - heights) / _FLOOR_SOFTNESS_M).sum(axis=-1, keepdims=True)
    return lowest - _FLOOR_SOFTNESS_M * np.log(near)
