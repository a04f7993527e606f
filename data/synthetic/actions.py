"""Human3.6M's 15 actions as an articulated body performs them, each time in another way.

To add an action, write a function that begins with an idle body (`stage.standing`, `walking` or
`seated`), changes what it does, and returns it; then name the function in `ACTIONS`.
"""

from dataclasses import replace

import numpy as np

from common.h36m_dataset import FPS
from data.synthetic.body import SIDES, Body, HandMove, Performance, Reach
from data.synthetic.curves import ease
from data.synthetic.kinematics import Motion, animate
from data.synthetic.stage import BEFORE_CHEST, HANG, ON_THIGH, Arena, Stage

# Performed before and after a clip, so that it begins and ends in the middle of an action.
_MARGIN_S = 2.0

ON_HIP = Reach("hip", (0.03, 0.21, 0.12), (-0.6, 1.0, 0.0))
IN_POCKET = Reach("hip", (0.09, 0.20, -0.04), (-1.0, 0.5, 0.0))
BEHIND_BACK = Reach("hip", (-0.17, 0.05, 0.06), (-0.3, 1.0, 0.0))
CROSSED = Reach("shoulder", (0.34, -0.34, -0.42), (0.1, 0.6, -1.0))
ON_LAP = Reach("hip", (0.20, 0.03, 0.12), (-0.6, 0.8, -0.4))
ON_TABLE = Reach("shoulder", (0.52, -0.10, -0.52), (-0.4, 0.8, -0.6))
ON_FLOOR_BEHIND = Reach("hip", (-0.24, 0.27, -0.05), (-0.8, 0.5, 0.2))
AROUND_KNEES = Reach("hip", (0.42, 0.07, 0.22), (-0.2, 0.8, -0.6))
AT_EAR = Reach("head", (0.11, 0.125, -0.03), (0.4, 0.6, -0.8))
AT_MOUTH = Reach("head", (0.17, 0.05, -0.15), (0.1, 0.7, -0.8))
AT_CHIN = Reach("head", (0.17, 0.02, -0.16), (0.3, 0.4, -1.0))
AT_CAMERA = Reach("head", (0.25, 0.08, -0.05), (0.0, 0.7, -0.9))
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


def perform(action: str, body: Body, arena: Arena, frames: int, rng: np.random.Generator) -> Motion:
    """Let a body perform one of `ACTIONS` inside an arena, for so many frames at 50 Hz."""
    margin = round(_MARGIN_S * FPS)
    t = (np.arange(frames + 2 * margin) - margin) / FPS
    motion = animate(ACTIONS[action](Stage(rng, t, body, arena)))
    clip = slice(margin, margin + frames)
    return Motion(motion.joints[clip], motion.face[clip])


def directions(stage: Stage) -> Performance:
    """Point the way with a straight arm, looking there, then back."""
    person = stage.standing(pause=4)
    rng, side = stage.rng, stage.body.handed

    def pointing() -> Reach:
        bearing, up = rng.uniform(-0.5, 1.4), rng.uniform(-0.25, 0.35)
        level = 0.93 * np.cos(up)
        offset = (level * np.cos(bearing), level * np.sin(bearing), 0.93 * np.sin(up))
        return Reach("shoulder", offset, (-0.4, 0.4, -1.0))

    moves, looks = [HandMove(pointing())], [0.0]
    times = stage.moments(2.4 / stage.body.tempo)
    for time in times:
        reach = stage.one_of([HANG, BEFORE_CHEST]) if rng.random() < 0.3 else pointing()
        moves.append(HandMove(reach, time, rng.uniform(0.6, 0.9)))
        bearing = np.arctan2(side * reach.offset[1], reach.offset[0])
        looks.append(float(np.clip(bearing, -1.3, 1.3)) if reach.offset[2] > -0.35 else 0.0)
    person.hands[side] = moves
    turns = stage.keyed(times, 0.7, looks)
    person.trunk[:, 0] += 0.3 * turns
    person.gaze[:, 0] += 0.5 * turns
    if rng.random() < 0.5:
        person.hand_motion[side] += stage.beat(0.05, 1.5)
    else:
        person.hands[-side] = stage.gestures(4, [HANG, ON_HIP, BEFORE_CHEST])
    return person


