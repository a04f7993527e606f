"""Rotations, and limbs of two bones."""

import numpy as np

from common.motion import unit

# A limb folds no further than its muscles allow.
_MIN_INTERIOR_ANGLE = np.radians(32)


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
        reach: the end's distance from the root, in lengths of the limb: from where on the limb
            lags behind its target, and the longest.

    Returns:
        Middle joint and end, (frames, 3) each.
    """
    distance = np.linalg.norm(target - root, axis=-1, keepdims=True)
    line = (target - root) / distance
    cosine = np.cos(_MIN_INTERIOR_ANGLE)
    shortest = np.sqrt(upper**2 + lower**2 - 2 * upper * lower * cosine)
    resists, longest = (upper + lower) * np.array(reach)
    # Both limits are approached smoothly.
    margin = longest - resists
    high = longest - margin * (1 - np.tanh((distance - resists) / margin))
    distance = np.where(distance > resists, high, distance)
    low = shortest + margin * (1 - np.tanh((shortest + margin - distance) / margin))
    distance = np.where(distance < shortest + margin, low, distance)
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    across = np.sqrt(np.maximum(upper**2 - along**2, 0))
    return root + along * line + across * perpendicular(pole, line), root + distance * line


def perpendicular(v: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return the direction of v without its part along the unit vectors `line`."""
    return unit(v - np.sum(v * line, axis=-1, keepdims=True) * line)
