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
from common.footage.lifting import lift_normalized, normalize, relative_focal, trained_fps
from common.footage.trajectory import focal_length_px, hip_path
from common.h36m_dataset import FPS, Sequence2d3d
from common.motion import place_on_floor
from common.skeleton import ROOT

UPS = ("auto", "level", "person")
# The azimuth of a camera that looks along the y axis of the world of `orientation_of_camera`.
_AZIMUTH = -90.0
# A body is turned in the picture by at least this, in radians, and about as much in all frames
# (the length of the mean of its unit vectors), before it is turned for the network.
_MIN_ROLL, _STEADY = np.radians(30), 0.9


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
    focal_px: float | None = None  # of the camera; None for a guess
    first_frame: int = 0  # number of the first of the frames in the video
    video: str = ""  # where sequences name the same one, they stand in one scene, in one film
    person: str = "1"  # who of the video's people it is
    even_times: bool = False  # frames are not the video's own, whose rate varies, but at `fps`
    confidences: np.ndarray | None = None  # (frames, 17), where the file has them
    camera: Camera | None = None
    hip_m: np.ndarray | None = None  # (frames, 3), metres, camera coordinates
    truth_m: np.ndarray | None = None  # (frames, 17, 3), metres, world

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return where frames of the video, those that it has, stand in its arrays."""
        rows = numbers - self.first_frame
        return rows[(rows >= 0) & (rows < len(self.inputs))]


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
        focal_px=float(camera.intrinsics[0]),
        camera=camera,
        hip_m=sequence.root,
        truth_m=_at_hip(sequence.poses, sequence.root, camera),
    )


def load_own_footage(
    path: Path, names: Sequence[str] | None = None, persons: Sequence[str] | None = None
) -> list[Footage]:
    """Return these sequences, or all, of `data_2d_custom_<name>.npz`; of these persons, or all."""
    positions, metadata = read_custom_2d(path)
    person_of = {name: str(info.get("person", 1)) for name, info in metadata.items()}
    unknown = [person for person in persons or () if person not in person_of.values()]
    if unknown:
        listed = ", ".join(dict.fromkeys(person_of.values()))
        raise InputError(f"{path}: no person '{', '.join(unknown)}'; there are: {listed}")
    if persons:
        positions = {name: p for name, p in positions.items() if person_of[name] in persons}
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
        what = normalize(pixels, size), {"Keypoints": pixels}, size, about.get("fps", FPS)
        sure = positions[name][..., 2] if positions[name].shape[-1] > 2 else None
        # Another program's file, whose sequences are no persons, may hold several videos.
        video = path.stem.removeprefix("data_2d_custom_") if "person" in about else name
        more = {"video": video, "person": person_of[name], "confidences": sure}
        more["first_frame"] = start
        more["even_times"] = about.get("even_times") is True
        sequences.append(Footage(name, name, *what, **more))
    return sequences


def lift_footage(
    footage: Footage, model: nn.Module, *, resample: bool, smooth_hz: float | None, **how: Any
) -> np.ndarray:
    """Estimate a sequence's poses as `lift` does, and print what can be measured without truth.

    Without `resample`, the frames are taken as they are, whatever their rate; motion faster than
    `smooth_hz` is removed. `how` is causal, device and precision.
    """
    name, fps = footage.name, footage.fps
    inputs, roll = footage.inputs, 0.0
    if footage.camera is None:
        roll = _steady_roll(next(iter(footage.keypoints_px.values())))
        inputs = _turn(inputs, -roll)
    how |= {"focal": relative_focal(footage.size, footage.focal_px)}
    how["fps"] = fps if resample else trained_fps(model)
    poses = _turn(lift_normalized(inputs, model, **how), roll)
    print(f"{name}: {len(poses)} frames at {fps:g} fps; {_measures(poses, footage)}")
    if smooth_hz is None:
        return poses
    smoothed = motion.lowpass(poses, fps, smooth_hz)
    moved = f"moved by {1000 * np.linalg.norm(smoothed - poses, axis=-1).mean():.1f} mm on average"
    print(f"{name}: smoothed at {smooth_hz:g} Hz: {_measures(smoothed, footage)}; joints {moved}")
    return smoothed


def _steady_roll(keypoints_px: np.ndarray) -> float:
    """Return by how much a body is turned in the picture in the whole clip, radians; else 0.

    Networks know upright people. A picture that is turned about its middle is what a rolled camera
    sees, so a body that lies, or a camera that is rolled, can be turned for them, and back.
    """
    mean = np.exp(1j * motion.roll_of_body(keypoints_px)).mean()
    roll = float(np.angle(mean))
    return roll if abs(mean) > _STEADY and abs(roll) > _MIN_ROLL else 0.0


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn x and y of points (..., 2 or more) clockwise, as a picture shows them, by radians."""
    if not angle:
        return points
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = points.copy()
    turned[..., :2] = points[..., :2] @ np.array([[cosine, sine], [-sine, cosine]], points.dtype)
    return turned


