"""Where somebody is in the room whom all four cameras have to see."""

from collections.abc import Sequence

import numpy as np

from common.camera import project, quaternion_rotate, world_to_camera
from common.h36m_cameras import Camera

_EDGE_PX = 3


def view(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., 2) pixels and (..., 3) camera coordinates of world points (..., 3), metres."""
    in_camera = world_to_camera(points, camera.orientation, camera.translation_m)
    return project(in_camera, camera.intrinsics), in_camera


def place_in_room(
    random: np.random.Generator,
    joints: np.ndarray,
    walked: np.ndarray,
    cameras: Sequence[Camera],
) -> np.ndarray:
    """Let somebody walk round the middle of the room, where all cameras see the whole body.

    Args:
        random: it chooses an ellipse and where on it to start.
        joints: (frames, joints, 3), metres; x is forward.
        walked: (frames,), how far along the ellipse, metres.
        cameras: who has to see all joints; where they do not, the ellipse is made smaller.

    Returns:
        (frames, joints, 3) in the world.

    Raises:
        RuntimeError: if the cameras do not see somebody in the middle.
    """
    centre = _middle_of_view(cameras)
    long = random.uniform(0.7, 1.6) if np.ptp(walked) > 0.5 else 1.4 * np.sqrt(random.uniform())
    axes = long * np.array([1, random.uniform(0.65, 1)])
    rotation, start = random.uniform(0, 2 * np.pi, 2)
    side = random.choice([-1.0, 1.0])  # counterclockwise
    for _ in range(30):
        places, headings = _follow_ellipse(axes, start, walked)
        moved = _turn(joints * [1, side, 1], headings)
        moved[..., :2] += places[:, None]
        moved = _turn(moved * [1, side, 1], np.full(len(moved), rotation)) + centre
        if all(_sees(camera, moved) for camera in cameras):
            return moved
        axes = 0.85 * axes
    raise RuntimeError("the cameras do not see the whole body in the middle of the room")


def _middle_of_view(cameras: Sequence[Camera]) -> np.ndarray:
    """Return the place (3,) on the floor that is nearest to the cameras' optical axes, metres.

    From above, c + s d is an axis. The place minimises the sum of its squared distances to them.
    """
    directions = np.array(
        [quaternion_rotate(c.orientation, np.array([0, 0, 1.0])) for c in cameras]
    )
    d = directions[:, :2] / np.linalg.norm(directions[:, :2], axis=1, keepdims=True)
    across = np.eye(2) - d[:, :, None] * d[:, None]
    centres = np.array([c.translation_m[:2] for c in cameras])
    middle = np.linalg.solve(across.sum(axis=0), (across @ centres[..., None]).sum(axis=0)[:, 0])
    return np.array([*middle, 0.0])


def _follow_ellipse(
    axes: np.ndarray, start: float, walked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return places (frames, 2) and headings (frames,) on an ellipse about the origin."""
    angles = start + np.linspace(0, 2 * np.pi, 500)
    x, y = axes[:, None] * [np.cos(angles), np.sin(angles)]
    lengths = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    angle = np.interp(walked % lengths[-1], lengths, angles)
    places = axes * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return places, np.arctan2(axes[1] * np.cos(angle), -axes[0] * np.sin(angle))


def _turn(points: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Turn points (frames, joints, 3) to the left about the vertical by angles (frames,)."""
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([c * x - s * y, s * x + c * y, z], axis=-1)


def _sees(camera: Camera, points: np.ndarray) -> bool:
    """Tell whether all points (..., 3) are inside a camera's picture."""
    pixels, _ = view(points, camera)
    size = np.array([camera.width, camera.height])
    return bool(((pixels > _EDGE_PX) & (pixels < size - _EDGE_PX)).all())