def discussion(stage: Stage) -> Performance:
    """Talk with both hands, turning from one listener to another."""
    person = stage.standing(pause=3.5, far=0.15)
    size = stage.body.gesture
    for side in SIDES:
        person.hands[side] = stage.gestures(1.4, [BEFORE_CHEST], 0.17 * size)
        person.hand_motion[side] += stage.beat(0.04 * size, 1.6)
    person.gaze = stage.look(1.8, 0.55)
    person.trunk += 0.06 * stage.wobble(0.5, 3)
    return person


def eating(stage: Stage) -> Performance:
    """Sit at a table: one hand goes to the mouth and back, the other holds the plate."""
    person = stage.seated()
    side = stage.body.handed
    person.hands[side] = stage.to_and_fro(ON_TABLE, AT_MOUTH, 3.6, 0.5)
    person.hands[-side] = stage.gestures(6, [ON_TABLE, ON_TABLE, BEFORE_CHEST, ON_THIGH])
    person.gaze[:, 1] += 0.25
    person.trunk[:, 1] += 0.12
    return person


def greeting(stage: Stage) -> Performance:
    """Wave, bow, hold out a hand."""
    person = stage.standing(pause=5, far=0.2)
    rng, t, side = stage.rng, stage.t, stage.body.handed
    reaches = {"wave": RAISED, "bow": BOW, "handshake": HANDSHAKE}
    moves, wave = [HandMove(HANG)], np.zeros(len(t))
    for time in np.arange(t[0] + rng.uniform(0.8, 1.6), t[-1], 4.2):
        kind = rng.choice(["wave", "wave", "bow", "handshake"])
        stay = rng.uniform(1.6, 2.4)
        moves.append(HandMove(stage.near(reaches[kind], 0.06), time, 0.7))
        moves.append(HandMove(HANG, time + 0.7 + stay, 0.8))
        if kind == "wave":
            wave += stage.swell(time + 0.3, stay + 0.8)
        elif kind == "bow":
            person.trunk[:, 1] += rng.uniform(0.4, 0.8) * stage.swell(time, stay + 1.2)
    phase = 2 * np.pi * rng.uniform(1.4, 1.9) * t
    sideways = 0.11 * stage.body.gesture * np.sin(phase)
    person.hands[side] = moves
    person.hand_motion[side] += wave[:, None] * (
        np.stack([0 * phase, sideways, 0.02 * np.cos(2 * phase)], axis=-1)
    )
    return person


def phoning(stage: Stage) -> Performance:
    """Hold a telephone to the ear, pacing up and down or seated, the other hand talking along."""
    seated = stage.rng.random() < 0.35
    person = stage.seated() if seated else stage.standing(pause=2.5, far=0.6)
    side = stage.body.handed if stage.rng.random() < 0.8 else -stage.body.handed
    person.hands[side] = [HandMove(stage.near(AT_EAR, 0.01))]
    person.hand_motion[side] *= 0.5
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, ON_HIP]
    person.hands[-side] = stage.gestures(2.5, rest, talk=0.12)
    person.gaze += np.array([0, 0.12, -side * 0.12])
    return person


def photo(stage: Stage) -> Performance:
    """Hold a camera before the eyes, stoop and turn to frame a picture, look at it."""
    person = stage.standing(pause=3, far=0.25)
    rng, times = stage.rng, stage.moments(2.8)
    poses = len(times) + 1
    lasting = rng.uniform(0.8, 1.2, len(times))
    person.height = stage.keyed(times, lasting, rng.choice([1, 0.98, 0.86, 0.72], poses))
    person.shift[:, 0] -= 0.35 * (1 - person.height)
    lean = rng.uniform(-0.05, 0.35, poses)
    turn, tilt = rng.normal(0, 0.12, (poses, 2)).T
    person.trunk += stage.keyed(times, lasting, np.column_stack([turn, lean, tilt]))
    person.trunk[:, 1] += 1.2 * (1 - person.height)
    person.gaze = 0.25 * person.gaze
    reaches = [BEFORE_CHEST if rng.random() < 0.25 else AT_CAMERA for _ in times]
    for side in SIDES:
        moves = [HandMove(stage.near(reach, 0.01), t, 0.8) for reach, t in zip(reaches, times)]
        person.hands[side] = [HandMove(AT_CAMERA), *moves]
    return person


