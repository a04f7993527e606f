"""Footage of one's own: its sequences, their 3D, upright, and what can be told without truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common import motion
from common.camera import quaternion_rotate
from common.console import InputError, warn
from common.h36m_cameras import Camera
from common.h36m_dataset import FPS
from common.lift import lift
from common.model_poseformer import PoseFormerV2
from common.npz_io import read_custom_2d

UPS = ("auto", "level")
# The azimuth of a camera that looks along the y axis of the world of `orientation_of_camera`.
_AZIMUTH = -90.0
_MAX_TILT = 60.0  # degrees, beyond which "auto" is hardly a camera's tilt


class Footage(NamedTuple):
    """One person's sequence in a video."""

    name: str
    keypoints_px: np.ndarray  # (frames, 17, 2), float32, pixels
    size: tuple[int, int]  # width and height of the picture in pixels
    fps: float
    first_frame: int  # number of the first of the frames in the video


def load_footage(path: Path, names: Sequence[str] | None = None) -> list[Footage]:
    """Return these sequences, or all, of `data_2d_custom_<name>.npz`.

    Raises:
        InputError: if the file is bad, or a sequence is not in it.
    """
    positions, metadata = read_custom_2d(path)
    missing = [name for name in names or () if name not in positions]
    if missing:
        listed = ", ".join(positions)
        raise InputError(f"{path}: no sequence '{', '.join(missing)}'; there are: {listed}")
    if any("fps" not in info for info in metadata.values()):
        warn(f"{path}: does not tell its frame rate; taking {FPS} frames a second")
    sequences = []
    for name in names or positions:
        about, pixels = metadata[name], positions[name][..., :2]
        size, first_frame = (about["w"], about["h"]), about.get("first_frame", 0)
        sequences.append(Footage(name, pixels, size, about.get("fps", FPS), first_frame))
    return sequences


def lift_footage(
    footage: Footage,
    model: PoseFormerV2,
    *,
    resample: bool,
    causal: bool,
    smooth_hz: float | None,
    device: torch.device | str,
    precision: str,
) -> np.ndarray:
    """Estimate a sequence's poses, and print what can be measured without truth.

    Without `resample`, the frames are taken as they are, whatever their rate; `smooth_hz` takes out
    what is faster. The other arguments are those of `lift`.

    Returns:
        (frames, 17, 3), float32, metres, camera coordinates, relative to the hip, which is zero.
    """
    fps, how = footage.fps if resample else FPS, {"device": device, "precision": precision}
    poses = lift(footage.keypoints_px, model, size=footage.size, fps=fps, causal=causal, **how)
    told = _measures(poses, footage)
    print(f"{footage.name}: {len(poses)} frames at {footage.fps:g} fps; {told}")
    if smooth_hz is None:
        return poses
    smoothed = motion.smooth(poses, footage.fps, smooth_hz)
    moved_mm = 1000 * np.linalg.norm(smoothed - poses, axis=-1).mean()
    print(
        f"{footage.name}: smoothed at {smooth_hz:g} Hz: {_measures(smoothed, footage)}; "
        f"joints moved by {moved_mm:.1f} mm on average"
    )
    return smoothed


def _measures(poses_m: np.ndarray, footage: Footage) -> str:
    return (
        f"bones vary by {motion.bone_variation_percent(poses_m):.1f}%, "
        f"jitter {motion.jitter_m_s3(poses_m, footage.fps):.1f} m/s³, "
        f"{motion.reprojection_px(poses_m, footage.keypoints_px):.1f} px from the keypoints"
    )


def stand(
    poses_m: np.ndarray, fps: float, up: str | None, camera: Camera | None
) -> tuple[np.ndarray, float]:
    """Place a person in a world with z up, on the floor z = 0, the hip above the origin.

    Args:
        poses_m: (frames, 17, 3), metres, camera coordinates, relative to the hip.
        fps: frames a second.
        up: how the camera was held: "level", or "auto" or None to tell it from the person.
        camera: one that was held in the same way, which comes before `up`; or None.

    Returns:
        (frames, 17, 3), metres; the azimuth in degrees from which it looks like the picture.
    """
    orientation, azimuth = motion.LEVEL_CAMERA, _AZIMUTH
    if camera is not None:
        orientation, azimuth = camera.orientation, camera.azimuth
    elif up != "level":
        direction = motion.up_direction(poses_m)
        tilt = np.degrees(np.arccos(np.clip(-direction[1], -1, 1)))
        if tilt > _MAX_TILT:
            warn(
                f"the person is {tilt:.0f} degrees off the picture's vertical; where that is no "
                "tilted camera, add --up level"
            )
        orientation = motion.orientation_of_camera(direction)
    in_world = quaternion_rotate(orientation, poses_m.astype(np.float64))
    return motion.on_floor(in_world, fps).astype(np.float32), azimuth
