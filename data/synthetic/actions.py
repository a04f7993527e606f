"""Human3.6M's 15 actions as an articulated body performs them, never twice in the same way.

To add an action, write a function that lets the actor `stand`, `walk` or `sit`, then changes the
actor's movements (`Actor._idle` lists them); and name the function in `ACTION_SCRIPTS`.
"""

import numpy as np

from common.h36m_dataset import FPS
from data.synthetic.actor import BEFORE_CHEST, HANG, ON_THIGH, Actor, Arena
from data.synthetic.body import SIDES, Body, HandMove, Reach
from data.synthetic.curves import ease
from data.synthetic.kinematics import Motion, animate

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
    """Let a body perform one of `ACTION_SCRIPTS` inside an arena, for so many frames at 50 Hz."""
    margin = round(_MARGIN_S * FPS)
    t = (np.arange(frames + 2 * margin) - margin) / FPS
    actor = Actor(rng, t, body, arena)
    ACTION_SCRIPTS[action](actor)
    motion = animate(actor)
    clip = slice(margin, margin + frames)
    return Motion(motion.joints[clip], motion.face[clip])


def directions(actor: Actor) -> None:
    """Point the way with a straight arm, looking there, then back."""
    actor.stand(pause=4)
    rng, side = actor.rng, actor.handed

    def pointing() -> Reach:
        bearing, up = rng.uniform(-0.5, 1.4), rng.uniform(-0.25, 0.35)
        level = 0.93 * np.cos(up)
        offset = (level * np.cos(bearing), level * np.sin(bearing), 0.93 * np.sin(up))
        return Reach("shoulder", offset, (-0.4, 0.4, -1.0))

    moves, looks = [HandMove(pointing())], [0.0]
    times = actor.moments(2.4 / actor.body.tempo)
    for time in times:
        reach = actor.one_of([HANG, BEFORE_CHEST]) if rng.random() < 0.3 else pointing()
        moves.append(HandMove(reach, time, rng.uniform(0.6, 0.9)))
        bearing = np.arctan2(side * reach.offset[1], reach.offset[0])
        looks.append(float(np.clip(bearing, -1.3, 1.3)) if reach.offset[2] > -0.35 else 0.0)
    actor.hands[side] = moves
    turns = actor.keyed(times, 0.7, looks)
    actor.trunk[:, 0] += 0.3 * turns
    actor.gaze[:, 0] += 0.5 * turns
    if rng.random() < 0.5:
        actor.hand_motion[side] += actor.beat(0.05, 1.5)
    else:
        actor.hands[-side] = actor.gestures(4, [HANG, ON_HIP, BEFORE_CHEST])


def discussion(actor: Actor) -> None:
    """Talk with both hands, turning from one listener to another."""
    actor.stand(pause=3.5, far=0.15)
    size = actor.body.gesture
    for side in SIDES:
        actor.hands[side] = actor.gestures(1.4, [BEFORE_CHEST], 0.17 * size)
        actor.hand_motion[side] += actor.beat(0.04 * size, 1.6)
    actor.gaze = actor.look(1.8, 0.55)
    actor.trunk += 0.06 * actor.wobble(0.5, 3)


def eating(actor: Actor) -> None:
    """Sit at a table: one hand goes to the mouth and back, the other holds the plate."""
    actor.sit()
    side = actor.handed
    actor.hands[side] = actor.back_and_forth(ON_TABLE, AT_MOUTH, 3.6, 0.5)
    actor.hands[-side] = actor.gestures(6, [ON_TABLE, ON_TABLE, BEFORE_CHEST, ON_THIGH])
    actor.gaze[:, 1] += 0.25
    actor.trunk[:, 1] += 0.12


def greeting(actor: Actor) -> None:
    """Wave, bow, hold out a hand."""
    actor.stand(pause=5, far=0.2)
    rng, t, side = actor.rng, actor.t, actor.handed
    reaches = {"wave": RAISED, "bow": BOW, "handshake": HANDSHAKE}
    moves, wave = [HandMove(HANG)], np.zeros(len(t))
    for time in np.arange(t[0] + rng.uniform(0.8, 1.6), t[-1], 4.2):
        kind = rng.choice(["wave", "wave", "bow", "handshake"])
        stay = rng.uniform(1.6, 2.4)
        moves.append(HandMove(actor.near(reaches[kind], 0.06), time, 0.7))
        moves.append(HandMove(HANG, time + 0.7 + stay, 0.8))
        if kind == "wave":
            wave += actor.swell(time + 0.3, stay + 0.8)
        elif kind == "bow":
            actor.trunk[:, 1] += rng.uniform(0.4, 0.8) * actor.swell(time, stay + 1.2)
    phase = 2 * np.pi * rng.uniform(1.4, 1.9) * t
    sideways = 0.11 * actor.body.gesture * np.sin(phase)
    waving = np.stack([0 * phase, sideways, 0.02 * np.cos(2 * phase)], axis=-1)
    actor.hands[side] = moves
    actor.hand_motion[side] += wave[:, None] * waving


