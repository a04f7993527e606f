"""What all actions are made of: where a body stands or walks, what it does when idle, its hands."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.h36m_dataset import FPS
from data.synthetic.body import LEFT, RIGHT, SIDES, Body, HandMove, Reach, Step
from data.synthetic.curves import bump, interpolate, keyed

HANG = Reach("shoulder", (0.05, 0.11, -0.972), (-1.0, 0.3, 0.0), swing=1.0)
ON_THIGH = Reach("hip", (0.30, 0.14, 0.12), (-0.7, 0.6, -0.4))
BEFORE_CHEST = Reach("shoulder", (0.50, -0.12, -0.38), (-0.3, 0.6, -0.8))


class Arena(NamedTuple):
    """An ellipse on the floor, metres."""

    centre: np.ndarray  # (2,)
    axes: np.ndarray  # (2, 2), whose columns are the semi-axes

    def place(self, disk: np.ndarray) -> np.ndarray:
        """Map points (..., 2) of the unit disk to the floor."""
        return self.centre + disk @ self.axes.T

    def scaled(self, factor: np.ndarray | float) -> "Arena":
        """Return an ellipse around the same centre, with semi-axes `factor` times as long."""
        return Arena(self.centre, self.axes * factor)


class Actor:
    """Who performs, when and where; how it moves; and the random generator behind it."""

    def __init__(self, rng: np.random.Generator, t: np.ndarray, body: Body, arena: Arena) -> None:
        self.rng = rng
        self.t = t  # (frames,), seconds
        self.body = body
        self.handed = body.handed
        self.arena = arena

    # --- draws and curves ---

    def moments(self, pause: float) -> list[float]:
        """Return times about `pause` seconds apart, the first soon after the beginning."""
        start, end = self.t[[0, -1]]
        count = int((end - start) / (0.6 * pause)) + 2
        gaps = pause * self.rng.uniform(0.6, 1.4, count)
        times = start + self.rng.uniform(0, pause) + np.cumsum(gaps) - gaps[0]
        return [float(time) for time in times if time < end]

    def keyed(
        self, starts: Sequence[float], durations: Sequence[float] | float, values: np.ndarray
    ) -> np.ndarray:
        """Ease from value to value; see `curves.keyed`."""
        return keyed(self.t, starts, durations, values)

    def wobble(self, frequency: float, channels: int = 1) -> np.ndarray:
        """Return smooth noise of unit variance, (frames, channels), up to `frequency` Hz."""
        frequencies = frequency * self.rng.uniform(0.1, 1, (6, channels))
        phases = self.rng.uniform(0, 2 * np.pi, (6, channels))
        waves = np.sin(2 * np.pi * frequencies * self.t[:, None, None] + phases)
        return waves.sum(axis=1) / np.sqrt(3)

    def swell(self, start: float, duration: float) -> np.ndarray:
        """Return (frames,): 0, up to 1 and back to 0 within `duration` seconds from `start`."""
        return bump((self.t - start) / duration)

    def look(self, pause: float, breadth: float) -> np.ndarray:
        """Return gaze angles (frames, 3): the head turns from one thing to another."""
        times = self.moments(pause)
        angles = np.clip(self.rng.standard_normal((len(times) + 1, 3)), -2, 2)
        angles *= np.array([breadth, 0.35 * breadth, 0.15 * breadth])
        durations = self.rng.uniform(0.4, 0.8, len(times))
        return self.keyed(times, durations, angles) + 0.02 * self.wobble(1, 3)

    # --- idle bodies, whose movements an action then changes ---

    def stand(self, pause: float = 5.0, far: float = 0.1) -> None:
        """Stand: about every `pause` seconds shuffle or, in the share `far`, walk elsewhere."""
        self._idle(*self._wander(pause, far), self.body.stance)

    def walk(self, pace: float = 1.0, hesitation: float = 0.04) -> None:
        """Walk round and round at `pace` times the usual speed, which varies by `hesitation`."""
        self._idle(*self._stroll(pace, hesitation), 0.6 * self.body.stance)

    def sit(self) -> None:
        """Sit on a chair, hands on the thighs; the feet move now and then."""
        rng, ground = self.rng, self.place(0.75)
        times = [self.t[0] + 0.1, self.t[0] + 1.0, *(2 + np.array(self.moments(4)))]
        steps = [
            Step(rng.choice(SIDES), t, t + 0.7, rng.uniform(-0.16, 0.2), rng.uniform(-0.04, 0.1))
            for t in times
        ]
        self._idle(ground, steps, self.body.stance)
        self.height = np.full(len(self.t), rng.uniform(0.54, 0.60))
        self.shift = self.shift * 0.4 - np.array([rng.uniform(0.40, 0.50), 0])
        slouches = self.moments(5)
        self.trunk[:, 1] += self.keyed(slouches, 1.5, rng.uniform(-0.15, 0.35, len(slouches) + 1))
        self.hands = {side: [HandMove(ON_THIGH)] for side in SIDES}

    def place(self, radius: float) -> np.ndarray:
        """Return ground (frames, 3): one place within `radius` of the arena, one heading."""
        return np.tile(self._spot(radius), (len(self.t), 1))

    def _idle(self, ground: np.ndarray, steps: list[Step], stance: float) -> None:
        """Follow a route upright: breathe, sway, look around."""
        self.ground = ground  # (frames, 3), place on the floor (metres) and heading (radians)
        self.steps = steps  # in order of time; steps of one foot do not overlap
        self.stance = stance  # half the distance between the feet, metres
        # Of the pelvis, (frames,), 1 for upright and 0 for the floor.
        self.height = np.full(len(self.t), 1.0)
        # Of the pelvis from the place on the floor, (frames, 2): forward and left, metres.
        shifts = self.moments(4)
        sideways = self.keyed(shifts, 1.2, self.rng.normal(0, 0.022, len(shifts) + 1))
        self.shift = np.stack([0.006 * self.wobble(0.5)[:, 0], sideways], axis=-1)
        # Angles (frames, 3) of the chest to the heading; of the head to an upright chest.
        self.trunk = np.array([0, self.body.stoop, 0]) + 0.025 * self.wobble(0.4, 3)
        self.gaze = self.look(2.5, 0.35)
        # Where each hand goes, from its first reach on; what is added to its place, (frames, 3).
        self.hands = {side: [HandMove(HANG)] for side in SIDES}
        self.hand_motion = {side: 0.008 * self.wobble(0.8, 3) for side in SIDES}

    # --- hands ---

    def near(self, reach: Reach, scatter: float) -> Reach:
        """Return the same reach, a little elsewhere."""
        change = scatter * np.clip(self.rng.standard_normal(3), -1.5, 1.5)
        change[0] = max(change[0], -0.05)  # not into the belly
        return reach._replace(offset=tuple(reach.offset + change))

    def one_of(self, reaches: Sequence[Reach], scatter: float = 0.03) -> Reach:
        """Return a place near one of these."""
        return self.near(reaches[self.rng.integers(len(reaches))], scatter)

    def gestures(
        self, pause: float, reaches: Sequence[Reach], scatter: float = 0.03, talk: float = 0.0
    ) -> list[HandMove]:
        """Return moves of one hand, about `pause` seconds apart, each to one of the reaches.

        With `talk`, one more choice is a gesture before the chest, scattered that far.
        """

        def choose() -> Reach:
            spoken = [self.near(BEFORE_CHEST, talk)] if talk else []
            return self.one_of([*reaches, *spoken], scatter)

        times = self.moments(pause / self.body.tempo)
        durations = self.rng.uniform(0.55, 0.85, len(times)) / self.body.tempo
        moves = [HandMove(choose(), *when) for when in zip(times, durations)]
        return [HandMove(choose()), *moves]

    def back_and_forth(
        self, away: Reach, at: Reach, period: float, stay: float, duration: float = 0.8
    ) -> list[HandMove]:
        """Return moves of a hand that goes to `at`, stays, and comes back, again and again."""
        moves = [HandMove(away)]
        for time in self.moments(period):
            moves.append(HandMove(self.near(at, 0.008), time, duration))
            moves.append(HandMove(self.near(away, 0.05), time + duration + stay, duration))
        return moves

    def both_hands(
        self, times: list[float], durations: list[float], pairs: list, scatter: float, first: int
    ) -> dict[int, list[HandMove]]:
        """Return moves of both hands from pair to pair; `first` is the side of a pair's first."""
        chosen = [pairs[self.rng.integers(len(pairs))] for _ in range(len(times) + 1)]
        hands = {}
        for side, reaches in zip((first, -first), zip(*chosen)):
            start, *then = (self.near(reach, scatter) for reach in reaches)
            hands[side] = [HandMove(start), *map(HandMove, then, times, durations)]
        return hands

    def beat(self, size: float, frequency: float) -> np.ndarray:
        """Return small quick movements of a hand, (frames, 3), that come and go."""
        envelope = 0.5 + 0.5 * np.tanh(2 * self.wobble(0.4))
        return size * envelope * self.wobble(frequency, 3)

    # --- where the body goes ---

    def _spot(self, radius: float) -> np.ndarray:
        return np.array([*self.arena.place(self._in_disk(radius)), self.rng.uniform(0, 2 * np.pi)])

    def _in_disk(self, radius: float) -> np.ndarray:
        angle, r = self.rng.uniform(0, 2 * np.pi), radius * np.sqrt(self.rng.uniform())
        return r * np.array([np.cos(angle), np.sin(angle)])

    def _wander(self, pause: float, far: float) -> tuple[np.ndarray, list[Step]]:
        """Return ground (frames, 3) and steps of somebody who mostly stands; see `stand`."""
        rng, poses = self.rng, [self._spot(0.8)]
        starts, durations, steps = [], [], []
        time = self.t[0] + rng.uniform(0.2, 1) * pause
        while time < self.t[-1]:
            for pose in self._next_poses(poses[-1], far):
                first, count = _footwork(poses[-1], pose)
                if steps and time - steps[-1].land < 0.5:
                    first = -steps[-1].side
                step_time = self.body.step_time * rng.uniform(1.0, 1.15)
                lifts = time + step_time * np.arange(count)
                steps += _alternate(first, lifts, np.full(count, step_time))
                poses.append(pose)
                starts.append(time)
                durations.append(step_time * count)
                time += step_time * count
            time += pause * rng.uniform(0.5, 1.5)
        return self.keyed(starts, durations, np.array(poses)), steps

    def _next_poses(self, pose: np.ndarray, far: float) -> list[np.ndarray]:
        """Choose where to go: a shuffle, or a turn towards another place and a walk to it."""
        rng, goal = self.rng, self.arena.place(self._in_disk(0.9))
        away = goal - pose[:2]
        if rng.random() > far or np.hypot(*away) < 0.5:
            nearer = pose[:2] + away * min(1, rng.uniform(0.05, 0.3) / np.hypot(*away))
            return [np.array([*nearer, pose[2] + rng.normal(0, 0.5)])]
        turn = np.arctan2(away[1], away[0]) - pose[2]
        heading = pose[2] + (turn + np.pi) % (2 * np.pi) - np.pi
        return [np.array([*pose[:2], heading]), np.array([*goal, heading])]

    def _stroll(self, pace: float, hesitation: float) -> tuple[np.ndarray, list[Step]]:
        """Return ground (frames, 3) and steps along a curved path; see `walk`."""
        path, seconds = self._path(self.body.speed * pace)
        rate = np.clip(1 + hesitation * self.wobble(0.25)[:, 0], 0.45, 1.5)
        ground = interpolate(np.cumsum(rate) / FPS, seconds, path)
        cadence = np.cumsum(0.35 + 0.65 * rate) / FPS
        step_time = self.body.step_time / pace**0.4
        beats = np.arange(self.rng.uniform(0.3, 1.3), cadence[-1] / step_time) * step_time
        lifts = np.interp(beats, cadence, self.t)
        return ground, _alternate(self.rng.choice(SIDES), lifts, np.diff(lifts))

    def _path(self, speed: float) -> tuple[np.ndarray, np.ndarray]:
        """Return places and headings on a curve (points, 3), and when each is reached, seconds.

        Speed falls with curvature κ as in human walking along curves: v ∝ κ^(-1/3), the two-thirds
        power law (Hicheur, Vieilledent, Richardson, Flash and Berthoz, 2005), for κ > 0.6 / m.
        """
        laps = 3 + (self.t[-1] - self.t[0]) * speed / 3
        psi = self.rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi * laps, int(800 * laps))
        # A round course in the unit disk that differs from lap to lap.
        lobes = self.rng.integers(2, 4)
        depth = 0.25 / (lobes**2 - 1)
        wave = depth * np.cos(lobes * psi + self.rng.uniform(0, 6))
        radius = 0.82 + wave + 0.06 * np.cos(0.37 * psi)
        direction = self.rng.choice((-1, 1))
        course = radius[:, None] * np.stack([np.cos(psi), direction * np.sin(psi)], axis=-1)
        lengths = np.linalg.norm(self.arena.axes, axis=0)
        round_arena = self.arena.scaled(np.minimum(1.35 * lengths.min() / lengths, 1))
        xy = round_arena.place(course)
        tangent = np.gradient(xy, axis=0)
        length = np.hypot(*tangent.T)
        heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        curvature = np.abs(np.gradient(heading)) / length
        pace = speed * np.maximum(curvature / 0.6, 1) ** (-1 / 3)
        seconds = np.cumsum(length / pace) - length[0] / pace[0]
        return np.column_stack([xy, heading]), seconds


def _footwork(pose: np.ndarray, goal: np.ndarray) -> tuple[int, int]:
    """Return which foot begins and how many steps the move takes."""
    away, turn = goal[:2] - pose[:2], goal[2] - pose[2]
    left = away[1] * np.cos(pose[2]) - away[0] * np.sin(pose[2]) + 0.3 * turn
    count = 1 + max(1, int(np.ceil(np.hypot(*away) / 0.45)), int(np.ceil(abs(turn) / 0.55)))
    return (LEFT if left > 0 else RIGHT), count


def _alternate(first: int, lifts: np.ndarray, intervals: np.ndarray) -> list[Step]:
    """Return steps of alternate feet; a foot swings for 0.38 of the gait cycle of two steps."""
    return [
        Step(first * (-1) ** i, lift, lift + 0.76 * interval)
        for i, (lift, interval) in enumerate(zip(lifts, intervals))
    ]
