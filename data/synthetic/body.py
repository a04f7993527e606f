"""An articulated body that moves: 32 joints by forward kinematics, planted feet, reaching hands.

World coordinates in metres, z up. A body's own axes are x forward, y to its left, z up; angles are
(yaw, pitch, roll) in radians: a positive yaw turns left, a positive pitch bends forward, a positive
roll leans right. All functions work on every frame of a clip at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.h36m_dataset import FPS

# Human3.6M's 32 joints: 0 hips; 1-5 right and 6-10 left leg (hip, knee, foot, toe base, toe end);
# 11 spine, 12 upper spine, 13 neck, 14 head, 15 its top; 16-23 left and 24-31 right arm (shoulder,
# arm, forearm, hand, thumb, its end, wrist's end, its end).
PARENTS_32 = (-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 12, 16, 17, 18, 19, 20, 19, 22)
PARENTS_32 += (12, 24, 25, 26, 27, 28, 27, 30)
LEFT, RIGHT = 1, -1
SIDES = (LEFT, RIGHT)
_LEG_JOINTS = {LEFT: slice(6, 11), RIGHT: slice(1, 6)}
_ARM_JOINTS = {LEFT: slice(16, 24), RIGHT: slice(24, 32)}

# Nose, left and right eye, left and right ear in the head's frame, whose origin is joint 14.
FACE_POINTS_M = np.array(
    [
        [0.105, 0.0, -0.010],
        [0.080, 0.032, 0.025],
        [0.080, -0.032, 0.025],
        [0.0, 0.075, 0.0],
        [0.0, -0.075, 0.0],
    ]
)

# No limb is ever quite straight, nor folds further than flesh lets it. In lengths of the limb:
# from where on it gives way, and the longest that it gets.
_LEG_REACH = (0.985, 0.9985)
_ARM_REACH = (0.94, 0.992)
_MIN_INTERIOR_ANGLE = np.radians(32)


@dataclass(frozen=True)
class Body:
    """Bone lengths in metres, and how this person moves.

    Attributes:
        stature: body height.
        hip, thigh, shin, foot, toe: pelvis centre to hip joint, and down the leg.
        ankle, ball: heights of the ankle and of the ball of the foot on a flat foot.
        spine, chest, neck, head: up the trunk.
        clavicle, upper_arm, forearm, hand, thumb: down the arm.
        toe_out: yaw of a standing foot away from the midline, radians.
        stance: half the distance between standing feet, metres.
        stoop: forward pitch of the trunk at rest, radians.
        step_time: seconds from one footfall to the next.
        speed: metres per second of relaxed walking.
        arm_swing, gesture: how far arms swing and gestures reach; 1 is usual.
        tempo: how fast gestures follow each other; 1 is usual.
        handed: the side that points, waves, phones, smokes.
    """

    stature: float
    hip: float
    thigh: float
    shin: float
    foot: float
    toe: float
    ankle: float
    ball: float
    spine: float
    chest: float
    neck: float
    head: float
    clavicle: float
    upper_arm: float
    forearm: float
    hand: float
    thumb: float
    toe_out: float
    stance: float
    stoop: float
    step_time: float
    speed: float
    arm_swing: float
    gesture: float
    tempo: float
    handed: int

    @property
    def leg(self) -> float:
        """Length of the straight leg from hip to ankle."""
        return self.thigh + self.shin

    @property
    def arm(self) -> float:
        """Length of the straight arm from shoulder to wrist."""
        return self.upper_arm + self.forearm


def make_body(rng: np.random.Generator, stature: float) -> Body:
    """Draw a person: proportions around those of an adult, and a style of moving.

    Args:
        rng: source of chance.
        stature: body height in metres.
    """
    leg, trunk, arm, width = stature * (1 + 0.025 * np.clip(rng.standard_normal(4), -2, 2))
    return Body(
        stature=stature,
        hip=0.077 * width,
        thigh=0.256 * leg,
        shin=0.260 * leg,
        foot=0.094 * leg,
        toe=0.043 * leg,
        ankle=0.044 * leg,
        ball=0.012 * leg,
        spine=0.135 * trunk,
        chest=0.148 * trunk,
        neck=0.070 * trunk,
        head=0.067 * trunk,
        clavicle=0.088 * width,
        upper_arm=0.162 * arm,
        forearm=0.146 * arm,
        hand=0.058 * arm,
        thumb=0.058 * arm,
        toe_out=rng.uniform(0.05, 0.2),
        stance=rng.uniform(0.09, 0.14),
        stoop=rng.uniform(-0.01, 0.09),
        step_time=rng.uniform(0.52, 0.60),
        speed=rng.uniform(0.85, 1.1),
        arm_swing=rng.uniform(0.7, 1.25),
        gesture=rng.uniform(0.85, 1.15),
        tempo=rng.uniform(0.8, 1.2),
        handed=LEFT if rng.random() < 0.15 else RIGHT,
    )


def ease(u: np.ndarray) -> np.ndarray:
    """Go from 0 to 1 as u does, with zero velocity and acceleration at both ends.

    This is the minimum-jerk profile of human reaching (Flash and Hogan, 1985): 10u³ − 15u⁴ + 6u⁵.
    """
    u = np.clip(u, 0, 1)
    return u * u * u * (10 + u * (6 * u - 15))


def glide(u: np.ndarray, ramp: float = 0.35) -> np.ndarray:
    """Go from 0 to 1 as u does, at constant speed but for a smooth start and a smooth stop.

    Args:
        u: any shape; what is below 0 or above 1 counts as that.
        ramp: share of the time that start and stop take, each.
    """
    u = np.clip(u, 0, 1)
    start, stop = np.minimum(u / ramp, 1), np.minimum((1 - u) / ramp, 1)
    cruise = np.clip(u - ramp, 0, 1 - 2 * ramp)
    ramps = 0.5 + start**3 * (1 - start / 2) - stop**3 * (1 - stop / 2)
    return (ramp * ramps + cruise) / (1 - ramp)


def bump(u: np.ndarray) -> np.ndarray:
    """Go from 0 to 1 and back to 0 as u goes from 0 to 1, smooth at both ends."""
    u = np.clip(u, 0, 1)
    return (4 * u * (1 - u)) ** 3


def keyed(
    t: np.ndarray,
    starts: Sequence[float],
    durations: Sequence[float],
    values: np.ndarray,
    profile: Callable[[np.ndarray], np.ndarray] = ease,
) -> np.ndarray:
    """Move from value to value, each time along a minimum-jerk profile or another one.

    Args:
        t: (frames,), seconds.
        starts: (moves,), when each move begins.
        durations: (moves,), how long it takes; moves may overlap.
        values: (moves + 1, ...), before the first move and after each.
        profile: goes from 0 to 1 in the time from 0 to 1.

    Returns:
        (frames, ...).
    """
    values = np.asarray(values, dtype=np.float64)
    progress = profile((t[:, None] - np.asarray(starts)) / np.asarray(durations))
    return values[0] + np.tensordot(progress, np.diff(values, axis=0), axes=1)


def wobble(
    rng: np.random.Generator, t: np.ndarray, frequency: float, channels: int = 1
) -> np.ndarray:
    """Return smooth noise of unit variance, (frames, channels), with power up to `frequency` Hz."""
    frequencies = frequency * rng.uniform(0.1, 1, (6, channels))
    phases = rng.uniform(0, 2 * np.pi, (6, channels))
    waves = np.sin(2 * np.pi * frequencies * t[:, None, None] + phases)
    return waves.sum(axis=1) / np.sqrt(3)


def smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Filter (frames,) with a Gaussian of that standard deviation; the ends are held."""
    radius = int(np.ceil(4 * seconds * FPS))
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (seconds * FPS)) ** 2)
    return np.convolve(np.pad(x, radius, mode="edge"), window / window.sum(), mode="valid")