def phoning(actor: Actor) -> None:
    """Hold a telephone to the ear, pacing up and down or seated, the other hand talking along."""
    seated = actor.rng.random() < 0.35
    actor.sit() if seated else actor.stand(pause=2.5, far=0.6)
    side = actor.handed if actor.rng.random() < 0.8 else -actor.handed
    actor.hands[side] = [HandMove(actor.near(AT_EAR, 0.01))]
    actor.hand_motion[side] *= 0.5
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, ON_HIP]
    actor.hands[-side] = actor.gestures(2.5, rest, talk=0.12)
    actor.gaze += np.array([0, 0.12, -side * 0.12])


def photo(actor: Actor) -> None:
    """Hold a camera before the eyes, stoop and turn to frame a picture, look at it."""
    actor.stand(pause=3, far=0.25)
    rng, times = actor.rng, actor.moments(2.8)
    poses = len(times) + 1
    durations = rng.uniform(0.8, 1.2, len(times))
    actor.height = actor.keyed(times, durations, rng.choice([1, 0.98, 0.86, 0.72], poses))
    actor.shift[:, 0] -= 0.35 * (1 - actor.height)
    lean = rng.uniform(-0.05, 0.35, poses)
    turn, tilt = rng.normal(0, 0.12, (poses, 2)).T
    actor.trunk += actor.keyed(times, durations, np.column_stack([turn, lean, tilt]))
    actor.trunk[:, 1] += 1.2 * (1 - actor.height)
    actor.gaze = 0.25 * actor.gaze
    reaches = [BEFORE_CHEST if rng.random() < 0.25 else AT_CAMERA for _ in times]
    for side in SIDES:
        moves = [HandMove(actor.near(reach, 0.01), t, 0.8) for reach, t in zip(reaches, times)]
        actor.hands[side] = [HandMove(AT_CAMERA), *moves]


def posing(actor: Actor) -> None:
    """Strike a pose, hold it still, strike another."""
    actor.stand(pause=5, far=0.1)
    rng, times = actor.rng, actor.moments(2.6)
    poses = len(times) + 1
    durations = rng.uniform(0.8, 1.2, len(times))
    arms = [ON_HIP, OVERHEAD, BEHIND_HEAD, FLEXED, SPREAD, CROSSED, AT_CHIN, HANG]
    # Crossed arms take two.
    pairs = [(a, b) for a in arms for b in arms if (a is CROSSED) == (b is CROSSED)]
    actor.hands = actor.both_hands(times, durations, pairs, 0.02, first=SIDES[0])
    angles = np.clip(rng.standard_normal((poses, 3)), -1.5, 1.5)
    actor.trunk += actor.keyed(times, durations, angles * np.array([0.3, 0.08, 0.12]))
    actor.gaze = actor.keyed(times, durations, angles[:, ::-1] * np.array([0.35, 0.15, 0.12]))
    actor.shift[:, 1] += actor.keyed(times, durations, rng.uniform(-0.07, 0.07, poses))
    actor.height = actor.keyed(times, durations, rng.choice([1, 0.99, 0.93], poses))
    actor.stance *= rng.uniform(1.0, 1.6)


def purchases(actor: Actor) -> None:
    """Walk along shelves with a basket, reach high and low, put things into the basket."""
    actor.stand(pause=3.2, far=0.45)
    rng, side = actor.rng, actor.handed
    moves, bend = [HandMove(BEFORE_CHEST)], np.zeros(len(actor.t))
    for time in actor.moments(3.2):
        low = rng.random() < 0.45
        up = rng.uniform(-0.75, -0.4) if low else rng.uniform(-0.25, 0.45)
        shelf = Reach("shoulder", (0.72, rng.uniform(-0.2, 0.3), up), (-0.5, 0.6, -0.7))
        moves.append(HandMove(shelf, time, 0.8))
        moves.append(HandMove(actor.near(BASKET._replace(swing=0), 0.04), time + 1.2, 0.8))
        bend += (0.75 if low else 0.12) * actor.swell(time - 0.2, 2.4)
    bend = np.minimum(bend, 1.1)
    actor.hands = {side: moves, -side: [HandMove(BASKET)]}
    actor.trunk[:, 1] += bend
    actor.height = 1 - 0.2 * bend**2
    actor.shift[:, 0] -= 0.16 * bend
    actor.gaze[:, 1] += 0.3 * bend + 0.1


def sitting(actor: Actor) -> None:
    """Sit on a chair, shift about, talk a little."""
    actor.sit()
    rest = [ON_THIGH, ON_LAP, CROSSED, AT_CHIN, ON_THIGH]
    actor.hands = {side: actor.gestures(2.8, rest, 0.02, talk=0.12) for side in SIDES}
    actor.gaze = actor.look(2.2, 0.5)
    actor.trunk[:, [0, 2]] += 0.08 * actor.wobble(0.25, 2)


