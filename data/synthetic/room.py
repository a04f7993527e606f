"""Where somebody is in the room whom all cameras have to see."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from common.camera import Camera, project, world_to_camera

_MARGIN = 0.003  # between a body and the edge of the picture, as a share of the picture


def view(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., 2) pixels and (..., 3) camera coordinates of world points (..., 3), metres."""
    in_camera = world_to_camera(points, camera.orientation, camera.translation_m)
    return project(in_camera, camera.intrinsics), in_camera


def place_in_room(
    random: Generator, joints: np.ndarray, walked: np.ndarray, cameras: Sequence[Camera]
) -> np.ndarray:
    """Let somebody stand somewhere, or walk in a circle, where all cameras see the whole body.

    `joints` are (frames, joints, 3), metres, x forward; `walked` (frames,) says how far along the
    circle. Returns joints in the world. The cameras surround the room.

    Raises:
        RuntimeError: if the cameras do not see somebody in the middle.
    """
    walks = np.ptp(walked) > 0.5
    radius = random.uniform(0.8, 1.5) if walks else 1.5 * np.sqrt(random.uniform())
    start, facing = random.uniform(0, 2 * np.pi, 2)
    turn = random.choice([-1, 1])  # 1: to the left
    middle = np.mean([camera.translation_m[:2] for camera in cameras], axis=0)
    x, y, z = np.moveaxis(joints, -1, 0)
    for _ in range(30):
        angle = (start + turn * walked / radius)[:, None]
        heading = angle + (turn * np.pi / 2 if walks else facing)
        place_x, place_y = middle[0] + radius * np.cos(angle), middle[1] + radius * np.sin(angle)
        c, s = np.cos(heading), np.sin(heading)
        placed = np.stack([place_x + c * x - s * y, place_y + s * x + c * y, z], axis=-1)
        seen = [view(placed, camera)[0] / [camera.width, camera.height] for camera in cameras]
        if np.min(seen) > _MARGIN and np.max(seen) < 1 - _MARGIN:
            return placed
        radius *= 0.85
    raise RuntimeError("the cameras do not see the whole body in the middle of the room")
