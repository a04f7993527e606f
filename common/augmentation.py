"""Training windows as new scenes: turned, resized, with the limbs of other windows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.camera import project
from common.generators import WindowGenerator, pack, rows
from common.h36m_dataset import Sequence2d3d, camera_up, normalized_intrinsics
from common.skeleton import JOINT_NAMES, NUM_JOINTS

_HIP, _RIGHT_HIP, _LEFT_HIP, _THORAX, _LEFT_SHOULDER, _RIGHT_SHOULDER = map(
    JOINT_NAMES.index, ("Hip", "RHip", "LHip", "Thorax", "LShoulder", "RShoulder")
)
_LEGS = slice(1, 7)
_ARMS = {_LEFT_SHOULDER: slice(12, 14), _RIGHT_SHOULDER: slice(15, 17)}  # elbow and wrist
_LIMBS = (_LEGS, *_ARMS.values())


class AugmentedWindows(WindowGenerator):
    """A `WindowGenerator` that shows each window's motion as another scene in each epoch.

    With probability `exchange_limbs` each, both legs, the left and the right arm move as in another
    window (`exchange_limbs` below); after `exchange_epochs`, which may end within an epoch, as in
    their own. Then the motion is turned by a random angle about the vertical
    through the hip of the middle frame, and resized by a random factor about this hip. The same
    camera projects it again, and what the estimator did wrong with each joint in the frames that
    it comes from, in normalised coordinates, is added. So the hip stays where it was seen, and the
    errors and the confidences are those of the estimator.

    `start_epoch` draws all of it; before its first call the windows are unchanged. The draws follow
    from (seed, epoch) alone, so a resumed training and any number of processes see the same scenes.

    The angle is uniform within plus and minus `turn_degrees`, the factor within 1 plus and minus
    `resize`; `options` are of `WindowGenerator`.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence2d3d],
        number_of_frames: int,
        *,
        turn_degrees: float,
        resize: float,
        exchange_limbs: float,
        exchange_epochs: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(
            [estimator_errors(s) for s in sequences],
            [s.poses for s in sequences],
            number_of_frames,
            confidences=sequences[0].confidences,
            **options,
        )
        self._turn, self._resize = math.radians(turn_degrees), resize
        self._exchange_limbs, self._exchange_epochs = exchange_limbs, exchange_epochs
        self._roots = pack([s.root for s in sequences], self.device)  # (all frames, 3)
        views = [(s.subject, s.camera) for s in sequences]
        cameras = [np.append(normalized_intrinsics(*view), camera_up(*view)) for view in views]
        self._cameras = pack([np.stack(cameras)], self.device)  # (sequences, 9 + 3)
        # Of each sample in this epoch: its angle and its size, in [-1, 1], and, in [0, 1], which
        # limbs are another window's; and that window.
        self.draws = torch.zeros(len(self), 2, device=self.device)
        self.limb_draws = torch.ones(len(self), len(_LIMBS), device=self.device)
        self.others = torch.zeros(len(self), dtype=torch.int64, device=self.device)

    def start_epoch(self, seed: int, epoch: int) -> Tensor:
        """Draw the epoch's scenes; return its permutation of all samples."""
        order, random = self._shuffled(seed, epoch)
        # In place: a captured CUDA graph reads them from where they are.
        self.draws.uniform_(-1, 1, generator=random)
        self.limb_draws.uniform_(generator=random)
        exchanging = min(max(self._exchange_epochs - (epoch - 1), 0), 1)  # part of the epoch
        self.limb_draws[order[round(exchanging * len(order)) :]] = 1
        self.others.random_(0, len(self._windows), generator=random)
        return order

    def cut(self, indices: Tensor, later: int = 0) -> tuple[Tensor, Tensor]:
        """Return samples (B,) as new scenes, (B, F, 17, C), and their targets (B, …, 17, 3)."""
        windows = indices % len(self._windows)
        numbers = self.frame_numbers(windows, self.number_of_frames, later)  # (B, F)
        middles, _, _, sequences = self._windows[windows].unbind(1)
        intrinsics, up = self._cameras[sequences].split([9, 3], dim=-1)
        motion, inputs = rows(self._poses, numbers), self.frames(numbers)  # (B, F, 17, 3 and C)
        if self._exchange_limbs:
            others = self.others[indices]
            other_numbers = self.frame_numbers(others, self.number_of_frames, later)
            other_up = self._cameras[self._windows[others, 3], 9:]
            other_motion = exchange_limbs(motion, rows(self._poses, other_numbers), up, other_up)
            chosen = self._chosen_joints(indices)[:, None, :, None]  # (B, 1, 17, 1)
            motion = torch.where(chosen, other_motion, motion)
            inputs = torch.where(chosen, self.frames(other_numbers), inputs)
        turn = self._turns(up, self.draws[indices]).mT  # (B, 3, 3), to the right of row vectors
        hip = self._roots[middles][:, None]  # (B, 1, 3)
        moved = self._roots[numbers] - hip  # (B, F, 3)
        points = _product((motion + moved[:, :, None]).flatten(1, 2), turn) + hip
        projected = project(points.view(motion.shape), intrinsics[:, None, None])
        coordinates = inputs.shape[-1] - self.confidences
        inputs[..., :coordinates] += projected.repeat(1, 1, 1, coordinates // 2)
        if self.all_frames:
            return inputs, _product(motion, turn[:, None])
        return inputs, _product(motion[:, self.number_of_frames // 2], turn)

    def _chosen_joints(self, indices: Tensor) -> Tensor:
        """Tell for samples (B,) which joints (B, 17) move as in another window."""
        chosen = self.limb_draws[indices] < self._exchange_limbs  # (B, limbs)
        joints = torch.zeros(len(indices), NUM_JOINTS, dtype=torch.bool, device=self.device)
        for limb, its_joints in enumerate(_LIMBS):
            joints[:, its_joints] = chosen[:, limb, None]
        return joints

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
        return factor * (turn + (1 - angle.cos()) * _product(cross, cross))


def exchange_limbs(motion: Tensor, other: Tensor, up: Tensor, other_up: Tensor) -> Tensor:
    """Return motions whose legs and arms move as in other motions, and the trunk as in their own.

    Both hips, knees and feet move about the middle of the hips as the other's do: the vertical and
    the direction from hip to hip say how both stand. Elbow and wrist move about the shoulder as the
    other's do: the trunk and the direction from shoulder to shoulder say how both stand. The other
    body is first made as wide at the hips as this one, or at most twice and at least half as large
    as it was. The idea of such bodies is that of Li et al., "Cascaded Deep Monocular 3D Human Pose
    Estimation with Evolutionary Training Data", CVPR 2020.

    Args:
        motion: (B, F, 17, 3), metres, relative to the hip.
        other: the same, of other windows, in any camera's coordinates.
        up: (B, 3), the unit vectors that point up in the coordinates of `motion`.
        other_up: the same for `other`.
    """
    width, other_width = (x[:, :, _RIGHT_HIP].norm(dim=-1) for x in (motion, other))
    other = other * (width / other_width.clamp(1e-3)).clamp(0.5, 2)[..., None, None]
    result = motion.clone()
    pelvis = _axes(up[:, None], motion, _RIGHT_HIP, _LEFT_HIP)
    other_pelvis = _axes(other_up[:, None], other, _RIGHT_HIP, _LEFT_HIP)
    result[:, :, _LEGS] = _product(other[:, :, _LEGS], _product(other_pelvis, pelvis.mT))
    trunk = _axes(motion[:, :, _THORAX], motion, _RIGHT_SHOULDER, _LEFT_SHOULDER)
    other_trunk = _axes(other[:, :, _THORAX], other, _RIGHT_SHOULDER, _LEFT_SHOULDER)
    turn = _product(other_trunk, trunk.mT)
    for shoulder, arm in _ARMS.items():
        around = other[:, :, arm] - other[:, :, shoulder, None]
        result[:, :, arm] = motion[:, :, shoulder, None] + _product(around, turn)
    return result


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """Return rows (..., n, 3) @ matrices (..., 3, 3); on a GPU never in TF32, and fused."""
    if rows.is_cuda:
        return (rows[..., None] * matrices[..., None, :, :]).sum(-2)
    return rows @ matrices


def _axes(first: Tensor, motion: Tensor, start: int, end: int) -> Tensor:
    """Return orthonormal axes (B, F, 3, 3), one a column: `first`, then the way between joints."""
    way = motion[:, :, end] - motion[:, :, start]  # (B, F, 3)
    first = F.normalize(first.expand_as(way), dim=-1)
    second = F.normalize(way - (way * first).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def estimator_errors(sequence: Sequence2d3d) -> np.ndarray:
    """Return keypoints minus projected poses, (frames, 17, C), float32; confidences as they are."""
    points = sequence.poses.astype(np.float64) + sequence.root[:, None]
    truth = project(points, normalized_intrinsics(sequence.subject, sequence.camera))
    errors = sequence.keypoints.copy()
    coordinates = errors.shape[-1] - sequence.confidences
    errors[..., :coordinates] -= np.tile(truth, coordinates // 2)
    return errors
