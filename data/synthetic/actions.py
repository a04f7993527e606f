"""Human3.6M's 15 actions as an articulated body performs them, each time in another way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from common.h36m_dataset import FPS
from data.synthetic.body import (
    LEFT,
    RIGHT,
    SIDES,
    Body,
    HandMove,
    Motion,
    Performance,
    Reach,
    Step,
    animate,
    bump,
    ease,
    keyed,
    wobble,
)

# Performed before and after a clip, so that it begins and ends in the middle of an action.
_MARGIN_S = 2.0

HANG = Reach("shoulder", (0.05, 0.11, -0.972), (-1.0, 0.3, 0.0), swing=1.0)
ON_HIP = Reach("hip", (0.03, 0.21, 0.12), (-0.6, 1.0, 0.0))
IN_POCKET = Reach("hip", (0.09, 0.20, -0.04), (-1.0, 0.5, 0.0))
BEHIND_BACK = Reach("hip", (-0.17, 0.05, 0.06), (-0.3, 1.0, 0.0))
CROSSED = Reach("shoulder", (0.34, -0.34, -0.42), (0.1, 0.6, -1.0))
ON_THIGH = Reach("hip", (0.30, 0.14, 0.12), (-0.7, 0.6, -0.4))
ON_LAP = Reach("hip", (0.20, 0.03, 0.12), (-0.6, 0.8, -0.4))
ON_TABLE = Reach("shoulder", (0.52, -0.10, -0.52), (-0.4, 0.8, -0.6))
ON_FLOOR_BEHIND = Reach("hip", (-0.24, 0.27, -0.05), (-0.8, 0.5, 0.2))
AROUND_KNEES = Reach("hip", (0.42, 0.07, 0.22), (-0.2, 0.8, -0.6))
AT_EAR = Reach("head", (0.11, 0.125, -0.03), (0.4, 0.6, -0.8))
AT_MOUTH = Reach("head", (0.17, 0.05, -0.15), (0.1, 0.7, -0.8))
AT_CHIN = Reach("head", (0.17, 0.02, -0.16), (0.3, 0.4, -1.0))
AT_CAMERA = Reach("head", (0.25, 0.08, -0.05), (0.0, 0.7, -0.9))
BEFORE_CHEST = Reach("shoulder", (0.50, -0.12, -0.38), (-0.3, 0.6, -0.8))
WATCH = Reach("shoulder", (0.48, -0.22, -0.12), (0.1, 0.7, -0.8))
RAISED = Reach("shoulder", (0.25, 0.35, 0.50), (-0.1, 0.8, -0.7))
BOW = Reach("shoulder", (0.30, 0.0, -0.62), (-0.6, 0.7, -0.3))
HANDSHAKE = Reach("shoulder", (0.74, -0.10, -0.38), (-0.3, 0.3, -0.9))
CIGARETTE = Reach("shoulder", (0.38, 0.12, -0.58), (-0.6, 0.5, -0.6))
LEASH = Reach("shoulder", (0.66, 0.10, -0.50), (-0.4, 0.4, -0.8))
BASKET = Reach("shoulder", (0.30, 0.10, -0.56), (-0.7, 0.5, -0.5))
OVERHEAD = Reach("shoulder", (0.10, 0.25, 0.88), (0.2, 0.9, -0.1))
BEHIND_HEAD = Reach("head", (-0.07, 0.16, 0.09), (0.2, 1.0, 0.1))
FLEXED = Reach("shoulder", (0.10, 0.62, 0.22), (-0.2, 0.7, -0.6))
SPREAD = Reach("shoulder", (0.15, 0.92, 0.0), (-0.7, 0.0, -0.7))


@dataclass(frozen=True)
class Arena:
    """An ellipse on the floor.

    Attributes:
        centre: (2,), metres.
        axes: (2, 2), whose columns are the semi-axes, metres.
    """

    centre: np.ndarray
    axes: np.ndarray

    def place(self, disk: np.ndarray) -> np.ndarray:
        """Map points (..., 2) of the unit disk to the floor."""
        return self.centre + disk @ self.axes.T

    def rounder(self, longest: float) -> "Arena":
        """Return an ellipse inside this one, no longer than `longest` times its width."""
        lengths = np.linalg.norm(self.axes, axis=0)
        return replace(self, axes=self.axes * np.minimum(longest * lengths.min() / lengths, 1))

    def shrunk(self, factor: float) -> "Arena":
        """Return the same ellipse, smaller."""
        return replace(self, axes=self.axes * factor)


def perform(action: str, body: Body, arena: Arena, frames: int, rng: np.random.Generator) -> Motion:
    """Perform an action.

    Args:
        action: one of `ACTION_SCRIPTS`.
        body: who.
        arena: where the body may walk.
        frames: length of the clip at 50 Hz.
        rng: source of chance; the same state gives the same clip.

    Returns:
        `frames` frames of motion.
    """
    margin = round(_MARGIN_S * FPS)
    t = (np.arange(frames + 2 * margin) - margin) / FPS
    motion = animate(body, ACTION_SCRIPTS[action](rng, t, body, arena))
    clip = slice(margin, margin + frames)
    return Motion(motion.joints[clip], motion.face[clip])


# --- where the body goes ------------------------------------------------------------------------


def _moments(rng: np.random.Generator, t: np.ndarray, pause: float) -> list[float]:
    """Return times about `pause` seconds apart, the first soon after the beginning."""
    count = int((t[-1] - t[0]) / (0.6 * pause)) + 2
    gaps = pause * rng.uniform(0.6, 1.4, count)
    times = t[0] + rng.uniform(0, pause) + np.cumsum(gaps) - gaps[0]
    return [float(time) for time in times if time < t[-1]]


def _wander(
    rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena, pause: float, far: float
) -> tuple[np.ndarray, list[Step]]:
    """Stand about: between pauses shuffle, turn, or walk to another place.

    Args:
        rng: source of chance.
        t: (frames,), seconds.
        body: who.
        arena: where.
        pause: mean seconds between two moves.
        far: how often a move is a walk instead of a shuffle, 0 to 1.

    Returns:
        Ground (frames, 3) and steps.
    """
    poses = [np.array([*arena.place(_in_disk(rng, 0.8)), rng.uniform(0, 2 * np.pi)])]
    starts, durations, steps = [], [], []
    time = t[0] + rng.uniform(0.2, 1) * pause
    while time < t[-1]:
        for pose in _next_poses(rng, arena, poses[-1], far):
            first, count = _footwork(poses[-1], pose)
            if steps and time - steps[-1].land < 0.5:
                first = -steps[-1].side
            step_time = body.step_time * rng.uniform(1.0, 1.15)
            steps += _strides(time, step_time, first, count)
            poses.append(pose)
            starts.append(time)
            durations.append(step_time * count)
            time += step_time * count
        time += pause * rng.uniform(0.5, 1.5)
    return keyed(t, starts, durations, np.array(poses)), steps


def _in_disk(rng: np.random.Generator, radius: float) -> np.ndarray:
    angle, r = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform())
    return r * np.array([np.cos(angle), np.sin(angle)])


def _next_poses(
    rng: np.random.Generator, arena: Arena, pose: np.ndarray, far: float
) -> list[np.ndarray]:
    """Choose where to go: a shuffle, or a turn towards another place and a walk to it."""
    goal = arena.place(_in_disk(rng, 0.9))
    away = goal - pose[:2]
    if rng.random() > far or np.hypot(*away) < 0.5:
        nearer = pose[:2] + away * min(1, rng.uniform(0.05, 0.3) / np.hypot(*away))
        return [np.array([*nearer, pose[2] + rng.normal(0, 0.5)])]
    turn = np.arctan2(away[1], away[0]) - pose[2]
    heading = pose[2] + (turn + np.pi) % (2 * np.pi) - np.pi
    return [np.array([*pose[:2], heading]), np.array([*goal, heading])]


def _footwork(pose: np.ndarray, goal: np.ndarray) -> tuple[int, int]:
    """Return which foot begins and how many steps the move takes."""
    away, turn = goal[:2] - pose[:2], goal[2] - pose[2]
    left = away[1] * np.cos(pose[2]) - away[0] * np.sin(pose[2]) + 0.3 * turn
    count = 1 + max(1, int(np.ceil(np.hypot(*away) / 0.45)), int(np.ceil(abs(turn) / 0.55)))
    return (LEFT if left > 0 else RIGHT), count


def _strides(start: float, step_time: float, first: int, count: int) -> list[Step]:
    """Return steps of alternate feet; a foot swings for 0.38 of the gait cycle of two steps."""
    lifts = start + step_time * np.arange(count)
    return [
        Step(first if i % 2 == 0 else -first, lift, lift + 0.76 * step_time)
        for i, lift in enumerate(lifts)
    ]


def _stroll(
    rng: np.random.Generator,
    t: np.ndarray,
    body: Body,
    arena: Arena,
    pace: float,
    hesitation: float,
) -> tuple[np.ndarray, list[Step]]:
    """Walk round and round along a curved path, slower where it bends.

    Args:
        rng: source of chance.
        t: (frames,), seconds.
        body: who.
        arena: where.
        pace: speed relative to this person's usual one.
        hesitation: how much the speed varies, as a fraction of it.

    Returns:
        Ground (frames, 3) and steps.
    """
    path, seconds = _path(rng, arena, body.speed * pace, t[-1] - t[0])
    rate = 1 + hesitation * wobble(rng, t, 0.25)[:, 0]
    clock = np.cumsum(np.clip(rate, 0.45, 1.5)) / FPS
    ground = np.stack([np.interp(clock, seconds, column) for column in path.T], axis=-1)
    cadence = np.cumsum(0.35 + 0.65 * np.clip(rate, 0.45, 1.5)) / FPS
    step_time = body.step_time / pace**0.4
    beats = np.arange(rng.uniform(0.3, 1.3), cadence[-1] / step_time) * step_time
    lifts = np.interp(beats, cadence, t)
    first = rng.choice(SIDES)
    steps = [
        Step(first if i % 2 == 0 else -first, lift, lift + 0.76 * (after - lift))
        for i, (lift, after) in enumerate(pairwise(lifts))
    ]
    return ground, steps


def _path(
    rng: np.random.Generator, arena: Arena, speed: float, duration: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve (points, 3) of places and headings, and when each is reached, seconds.

    Speed falls with curvature κ as in human walking along curves: v ∝ κ^(-1/3), the two-thirds
    power law (Hicheur, Vieilledent, Richardson, Flash and Berthoz, 2005), for κ > 0.6 per metre.
    """
    laps = 3 + duration * speed / 3
    psi = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi * laps, int(800 * laps))
    xy = arena.rounder(1.35).place(_loop(rng, psi))
    tangent = np.gradient(xy, axis=0)
    length = np.hypot(*tangent.T)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    curvature = np.abs(np.gradient(heading)) / length
    pace = speed * np.maximum(curvature / 0.6, 1) ** (-1 / 3)
    seconds = np.cumsum(length / pace) - length[0] / pace[0]
    return np.column_stack([xy, heading]), seconds