# Height of the pelvis, how far it is behind the feet, pitch of the trunk, where the hands are.
_SEATS = (
    (0.57, 0.44, 0.05, (ON_THIGH, ON_LAP)),
    (0.19, 0.60, 0.10, (AROUND_KNEES, ON_FLOOR_BEHIND)),
    (0.48, 0.20, 0.75, (AROUND_KNEES, ON_THIGH)),
)


def sitting_down(actor: Actor) -> None:
    """Sit down on a chair or on the floor, or squat, and stand up again."""
    actor.stand(pause=1e9)
    actor.ground = actor.place(0.65)
    rng, t = actor.rng, actor.t
    moves = [HandMove(HANG)]
    down, behind, pitch = np.zeros((3, len(t)))
    time = t[0] + rng.uniform(0.2, 1.8)
    while time < t[-1]:
        height, back, lean, reaches = _SEATS[rng.integers(len(_SEATS))]
        duration, stay = rng.uniform(1.5, 2.1) * (1.3 if height < 0.3 else 1), rng.uniform(1.2, 3.5)
        leave = time + duration + stay
        progress = ease((t - time) / duration) - ease((t - leave) / duration)
        down += (1 - height) * progress
        behind += back * progress
        pitch += lean * progress
        pitch += 0.65 * (actor.swell(time, duration) + actor.swell(leave - 0.15, duration))
        reach = actor.one_of(reaches, 0.01)
        moves.append(HandMove(reach, time + 0.25 * duration, 0.8 * duration))
        moves.append(HandMove(HANG, leave + 0.1, 0.8 * duration))
        time = leave + duration + rng.uniform(0.5, 1.5)
    actor.height = 1 - down
    actor.shift[:, 0] -= behind
    actor.trunk[:, 1] += pitch
    actor.hands = {side: moves for side in SIDES}


def smoking(actor: Actor) -> None:
    """Bring a cigarette to the mouth, breathe in, lower it, slowly."""
    seated = actor.rng.random() < 0.4
    actor.sit() if seated else actor.stand(pause=4, far=0.35)
    side = actor.handed
    actor.hands[side] = actor.back_and_forth(CIGARETTE, AT_MOUTH, 5.5, 1.3, duration=0.9)
    rest = [ON_THIGH, ON_LAP] if seated else [HANG, IN_POCKET, CROSSED]
    actor.hands[-side] = actor.gestures(8, rest)
    actor.gaze[:, 1] -= 0.1


def waiting(actor: Actor) -> None:
    """Wait: arms crossed or behind the back, weight from foot to foot, a look at the watch."""
    actor.stand(pause=2.8, far=0.35)
    times = actor.moments(3.5)
    pairs = [(both, both) for both in (CROSSED, BEHIND_BACK, HANG, ON_HIP, IN_POCKET)]
    pairs += [(HANG, ON_HIP), (HANG, WATCH)]
    actor.hands = actor.both_hands(times, [0.9] * len(times), pairs, 0.015, first=actor.handed)
    weight = 0.05 * actor.rng.choice((-1, 1), len(times) + 1)
    actor.shift[:, 1] += actor.keyed(times, 1.0, weight)
    actor.gaze = actor.look(1.8, 0.65)


def walk_dog(actor: Actor) -> None:
    """Walk unevenly behind a dog, which pulls one arm forward by its leash."""
    actor.walk(pace=0.85, hesitation=0.22)
    side = actor.handed
    actor.hands[side] = actor.gestures(2.5, [LEASH], 0.09)
    pulls = sum(actor.swell(time, 0.9) for time in actor.moments(2.5))
    sideways = 0.12 * actor.wobble(0.4)[:, 0]
    actor.hand_motion[side] += np.stack([0.14 * pulls, sideways, -0.05 * pulls], axis=-1)
    actor.trunk += np.stack([side * -0.15 * pulls, -0.10 + 0.05 * pulls, 0 * pulls], axis=-1)
    actor.gaze[:, 1] += 0.28


def walking(actor: Actor) -> None:
    """Walk briskly, arms against the legs."""
    actor.walk(pace=actor.rng.uniform(0.95, 1.2))


def walk_together(actor: Actor) -> None:
    """Stroll beside somebody, turning to them and gesturing with the hand on their side."""
    actor.walk(pace=actor.rng.uniform(0.75, 0.9), hesitation=0.1)
    partner, times = actor.rng.choice(SIDES), actor.moments(2.5)
    turned = actor.keyed(times, 0.6, actor.rng.choice([0.1, 0.8, 1.0], len(times) + 1))
    actor.gaze[:, 0] = 0.2 * actor.gaze[:, 0] + partner * 0.75 * turned
    actor.trunk[:, 0] += partner * 0.2 * turned
    actor.hands[partner] = actor.gestures(2.2, [HANG], talk=0.12)
    actor.hands[-partner] = actor.gestures(8, [HANG, IN_POCKET])


# Named as in Human3.6M: walk_dog is "WalkDog".
ACTION_SCRIPTS = {
    function.__name__.title().replace("_", ""): function
    for function in (
        *(directions, discussion, eating, greeting, phoning, photo, posing, purchases, sitting),
        *(sitting_down, smoking, waiting, walk_dog, walking, walk_together),
    )
}
