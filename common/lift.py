"""From keypoints of any recording to 3D poses: whole sequences, or frame by frame as they come.

    from common.lift import lift
    poses_m = lift(keypoints_px, "checkpoint/vitpose/best_epoch.bin", size=(1920, 1080), fps=30)

Networks are trained at 50 frames a second, so recordings are brought to that rate and back.
"""

from collections import deque
from pathlib import Path

import numpy as np
import torch

from common.camera import normalize_screen_coordinates
from common.checkpoint import Checkpoint
from common.console import InputError
from common.device import autocast
from common.evaluation import predict
from common.generators import flip_keypoints, flip_poses
from common.h36m_dataset import FPS
from common.layouts import to_h36m
from common.model_poseformer import PoseFormerV2
from common.motion import resample, resample_back
from common.skeleton import ROOT

_CAUSAL_BATCH = 64


def load_lifter(
    path: Path | str, number_of_frames: int | None = None, device: torch.device | str = "cpu"
) -> PoseFormerV2:
    """Return the network of a checkpoint, of ours or published, ready to lift on a device.

    `number_of_frames` is the window's length where the file does not tell it.

    Raises:
        InputError: if the file is no checkpoint, or was trained on several estimators' keypoints.
    """
    checkpoint = Checkpoint.load(path, number_of_frames)
    model = checkpoint.build_model(device, "fp32")
    check_channels(model, 2, path)
    return model


def check_channels(model: PoseFormerV2, channels: int, path: Path | str) -> None:
    """Refuse a network that was trained on keypoints of another number of channels.

    Raises:
        InputError: naming its file and both numbers.
    """
    confidences = model.config.confidence_chans
    if model.config.in_chans != channels or confidences:
        told = f" with {confidences} confidences" if confidences else ""
        raise InputError(
            f"{path}: takes keypoints of {model.config.in_chans} channels "
            f"({model.config.in_chans // 2} estimators together{told}), and these have {channels}; "
            "choose a checkpoint that was trained on as many"
        )


def lift(
    keypoints: np.ndarray,
    checkpoint: Path | str | PoseFormerV2,
    *,
    size: tuple[int, int],
    fps: float = FPS,
    layout: str = "h36m",
    causal: bool = False,
    flip: bool = True,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> np.ndarray:
    """Estimate the 3D pose of every frame of one person's sequence.

    Args:
        keypoints: (frames, points, 2 or more), pixels; channels after x and y are not used.
        checkpoint: a checkpoint's file, or the network from `load_lifter`.
        size: the picture's (width, height) in pixels.
        fps: frames a second of the recording; `FPS` lifts the frames as they are.
        layout: what the points are, one of `common.layouts.LAYOUTS`.
        causal: use past frames only, as `StreamingLifter` does.
        flip: average with the mirrored estimate of the mirrored keypoints.
        device: where to compute.
        precision: "fp32" or "bf16", of matrix products.

    Returns:
        (frames, 17, 3), float32: metres, camera coordinates (x right, y down, z forward), relative
        to the hip, which is zero.

    Raises:
        InputError: if the checkpoint is bad.
        ValueError: if the keypoints are not of the layout, or there is no frame.
    """
    model = checkpoint
    if not isinstance(model, PoseFormerV2):
        model = load_lifter(model, device=device)
    inputs = _normalised(keypoints, layout, size)
    how = {"flip": flip, "device": device, "precision": precision}
    if causal:
        length = model.config.number_of_frames
        starts = range(0, len(inputs), _CAUSAL_BATCH)
        batches = (np.arange(len(inputs))[start : start + _CAUSAL_BATCH] for start in starts)
        windows = (_causal_windows(inputs, frames, fps, length) for frames in batches)
        poses = np.concatenate([_lift_windows(model, batch, **how) for batch in windows])
    else:
        (poses,) = predict(model, [resample(inputs, fps, FPS)], **how)
        poses = resample_back(poses, fps, FPS, len(inputs))
    return poses - poses[:, ROOT : ROOT + 1]


class StreamingLifter:
    """Lifts one frame after another, from that frame and those before it.

    The window's second half, which is not known yet, repeats the newest frame; before the first
    frame, that one is repeated. So the estimates are those of `lift(…, causal=True)`, whose
    arguments these are; `fps` is the rate at which frames will come. Without `flip` it is half the
    work.

    Raises:
        InputError: if the checkpoint is bad.
    """

    def __init__(
        self,
        checkpoint: Path | str | PoseFormerV2,
        *,
        size: tuple[int, int],
        fps: float = FPS,
        layout: str = "h36m",
        flip: bool = True,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        is_path = not isinstance(checkpoint, PoseFormerV2)
        self._model = load_lifter(checkpoint, device=device) if is_path else checkpoint
        self._size, self._fps, self._layout = size, fps, layout
        self._how = {"flip": flip, "device": device, "precision": precision}
        half = self._model.config.number_of_frames // 2
        self._past: deque[np.ndarray] = deque(maxlen=int(np.ceil(half * fps / FPS)) + 1)

    def push(self, keypoints: np.ndarray) -> np.ndarray:
        """Take the next frame's keypoints (points, 2 or more), pixels; return its pose (17, 3).

        It is float32, in metres, camera coordinates, relative to the hip, which is zero.
        """
        self._past.append(_normalised(keypoints[None], self._layout, self._size)[0])
        past = np.stack(self._past)
        frames = self._model.config.number_of_frames
        window = _causal_windows(past, [len(past) - 1], self._fps, frames)
        pose = _lift_windows(self._model, window, **self._how)[0]
        return pose - pose[ROOT]


def _normalised(keypoints: np.ndarray, layout: str, size: tuple[int, int]) -> np.ndarray:
    joints = to_h36m(np.asarray(keypoints, dtype=np.float64)[..., :2], layout)
    return normalize_screen_coordinates(joints, *size).astype(np.float32)


def _causal_windows(
    keypoints: np.ndarray, frames: np.ndarray | list[int], fps: float, length: int
) -> np.ndarray:
    """Return (windows, length, 17, C): at 50 Hz, ending in the middle with the frames given.

    What lies between two frames is interpolated linearly; the middle is repeated to the end.
    """
    steps = np.minimum(np.arange(length) - length // 2, 0) * fps / FPS
    positions = np.maximum(np.asarray(frames)[:, None] + steps, 0)
    before = np.floor(positions + 1e-9).astype(np.int64)
    part = np.maximum(positions - before, 0)[..., None, None].astype(keypoints.dtype)
    after = np.minimum(before + 1, len(keypoints) - 1)
    return (1 - part) * keypoints[before] + part * keypoints[after]


@torch.no_grad()
def _lift_windows(
    model: PoseFormerV2, windows: np.ndarray, flip: bool, device: torch.device | str, precision: str
) -> np.ndarray:
    """Return the poses (windows, 17, 3) of the middles of windows (windows, F, 17, C)."""
    device = torch.device(device)
    inputs = torch.from_numpy(windows).to(device)
    if flip:
        inputs = torch.cat([inputs, flip_keypoints(inputs)])
    with autocast(device, precision):
        lifted = model(inputs)[:, 0].float()
    if flip:
        original, mirrored = lifted.chunk(2)
        lifted = (original + flip_poses(mirrored)) / 2
    return lifted.cpu().numpy()
