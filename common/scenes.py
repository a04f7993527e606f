"""Training windows from new sides: motion turned, projected again, with the estimator's errors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.camera import project
from common.generators import WindowGenerator, pack, rows
from common.h36m_dataset import Sequence2d3d, camera_up, normalized_intrinsics


class TurnedWindows(WindowGenerator):
    """A `WindowGenerator` that shows each window's motion from another side in each epoch.

    The motion is turned by a random angle about the vertical through the hip of the middle frame,
    and resized by a random factor about this hip. The same camera projects it again, and what the
    estimator did wrong in these frames, in normalised coordinates, is added. So the hip stays
    where it was seen, and the errors are those of the estimator. Confidences stay as they are.

    Angles and factors are drawn by `start_epoch`, until which there is no turn. They follow from
    (seed, epoch) alone, so a resumed training and any number of processes see the same windows.

    Args:
        sequences: the training data.
        number_of_frames: F, frames in a window; odd.
        turn_degrees: the angle is uniform within plus and minus this.
        resize: the factor is uniform within 1 plus and minus this.
        options: of `WindowGenerator`.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence2d3d],
        number_of_frames: int,
        *,
        turn_degrees: float,
        resize: float,
        **options: Any,
    ) -> None:
        confidences = options.get("confidences", 0)
        errors = [estimator_errors(s, confidences) for s in sequences]
        super().__init__(errors, [s.poses for s in sequences], number_of_frames, **options)
        self._turn, self._resize = math.radians(turn_degrees), resize
        self._roots = pack([s.root for s in sequences], self.device)  # (all frames, 3)
        cameras = [
            np.concatenate(
                [normalized_intrinsics(s.subject, s.camera), camera_up(s.subject, s.camera)]
            )
            for s in sequences
        ]
        self._cameras = pack([np.stack(cameras)], self.device)  # (sequences, 9 + 3)
        # Of each sample in this epoch: its angle and its size, in [-1, 1].
        self.draws = torch.zeros(len(self), 2, device=self.device)

    def start_epoch(self, seed: int, epoch: int) -> Tensor:
        """Turn every window by another angle; return the epoch's permutation of all samples."""
        random = self._random(seed, epoch)
        order = self._permutation(random)
        # In place: a captured CUDA graph reads them from where they are.
        self.draws.uniform_(-1, 1, generator=random)
        return order

    def cut(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples (B,) turned, (B, F, 17, C), and their middle frames' poses (B, 17, 3)."""
        windows = indices % len(self._windows)
        numbers = self.frame_numbers(windows, self.number_of_frames)  # (B, F)
        middles, _, _, sequences = self._windows[windows].unbind(1)
        intrinsics, up = self._cameras[sequences].split([9, 3], dim=-1)
        turn = self._turns(up, self.draws[indices]).mT  # (B, 3, 3), to the right of row vectors
        hip = self._roots[middles][:, None]  # (B, 1, 3)
        moved = self._roots[numbers] - hip  # (B, F, 3)
        motion = rows(self._poses, numbers) + moved[:, :, None]  # (B, F, 17, 3)
        points = (motion.flatten(1, 2) @ turn + hip).view(motion.shape)
        projected = project(points, intrinsics[:, None, None])
        inputs = self.frames(numbers)
        coordinates = inputs.shape[-1] - self.confidences
        inputs[..., :coordinates] += projected.repeat(1, 1, 1, coordinates // 2)
        return inputs, self._poses[middles] @ turn

    def _turns(self, up: Tensor, draws: Tensor) -> Tensor:
        """Return turns about unit vectors (B, 3), times factors, as (B, 3, 3), from draws (B, 2).

        By Rodrigues' formula, R = 1 + sin α [u]× + (1 - cos α) [u]×².
        """
        angle, factor = draws[..., None, None].unbind(1)  # (B, 1, 1) each
        angle, factor = angle * self._turn, 1 + factor * self._resize
        x, y, z = up.unbind(-1)
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
        turn = torch.eye(3, device=up.device) + angle.sin() * cross
        return factor * (turn + (1 - angle.cos()) * (cross @ cross))


def estimator_errors(sequence: Sequence2d3d, confidences: int) -> np.ndarray:
    """Return keypoints minus projected poses, (frames, 17, C), float32; confidences as they are."""
    points = sequence.poses.astype(np.float64) + sequence.root[:, None]
    truth = project(points, normalized_intrinsics(sequence.subject, sequence.camera))
    errors = sequence.keypoints.copy()
    coordinates = errors.shape[-1] - confidences
    errors[..., :coordinates] -= np.tile(truth, coordinates // 2)
    return errors
