"""From keypoints of any recording to 3D poses: whole sequences, or frame by frame as they come.

    from common.footage.lifting import lift
    poses_m = lift(keypoints_px, "checkpoint/vitpose/best_epoch.bin", size=(1920, 1080), fps=30)

Networks are trained at 50 frames a second, or, with --downsample, at fewer; recordings are brought
to that rate and back.
"""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.camera import FOLLOWED_FRAMES, follow_person, normalize_screen_coordinates
from common.evaluation import average_views, both_views, predict
from common.footage.layouts import to_h36m
from common.footage.missing import fill, found_points, one_person
from common.footage.trajectory import focal_length_px
from common.h36m_dataset import FPS
from common.motion import resample
from common.skeleton import ROOT
from common.training.checkpoint import Checkpoint
from common.training.device import autocast

_CAUSAL_FRAMES = 1728  # of the windows that are computed at a time: 64 of 27 frames


def load_lifter(
    path: Path | str, number_of_frames: int | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Return the network of a checkpoint, of ours or published, that takes one estimator's 2D.

    `number_of_frames` is the window's length where the file does not tell it.
    """
    checkpoint = Checkpoint.load(path, number_of_frames)
    checkpoint.check_channels(2, confidences=0)
    return checkpoint.build_model(device)


def lift(
    keypoints: np.ndarray,
    checkpoint: Path | str | nn.Module,
    *,
    size: tuple[int, int],
    fps: float = FPS,
    layout: str = "h36m",
    focal_px: float | None = None,
    causal: bool = False,
    flip: bool = True,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> np.ndarray:
    """Estimate the 3D pose of every frame of one person's sequence.

    Args:
        keypoints: (frames, points, 2 or more), pixels; channels after x and y are not used. What
            was not found, NaN or (0, 0), is interpolated in time, or, if `causal`, held.
        checkpoint: a checkpoint's file, or the network from `load_lifter`.
        size: the picture's (width, height) in pixels.
        fps: frames a second of the recording; that of the training lifts the frames as they are.
        layout: what the points are, one of `common.footage.layouts.LAYOUTS`.
        focal_px: the camera's focal length, for networks that see the person as `follow_person`
            does, such as checkpoint/footage.bin; None for `focal_length_px(size)`.
        causal: use past frames only, as `StreamingLifter` does.
        flip: average with the mirrored estimate of the mirrored keypoints.
        device: where to compute.
        precision: "fp32", "bf16" or "fp16", of matrix products.

    Returns:
        (frames, 17, 3), float32: metres, camera coordinates (x right, y down, z forward), relative
        to the hip, which is zero.

    Raises:
        InputError: if the checkpoint is bad.
        ValueError: if the keypoints are not of the layout or not in pixels, or nobody is there.
    """
    is_model = isinstance(checkpoint, nn.Module)
    model = checkpoint if is_model else load_lifter(checkpoint, device=device)
    how = {"flip": flip, "device": device, "precision": precision}
    how |= {"fps": fps, "causal": causal, "focal": relative_focal(size, focal_px)}
    keypoints = fill(found_points(keypoints), causal)
    return lift_normalized(normalize(keypoints, size, layout), model, **how)


def relative_focal(size: tuple[int, int], focal_px: float | None = None) -> float:
    """Return a focal length, or a guess of it, in halves of the picture's width."""
    return (focal_px or focal_length_px(size)) * 2 / size[0]


def lift_normalized(
    inputs: np.ndarray, model: nn.Module, *, fps: float, causal: bool, focal: float, **how: Any
) -> np.ndarray:
    """Estimate as `lift` does, from normalised keypoints (frames, 17, C), float32.

    `focal` is the focal length in the unit of the keypoints; `how` is device, precision and flip,
    as in `predict`.
    """
    if causal:
        at_once = max(1, _CAUSAL_FRAMES // model.config.number_of_frames)
        frames, starts = np.arange(len(inputs)), range(0, len(inputs), at_once)
        batches = (frames[start : start + at_once] for start in starts)
        how |= {"fps": fps, "focal": focal}
        poses = np.concatenate([_lift_causally(model, inputs, b, **how) for b in batches])
    else:
        seen, turns = _as_seen(model, resample(inputs, fps, trained_fps(model)), focal)
        (poses,) = predict(model, [seen], **how)
        poses = resample(poses @ turns, trained_fps(model), fps, len(inputs))
    poses[:, ROOT] = 0  # the network estimates the hip, too, relative to the true one
    return poses


def trained_fps(model: nn.Module) -> float:
    """Return the frames a second that a network was trained on."""
    return getattr(model, "fps", FPS)


def _as_seen(
    model: nn.Module, inputs: np.ndarray, focal: float, window: int | None = FOLLOWED_FRAMES
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's inputs (…, frames, 17, C), and what turns its poses back, (…, 3, 3).

    `focal` is the focal length in the unit of the inputs; `window` is of `follow_person`.
    """
    if model.config.view == "picture":
        return inputs, np.eye(3, dtype=np.float32)
    return follow_person(inputs / np.float32(focal), window)


class StreamingLifter:
    """Lifts one frame after another, from that frame and those before it.

    The window's second half, which is not known yet, repeats the newest frame; before the first
    frame, that one is repeated. A lifter that gives the poses of all frames gets the newest frame
    as the window's last one, whose pose is taken. So the estimates are those of
    `lift(…, causal=True)`, which has the same arguments; `fps` is the rate at which frames will
    come. Without `flip` it takes half the time.
    """

    def __init__(
        self,
        checkpoint: Path | str | nn.Module,
        *,
        size: tuple[int, int],
        fps: float = FPS,
        layout: str = "h36m",
        focal_px: float | None = None,
        flip: bool = True,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        is_model = isinstance(checkpoint, nn.Module)
        self._model = checkpoint if is_model else load_lifter(checkpoint, device=device)
        self._size, self._layout = size, layout
        self._how = {"flip": flip, "device": device, "precision": precision}
        self._how |= {"fps": fps, "focal": relative_focal(size, focal_px)}
        before = _newest(self._model)
        self._past: deque[np.ndarray] = deque(
            maxlen=int(np.ceil(before * fps / trained_fps(self._model))) + 1
        )
        self._last: np.ndarray | None = None  # (points, 2), pixels, what was not found held
        self._missed = 0  # frames without anybody in succession

    def push(self, keypoints: np.ndarray | None) -> np.ndarray | None:
        """Take the next frame's keypoints (points, 2 or more), pixels; return its pose (17, 3).

        It is float32, in metres, camera coordinates, relative to the hip, which is zero. None comes
        back where nobody is: for None, no people (0, points, 2), or points that are all NaN or
        (0, 0). The window then holds the last keypoints; where nobody was for as long as it sees
        back, it starts again. Single points that were not found are held.

        Raises:
            ValueError: if the keypoints are not one person's, of the layout, in pixels.
        """
        points = one_person(keypoints)
        if points is None:
            self._missed += 1
            if self._missed >= self._past.maxlen:
                self._past.clear()
                self._last = None
            elif self._past:
                self._past.append(self._past[-1])
            return None
        self._missed = 0
        if self._last is not None and self._last.shape == points.shape:
            points = np.where(np.isfinite(points), points, self._last)
        self._last = fill(points[None], causal=True)[0]
        self._past.append(normalize(self._last, self._size, self._layout))
        past = np.stack(self._past)
        newest = np.array([len(past) - 1])
        (pose,) = _lift_causally(self._model, past, newest, **self._how)
        pose[ROOT] = 0
        return pose


def normalize(keypoints: np.ndarray, size: tuple[int, int], layout: str = "h36m") -> np.ndarray:
    """Return a network's input (..., 17, 2), float32, of keypoints (..., points, 2 or more), px."""
    joints = to_h36m(np.asarray(keypoints, dtype=np.float64)[..., :2], layout)
    return normalize_screen_coordinates(joints, *size).astype(np.float32)


def _newest(model: nn.Module) -> int:
    """Return where in a causal window the newest frame stands: last, or where the pose is."""
    length = model.config.number_of_frames
    return length - 1 if model.config.gives_all_frames else length // 2


@torch.no_grad()
def _lift_causally(
    model: nn.Module,
    inputs: np.ndarray,
    frames: np.ndarray,
    *,
    fps: float,
    focal: float,
    flip: bool = True,
    device: torch.device | str,
    precision: str,
) -> np.ndarray:
    """Return the poses (len(frames), 17, 3) of some frames of inputs (frames, 17, C) at `fps`.

    The windows are at the training's rate; what follows the newest frame, where anything does,
    repeats it. What lies between two frames is interpolated linearly.
    """
    length, device = model.config.number_of_frames, torch.device(device)
    steps = np.minimum(np.arange(length) - _newest(model), 0) * fps / trained_fps(model)
    positions = np.maximum(frames[:, None] + steps, 0)
    before = np.floor(positions + 1e-9).astype(np.int64)
    part = np.maximum(positions - before, 0)[..., None, None].astype(inputs.dtype)
    after = np.minimum(before + 1, len(inputs) - 1)
    windows = (1 - part) * inputs[before] + part * inputs[after]  # (len(frames), F, 17, C)
    windows, turns = _as_seen(model, windows, focal, window=None)
    windows = torch.from_numpy(windows).to(device)
    views = both_views(windows, flip, model.config.confidence_chans).flatten(0, 1)
    with autocast(device, precision):
        poses = model(views)[:, -1].float()
    turns = turns if turns.ndim == 2 else turns[:, 0]  # one camera for a whole window
    return average_views(poses, flip).cpu().numpy() @ turns