def rotation(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Return the matrices (frames, 3, 3) that roll, then pitch, then yaw; columns are the axes."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    entries = np.broadcast_arrays(
        *(cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        *(sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        *(-sp, cp * sr, cp * cr),
    )
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def rotate(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Rotate vectors (..., 3) by matrices (..., 3, 3)."""
    return np.einsum("...ij,...j->...i", matrices, vectors)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _soft_limits(d: np.ndarray, shortest: float, longest: float, margin: float) -> np.ndarray:
    """Keep distances between two limits, bending smoothly within `margin` of either."""
    d = np.where(d > longest - margin, longest - margin * (1 - _saturate(d, longest, margin)), d)
    low = shortest + margin * (1 - _saturate(-d, -shortest, margin))
    return np.where(d < shortest + margin, low, d)


def _saturate(d: np.ndarray, limit: float, margin: float) -> np.ndarray:
    return np.tanh((d - limit + margin) / margin)


def two_bones(
    root: np.ndarray,
    target: np.ndarray,
    pole: np.ndarray,
    upper: float,
    lower: float,
    reach: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Place knee and ankle, or elbow and wrist, so that the limb's end reaches its target.

    The limb bends towards `pole` and no other way. A target out of reach is approached.

    Args:
        root: (frames, 3), hip or shoulder.
        target: (frames, 3), where the end should be.
        pole: (frames, 3), direction in which the middle joint points away from the limb's line.
        upper: length of the bone at the root.
        lower: length of the other bone.
        reach: distance of the end, in lengths of the limb, from which on the limb gives way, and
            the longest that it gets.

    Returns:
        Middle joint and end, (frames, 3) each.
    """
    line = target - root
    distance = np.linalg.norm(line, axis=-1, keepdims=True)
    line = line / distance
    cosine = np.cos(_MIN_INTERIOR_ANGLE)
    shortest = np.sqrt(upper**2 + lower**2 - 2 * upper * lower * cosine)
    gives_way, longest = (upper + lower) * np.array(reach)
    distance = _soft_limits(distance, shortest, longest, longest - gives_way)
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    across = np.sqrt(np.maximum(upper**2 - along**2, 0))
    side = _unit(pole - np.sum(pole * line, axis=-1, keepdims=True) * line)
    return root + along * line + across * side, root + distance * line


@dataclass(frozen=True)
class Step:
    """One foot leaves the floor and comes down elsewhere.

    Attributes:
        side: LEFT or RIGHT.
        lift, land: seconds.
        forward, outward: metres, where it lands relative to its usual place beside the body.
    """

    side: int
    lift: float
    land: float
    forward: float = 0.0
    outward: float = 0.0


@dataclass(frozen=True)
class Reach:
    """Where a hand may be.

    Attributes:
        frame: "shoulder" (upright axes that turn with the chest; `offset` in arm lengths), "head"
            or "hip" (axes of the head or pelvis; `offset` in metres).
        offset: of the wrist: forward, outward, up.
        pole: where the elbow points: forward, outward, up.
        swing: how far the arm takes part in walking, 0 to 1.
    """

    frame: str
    offset: tuple[float, float, float]
    pole: tuple[float, float, float]
    swing: float = 0.1


@dataclass(frozen=True)
class HandMove:
    """From `start`, within `duration` seconds, the hand goes to `reach`."""

    start: float
    duration: float
    reach: Reach


@dataclass
class Performance:
    """What a body is to do in each frame; an action fills it in.

    Attributes:
        t: (frames,), seconds.
        ground: (frames, 3), place on the floor (metres) and heading (radians).
        steps: in order of time; steps of one foot do not overlap.
        stance: half the distance between the feet, metres.
        height: (frames,), of the pelvis, 1 for upright and 0 for the floor.
        shift: (frames, 2), pelvis relative to the place on the floor: forward and left, metres.
        trunk: (frames, 3), angles of the chest relative to the heading.
        gaze: (frames, 3), angles of the head relative to the chest, upright trunk assumed.
        hands: {side: where the hand goes; the first move gives where it begins}.
        hand_motion: {side: (frames, 3), metres, added to the wrist: forward, outward, up}.
    """

    t: np.ndarray
    ground: np.ndarray
    steps: list[Step]
    stance: float
    height: np.ndarray
    shift: np.ndarray
    trunk: np.ndarray
    gaze: np.ndarray
    hands: dict[int, list[HandMove]]
    hand_motion: dict[int, np.ndarray]


@dataclass(frozen=True)
class Motion:
    """What a body did.

    Attributes:
        joints: (frames, 32, 3), metres, world.
        face: (frames, 5, 3), nose, left and right eye, left and right ear; metres, world.
    """

    joints: np.ndarray
    face: np.ndarray


@dataclass(frozen=True)
class _Foot:
    ankle: np.ndarray  # (frames, 3)
    ball: np.ndarray  # (frames, 3)
    toe: np.ndarray  # (frames, 3)
    heading: np.ndarray  # (frames,)
    airborne: np.ndarray  # (frames,), 0 on the floor to 1 in mid-swing


def animate(body: Body, performance: Performance) -> Motion:
    """Turn a performance into joints.

    Feet stand where they were planted; the pelvis rides as high as the legs let it; trunk, head
    and arms follow by forward kinematics, arms swinging against the legs.
    """
    feet = {side: _move_foot(body, performance, side) for side in SIDES}
    strides = {side: _ahead(feet[side], performance.ground) for side in SIDES}
    pelvis_axes = _pelvis_axes(performance, feet, strides)
    pelvis = _pelvis_position(body, performance, feet, pelvis_axes)
    joints = np.empty((len(performance.t), 32, 3))
    joints[:, [0, 11]] = pelvis[:, None]
    for side in SIDES:
        joints[:, _LEG_JOINTS[side]] = _leg(body, pelvis, pelvis_axes, feet[side], side)
    # The chest turns against the pelvis.
    twist = 0.1 * (strides[LEFT] - strides[RIGHT])
    chest_axes, head_axes = _trunk(body, performance, twist, joints)
    for side in SIDES:
        swing = strides[-side] / body.leg * body.arm_swing
        frames = (chest_axes, head_axes, pelvis_axes)
        joints[:, _ARM_JOINTS[side]] = _arm(body, performance, frames, joints, side, swing)
    face = joints[:, None, 14] + rotate(head_axes[:, None], FACE_POINTS_M * body.stature / 1.75)
    return Motion(joints, face)


def _places(body: Body, performance: Performance, side: int) -> tuple[list[Step], np.ndarray]:
    """Return the steps of one foot and where it stands before and after them, (steps + 1, 3).

    A foot comes down where the body will be in the middle of the foot's stay on the floor.
    """
    t, ground = performance.t, performance.ground
    steps = [s for s in performance.steps if s.side == side and s.lift > t[0]]
    lands = np.array([t[0], *(s.land for s in steps)])
    next_lifts = np.array([*(s.lift for s in steps), np.inf])
    middle = lands + np.minimum(0.47 * (next_lifts - lands), 0.3)
    x, y, yaw = (np.interp(middle, t, ground[:, i]) for i in range(3))
    forward = np.array([0, *(s.forward for s in steps)])
    outward = side * (performance.stance + np.array([0, *(s.outward for s in steps)]))
    places = [
        x + np.cos(yaw) * forward - np.sin(yaw) * outward,
        y + np.sin(yaw) * forward + np.cos(yaw) * outward,
        yaw + side * body.toe_out,
    ]
    return steps, np.stack(places, axis=-1)


def _move_foot(body: Body, performance: Performance, side: int) -> _Foot:
    """Lift, carry and plant one foot: heel off, swing, heel strike, flat.

    While the heel is up the foot turns about its ball, while the toes are up about its heel, so
    that what touches the floor stays where it is.
    """
    t = performance.t
    steps, places = _places(body, performance, side)
    lifts, lands = np.array([(s.lift, s.land) for s in steps]).reshape(-1, 2).T
    swings = lands - lifts
    place = _carry(t, lifts, swings, places)
    stride = np.minimum(np.linalg.norm(np.diff(places[:, :2], axis=0), axis=-1) / 1.1, 1)
    air = bump((t[:, None] - lifts) / swings)
    # Heel off before the lift, toes up before the landing.
    heel_up = _pulse(t, lifts - 0.22, 0.22 + 0.2 * swings, lifts + 0.1 * swings, 0.5 * swings)
    toes_up = _pulse(t, lifts + 0.45 * swings, 0.5 * swings, lands - 0.02, 0.13)
    on_heel = _pulse(t, lifts + 0.4 * swings, 0.4 * swings, lands + 0.11, 0.06).sum(axis=1)
    pitch = toes_up @ (0.30 * stride) - heel_up @ (0.15 + 0.6 * stride)
    height = air @ (0.035 + 0.045 * stride)
    # The swinging leg goes round the standing one.
    outward = side * 0.03 * air.sum(axis=1)
    place[:, 0] -= np.sin(place[:, 2]) * outward
    place[:, 1] += np.cos(place[:, 2]) * outward
    return _place_foot(body, place, pitch, on_heel, height, air.sum(axis=1))


def _carry(t: np.ndarray, lifts: np.ndarray, swings: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Move the foot from place to place, (frames, 3), round the curve on which the body turns.

    The arc above a chord c that turns by an angle a rises to c a / 8.
    """
    place = keyed(t, lifts, swings, places, glide)
    progress = glide((t[:, None] - lifts) / swings)
    chord = np.diff(places, axis=0)
    rise = np.column_stack([chord[:, 1], -chord[:, 0]]) * chord[:, 2:] / 8
    place[:, :2] += 4 * progress * (1 - progress) @ rise
    return place


def _pulse(
    t: np.ndarray, up: np.ndarray, rise: np.ndarray, down: np.ndarray, fall: np.ndarray
) -> np.ndarray:
    """Return (frames, steps): 0, eased to 1 from `up` within `rise`, back to 0 from `down`."""
    return ease((t[:, None] - up) / rise) - ease((t[:, None] - down) / fall)


def _place_foot(
    body: Body,
    place: np.ndarray,
    pitch: np.ndarray,
    on_heel: np.ndarray,
    height: np.ndarray,
    airborne: np.ndarray,
) -> _Foot:
    """Give ankle, ball and toe of a foot that is pitched by `pitch`, toes up where positive."""
    ball_forward = np.sqrt(body.foot**2 - (body.ankle - body.ball) ** 2)
    ankle = np.array([0, body.ankle])
    ball = np.array([ball_forward, body.ball])
    heel = np.array([-0.3 * ball_forward, 0])
    about_heel = heel + _tilt(ankle - heel, pitch)
    about_ball = ball + _tilt(ankle - ball, pitch)
    weight = on_heel[:, None]
    ankle_now = weight * about_heel + (1 - weight) * about_ball
    ball_now = ankle_now + _tilt(ball - ankle, pitch)
    drop = body.ball * 0.5
    toe_now = ball_now + _tilt(np.array([np.sqrt(body.toe**2 - drop**2), -drop]), on_heel * pitch)
    points = [_to_world(point, place, height) for point in (ankle_now, ball_now, toe_now)]
    return _Foot(*points, heading=place[:, 2], airborne=airborne)


def _tilt(vector: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Turn (forward, up) by (frames,) angles, upwards where positive; returns (frames, 2)."""
    c, s = np.cos(pitch), np.sin(pitch)
    return np.stack([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]], axis=-1)


def _to_world(point: np.ndarray, place: np.ndarray, height: np.ndarray) -> np.ndarray:
    x = place[:, 0] + np.cos(place[:, 2]) * point[:, 0]
    y = place[:, 1] + np.sin(place[:, 2]) * point[:, 0]
    return np.stack([x, y, point[:, 1] + height], axis=-1)


def _ahead(foot: _Foot, ground: np.ndarray) -> np.ndarray:
    """Return how far the foot is ahead of the body, metres, (frames,)."""
    away = foot.ankle[:, :2] - ground[:, :2]
    return away[:, 0] * np.cos(ground[:, 2]) + away[:, 1] * np.sin(ground[:, 2])


def _pelvis_axes(
    performance: Performance, feet: dict[int, _Foot], strides: dict[int, np.ndarray]
) -> np.ndarray:
    """Return (frames, 3, 3): the pelvis turns with the stride and drops on the swinging side."""
    upright = ease((performance.height - 0.6) / 0.3)
    yaw = 0.22 * upright * (strides[RIGHT] - strides[LEFT])
    roll = 0.05 * upright * smooth(feet[RIGHT].airborne - feet[LEFT].airborne, 0.06)
    heading = performance.ground[:, 2] + yaw + 0.3 * performance.trunk[:, 0]
    pitch = 0.35 * performance.trunk[:, 1]
    return rotation(heading, pitch, roll + 0.2 * performance.trunk[:, 2])


def _pelvis_position(
    body: Body, performance: Performance, feet: dict[int, _Foot], axes: np.ndarray
) -> np.ndarray:
    """Return (frames, 3): over the supporting foot, and as high as both legs reach."""
    heading = performance.ground[:, 2]
    sway = 0.035 * smooth(feet[RIGHT].airborne - feet[LEFT].airborne, 0.1)
    forward, left = performance.shift[:, 0], performance.shift[:, 1] + sway
    pelvis = np.empty_like(performance.ground)
    pelvis[:, 0] = performance.ground[:, 0] + np.cos(heading) * forward - np.sin(heading) * left
    pelvis[:, 1] = performance.ground[:, 1] + np.sin(heading) * forward + np.cos(heading) * left
    wanted = performance.height * (0.996 * body.leg + body.ankle)
    pelvis[:, 2] = 0
    limits = [wanted]
    for side in SIDES:
        hip = pelvis + rotate(axes, np.array([0, side * body.hip, 0]))
        apart = np.sum((feet[side].ankle - hip)[:, :2] ** 2, axis=-1)
        reach = np.sqrt(np.maximum((0.993 * body.leg) ** 2 - apart, 0.01))
        limits.append(feet[side].ankle[:, 2] + reach - hip[:, 2])
    lowest = _soft_minimum(np.stack(limits), 0.004)
    pelvis[:, 2] = smooth(_running_minimum(lowest, 3), 0.06)
    return pelvis


def _running_minimum(x: np.ndarray, radius: int) -> np.ndarray:
    padded = np.pad(x, radius, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1).min(axis=-1)


def _soft_minimum(x: np.ndarray, softness: float) -> np.ndarray:
    lowest = x.min(axis=0)
    return lowest - softness * np.log(np.exp((lowest - x) / softness).sum(axis=0))


def _leg(body: Body, pelvis: np.ndarray, axes: np.ndarray, foot: _Foot, side: int) -> np.ndarray:
    """Return hip, knee, ankle, ball and toe, (frames, 5, 3); knees follow the foot's heading."""
    hip = pelvis + rotate(axes, np.array([0, side * body.hip, 0]))
    forward = axes[:, :, 0] + np.stack(
        [np.cos(foot.heading), np.sin(foot.heading), np.full(len(pelvis), 0.7)], axis=-1
    )
    knee, ankle = two_bones(hip, foot.ankle, forward, body.thigh, body.shin, _LEG_REACH)
    moved = ankle - foot.ankle
    return np.stack([hip, knee, ankle, foot.ball + moved, foot.toe + moved], axis=1)


def _trunk(
    body: Body, performance: Performance, twist: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fill in joints 12 to 15; return the axes of chest and head, (frames, 3, 3) each."""
    trunk, gaze = performance.trunk, performance.gaze
    heading = performance.ground[:, 2] + twist
    chest_axes = rotation(heading + trunk[:, 0], trunk[:, 1], trunk[:, 2])
    middle_axes = rotation(heading + 0.6 * trunk[:, 0], 0.6 * trunk[:, 1], 0.6 * trunk[:, 2])
    # The head makes up for most of what the trunk bends and turns, so that the gaze is steady.
    level = gaze[:, 1] - 0.7 * trunk[:, 1]
    head_axes = chest_axes @ rotation(gaze[:, 0] - twist, level, gaze[:, 2])
    neck_axes = chest_axes @ rotation(0.5 * gaze[:, 0], 0.5 * level + 0.38, 0.5 * gaze[:, 2])
    joints[:, 12] = joints[:, 0] + body.spine * middle_axes[:, :, 2]
    joints[:, 13] = joints[:, 12] + body.chest * chest_axes[:, :, 2]
    joints[:, 14] = joints[:, 13] + body.neck * neck_axes[:, :, 2]
    joints[:, 15] = joints[:, 14] + body.head * _unit(head_axes @ np.array([-0.15, 0, 1.0]))
    return chest_axes, head_axes


def _arm(
    body: Body,
    performance: Performance,
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
    joints: np.ndarray,
    side: int,
    swing: np.ndarray,
) -> np.ndarray:
    """Return the eight joints from the collar bone to the wrist's end, (frames, 8, 3)."""
    chest_axes, head_axes, hip_axes = frames
    upright = rotation(np.arctan2(chest_axes[:, 1, 0], chest_axes[:, 0, 0]), 0.0, 0.0)
    reaches = _reaches(performance, side)
    neck = joints[:, 13]
    shoulder = neck + body.clavicle * _clavicle(chest_axes, reaches["shoulder"], side)
    offset = _swung(reaches["shoulder"], reaches["swing"] * swing) * body.arm
    targets = (
        shoulder + rotate(upright, _mirror(offset, side)),
        joints[:, 14] + rotate(head_axes, _mirror(reaches["head"], side)),
        joints[:, 0] + rotate(hip_axes, _mirror(reaches["hip"], side)),
    )
    target = sum(reaches["weights"][:, i, None] * at for i, at in enumerate(targets))
    away = _mirror(rotate(upright.swapaxes(1, 2), target - shoulder), side)
    away = away + _detour(performance, side, away, body) + performance.hand_motion[side]
    elbow_direction = _elbow_direction(performance, side, _unit(away))
    target = shoulder + rotate(upright, _mirror(away, side))
    pole = rotate(upright, _mirror(elbow_direction, side))
    elbow, wrist = two_bones(shoulder, target, pole, body.upper_arm, body.forearm, _ARM_REACH)
    forearm = _unit(wrist - elbow)
    hand = wrist + body.hand * forearm
    # With the palm turned inwards the thumb is on the side to which the elbow bends.
    bend = shoulder - elbow
    across = _unit(bend - np.sum(bend * forearm, axis=-1, keepdims=True) * forearm)
    thumb = wrist + body.thumb * _unit(forearm + 0.8 * across)
    return np.stack([neck, shoulder, elbow, wrist, wrist, thumb, hand, hand], axis=1)


def _detour(performance: Performance, side: int, away: np.ndarray, body: Body) -> np.ndarray:
    """Return (frames, 3), metres, that leads a hand round the shoulder and the trunk.

    Args:
        performance: whose hand moves.
        side: which hand.
        away: (frames, 3), metres, from the shoulder to where the hand should be.
        body: whose arm it is.
    """
    _, starts, durations, frames = _arrivals(performance, side)
    begin, end = away[frames[:-1]], away[frames[1:]]
    push = _push(begin, end, 0.6 * body.arm, 0.25 * body.arm * np.array([0.8, 0.6, 0.0]))
    axis, level = np.array([0.0, -body.clavicle, 0.0]), np.array([1, 1, 0])
    push += _push((begin - axis) * level, (end - axis) * level, 0.21, np.array([0.05, 0.1, 0.0]))
    return bump((performance.t[:, None] - starts) / durations) @ push


def _push(begin: np.ndarray, end: np.ndarray, clearance: float, bias: np.ndarray) -> np.ndarray:
    """Return (moves, 3): how to keep straight moves clear of the origin, rather towards `bias`."""
    chord = end - begin
    along = -np.sum(begin * chord, axis=-1) / np.maximum(np.sum(chord**2, axis=-1), 1e-9)
    nearest = begin + np.clip(along, 0, 1)[:, None] * chord
    distance = np.linalg.norm(nearest, axis=-1, keepdims=True)
    return np.maximum(clearance - distance, 0) * _unit(nearest + bias)


def _arrivals(
    performance: Performance, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return poles of a hand's reaches, start and duration of the moves between, arrival frames."""
    moves = performance.hands[side]
    poles = np.array([move.reach.pole for move in moves])
    starts = np.array([move.start for move in moves[1:]])
    durations = np.array([move.duration for move in moves[1:]])
    arrivals = np.searchsorted(performance.t, [performance.t[0], *(starts + durations)])
    return poles, starts, durations, np.clip(arrivals, 0, len(performance.t) - 1)


def _elbow_direction(performance: Performance, side: int, line: np.ndarray) -> np.ndarray:
    """Return where the elbow points, (frames, 3): forward, outward, up.

    Each reach says where the elbow points once the hand is there. Between reaches the arm swivels
    about the line from shoulder to wrist by the shorter way, relative to a direction that turns
    with that line as little as it must.

    Args:
        performance: whose hand moves.
        side: which hand.
        line: (frames, 3), unit, from shoulder to wrist: forward, outward, up.
    """
    # The only line without a direction is opposite to `usual`, where no hand ever is.
    usual = np.array([0.8, 0.6, 0.0])
    elbow = np.array([0.0, 0.0, -1.0])
    down = elbow - (line @ elbow / (1 + line @ usual))[:, None] * (line + usual)
    across = np.cross(line, down)
    poles, starts, durations, frames = _arrivals(performance, side)
    swivels = np.arctan2(
        np.sum(poles * across[frames], axis=-1), np.sum(poles * down[frames], axis=-1)
    )
    swivel = keyed(performance.t, starts, durations, np.unwrap(swivels))[:, None]
    return np.cos(swivel) * down + np.sin(swivel) * across


def _mirror(vectors: np.ndarray, side: int) -> np.ndarray:
    """Turn (forward, outward, up) into the body's axes (forward, left, up)."""
    return vectors * np.array([1, side, 1])


def _reaches(performance: Performance, side: int) -> dict[str, np.ndarray]:
    """Return offsets in each frame of reference, their weights (frames, 3), and the swing."""
    moves = performance.hands[side]
    starts = [move.start for move in moves[1:]]
    durations = [move.duration for move in moves[1:]]
    values = {"shoulder": [], "head": [], "hip": [], "weights": [], "swing": []}
    names = ("shoulder", "head", "hip")
    for move in moves:
        for name in names:
            stays = values[name][-1] if values[name] else _first(moves, name)
            values[name].append(move.reach.offset if move.reach.frame == name else stays)
        values["weights"].append([float(move.reach.frame == name) for name in names])
        values["swing"].append(move.reach.swing)
    return {name: keyed(performance.t, starts, durations, v) for name, v in values.items()}


def _first(moves: list[HandMove], frame: str) -> tuple[float, float, float]:
    """Return the first offset in this frame of reference: what is not yet used may be anything."""
    offsets = [move.reach.offset for move in moves if move.reach.frame == frame]
    return offsets[0] if offsets else (0.2, 0.1, -0.6)


def _swung(offset: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Swing the arm forward by an angle; the elbow gives as it comes forward."""
    c, s = np.cos(angle), np.sin(angle)
    shorter = 1 - 0.06 * (angle + np.hypot(angle, 0.15))
    forward = c * offset[:, 0] - s * offset[:, 2]
    up = s * offset[:, 0] + c * offset[:, 2]
    return np.stack([forward, offset[:, 1], up], axis=-1) * shorter[:, None]


def _clavicle(chest_axes: np.ndarray, offset: np.ndarray, side: int) -> np.ndarray:
    """Return the collar bone's direction: it rises and comes forward with the hand."""
    rise = 0.45 * ease((offset[:, 2] + 0.3) / 1.3) - 0.15
    forward = 0.30 * ease(offset[:, 0] / 1.2) - 0.04
    local = np.stack([forward, np.full(len(rise), float(side)), rise], axis=-1)
    return _unit(rotate(chest_axes, local))
