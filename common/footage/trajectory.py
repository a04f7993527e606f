"""Where a person is in the room: from keypoints, poses relative to the hip, and a focal length.

Camera coordinates are x right, y down, z forward. The camera is a pinhole whose axis meets the
middle of the picture. A pose's size decides its distance: a network that takes a child for an adult
puts the child farther away.
"""

import numpy as np

from common.motion import lowpass
from common.skeleton import BONES, LEFT_JOINTS, RIGHT_JOINTS

# Phones' main cameras, when they film: 65 to 70 degrees across the longer side.
DEFAULT_FOV_DEG = 67.0
# Networks and estimators disagree about spine, neck and head, so the limbs decide.
_LIMBS = [*RIGHT_JOINTS, *LEFT_JOINTS]
_MIN_WEIGHT = 1e-4  # of a point that was not found but filled
_MIN_DEPTH_M = 0.3
# The path is smoothed at this; distances more, the less the poses fit the keypoints: limbs that
# are off by 4 cm on average, as a good network's, at 1 Hz.
_CUTOFF_HZ, _MIN_CUTOFF_HZ, _MISFIT_M = 6.0, 0.5, 0.04


def focal_length_px(size: tuple[int, int], fov_deg: float = DEFAULT_FOV_DEG) -> float:
    """Return the focal length of a camera that sees this angle across the picture's longer side."""
    return max(size) / 2 / np.tan(np.radians(fov_deg) / 2)


def hip_path(
    poses_m: np.ndarray,
    keypoints_px: np.ndarray,
    size: tuple[int, int],
    focal_px: float,
    *,
    fps: float,
    confidences: np.ndarray | None = None,
) -> np.ndarray:
    """Return where the hip is, (frames, 3), metres, camera coordinates, by linear least squares.

    A joint at (X, Y, Z) from a hip at t is seen at (u, v) from the picture's middle if
    f (X + t_x) = u (Z + t_z), and so for Y and v: linear equations in t, weighted by confidence.
    Before, each pose is scaled so that its bones are as long in all as in the median frame. The
    distances are smoothed; then the sideways parts follow, so that the person stays under the
    keypoints, and are smoothed less.

    Takes poses (frames, 17, 3), camera coordinates, relative to the hip, where the joints are seen
    (frames, 17, 2), the picture's (width, height), and confidences (frames, 17), None if alike.
    """
    poses = _of_one_size(poses_m.astype(np.float64))[:, _LIMBS]
    rays = (keypoints_px[:, _LIMBS] - np.divide(size, 2)) / focal_px  # (frames, limbs, 2)
    weights = np.ones(rays.shape[:2]) if confidences is None else confidences[:, _LIMBS]
    weights = np.maximum(weights, _MIN_WEIGHT)[..., None]
    weights = weights / weights.sum(axis=1, keepdims=True)
    offsets = rays * poses[..., 2:] - poses[..., :2]

    def mean(values: np.ndarray) -> np.ndarray:
        return (weights * values).sum(axis=1, keepdims=True)

    # For a depth t_z the rest is the mean of offsets + t_z rays, so the depth is a slope.
    slopes, heights = rays - mean(rays), offsets - mean(offsets)
    above, below = ((weights * slopes * v).sum(axis=(1, 2)) for v in (heights, slopes))
    depths = np.maximum(-above / np.maximum(below, 1e-12), _MIN_DEPTH_M)
    misfit_m = np.linalg.norm(heights + depths[:, None, None] * slopes, axis=-1).mean()
    cutoff_hz = _MISFIT_M / max(misfit_m, _MISFIT_M / _CUTOFF_HZ)
    depths = lowpass(depths, fps, max(cutoff_hz, _MIN_CUTOFF_HZ))
    sideways = lowpass(mean(offsets + depths[:, None, None] * rays)[:, 0], fps, _CUTOFF_HZ)
    return np.concatenate([sideways, depths[:, None]], axis=1)


def _of_one_size(poses_m: np.ndarray) -> np.ndarray:
    """Scale poses (frames, 17, 3) so that the sum of the bones' lengths is that of the median."""
    children, parents = np.array(BONES).T
    lengths = np.linalg.norm(poses_m[:, children] - poses_m[:, parents], axis=-1).sum(axis=1)
    return poses_m * (np.median(lengths) / np.maximum(lengths, 1e-9))[:, None, None]