def posing(stage: Stage) -> Performance:
    """Strike a pose, hold it still, strike another."""
    person = stage.standing(pause=5, far=0.1)
    rng, times = stage.rng, stage.moments(2.6)
    poses = len(times) + 1
    lasting = rng.uniform(0.8, 1.2, len(times))
    arms = [ON_HIP, OVERHEAD, BEHIND_HEAD, FLEXED, SPREAD, CROSSED, AT_CHIN, HANG]
    # Crossed arms take two.
    pairs = [(a, b) for a in arms for b in arms if (a is CROSSED) == (b is CROSSED)]
    person.hands = stage.both_hands(times, lasting, pairs, 0.02, first=SIDES[0])
    angles = np.clip(rng.standard_normal((poses, 3)), -1.5, 1.5)
    person.trunk += stage.keyed(times, lasting, angles * np.array([0.3, 0.08, 0.12]))
    person.gaze = stage.keyed(times, lasting, angles[:, ::-1] * np.array([0.35, 0.15, 0.12]))
    person.shift[:, 1] += stage.keyed(times, lasting, rng.uniform(-0.07, 0.07, poses))
    person.height = stage.keyed(times, lasting, rng.choice([1, 0.99, 0.93], poses))
    person.stance *= rng.uniform(1.0, 1.6)
    return person


def purchases(stage: Stage) -> Performance:
    """Walk along shelves with a basket, reach high and low, put things into the basket."""
    person = stage.standing(pause=3.2, far=0.45)
    rng, side = stage.rng, stage.body.handed
    moves, bend = [HandMove(BEFORE_CHEST)], np.zeros(len(stage.t))
    for time in stage.moments(3.2):
        low = rng.random() < 0.45
        up = rng.uniform(-0.75, -0.4) if low else rng.uniform(-0.25, 0.45)
        shelf = Reach("shoulder", (0.72, rng.uniform(-0.2, 0.3), up), (-0.5, 0.6, -0.7))
        moves.append(HandMove(shelf, time, 0.8))
        moves.append(HandMove(stage.near(replace(BASKET, swing=0), 0.04), time + 1.2, 0.8))
        bend += (0.75 if low else 0.12) * stage.swell(time - 0.2, 2.4)
    bend = np.minimum(bend, 1.1)
    person.hands = {side: moves, -side: [HandMove(BASKET)]}
    person.trunk[:, 1] += bend
    person.height = 1 - 0.2 * bend**2
    person.shift[:, 0] -= 0.16 * bend
    person.gaze[:, 1] += 0.3 * bend + 0.1
    return person


def sitting(stage: Stage) -> Performance:
    """Sit on a chair, shift about, talk a little."""
    person = stage.seated()
    rest = [ON_THIGH, ON_LAP, CROSSED, AT_CHIN, ON_THIGH]
    person.hands = {side: stage.gestures(2.8, rest, 0.02, talk=0.12) for side in SIDES}
    person.gaze = stage.look(2.2, 0.5)
    person.trunk[:, [0, 2]] += 0.08 * stage.wobble(0.25, 2)
    return person


# Height of the pelvis, how far it is behind the feet, pitch of the trunk, where the hands are.
_SEATS = (
    (0.57, 0.44, 0.05, (ON_THIGH, ON_LAP)),
    (0.19, 0.60, 0.10, (AROUND_KNEES, ON_FLOOR_BEHIND)),
    (0.48, 0.20, 0.75, (AROUND_KNEES, ON_THIGH)),
)


