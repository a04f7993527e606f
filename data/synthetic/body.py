"""A person: bone lengths and style; steps, and where hands reach.

World coordinates in metres, z up. A body's own axes are x forward, y to its left, z up; angles are
(yaw, pitch, roll) in radians: a positive yaw turns left, a positive pitch bends forward, a positive
roll leans right. For hands the second axis is outward instead: left for the left hand, and right
for the right one.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

LEFT, RIGHT = 1, -1
SIDES = (LEFT, RIGHT)

# Lengths as shares of the stature. What stands in one row varies together between people. Ankle
# and ball are heights above the floor, of a flat foot; "hip" is from the pelvis centre to a hip.
_PROPORTIONS = (
    {"thigh": 0.256, "shin": 0.260, "foot": 0.094, "toe": 0.043, "ankle": 0.044, "ball": 0.012},
    {"spine": 0.135, "chest": 0.148, "neck": 0.070, "head": 0.067},
    {"upper_arm": 0.162, "forearm": 0.146, "hand": 0.058, "thumb": 0.058},
    {"hip": 0.077, "clavicle": 0.088},
)
_STYLES = {
    "toe_out": (0.05, 0.2),  # yaw of a standing foot away from the midline, radians
    "stance": (0.09, 0.14),  # half the distance between standing feet, metres
    "stoop": (-0.01, 0.09),  # forward pitch of the trunk at rest, radians
    "step_time": (0.52, 0.60),  # seconds from one footfall to the next
    "speed": (0.85, 1.1),  # of relaxed walking, metres per second
    "arm_swing": (0.7, 1.25),  # 1 is usual, as it is for the next two
    "gesture": (0.85, 1.15),  # how far gestures reach
    "tempo": (0.8, 1.2),  # how fast gestures follow each other
}


class Body(SimpleNamespace):
    """The stature and the lengths of `_PROPORTIONS` in metres; and how this person moves.

    That is what `_STYLES` names, and `handed`, the side that points, waves, phones, smokes.
    """

    @property
    def leg(self) -> float:
        """Length of the straight leg from hip to ankle."""
        return self.thigh + self.shin

    @property
    def arm(self) -> float:
        """Length of the straight arm from shoulder to wrist."""
        return self.upper_arm + self.forearm


def make_body(rng: np.random.Generator, stature: float) -> Body:
    """Draw a person of this height in metres: an adult's proportions, and a style of moving."""
    scales = stature * (1 + 0.025 * np.clip(rng.standard_normal(4), -2, 2))
    lengths = {
        name: share * scale
        for shares, scale in zip(_PROPORTIONS, scales)
        for name, share in shares.items()
    }
    style = {name: rng.uniform(*limits) for name, limits in _STYLES.items()}
    handed = LEFT if rng.random() < 0.15 else RIGHT
    return Body(stature=stature, **lengths, **style, handed=handed)


class Step(NamedTuple):
    """One foot leaves the floor and comes down elsewhere."""

    side: int
    lift: float  # seconds, as is `land`
    land: float
    forward: float = 0.0  # metres from the foot's usual place beside the body, as is `outward`
    outward: float = 0.0


class Reach(NamedTuple):
    """Where a hand may be.

    The offset is in arm lengths from the shoulder, along upright axes that turn with the chest; or
    in metres from head or hip, along the axes of the head or the pelvis.
    """

    frame: str  # "shoulder", "head" or "hip"
    offset: tuple[float, float, float]  # of the wrist: forward, outward, up
    pole: tuple[float, float, float]  # where the elbow points: forward, outward, up
    swing: float = 0.1  # how far the arm takes part in walking, 0 to 1


class HandMove(NamedTuple):
    """From `start`, within `duration` seconds, the hand goes to `reach`."""

    reach: Reach
    start: float = 0.0
    duration: float = 1.0
