"""Smooth curves over time, which all movement is made of."""

from collections.abc import Callable, Sequence

import numpy as np

from common.h36m_dataset import FPS
from common.motion import gaussian_filter


def ease(u: np.ndarray) -> np.ndarray:
    """Go from 0 to 1 as u does, with zero velocity and acceleration at both ends.

    This is the minimum-jerk profile of human reaching (Flash and Hogan, 1985): 10u³ − 15u⁴ + 6u⁵.
    """
    u = np.clip(u, 0, 1)
    return u * u * u * (10 + u * (6 * u - 15))


def glide(u: np.ndarray) -> np.ndarray:
    """Go from 0 to 1 as u does, at constant speed; start and stop each take a share of it."""
    u, ramp = np.clip(u, 0, 1), 0.35
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
    durations: Sequence[float] | float,
    values: np.ndarray,
    profile: Callable[[np.ndarray], np.ndarray] = ease,
) -> np.ndarray:
    """Return (frames, ...) at t, seconds, that moves from value to value, each along a profile.

    Moves, which may overlap, have starts and durations, (moves,), seconds; values (moves + 1, ...)
    are those before the first move and after each. A profile goes from 0 to 1 as the move does.
    """
    values = np.asarray(values, dtype=np.float64)
    progress = profile((t[:, None] - np.asarray(starts)) / np.asarray(durations))
    return values[0] + np.tensordot(progress, np.diff(values, axis=0), axes=1)


def smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Filter (frames,) with a Gaussian of that standard deviation; the ends are held."""
    return gaussian_filter(x, seconds * FPS, mode="edge")


def interpolate(x: np.ndarray, known_x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Interpolate each column of `known` (points, columns) linearly at x (n,)."""
    return np.stack([np.interp(x, known_x, column) for column in known.T], axis=-1)