def sitting_down(stage: Stage) -> Performance:
    """Sit down on a chair or on the floor, or squat, and stand up again."""
    person = stage.standing(pause=1e9)
    person.ground = stage.stay(0.65)
    rng, t = stage.rng, stage.t
    moves = [HandMove(HANG)]
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
        pitch += 0.65 * (stage.swell(time, lasting) + stage.swell(leave - 0.15, lasting))
        reach = stage.one_of(reaches, 0.01)
        moves.append(HandMove(reach, time + 0.25 * lasting, 0.8 * lasting))
        moves.append(HandMove(HANG, leave + 0.1, 0.8 * lasting))
        time = leave + lasting + rng.uniform(0.5, 1.5)
    person.height = 1 - down
    person.shift[:, 0] -= behind
    person.trunk[:, 1] += pitch
    person.hands = {side: moves for side in SIDES}
    return person


def smoking(stage: Stage) -> Performance:
    """Bring a cigarette to the mouth, breathe in, lower it, at leisure."""
    seated = stage.rng.random() < 0.4
    person = stage.seated() if seated else stage.standing(pause=4, far=0.35)
    side = stage.body.handed
    person.hands[side] = stage.to_and_fro(CIGARETTE, AT_MOUTH, 5.5, 1.3, lasting=0.9)
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, CROSSED]
    person.hands[-side] = stage.gestures(8, rest)
    person.gaze[:, 1] -= 0.1
    return person


def waiting(stage: Stage) -> Performance:
    """Wait: arms crossed or behind the back, weight from foot to foot, a look at the watch."""
    person = stage.standing(pause=2.8, far=0.35)
    times = stage.moments(3.5)
    pairs = [(both, both) for both in (CROSSED, BEHIND_BACK, HANG, ON_HIP, IN_POCKET)]
    pairs += [(HANG, ON_HIP), (HANG, WATCH)]
    lasting = [0.9] * len(times)
    person.hands = stage.both_hands(times, lasting, pairs, 0.015, first=stage.body.handed)
    weight = 0.05 * stage.rng.choice((-1, 1), len(times) + 1)
    person.shift[:, 1] += stage.keyed(times, 1.0, weight)
    person.gaze = stage.look(1.8, 0.65)
    return person


def walk_dog(stage: Stage) -> Performance:
    """Walk unevenly behind a dog, which pulls one arm forward by its leash."""
    person = stage.walking(pace=0.85, hesitation=0.22)
    side = stage.body.handed
    person.hands[side] = stage.gestures(2.5, [LEASH], 0.09)
    pulls = sum(stage.swell(time, 0.9) for time in stage.moments(2.5))
    sideways = 0.12 * stage.wobble(0.4)[:, 0]
    person.hand_motion[side] += np.stack([0.14 * pulls, sideways, -0.05 * pulls], axis=-1)
    person.trunk += np.stack([side * -0.15 * pulls, -0.10 + 0.05 * pulls, 0 * pulls], axis=-1)
    person.gaze[:, 1] += 0.28
    return person


def walking(stage: Stage) -> Performance:
    """Walk briskly, arms against the legs."""
    return stage.walking(pace=stage.rng.uniform(0.95, 1.2))


def walk_together(stage: Stage) -> Performance:
    """Stroll beside somebody, turning to them and gesturing with the hand on their side."""
    person = stage.walking(pace=stage.rng.uniform(0.75, 0.9), hesitation=0.1)
    partner, times = stage.rng.choice(SIDES), stage.moments(2.5)
    turned = stage.keyed(times, 0.6, stage.rng.choice([0.1, 0.8, 1.0], len(times) + 1))
    person.gaze[:, 0] = 0.2 * person.gaze[:, 0] + partner * 0.75 * turned
    person.trunk[:, 0] += partner * 0.2 * turned
    person.hands[partner] = stage.gestures(2.2, [HANG], talk=0.12)
    person.hands[-partner] = stage.gestures(8, [HANG, IN_POCKET])
    return person


# Named as in Human3.6M: walk_dog is "WalkDog".
ACTIONS = {
    function.__name__.title().replace("_", ""): function
    for function in (
        *(directions, discussion, eating, greeting, phoning, photo, posing, purchases, sitting),
        *(sitting_down, smoking, waiting, walk_dog, walking, walk_together),
    )
}
