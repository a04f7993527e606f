"""Human3.6M's four cameras: their order, and how each subject was filmed."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from common.console import InputError

CAMERA_IDS = ("54138969", "55011271", "58860488", "60457274")
_CAMERA_FILE = Path(__file__).with_name("h36m_cameras.json")


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
    """One camera as one subject was filmed.

    Attributes:
        id: Human3.6M's number of the camera.
        width: image width in pixels.
        height: image height in pixels.
        intrinsics: (9,): focal length (2) and centre (2) in pixels, radial distortion (3),
            tangential distortion (2).
        azimuth: direction in degrees from which a 3D drawing looks like the camera's picture.
        orientation: (4,), the unit quaternion (w, x, y, z) that rotates camera to world.
        translation_m: (3,), the camera's centre in the world, in metres.
    """

    id: str
    width: int
    height: int
    intrinsics: np.ndarray
    azimuth: float
    orientation: np.ndarray
    translation_m: np.ndarray


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
        intrinsics=np.array(
            intrinsics["focal_length"]
            + intrinsics["center"]
            + intrinsics["radial_distortion"]
            + intrinsics["tangential_distortion"]
        ),
        azimuth=intrinsics["azimuth"],
        orientation=np.array(extrinsics["orientation"]),
        translation_m=np.array(extrinsics["translation"]) / 1000,
    )
