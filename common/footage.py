"""Footage of one's own: its sequences, their 3D, upright, and what can be told without truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.camera import quaternion_rotate
from common.console import InputError, warn
from common.h36m_dataset import FPS, Camera
from common.lift import lift
from common.model_poseformer import PoseFormerV2
from common.motion import (
    LEVEL_CAMERA,
    bone_variation_percent,
    jitter_m_s3,
    on_floor,
    orientation_of_camera,
    reprojection_px,
    smooth,
    up_direction,
)
from common.npz_io import read_custom_2d

UPS = ("auto", "level")
# The azimuth of a camera that looks along the y axis of the world of `orientation_of_camera`.
_AZIMUTH = -90.0
_MAX_TILT = 60.0  # degrees, beyond which "auto" is hardly a camera's tilt


@dataclass(frozen=True, eq=False)
class Footage:
    """One person's sequence in a video.

    Attributes:
        name: of the sequence.
        keypoints_px: (frames, 17, 2), float32, pixels.
        size: width and height of the picture in pixels.
        fps: frames a second.
        first_frame: number of the first of the frames in the video.
    """

    name: str
    keypoints_px: np.ndarray
    size: tuple[int, int]
    fps: float
    first_frame: int


def load_footage(path: Path, names: Sequence[str] | None = None) -> list[Footage]:
    """Return the sequences of `data_2d_custom_<name>.npz`.

    Args:
        path: the npz file, from `data/prepare_2d_custom.py`.
        names: which sequences; None for all.

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
    return [
        Footage(
            name=name,
            keypoints_px=positions[name][..., :2],
            size=(metadata[name]["w"], metadata[name]["h"]),
            fps=metadata[name].get("fps", FPS),
            first_frame=metadata[name].get("first_frame", 0),
        )
        for name in names or positions
    ]


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

    Args:
        footage: the sequence.
        model: on the device, in evaluation mode.
        resample: bring the keypoints to the rate of the training, and the poses back.
        causal: use past frames only.
        smooth_hz: take out what is faster; None for no smoothing.
        device: where to compute.
        precision: "fp32" or "bf16", of matrix products.

    Returns:
        (frames, 17, 3), float32, metres, camera coordinates, relative to the hip, which is zero.
    """
    poses = lift(
        footage.keypoints_px,
        model,
        size=footage.size,
        fps=footage.fps if resample else FPS,
        causal=causal,
        device=device,
        precision=precision,
    )
    print(
        f"{footage.name}: {len(poses)} frames at {footage.fps:g} fps; bones vary by "
        f"{bone_variation_percent(poses):.1f}%, jitter {jitter_m_s3(poses, footage.fps):.1f} m/s³, "
        f"{reprojection_px(poses, footage.keypoints_px):.1f} px from the keypoints"
    )
    if smooth_hz is None:
        return poses
    smoothed = smooth(poses, footage.fps, smooth_hz)
    moved_mm = 1000 * np.linalg.norm(smoothed - poses, axis=-1).mean()
    print(
        f"{footage.name}: smoothed at {smooth_hz:g} Hz: bones vary by "
        f"{bone_variation_percent(smoothed):.1f}%, jitter "
        f"{jitter_m_s3(smoothed, footage.fps):.1f} m/s³, "
        f"{reprojection_px(smoothed, footage.keypoints_px):.1f} px from the keypoints; "
        f"joints moved by {moved_mm:.1f} mm on average"
    )
    return smoothed


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
    orientation, azimuth = LEVEL_CAMERA, _AZIMUTH
    if camera is not None:
        orientation, azimuth = camera.orientation, camera.azimuth
    elif up != "level":
        direction = up_direction(poses_m)
        tilt = np.degrees(np.arccos(np.clip(-direction[1], -1, 1)))
        if tilt > _MAX_TILT:
            warn(
                f"the person is {tilt:.0f} degrees off the picture's vertical; where that is no "
                "tilted camera, add --up level"
            )
        orientation = orientation_of_camera(direction)
    in_world = quaternion_rotate(orientation, poses_m.astype(np.float64))
    return on_floor(in_world, fps).astype(np.float32), azimuth