def _measures(poses_m: np.ndarray, footage: Footage) -> str:
    pixels = next(iter(footage.keypoints_px.values()))
    return (
        f"bones vary by {motion.bone_variation_percent(poses_m):.1f}%, "
        f"jitter {motion.jitter_m_s3(poses_m, footage.fps):.1f} m/s³, "
        f"{motion.reprojection_px(poses_m, pixels):.1f} px from the keypoints"
    )


def through_the_room(poses_m: np.ndarray, footage: Footage) -> np.ndarray:
    """Return poses (frames, 17, 3), relative to the hip, at their places before the camera."""
    pixels = next(iter(footage.keypoints_px.values()))
    how = {"fps": footage.fps, "confidences": footage.confidences}
    focal_px = footage.focal_px or focal_length_px(footage.size)
    hip = hip_path(poses_m, pixels, footage.size, focal_px, **how)
    distances = np.linalg.norm(hip, axis=-1)
    guess = "" if footage.focal_px else " (a guess: give --focal or --fov)"
    print(
        f"{footage.name}: {distances.min():.1f} to {distances.max():.1f} m from the camera, with a "
        f"focal length of {focal_px:.0f} px{guess}"
    )
    return poses_m + hip[:, None].astype(poses_m.dtype)


def place_together(
    poses_m: Sequence[np.ndarray],
    footages: Sequence[Footage],
    up: str | None = None,
    like: Camera | None = None,
) -> tuple[list[np.ndarray], float, str]:
    """Place the people of one video in one world with z up: at the true hip, or, upright.

    Args:
        poses_m: (frames, 17, 3) of each, metres, camera coordinates: relative to the hip, or, for
            own footage, at their places before the camera (`through_the_room`).
        footages: their sequences.
        up: how the camera was held: "level", "person" to tell it from the trunks and the feet, or
            "auto" or None to do so where people stand and to take the camera for level elsewhere.
        like: a camera that was held in the same way; then `up` is not used.

    Returns:
        (frames, 17, 3) of each, metres; the azimuth in degrees from which it looks like the
        picture; what the positions are relative to, for pose files.
    """
    camera = footages[0].camera
    if camera is not None:
        placed = [_at_hip(p, f.hip_m, f.camera) for p, f in zip(poses_m, footages)]
        return placed, camera.azimuth, "world, with the hip at its true place"
    orientation, azimuth = _orientation(poses_m, footages, up), _AZIMUTH
    if like is not None:
        orientation, azimuth = like.orientation, like.azimuth
    upright = [quaternion_rotate(orientation, p.astype(np.float64)) for p in poses_m]
    moves = any(p[:, ROOT].any() for p in poses_m)
    # The first person starts above the origin, and the others stand around.
    start = upright[0][0, ROOT] * (1, 1, 0)
    placed = [place_on_floor(p - start, f.fps, moves) for p, f in zip(upright, footages)]
    if moves:
        place = "world, the origin on the floor below where the first person's hip starts"
    else:
        place = "world, the hip above the origin, the lowest joint on the floor"
    return [p.astype(np.float32) for p in placed], azimuth, place


def _orientation(
    poses_m: Sequence[np.ndarray], footages: Sequence[Footage], up: str | None
) -> np.ndarray:
    """Return how the camera was held, as `place_together` says."""
    if up == "level":
        return motion.LEVEL_CAMERA
    poses = np.concatenate(poses_m)
    if up == "person":
        return motion.orientation_of_camera(motion.up_direction(poses))
    pixels = np.concatenate([next(iter(f.keypoints_px.values())) for f in footages])
    direction = motion.up_of_standing(poses, pixels)
    if direction is None:
        warn(
            "nobody stands upright in the picture, so the camera is taken for level (--up level); "
            "where it was tilted, add --up person, or --as-camera"
        )
        return motion.LEVEL_CAMERA
    return motion.orientation_of_camera(direction)


def _at_hip(poses_m: np.ndarray, hip_m: np.ndarray, camera: Camera) -> np.ndarray:
    """Return poses relative to the hip, in a camera's coordinates, at their place in the world."""
    in_camera = poses_m + hip_m[:, None]
    return camera_to_world(in_camera, camera.orientation, camera.translation_m)
