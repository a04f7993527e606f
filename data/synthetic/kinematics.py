"""From an actor's movements to joints: planted feet, a pelvis on the legs, hands that reach.

All functions work on every frame of a clip at once; axes and angles are those of `body.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.motion import unit
from data.synthetic.actor import Actor
from data.synthetic.body import LEFT, RIGHT, SIDES, Body, HandMove, Step
from data.synthetic.curves import bump, ease, glide, interpolate, keyed, smooth
from data.synthetic.geometry import perpendicular, rotate, rotation, two_bones

# Human3.6M's 32 joints: 0 hips; 1-5 right and 6-10 left leg (hip, knee, foot, toe base, toe end);
# 11 spine, 12 upper spine, 13 neck, 14 head, 15 its top; 16-23 left and 24-31 right arm (shoulder,
# arm, forearm, hand, thumb, its end, wrist's end, its end).
_LEG_JOINTS = {LEFT: slice(6, 11), RIGHT: slice(1, 6)}
_ARM_JOINTS = {LEFT: slice(16, 24), RIGHT: slice(24, 32)}

# Nose, left and right eye, left and right ear in the head's frame, whose origin is joint 14.
_FACE_POINTS_M = np.array(
    [[0.105, 0, -0.01], [0.08, 0.032, 0.025], [0.08, -0.032, 0.025], [0, 0.075, 0], [0, -0.075, 0]]
)

# A limb is never quite straight. In lengths of the limb: where it begins to resist, its longest.
_LEG_REACH = (0.985, 0.9985)
_ARM_REACH = (0.94, 0.992)


class Motion(NamedTuple):
    """What a body did: metres, world."""

    joints: np.ndarray  # (frames, 32, 3)
    face: np.ndarray  # (frames, 5, 3): nose, left and right eye, left and right ear


def animate(actor: Actor) -> Motion:
    """Turn an actor's movements into joints.

    Feet stand where they were planted; the pelvis is as high as the legs allow; trunk, head and
    arms follow by forward kinematics, arms swinging against the legs.
    """
    body = actor.body
    feet = {side: _move_foot(actor, side) for side in SIDES}
    pelvis, pelvis_axes = _move_pelvis(actor, feet)
    joints = np.empty((len(actor.t), 32, 3))
    joints[:, [0, 11]] = pelvis[:, None]
    for side in SIDES:
        joints[:, _LEG_JOINTS[side]] = _leg(body, pelvis, pelvis_axes, feet[side], side)
    # The chest turns against the pelvis.
    twist = 0.1 * (feet[LEFT].ahead - feet[RIGHT].ahead)
    chest_axes, head_axes = _trunk(actor, twist, joints)
    for side in SIDES:
        swing = feet[-side].ahead / body.leg * body.arm_swing
        axes = (chest_axes, head_axes, pelvis_axes)
        joints[:, _ARM_JOINTS[side]] = _arm(actor, side, swing, joints, axes)
    face = joints[:, None, 14] + rotate(head_axes[:, None], _FACE_POINTS_M * body.stature / 1.75)
    return Motion(joints, face)


# --- feet and legs ------------------------------------------------------------------------------


class _Foot(NamedTuple):
    ankle: np.ndarray  # (frames, 3)
    ball: np.ndarray  # (frames, 3)
    toe: np.ndarray  # (frames, 3)
    heading: np.ndarray  # (frames,)
    airborne: np.ndarray  # (frames,), 0 on the floor to 1 in mid-swing
    ahead: np.ndarray  # (frames,), metres in front of the body


def _move_foot(actor: Actor, side: int) -> _Foot:
    """Lift, carry and plant one foot: heel off, swing, heel strike, flat.

    While the heel is up the foot turns about its ball, while the toes are up about its heel, so
    that what touches the floor stays where it is.
    """
    t = actor.t
    steps = [s for s in actor.steps if s.side == side and s.lift > t[0]]
    places = _footprints(actor, side, steps)
    lifts, lands = np.array([(s.lift, s.land) for s in steps]).reshape(-1, 2).T
    swings = lands - lifts
    stride = np.minimum(np.linalg.norm(np.diff(places[:, :2], axis=0), axis=-1) / 1.1, 1)
    air = bump((t[:, None] - lifts) / swings)

    def pulse(up: np.ndarray, rise: np.ndarray, down: np.ndarray, fall: np.ndarray) -> np.ndarray:
        """Go to 1 from `up` within `rise`, back to 0 from `down` within `fall`, for each step."""
        return ease((t[:, None] - up) / rise) - ease((t[:, None] - down) / fall)

    # Heel off before the lift, toes up before the landing.
    heel_up = pulse(lifts - 0.22, 0.22 + 0.2 * swings, lifts + 0.1 * swings, 0.5 * swings)
    toes_up = pulse(lifts + 0.45 * swings, 0.5 * swings, lands - 0.02, 0.13)
    on_heel = pulse(lifts + 0.4 * swings, 0.4 * swings, lands + 0.11, 0.06).sum(axis=1)
    pitch = toes_up @ (0.30 * stride) - heel_up @ (0.15 + 0.6 * stride)
    height = air @ (0.035 + 0.045 * stride)

    # From place to place, round the curve on which the body turns: the arc above a chord c that
    # turns by an angle a rises to c a / 8. And the swinging leg goes round the standing one.
    place = keyed(t, lifts, swings, places, glide)
    progress = glide((t[:, None] - lifts) / swings)
    chord = np.diff(places, axis=0)
    rise = np.column_stack([chord[:, 1], -chord[:, 0]]) * chord[:, 2:] / 8
    place[:, :2] += 4 * progress * (1 - progress) @ rise
    airborne = air.sum(axis=1)
    place[:, :2] = _beside(place, 0.0, side * 0.03 * airborne)

    points = [
        np.column_stack([_beside(place, point[:, 0], 0.0), point[:, 1] + height])
        for point in _pitched_foot(actor.body, pitch, on_heel)
    ]
    away, heading = points[0][:, :2] - actor.ground[:, :2], actor.ground[:, 2]
    ahead = away[:, 0] * np.cos(heading) + away[:, 1] * np.sin(heading)
    return _Foot(*points, place[:, 2], airborne, ahead)


def _footprints(actor: Actor, side: int, steps: list[Step]) -> np.ndarray:
    """Return where the foot stands before its steps and after each, (steps + 1, 3).

    A foot comes down where the body will be in the middle of the foot's stay on the floor.
    """
    lands = np.array([actor.t[0], *(s.land for s in steps)])
    next_lifts = np.array([*(s.lift for s in steps), np.inf])
    middle = lands + np.minimum(0.47 * (next_lifts - lands), 0.3)
    ground = interpolate(middle, actor.t, actor.ground)
    forward = np.array([0, *(s.forward for s in steps)])
    outward = side * (actor.stance + np.array([0, *(s.outward for s in steps)]))
    heading = ground[:, 2] + side * actor.body.toe_out
    return np.column_stack([_beside(ground, forward, outward), heading])


def _beside(ground: np.ndarray, forward: np.ndarray, left: np.ndarray | float) -> np.ndarray:
    """Return the points (n, 2) forward and left of places and headings (n, 3) on the floor."""
    x, y, yaw = ground.T
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([x + c * forward - s * left, y + s * forward + c * left], axis=-1)


def _pitched_foot(body: Body, pitch: np.ndarray, on_heel: np.ndarray) -> list[np.ndarray]:
    """Return ankle, ball and toe, forward and up (frames, 2), where a positive pitch is toes up."""

    def tilt(vector: np.ndarray, pitch: np.ndarray) -> np.ndarray:
        c, s = np.cos(pitch), np.sin(pitch)
        return np.stack([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]], axis=-1)

    ball_forward = np.sqrt(body.foot**2 - (body.ankle - body.ball) ** 2)
    ankle = np.array([0, body.ankle])
    ball = np.array([ball_forward, body.ball])
    heel = np.array([-0.3 * ball_forward, 0])
    about_heel = heel + tilt(ankle - heel, pitch)
    about_ball = ball + tilt(ankle - ball, pitch)
    weight = on_heel[:, None]
    ankle_now = weight * about_heel + (1 - weight) * about_ball
    ball_now = ankle_now + tilt(ball - ankle, pitch)
    drop = body.ball * 0.5
    toe = np.array([np.sqrt(body.toe**2 - drop**2), -drop])
    return [ankle_now, ball_now, ball_now + tilt(toe, on_heel * pitch)]


def _move_pelvis(actor: Actor, feet: dict[int, _Foot]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pelvis, (frames, 3), and its axes, (frames, 3, 3).

    It turns with the stride, drops on the swinging side, and is over the supporting foot, as high
    as both legs reach.
    """
    body, heading = actor.body, actor.ground[:, 2]
    swinging = feet[RIGHT].airborne - feet[LEFT].airborne
    upright = ease((actor.height - 0.6) / 0.3)
    yaw = 0.22 * upright * (feet[RIGHT].ahead - feet[LEFT].ahead)
    roll = 0.05 * upright * smooth(swinging, 0.06)
    turn, bend, tilt = actor.trunk.T
    axes = rotation(heading + yaw + 0.3 * turn, 0.35 * bend, roll + 0.2 * tilt)
    sway = 0.035 * smooth(swinging, 0.1)
    pelvis = np.zeros_like(actor.ground)
    pelvis[:, :2] = _beside(actor.ground, actor.shift[:, 0], actor.shift[:, 1] + sway)
    heights = [actor.height * (0.996 * body.leg + body.ankle)]
    for side in SIDES:
        hip = pelvis + rotate(axes, np.array([0, side * body.hip, 0]))
        apart = np.sum((feet[side].ankle - hip)[:, :2] ** 2, axis=-1)
        reach = np.sqrt(np.maximum((0.993 * body.leg) ** 2 - apart, 0.01))
        heights.append(feet[side].ankle[:, 2] + reach - hip[:, 2])
    pelvis[:, 2] = smooth(_soft_minimum(np.stack(heights)), 0.06)
    return pelvis, axes


