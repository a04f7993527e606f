"""Camera mathematics in NumPy, and Human3.6M's four cameras.

Quaternions are (w, x, y, z) of unit length and rotate camera coordinates to world coordinates, as
Human3.6M publishes them. Camera coordinates: x to the right, y down, z forward. World: z up.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from common.files.console import InputError

FOLLOWED_FRAMES = 27  # half a second: over so many the camera of `follow_person` averages


def normalize_screen_coordinates(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Map pixels (..., 2) to x in [-1, 1] and y in [-height / width, height / width].

    The origin is the picture's centre; width and height are in pixels.
    """
    return pixels / width * 2 - np.array([1, height / width], dtype=pixels.dtype)


def image_coordinates(normalized: np.ndarray, width: int, height: int) -> np.ndarray:
    """Undo `normalize_screen_coordinates`: (..., 2) in [-1, 1] to pixels."""
    return (normalized + np.array([1, height / width], dtype=normalized.dtype)) * width / 2


def quaternion_rotate(quaternion: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Rotate vectors (..., 3) by a unit quaternion (4,): R = 1 + 2 w [q]× + 2 [q]×² (Rodrigues)."""
    w, x, y, z = quaternion
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=quaternion.dtype)
    matrix = np.eye(3, dtype=quaternion.dtype) + 2 * (w * cross + cross @ cross)
    return vectors @ matrix.T


def quaternion_inverse(quaternion: np.ndarray) -> np.ndarray:
    """Return the inverse (the conjugate) of unit quaternions (..., 4)."""
    return quaternion * np.array([1, -1, -1, -1], dtype=quaternion.dtype)


def world_to_camera(
    points: np.ndarray, orientation: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """Express world points in a camera's coordinates; returns (..., 3).

    Args:
        points: (..., 3), world.
        orientation: (4,), the quaternion that rotates camera to world.
        translation: (3,), the camera's centre in the world, in the unit of `points`.
    """
    return quaternion_rotate(quaternion_inverse(orientation), points - translation)


def camera_to_world(
    points: np.ndarray, orientation: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """Undo `world_to_camera`; shapes and units are the same."""
    return quaternion_rotate(orientation, points) + translation


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Project camera coordinates to pixels (..., 2), by Human3.6M's full distortion model.

    With (x, y) = (X / Z, Y / Z) and r² = x² + y², the distorted point is
    (x, y) (1 + k₁ r² + k₂ r⁴ + k₃ r⁶ + p₁ x + p₂ y) + (p₁, p₂) r², with the calibration's
    tangential coefficients in the order in which the field's projected files use them. As there,
    x and y are clamped to [-1, 1], beyond which the polynomial is not valid. PyTorch tensors are
    accepted too. If the focal length and the centre are in another unit, so is the result.

    Args:
        points: (..., 3), camera coordinates, any unit; Z > 0.
        intrinsics: (9,), broadcastable: focal length (2) and centre (2) in pixels, radial
            distortion k (3), tangential distortion p (2).
    """
    focal, center = intrinsics[..., :2], intrinsics[..., 2:4]
    k, p = intrinsics[..., 4:7], intrinsics[..., 7:]
    xy = (points[..., :2] / points[..., 2:]).clip(-1, 1)
    r2 = (xy * xy).sum(axis=-1, keepdims=True)
    radial = 1 + r2 * (k[..., :1] + r2 * (k[..., 1:2] + r2 * k[..., 2:]))
    tangential = (p * xy).sum(axis=-1, keepdims=True)
    return focal * (xy * (radial + tangential) + p * r2) + center


def follow_person(
    rays: np.ndarray, window: int | None = FOLLOWED_FRAMES
) -> tuple[np.ndarray, np.ndarray]:
    """See a person through a virtual camera that turns after them, as if in the picture's middle.

    So a network need not know where in the picture somebody is, and whatever the focal length does
    there. The camera looks where all joints lie on average over the frames of a window; it pans,
    then tilts, and does not roll.

    Args:
        rays: (…, frames, joints, 2): x / z and y / z in a real camera's coordinates.
        window: frames about each, odd, the ends repeated; None: all frames have one camera.

    Returns:
        The same in the virtual camera's coordinates; the rotations R (…, frames, 3, 3) to them,
        so that points (…, 3) @ R are in the real camera's again. In the precision of `rays`.
    """
    rays = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
    centre = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).mean(axis=-2)  # (…, frames, 3)
    if window is None:
        centre = np.broadcast_to(centre.mean(axis=-2, keepdims=True), centre.shape)
    else:
        ends = [(0, 0)] * (centre.ndim - 2) + [(window // 2, window // 2), (0, 0)]
        padded = np.pad(centre, ends, mode="edge")
        centre = np.lib.stride_tricks.sliding_window_view(padded, window, axis=-2).mean(axis=-1)
    x, y, z = np.moveaxis(centre, -1, 0)
    pan, tilt = np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
    (sp, st), (cp, ct), zero = np.sin([pan, tilt]), np.cos([pan, tilt]), np.zeros_like(x)
    rows = (cp, zero, -sp, -st * sp, ct, -st * cp, ct * sp, st, ct * cp)
    turns = np.stack(rows, axis=-1).reshape(*x.shape, 3, 3).astype(rays.dtype)
    seen = rays @ np.swapaxes(turns, -1, -2)
    return seen[..., :2] / seen[..., 2:].clip(0.1), turns


# Human3.6M's cameras ------------------------------------------------------------------------------

CAMERA_IDS = ("54138969", "55011271", "58860488", "60457274")
_CAMERA_FILE = Path(__file__).with_name("h36m_cameras.json")
_INTRINSICS = ("focal_length", "center", "radial_distortion", "tangential_distortion")


def camera_index(camera: str) -> int:
    """Return the index of a camera that is given by its id or its index.

    Raises:
        InputError: if there is none.
    """
    if camera in CAMERA_IDS:
        return CAMERA_IDS.index(camera)
    if camera in ("0", "1", "2", "3"):
        return int(camera)
    raise InputError(f"no camera '{camera}'; there are {', '.join(CAMERA_IDS)}, or 0 to 3")


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera as one subject was filmed."""

    id: str  # Human3.6M's number of the camera
    width: int  # of the picture, in pixels
    height: int
    intrinsics: np.ndarray  # (9,), as `project` takes them
    azimuth: float  # direction in degrees from which a 3D drawing looks like the picture
    orientation: np.ndarray  # (4,), the unit quaternion that rotates camera to world
    translation_m: np.ndarray  # (3,), the camera's centre in the world


@cache
def load_cameras() -> dict[str, tuple[Camera, ...]]:
    """Return {subject: four `Camera`s in the order of `CAMERA_IDS`}, as published."""
    calibration = json.loads(_CAMERA_FILE.read_text())
    return {
        subject: tuple(map(_camera, calibration["intrinsics"], views))
        for subject, views in calibration["extrinsics"].items()
    }


def _camera(intrinsics: dict, extrinsics: dict) -> Camera:
    return Camera(
        id=intrinsics["id"],
        width=intrinsics["res_w"],
        height=intrinsics["res_h"],
        intrinsics=np.concatenate([intrinsics[part] for part in _INTRINSICS]),
        azimuth=intrinsics["azimuth"],
        orientation=np.array(extrinsics["orientation"]),
        translation_m=np.array(extrinsics["translation"]) / 1000,
    )