def _loop(rng: np.random.Generator, psi: np.ndarray) -> np.ndarray:
    """Return a round course in the unit disk that differs from lap to lap."""
    lobes = rng.integers(2, 4)
    depth = 0.25 / (lobes**2 - 1)
    radius = 0.82 + depth * np.cos(lobes * psi + rng.uniform(0, 6)) + 0.06 * np.cos(0.37 * psi)
    direction = rng.choice((-1, 1))
    return radius[:, None] * np.stack([np.cos(psi), direction * np.sin(psi)], axis=-1)


# --- what the body does meanwhile ---------------------------------------------------------------


def _upright(
    rng: np.random.Generator,
    t: np.ndarray,
    body: Body,
    route: tuple[np.ndarray, list[Step]],
    stance: float,
) -> Performance:
    """Return an upright, idle body on its way: it breathes, sways, looks about."""
    ground, steps = route
    shifts = _moments(rng, t, 4)
    sideways = keyed(t, shifts, [1.2] * len(shifts), rng.normal(0, 0.022, len(shifts) + 1))
    return Performance(
        t=t,
        ground=ground,
        steps=steps,
        stance=stance,
        height=np.full(len(t), 1.0),
        shift=np.stack([0.006 * wobble(rng, t, 0.5)[:, 0], sideways], axis=-1),
        trunk=np.array([0, body.stoop, 0]) + 0.025 * wobble(rng, t, 0.4, 3),
        gaze=_look(rng, t, 2.5, 0.35),
        hands={side: [HandMove(t[0], 1, HANG)] for side in SIDES},
        hand_motion={side: 0.008 * wobble(rng, t, 0.8, 3) for side in SIDES},
    )