def _soft_minimum(x: np.ndarray) -> np.ndarray:
    """Return the smooth minimum of (n, frames) over n, then the least within three frames."""
    lowest, softness = x.min(axis=0), 0.004
    soft = lowest - softness * np.log(np.exp((lowest - x) / softness).sum(axis=0))
    return np.lib.stride_tricks.sliding_window_view(np.pad(soft, 3, mode="edge"), 7).min(axis=-1)


def _leg(body: Body, pelvis: np.ndarray, axes: np.ndarray, foot: _Foot, side: int) -> np.ndarray:
    """Return hip, knee, ankle, ball and toe, (frames, 5, 3); knees follow the foot's heading."""
    hip = pelvis + rotate(axes, np.array([0, side * body.hip, 0]))
    ahead = [np.cos(foot.heading), np.sin(foot.heading), np.full(len(pelvis), 0.7)]
    forward = axes[:, :, 0] + np.stack(ahead, axis=-1)
    knee, ankle = two_bones(hip, foot.ankle, forward, body.thigh, body.shin, _LEG_REACH)
    moved = ankle - foot.ankle
    return np.stack([hip, knee, ankle, foot.ball + moved, foot.toe + moved], axis=1)


# --- trunk and arms -----------------------------------------------------------------------------


def _trunk(actor: Actor, twist: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill in joints 12 to 15; return the axes of chest and head, (frames, 3, 3) each."""
    body, trunk, gaze = actor.body, actor.trunk, actor.gaze
    heading = actor.ground[:, 2] + twist
    turn, bend, tilt = trunk.T
    chest_axes = rotation(heading + turn, bend, tilt)
    middle_axes = rotation(heading + 0.6 * turn, 0.6 * bend, 0.6 * tilt)
    # The head compensates most of what the trunk bends and turns, so that the gaze is steady.
    level = gaze[:, 1] - 0.7 * bend
    head_axes = chest_axes @ rotation(gaze[:, 0] - twist, level, gaze[:, 2])
    neck_axes = chest_axes @ rotation(0.5 * gaze[:, 0], 0.5 * level + 0.38, 0.5 * gaze[:, 2])
    joints[:, 12] = joints[:, 0] + body.spine * middle_axes[:, :, 2]
    joints[:, 13] = joints[:, 12] + body.chest * chest_axes[:, :, 2]
    joints[:, 14] = joints[:, 13] + body.neck * neck_axes[:, :, 2]
    joints[:, 15] = joints[:, 14] + body.head * unit(head_axes @ np.array([-0.15, 0, 1.0]))
    return chest_axes, head_axes


def _arm(
    actor: Actor, side: int, swing: np.ndarray, joints: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the eight joints from the collar bone to the wrist's end, (frames, 8, 3).

    The axes are those of chest, head and pelvis, (frames, 3, 3) each.
    """
    body, (chest_axes, head_axes, hip_axes) = actor.body, axes
    upright = rotation(np.arctan2(chest_axes[:, 1, 0], chest_axes[:, 0, 0]), 0.0, 0.0)
    mirror = np.array([1, side, 1])  # outward to left, and back
    path = _HandPath(actor.t, actor.hands[side])
    neck, at_shoulder = joints[:, 13], path.offset("shoulder")
    shoulder = neck + body.clavicle * _clavicle(chest_axes, at_shoulder, side)
    swung = _swing(at_shoulder, path.follow([r.swing for r in path.reaches]) * swing) * body.arm
    targets = {
        "shoulder": shoulder + rotate(upright, swung * mirror),
        "head": joints[:, 14] + rotate(head_axes, path.offset("head") * mirror),
        "hip": joints[:, 0] + rotate(hip_axes, path.offset("hip") * mirror),
    }
    weights = path.follow([[float(r.frame == frame) for frame in targets] for r in path.reaches])
    target = sum(weights[:, i, None] * at for i, at in enumerate(targets.values()))
    away = rotate(upright.swapaxes(1, 2), target - shoulder) * mirror
    away = away + path.detour(away, body) + actor.hand_motion[side]
    target = shoulder + rotate(upright, away * mirror)
    pole = rotate(upright, path.elbow(unit(away)) * mirror)
    elbow, wrist = two_bones(shoulder, target, pole, body.upper_arm, body.forearm, _ARM_REACH)
    forearm = unit(wrist - elbow)
    hand = wrist + body.hand * forearm
    # With the palm turned inwards the thumb is on the side to which the elbow bends.
    thumb = wrist + body.thumb * unit(forearm + 0.8 * perpendicular(shoulder - elbow, forearm))
    return np.stack([neck, shoulder, elbow, wrist, wrist, thumb, hand, hand], axis=1)


class _HandPath:
    """One hand's way from reach to reach; vectors are forward, outward, up."""

    def __init__(self, t: np.ndarray, moves: list[HandMove]) -> None:
        self.t = t
        self.reaches = [move.reach for move in moves]
        self.starts = np.array([move.start for move in moves[1:]])
        self.durations = np.array([move.duration for move in moves[1:]])
        arrivals = np.searchsorted(t, [t[0], *(self.starts + self.durations)])
        self.arrivals = np.minimum(arrivals, len(t) - 1)

    def follow(self, values: list) -> np.ndarray:
        """Return (frames, ...) that goes through one value for each reach, (reaches, ...)."""
        return keyed(self.t, self.starts, self.durations, values)

    def offset(self, frame: str) -> np.ndarray:
        """Return the offset in one frame of reference, (frames, 3), held where others are used."""
        used = [reach.offset for reach in self.reaches if reach.frame == frame]
        held = [used[0] if used else (0.2, 0.1, -0.6)]
        for reach in self.reaches:
            held.append(reach.offset if reach.frame == frame else held[-1])
        return self.follow(held[1:])

    def detour(self, away: np.ndarray, body: Body) -> np.ndarray:
        """Return (frames, 3), metres, that leads the hand round the shoulder and the trunk.

        Without it, the hand is at `away` (frames, 3), metres from the shoulder.
        """
        begin, end = away[self.arrivals[:-1]], away[self.arrivals[1:]]
        push = _push(begin, end, 0.6 * body.arm, 0.25 * body.arm * np.array([0.8, 0.6, 0.0]))
        axis, level = np.array([0.0, -body.clavicle, 0.0]), np.array([1, 1, 0])
        bias = np.array([0.05, 0.1, 0.0])
        push += _push((begin - axis) * level, (end - axis) * level, 0.21, bias)
        return bump((self.t[:, None] - self.starts) / self.durations) @ push

    def elbow(self, line: np.ndarray) -> np.ndarray:
        """Return where the elbow points, (frames, 3), given the unit vectors to the wrist.

        Each reach says where the elbow points once the hand is there. Between reaches the arm
        swivels about the line from shoulder to wrist by the shorter way, relative to a direction
        that turns with that line as little as possible.
        """
        # The only line without a direction is opposite to `usual`, where no hand ever is.
        usual = np.array([0.8, 0.6, 0.0])
        elbow = np.array([0.0, 0.0, -1.0])
        down = elbow - (line @ elbow / (1 + line @ usual))[:, None] * (line + usual)
        across = np.cross(line, down)
        poles = np.array([reach.pole for reach in self.reaches])
        sine, cosine = (np.sum(poles * axis[self.arrivals], axis=-1) for axis in (across, down))
        swivel = self.follow(np.unwrap(np.arctan2(sine, cosine)))[:, None]
        return np.cos(swivel) * down + np.sin(swivel) * across


def _push(begin: np.ndarray, end: np.ndarray, clearance: float, bias: np.ndarray) -> np.ndarray:
    """Return (moves, 3): how to keep straight moves off the origin, preferably towards `bias`."""
    chord = end - begin
    along = -np.sum(begin * chord, axis=-1) / np.maximum(np.sum(chord**2, axis=-1), 1e-9)
    nearest = begin + np.clip(along, 0, 1)[:, None] * chord
    distance = np.linalg.norm(nearest, axis=-1, keepdims=True)
    return np.maximum(clearance - distance, 0) * unit(nearest + bias)


def _swing(offset: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Swing the arm forward by an angle; the elbow bends as it comes forward."""
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
    return unit(rotate(chest_axes, local))
