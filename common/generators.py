"""Windows of 2D keypoints and their 3D targets, cut on the device from one packed tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def flip_keypoints(keypoints: Tensor, confidences: int = 0) -> Tensor:
    """Mirror normalised keypoints (..., 17, 2 k + confidences) left to right.

    Left and right joints change places, and x of each of the k concatenated estimators its sign.
    The confidences stand last.
    """
    flipped = _exchange_sides(keypoints)
    flipped[..., 0 : keypoints.shape[-1] - confidences : 2].neg_()
    return flipped


def flip_poses(poses: Tensor) -> Tensor:
    """Mirror root-relative 3D poses (..., 17, 3) left to right."""
    flipped = _exchange_sides(poses)
    flipped[..., 0].neg_()
    return flipped


def _exchange_sides(points: Tensor) -> Tensor:
    """Return a copy of points (..., 17, channels) with left and right joints exchanged."""
    # Slices: a list of joints would have to go to the device, and is slower there and on a CPU.
    hip, right_leg, left_leg, trunk, left_arm, right_arm = points.split([1, 3, 3, 4, 3, 3], dim=-2)
    return torch.cat([hip, left_leg, right_leg, trunk, right_arm, left_arm], dim=-2)


def with_noise(
    keypoints: Tensor, std: float, random: torch.Generator | None = None, confidences: int = 0
) -> Tensor:
    """Add Gaussian noise of standard deviation `std`, in the keypoints' own unit, to each of them.

    The last `confidences` of the channels (..., C) are left alone.
    """
    if std == 0:
        return keypoints
    noise = torch.randn(keypoints.shape, generator=random, device=keypoints.device)
    noise[..., keypoints.shape[-1] - confidences :] = 0
    return keypoints + std * noise


class WindowGenerator:
    """Every sequence of a data set on the device, its windows addressed by index.

    A sequence of n frames has n windows, one around each frame; beyond its ends its first or last
    frame is repeated. With `stride` s only every s-th of a sequence's frames is a window's middle.
    With `augment` sample w + len / 2 is the mirror image of sample w.

    Nothing is copied for a window before a batch asks for it, so the memory is that of the
    sequences: 372 bytes a frame, 0.58 GB for the training frames of Human3.6M, with one estimator.

    Args:
        keypoints: one (frames, 17, C) float32 array a sequence, normalised: x and y of each
            estimator, then the confidences.
        poses: one (frames, 17, 3) float32 array a sequence, metres, root-relative; None where only
            inputs are wanted.
        number_of_frames: F, frames in a window; odd.
        device: where the data lives and the batches are made.
        confidences: how many of the channels are confidences.
        all_frames: whether the targets are the poses of all of a window's frames, (B, F, 17, 3), in
            place of the middle one's, (B, 17, 3).

    Raises:
        ValueError: if there is no frame, or if the arrays do not fit each other.
    """

    def __init__(
        self,
        keypoints: Sequence[np.ndarray],
        poses: Sequence[np.ndarray] | None,
        number_of_frames: int,
        *,
        device: torch.device | str,
        augment: bool = False,
        stride: int = 1,
        confidences: int = 0,
        all_frames: bool = False,
    ) -> None:
        lengths = [len(sequence) for sequence in keypoints]
        if sum(lengths) == 0:
            raise ValueError("there is no frame in the sequences")
        if poses is not None and [len(sequence) for sequence in poses] != lengths:
            raise ValueError("keypoints and poses differ in their numbers of frames")
        self.device, self.number_of_frames = torch.device(device), number_of_frames
        self.augment, self.confidences, self.all_frames = augment, confidences, all_frames
        self._keypoints = pack(keypoints, self.device)  # (all frames, 17, C)
        self._poses = None if poses is None else pack(poses, self.device)  # (all frames, 17, 3)

        ends = np.cumsum(lengths)
        starts = ends - lengths
        middles = np.concatenate([np.arange(a, b, stride) for a, b in zip(starts, ends)])
        sequence = np.searchsorted(ends, middles, side="right")
        # One row a window: its middle frame, the first and last frame of its sequence, and which.
        windows = np.stack([middles, starts[sequence], ends[sequence] - 1, sequence], axis=1)
        self._windows = torch.from_numpy(windows).to(self.device)

    def __len__(self) -> int:
        return len(self._windows) * (2 if self.augment else 1)

    def start_epoch(self, seed: int, epoch: int) -> Tensor:
        """Return the epoch's permutation of all samples, (len(self),) int64, on the device.

        It depends on (seed, epoch) and the kind of device alone, so every process of a distributed
        run and every resumed run draws the same one.
        """
        return self._shuffled(seed, epoch)[0]

    def _shuffled(self, seed: int, epoch: int) -> tuple[Tensor, torch.Generator]:
        number = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
        random = torch.Generator(self.device).manual_seed(int(number))
        return torch.randperm(len(self), generator=random, device=self.device), random

    def frame_numbers(self, windows: Tensor, count: int, later: int = 0) -> Tensor:
        """Return the (B, count) numbers of the central frames of windows (B,) int64.

        Numbers count through all sequences; those of one window never leave its sequence. The
        windows may lie some frames later.
        """
        middles, first, last, _ = self._windows[windows].unsqueeze(-1).unbind(1)  # each (B, 1)
        offsets = torch.arange(-(count // 2), count // 2 + 1, device=self.device)
        return (middles + later + offsets).clamp(first, last)

    def frames(self, numbers: Tensor) -> Tensor:
        """Return the keypoints (..., 17, C) of frames with these numbers (...)."""
        return rows(self._keypoints, numbers)

    def gather(self, indices: Tensor, later: int = 0) -> tuple[Tensor, Tensor | None]:
        """Return windows (B, F, 17, C) of samples (B,), and their targets (B, …, 17, 3) or None.

        With `later` all of them lie so many frames later in the same scenes.
        """
        inputs, targets = self.cut(indices, later)
        if self.augment:
            mirrored = (indices >= len(self._windows))[:, None, None, None]
            flipped = flip_keypoints(inputs, self.confidences)
            inputs = torch.where(mirrored, flipped, inputs)
            if targets is not None:
                mirrored = mirrored.view(-1, *[1] * (targets.ndim - 1))
                targets = torch.where(mirrored, flip_poses(targets), targets)
        return inputs, targets

    def cut(self, indices: Tensor, later: int = 0) -> tuple[Tensor, Tensor | None]:
        """Return what `gather` returns, before samples are mirrored."""
        windows = indices % len(self._windows)
        numbers = self.frame_numbers(windows, self.number_of_frames, later)
        inputs = self.frames(numbers)
        if self._poses is None:
            return inputs, None
        if self.all_frames:
            return inputs, rows(self._poses, numbers)
        return inputs, self._poses[numbers[:, self.number_of_frames // 2]]


def rows(packed: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows (..., a, b) with these numbers (...) of a packed tensor (frames, a, b)."""
    # A row of 34 numbers is copied faster than 17 pairs.
    chosen = packed.flatten(1).index_select(0, numbers.flatten())
    return chosen.view(*numbers.shape, *packed.shape[1:])


def pack(sequences: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Concatenate arrays (frames, …) to one float32 tensor on the device."""
    return torch.from_numpy(np.concatenate(sequences).astype(np.float32, copy=False)).to(device)
