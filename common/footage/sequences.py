"""Sequences to lift, of the dataset or of one's own: reading, lifting, placing in the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from common import motion
from common.camera import (
    Camera,
    camera_to_world,
    image_coordinates,
    load_cameras,
    quaternion_rotate,
)
from common.files.console import InputError, warn
from common.files.npz import read_custom_2d
from common.footage.lifting import lift_normalized, normalize
from common.h36m_dataset import FPS, Sequence2d3d

UPS = ("auto", "level")
# The azimuth of a camera that looks along the y axis of the world of `orientation_of_camera`.
_AZIMUTH = -90.0
_MAX_TILT = 60.0  # degrees, beyond which "auto" is hardly a camera's tilt


@dataclass(frozen=True, eq=False)
class Footage:
    """One person's sequence in one camera.

    What only the dataset has is None for own footage: the camera, the true hip, the true pose.
    """

    name: str  # of its files
    title: str  # above a film of it
    inputs: np.ndarray  # (frames, 17, C), float32, normalised: what the network takes
    keypoints_px: dict[str, np.ndarray]  # {estimator: (frames, 17, 2)}, pixels
    size: tuple[int, int]  # width and height of the picture in pixels
    fps: float
    first_frame: int = 0  # number of the first of the frames in the video
    camera: Camera | None = None
    hip_m: np.ndarray | None = None  # (frames, 3), metres, camera coordinates
    truth_m: np.ndarray | None = None  # (frames, 17, 3), metres, world


def footage_of_dataset(sequence: Sequence2d3d, estimators: Sequence[str]) -> Footage:
    """Return one camera's view of one of the dataset's sequences."""
    camera = load_cameras()[sequence.subject][sequence.camera]
    size, inputs = (camera.width, camera.height), sequence.keypoints
    coordinates = np.split(inputs[..., : 2 * len(estimators)], len(estimators), axis=-1)
    return Footage(
        f"{sequence.subject}_{sequence.action}_{camera.id}".replace(" ", "_"),
        f"{sequence.subject} {sequence.action}, camera {camera.id}",
        inputs,
        {name: image_coordinates(c, *size) for name, c in zip(estimators, coordinates)},
        size,
        FPS,
        camera=camera,
        hip_m=sequence.root,
        truth_m=_at_hip(sequence.poses, sequence.root, camera),
    )


def load_own_footage(path: Path, names: Sequence[str] | None = None) -> list[Footage]:
    """Return these sequences, or all, of `data_2d_custom_<name>.npz`."""
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
        size, start = (about["w"], about["h"]), about.get("first_frame", 0)
        what = normalize(pixels, size), {"Keypoints": pixels}, size, about.get("fps", FPS), start
        sequences.append(Footage(name, name, *what))
    return sequences


def lift_footage(
    footage: Footage, model: nn.Module, *, resample: bool, smooth_hz: float | None, **how: Any
) -> np.ndarray:
    """Estimate a sequence's poses as `lift` does, and print what can be measured without truth.

    Without `resample`, the frames are taken as they are, whatever their rate; motion faster than
    `smooth_hz` is removed. `how` is causal, device and precision.
    """
    name, fps = footage.name, footage.fps
    poses = lift_normalized(footage.inputs, model, fps=fps if resample else FPS, **how)
    print(f"{name}: {len(poses)} frames at {fps:g} fps; {_measures(poses, footage)}")
    if smooth_hz is None:
        return poses
    smoothed = motion.lowpass(poses, fps, smooth_hz)
    moved = f"moved by {1000 * np.linalg.norm(smoothed - poses, axis=-1).mean():.1f} mm on average"
    print(f"{name}: smoothed at {smooth_hz:g} Hz: {_measures(smoothed, footage)}; joints {moved}")
    return smoothed


def _measures(poses_m: np.ndarray, footage: Footage) -> str:
    pixels = next(iter(footage.keypoints_px.values()))
    return (
        f"bones vary by {motion.bone_variation_percent(poses_m):.1f}%, "
        f"jitter {motion.jitter_m_s3(poses_m, footage.fps):.1f} m/s³, "
        f"{motion.reprojection_px(poses_m, pixels):.1f} px from the keypoints"
    )


def place_in_world(
    poses_m: np.ndarray, footage: Footage, up: str | None = None, like: Camera | None = None
) -> tuple[np.ndarray, float, str]:
    """Place a person in a world with z up: at the true hip, or, where that is not known, upright.

    Args:
        poses_m: (frames, 17, 3), metres, camera coordinates, relative to the hip.
        footage: the sequence.
        up: how the camera was held: "level", or "auto" or None to tell it from the person.
        like: a camera that was held in the same way; then `up` is not used.

    Returns:
        (frames, 17, 3), metres; the azimuth in degrees from which it looks like the picture; what
        the positions are relative to, for pose files.
    """
    if footage.camera is not None:
        placed = _at_hip(poses_m, footage.hip_m, footage.camera)
        return placed, footage.camera.azimuth, "world, with the hip at its true place"
    orientation, azimuth = motion.LEVEL_CAMERA, _AZIMUTH
    if like is not None:
        orientation, azimuth = like.orientation, like.azimuth
    elif up != "level":
        direction = motion.up_direction(poses_m)
        tilt = np.degrees(np.arccos(np.clip(-direction[1], -1, 1)))
        if tilt > _MAX_TILT:
            warn(
                f"the person is {tilt:.0f} degrees off the picture's vertical; where that is no "
                "tilted camera, add --up level"
            )
        orientation = motion.orientation_of_camera(direction)
    upright = quaternion_rotate(orientation, poses_m.astype(np.float64))
    placed = motion.place_on_floor(upright, footage.fps).astype(np.float32)
    return placed, azimuth, "world, the hip above the origin, the lowest joint on the floor"


def _at_hip(poses_m: np.ndarray, hip_m: np.ndarray, camera: Camera) -> np.ndarray:
    """Return poses relative to the hip, in a camera's coordinates, at their place in the world."""
    in_camera = poses_m + hip_m[:, None]
    return camera_to_world(in_camera, camera.orientation, camera.translation_m)