def _standing(
    rng: np.random.Generator,
    t: np.ndarray,
    body: Body,
    arena: Arena,
    pause: float = 5.0,
    far: float = 0.1,
) -> Performance:
    return _upright(rng, t, body, _wander(rng, t, body, arena, pause, far), body.stance)


def _walking(
    rng: np.random.Generator,
    t: np.ndarray,
    body: Body,
    arena: Arena,
    pace: float = 1.0,
    hesitation: float = 0.04,
) -> Performance:
    route = _stroll(rng, t, body, arena, pace, hesitation)
    return _upright(rng, t, body, route, 0.6 * body.stance)


def _seated(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Return a body on a chair, whose feet move now and then."""
    place = np.array([*arena.place(_in_disk(rng, 0.75)), rng.uniform(0, 2 * np.pi)])
    ground = np.broadcast_to(place, (len(t), 3)).copy()
    steps = [
        Step(rng.choice(SIDES), time, time + 0.7, rng.uniform(-0.16, 0.2), rng.uniform(-0.04, 0.1))
        for time in [t[0] + 0.1, t[0] + 1.0, *(2 + np.array(_moments(rng, t, 4)))]
    ]
    person = _upright(rng, t, body, (ground, steps), body.stance)
    person.height = np.full(len(t), rng.uniform(0.54, 0.60))
    person.shift = person.shift * 0.4 - np.array([rng.uniform(0.40, 0.50), 0])
    slouches = _moments(rng, t, 5)
    pitches = rng.uniform(-0.15, 0.35, len(slouches) + 1)
    person.trunk[:, 1] += keyed(t, slouches, [1.5] * len(slouches), pitches)
    person.hands = {side: [HandMove(t[0], 1, ON_THIGH)] for side in SIDES}
    return person


def _look(rng: np.random.Generator, t: np.ndarray, pause: float, breadth: float) -> np.ndarray:
    """Return gaze angles (frames, 3): the head turns from one thing to another."""
    times = _moments(rng, t, pause)
    angles = np.clip(rng.standard_normal((len(times) + 1, 3)), -2, 2)
    angles *= np.array([breadth, 0.35 * breadth, 0.15 * breadth])
    return keyed(t, times, rng.uniform(0.4, 0.8, len(times)), angles) + 0.02 * wobble(rng, t, 1, 3)


def _gestures(
    rng: np.random.Generator,
    t: np.ndarray,
    body: Body,
    pause: float,
    choose: Callable[[], Reach],
) -> list[HandMove]:
    """Return moves of one hand, about `pause` seconds apart, each to what `choose` returns."""
    times = _moments(rng, t, pause / body.tempo)
    lasting = rng.uniform(0.55, 0.85, len(times)) / body.tempo
    moves = [HandMove(time, lasts, choose()) for time, lasts in zip(times, lasting)]
    return [HandMove(t[0], 1, choose()), *moves]


def _near(rng: np.random.Generator, reach: Reach, scatter: float) -> Reach:
    """Return the same reach, a little elsewhere."""
    change = scatter * np.clip(rng.standard_normal(3), -1.5, 1.5)
    # Not into the belly.
    change[0] = max(change[0], -0.05)
    return replace(reach, offset=tuple(reach.offset + change))


def _one_of(rng: np.random.Generator, reaches: Sequence[Reach], scatter: float = 0.03) -> Reach:
    return _near(rng, reaches[rng.integers(len(reaches))], scatter)


def _pointing(rng: np.random.Generator, forward: float = 0.0) -> Reach:
    """Return an almost straight arm in some direction ahead or to the side."""
    bearing = forward + rng.uniform(-0.5, 1.4)
    up = rng.uniform(-0.25, 0.35)
    horizontal = 0.93 * np.cos(up)
    offset = (horizontal * np.cos(bearing), horizontal * np.sin(bearing), 0.93 * np.sin(up))
    return Reach("shoulder", offset, (-0.4, 0.4, -1.0))


def _talk(
    rng: np.random.Generator, t: np.ndarray, body: Body, person: Performance, sides: Sequence[int]
) -> None:
    """Let hands gesture before the body as in conversation, with beats."""
    for side in sides:
        person.hands[side] = _gestures(
            rng, t, body, 1.4, lambda: _near(rng, BEFORE_CHEST, 0.17 * body.gesture)
        )
        _beat(rng, t, person, side, 0.04 * body.gesture, 1.6)


def _beat(
    rng: np.random.Generator,
    t: np.ndarray,
    person: Performance,
    side: int,
    size: float,
    frequency: float,
) -> None:
    """Add small quick movements of a hand that come and go."""
    envelope = 0.5 + 0.5 * np.tanh(2 * wobble(rng, t, 0.4))
    person.hand_motion[side] = person.hand_motion[side] + size * envelope * wobble(
        rng, t, frequency, 3
    )


def _to_and_fro(
    rng: np.random.Generator,
    t: np.ndarray,
    away: Reach,
    at: Reach,
    period: float,
    stay: float,
    lasting: float = 0.8,
) -> list[HandMove]:
    """Return moves of a hand that goes to `at`, stays a while, and comes back, again and again."""
    moves = [HandMove(t[0], 1, away)]
    for time in _moments(rng, t, period):
        moves.append(HandMove(time, lasting, _near(rng, at, 0.008)))
        moves.append(HandMove(time + lasting + stay, lasting, _near(rng, away, 0.05)))
    return moves


def _swell(t: np.ndarray, start: float, lasting: float) -> np.ndarray:
    """Return (frames,): 0, up to 1 and back to 0 within `lasting` seconds from `start`."""
    return bump((t - start) / lasting)


# --- the actions --------------------------------------------------------------------------------


def _directions(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Point the way with a straight arm, looking there, then back."""
    person = _standing(rng, t, body, arena, pause=4)
    side = body.handed
    moves, looks = [HandMove(t[0], 1, _pointing(rng))], [0.0]
    for time in _moments(rng, t, 2.4 / body.tempo):
        reach = _one_of(rng, [HANG, BEFORE_CHEST]) if rng.random() < 0.3 else _pointing(rng)
        moves.append(HandMove(time, rng.uniform(0.6, 0.9), reach))
        bearing = np.arctan2(side * reach.offset[1], reach.offset[0])
        looks.append(float(np.clip(bearing, -1.3, 1.3)) if reach.offset[2] > -0.35 else 0.0)
    person.hands[side] = moves
    turns = keyed(t, [m.start for m in moves[1:]], [0.7] * (len(moves) - 1), np.array(looks))
    person.trunk[:, 0] += 0.3 * turns
    person.gaze[:, 0] += 0.5 * turns
    if rng.random() < 0.5:
        _beat(rng, t, person, side, 0.05, 1.5)
    else:
        person.hands[-side] = _gestures(
            rng, t, body, 4, lambda: _one_of(rng, [HANG, ON_HIP, BEFORE_CHEST])
        )
    return person


def _discussion(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Talk with both hands, turning from one listener to another."""
    person = _standing(rng, t, body, arena, pause=3.5, far=0.15)
    _talk(rng, t, body, person, SIDES)
    person.gaze = _look(rng, t, 1.8, 0.55)
    person.trunk += 0.06 * wobble(rng, t, 0.5, 3)
    return person


def _eating(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Sit at a table: one hand goes to the mouth and back, the other holds the plate."""
    person = _seated(rng, t, body, arena)
    side = body.handed
    person.hands[side] = _to_and_fro(rng, t, ON_TABLE, AT_MOUTH, 3.6, 0.5)
    person.hands[-side] = _gestures(
        rng, t, body, 6, lambda: _one_of(rng, [ON_TABLE, ON_TABLE, BEFORE_CHEST, ON_THIGH])
    )
    person.gaze[:, 1] += 0.25
    person.trunk[:, 1] += 0.12
    return person


def _greeting(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Wave, bow, hold out a hand."""
    person = _standing(rng, t, body, arena, pause=5, far=0.2)
    side = body.handed
    moves, wave = [HandMove(t[0], 1, HANG)], np.zeros(len(t))
    for time in np.arange(t[0] + rng.uniform(0.8, 1.6), t[-1], 4.2):
        kind = rng.choice(["wave", "wave", "bow", "handshake"])
        stay = rng.uniform(1.6, 2.4)
        reach = {"wave": RAISED, "bow": BOW, "handshake": HANDSHAKE}[kind]
        moves.append(HandMove(time, 0.7, _near(rng, reach, 0.06)))
        moves.append(HandMove(time + 0.7 + stay, 0.8, HANG))
        if kind == "wave":
            wave += _swell(t, time + 0.3, stay + 0.8)
        elif kind == "bow":
            person.trunk[:, 1] += rng.uniform(0.4, 0.8) * _swell(t, time, stay + 1.2)
    phase = 2 * np.pi * rng.uniform(1.4, 1.9) * t
    person.hands[side] = moves
    person.hand_motion[side] = person.hand_motion[side] + wave[:, None] * (
        np.stack([0 * phase, 0.11 * body.gesture * np.sin(phase), 0.02 * np.cos(2 * phase)], -1)
    )
    return person


def _phoning(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Hold a telephone to the ear, pacing up and down or seated, the other hand talking along."""
    seated = rng.random() < 0.35
    person = (
        _seated(rng, t, body, arena)
        if seated
        else _standing(rng, t, body, arena, pause=2.5, far=0.6)
    )
    side = body.handed if rng.random() < 0.8 else -body.handed
    person.hands[side] = [HandMove(t[0], 1, _near(rng, AT_EAR, 0.01))]
    person.hand_motion[side] *= 0.5
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, ON_HIP]
    person.hands[-side] = _gestures(
        rng, t, body, 2.5, lambda: _one_of(rng, [*rest, _near(rng, BEFORE_CHEST, 0.12)])
    )
    person.gaze += np.array([0, 0.12, -side * 0.12])
    return person


def _photo(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Hold a camera before the eyes, stoop and turn to frame a picture, look at it."""
    person = _standing(rng, t, body, arena, pause=3, far=0.25)
    frames = _moments(rng, t, 2.8)
    lasting = rng.uniform(0.8, 1.2, len(frames))
    person.height = keyed(t, frames, lasting, rng.choice([1, 0.98, 0.86, 0.72], len(frames) + 1))
    person.shift[:, 0] -= 0.35 * (1 - person.height)
    lean = rng.uniform(-0.05, 0.35, len(frames) + 1)
    tilt = rng.normal(0, 0.12, (len(frames) + 1, 2))
    person.trunk += keyed(t, frames, lasting, np.column_stack([tilt[:, 0], lean, tilt[:, 1]]))
    person.trunk[:, 1] += 1.2 * (1 - person.height)
    person.gaze = 0.25 * person.gaze
    looking = [rng.random() < 0.25 for _ in frames]
    for side in SIDES:
        moves = [
            HandMove(time, 0.8, _near(rng, BEFORE_CHEST if down else AT_CAMERA, 0.01))
            for time, down in zip(frames, looking)
        ]
        person.hands[side] = [HandMove(t[0], 1, AT_CAMERA), *moves]
    return person


def _posing(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Strike a pose, hold it still, strike another."""
    person = _standing(rng, t, body, arena, pause=5, far=0.1)
    poses = _moments(rng, t, 2.6)
    lasting = rng.uniform(0.8, 1.2, len(poses))
    arms = [ON_HIP, OVERHEAD, BEHIND_HEAD, FLEXED, SPREAD, CROSSED, AT_CHIN, HANG]
    # Crossed arms take two.
    pairs = [(a, b) for a in arms for b in arms if (a is CROSSED) == (b is CROSSED)]
    chosen = [pairs[rng.integers(len(pairs))] for _ in range(len(poses) + 1)]
    times = [t[0], *poses]
    for i, side in enumerate(SIDES):
        person.hands[side] = [
            HandMove(time, lasts, _near(rng, pair[i], 0.02))
            for time, lasts, pair in zip(times, [1.0, *lasting], chosen)
        ]
    angles = np.clip(rng.standard_normal((len(poses) + 1, 3)), -1.5, 1.5)
    person.trunk += keyed(t, poses, lasting, angles * np.array([0.3, 0.08, 0.12]))
    person.gaze = keyed(t, poses, lasting, angles[:, ::-1] * np.array([0.35, 0.15, 0.12]))
    hip = keyed(t, poses, lasting, rng.uniform(-0.07, 0.07, len(poses) + 1))
    person.shift[:, 1] += hip
    person.height = keyed(t, poses, lasting, rng.choice([1, 0.99, 0.93], len(poses) + 1))
    person.stance *= rng.uniform(1.0, 1.6)
    return person


def _purchases(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Walk along shelves with a basket, reach high and low, put things into the basket."""
    person = _standing(rng, t, body, arena, pause=3.2, far=0.45)
    side = body.handed
    moves = [HandMove(t[0], 1, BEFORE_CHEST)]
    bend = np.zeros(len(t))
    for time in _moments(rng, t, 3.2):
        low = rng.random() < 0.45
        up = rng.uniform(-0.75, -0.4) if low else rng.uniform(-0.25, 0.45)
        reach = Reach("shoulder", (0.72, rng.uniform(-0.2, 0.3), up), (-0.5, 0.6, -0.7))
        moves.append(HandMove(time, 0.8, reach))
        moves.append(HandMove(time + 1.2, 0.8, _near(rng, replace(BASKET, swing=0), 0.04)))
        bend += (0.75 if low else 0.12) * _swell(t, time - 0.2, 2.4)
    person.hands[side] = moves
    person.hands[-side] = [HandMove(t[0], 1, BASKET)]
    person.trunk[:, 1] += np.minimum(bend, 1.1)
    person.height = 1 - 0.2 * np.minimum(bend, 1.1) ** 2
    person.shift[:, 0] -= 0.16 * np.minimum(bend, 1.1)
    person.gaze[:, 1] += 0.3 * np.minimum(bend, 1.1) + 0.1
    return person


def _sitting(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Sit on a chair, shift about, talk a little."""
    person = _seated(rng, t, body, arena)
    rest = [ON_THIGH, ON_LAP, CROSSED, AT_CHIN, ON_THIGH]
    for side in SIDES:
        person.hands[side] = _gestures(
            rng, t, body, 2.8, lambda: _one_of(rng, [*rest, _near(rng, BEFORE_CHEST, 0.12)], 0.02)
        )
    person.gaze = _look(rng, t, 2.2, 0.5)
    person.trunk[:, [0, 2]] += 0.08 * wobble(rng, t, 0.25, 2)
    return person


# Height of the pelvis, how far it is behind the feet, pitch of the trunk, where the hands are.
_SEATS = (
    (0.57, 0.44, 0.05, (ON_THIGH, ON_LAP)),
    (0.19, 0.60, 0.10, (AROUND_KNEES, ON_FLOOR_BEHIND)),
    (0.48, 0.20, 0.75, (AROUND_KNEES, ON_THIGH)),
)


def _sitting_down(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Sit down on a chair or on the floor, or squat, and stand up again."""
    person = _standing(rng, t, body, arena, pause=1e9)
    place = np.array([*arena.place(_in_disk(rng, 0.65)), rng.uniform(0, 2 * np.pi)])
    person.ground = np.broadcast_to(place, (len(t), 3)).copy()
    hands = [HandMove(t[0], 1, HANG)]
    down, behind, pitch = np.zeros((3, len(t)))
    time = t[0] + rng.uniform(0.2, 1.8)
    while time < t[-1]:
        height, back, lean, reaches = _SEATS[rng.integers(len(_SEATS))]
        lasting, stay = rng.uniform(1.5, 2.1) * (1.3 if height < 0.3 else 1), rng.uniform(1.2, 3.5)
        leave = time + lasting + stay
        progress = ease((t - time) / lasting) - ease((t - leave) / lasting)
        down += (1 - height) * progress
        behind += back * progress
        pitch += lean * progress
        pitch += 0.65 * (_swell(t, time, lasting) + _swell(t, leave - 0.15, lasting))
        reach = _near(rng, reaches[rng.integers(len(reaches))], 0.01)
        hands.append(HandMove(time + 0.25 * lasting, 0.8 * lasting, reach))
        hands.append(HandMove(leave + 0.1, 0.8 * lasting, HANG))
        time = leave + lasting + rng.uniform(0.5, 1.5)
    person.height = 1 - down
    person.shift[:, 0] -= behind
    person.trunk[:, 1] += pitch
    person.hands = {side: hands for side in SIDES}
    return person


def _smoking(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Bring a cigarette to the mouth, breathe in, lower it, at leisure."""
    seated = rng.random() < 0.4
    person = (
        _seated(rng, t, body, arena)
        if seated
        else _standing(rng, t, body, arena, pause=4, far=0.35)
    )
    side = body.handed
    person.hands[side] = _to_and_fro(rng, t, CIGARETTE, AT_MOUTH, 5.5, 1.3, lasting=0.9)
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, CROSSED]
    person.hands[-side] = _gestures(rng, t, body, 8, lambda: _one_of(rng, rest))
    person.gaze[:, 1] -= 0.1
    return person


def _waiting(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Wait: arms crossed or behind the back, weight from foot to foot, a look at the watch."""
    person = _standing(rng, t, body, arena, pause=2.8, far=0.35)
    times = _moments(rng, t, 3.5)
    both = [(CROSSED, CROSSED), (BEHIND_BACK, BEHIND_BACK), (HANG, HANG), (ON_HIP, ON_HIP)]
    both += [(IN_POCKET, IN_POCKET), (HANG, ON_HIP), (HANG, WATCH)]
    chosen = [both[rng.integers(len(both))] for _ in range(len(times) + 1)]
    for i, side in enumerate((body.handed, -body.handed)):
        person.hands[side] = [
            HandMove(time, 0.9, _near(rng, pair[i], 0.015))
            for time, pair in zip([t[0], *times], chosen)
        ]
    person.shift[:, 1] += keyed(
        t, times, [1.0] * len(times), 0.05 * rng.choice((-1, 1), len(times) + 1)
    )
    person.gaze = _look(rng, t, 1.8, 0.65)
    return person


def _walk_dog(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Walk unevenly behind a dog, which pulls one arm forward by its lead."""
    person = _walking(rng, t, body, arena, pace=0.85, hesitation=0.22)
    side = body.handed
    person.hands[side] = _gestures(rng, t, body, 2.5, lambda: _near(rng, LEASH, 0.09))
    pulls = sum(_swell(t, time, 0.9) for time in _moments(rng, t, 2.5))
    sideways = 0.12 * wobble(rng, t, 0.4)[:, 0]
    person.hand_motion[side] = person.hand_motion[side] + np.stack(
        [0.14 * pulls, sideways, -0.05 * pulls], axis=-1
    )
    person.trunk += np.stack([side * -0.15 * pulls, -0.10 + 0.05 * pulls, 0 * pulls], axis=-1)
    person.gaze[:, 1] += 0.28
    return person


def _walk(rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> Performance:
    """Walk briskly, arms against the legs."""
    return _walking(rng, t, body, arena, pace=rng.uniform(0.95, 1.2))


def _walk_together(
    rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena
) -> Performance:
    """Stroll beside somebody, turning to them and gesturing with the hand on their side."""
    person = _walking(rng, t, body, arena, pace=rng.uniform(0.75, 0.9), hesitation=0.1)
    partner = rng.choice(SIDES)
    times = _moments(rng, t, 2.5)
    turned = keyed(t, times, [0.6] * len(times), rng.choice([0.1, 0.8, 1.0], len(times) + 1))
    person.gaze[:, 0] = 0.2 * person.gaze[:, 0] + partner * 0.75 * turned
    person.trunk[:, 0] += partner * 0.2 * turned
    person.hands[partner] = _gestures(
        rng, t, body, 2.2, lambda: _one_of(rng, [HANG, _near(rng, BEFORE_CHEST, 0.12)])
    )
    person.hands[-partner] = _gestures(rng, t, body, 8, lambda: _one_of(rng, [HANG, IN_POCKET]))
    return person


ACTION_SCRIPTS = MappingProxyType(
    {
        "Directions": _directions,
        "Discussion": _discussion,
        "Eating": _eating,
        "Greeting": _greeting,
        "Phoning": _phoning,
        "Photo": _photo,
        "Posing": _posing,
        "Purchases": _purchases,
        "Sitting": _sitting,
        "SittingDown": _sitting_down,
        "Smoking": _smoking,
        "Waiting": _waiting,
        "WalkDog": _walk_dog,
        "Walking": _walk,
        "WalkTogether": _walk_together,
    }
)
