"""Estimating the poses of whole sequences, and measuring the estimates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.generators import WindowGenerator, flip_keypoints, flip_poses
from common.h36m_dataset import Sequence2d3d
from common.loss import MetricSums
from common.skeleton import NUM_JOINTS, ROOT
from common.training.device import autocast
from common.training.processes import World

BATCH_TOKENS = {"cpu": 3072, "cuda": 49152}  # tokens of the mixed blocks at a time


def predict(model: nn.Module, keypoints: Sequence[np.ndarray], **options: Any) -> list[np.ndarray]:
    """Return the poses of `predict_on_device`, which has the same arguments, as NumPy arrays."""
    return [poses.cpu().numpy() for poses in predict_on_device(model, keypoints, **options)]


@torch.no_grad()
def predict_on_device(
    model: nn.Module,
    keypoints: Sequence[np.ndarray],
    *,
    device: torch.device | str,
    precision: str = "fp32",
    flip: bool = True,
    batch_size: int | None = None,
) -> list[Tensor]:
    """Estimate the pose of every frame of every sequence.

    Of PoseFormerV2, a frame's spatial features are computed once and serve all windows that keep
    the frame, and only the result grows with the length of a sequence. A lifter that gives the
    poses of all frames is fed with the clips of `clips_of`.

    Args:
        model: on the device, in evaluation mode.
        keypoints: one (frames, 17, C) float32 array a sequence, normalised.
        device: where to compute.
        precision: "fp32", "bf16" or "fp16", of matrix products.
        flip: average with the mirrored estimate of the mirrored keypoints.
        batch_size: windows at a time, each with its mirror image; by default as few as keep all
            cores, or a GPU, busy.

    Returns:
        One (frames, 17, 3) float32 tensor a sequence, on the device: metres, relative to the hip,
        all joints as the network gives them, the hip included.
    """
    device, config = torch.device(device), model.config
    at_once = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    if config.gives_all_frames:  # a frame of a clip costs about as much as four tokens
        batch_size = batch_size or max(1, at_once // (4 * config.number_of_frames))
        return _predict_clips(model, keypoints, device, precision, flip, batch_size)
    kept, confidences = config.number_of_kept_frames, config.confidence_chans
    batch_size = batch_size or max(1, at_once // (kept + config.number_of_kept_coeffs))
    generator = WindowGenerator(keypoints, None, config.number_of_frames, device=device)
    total = len(generator)
    poses = torch.empty(total, NUM_JOINTS, 3, device=device)
    # Features of the frames from `first` on; frames before `known` have been computed.
    features, first, known = None, 0, 0
    with autocast(device, precision):
        for start in range(0, total, batch_size):
            windows = torch.arange(start, min(start + batch_size, total), device=device)
            low, high = max(0, start - kept // 2), min(total, start + len(windows) + kept // 2)
            new = generator.frames(torch.arange(known, high, device=device))
            new = both_views(new, flip, confidences)
            new = model.frame_features(new.flatten(0, 1)).unflatten(0, new.shape[:2])
            features = new if features is None else torch.cat([features[:, low - first :], new], 1)
            first, known = low, high
            numbers = generator.frame_numbers(windows, kept) - first
            coefficients = model.coefficients(generator.gather(windows)[0])
            views = both_views(coefficients.unflatten(-1, (NUM_JOINTS, -1)), flip, confidences)
            lifted = model.lift(features[:, numbers].flatten(0, 1), views.flatten(0, 1).flatten(2))
            poses[start : start + len(windows)] = average_views(lifted, flip)
    return list(poses.split([len(sequence) for sequence in keypoints]))


def clips_of(frames: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips of a sequence as numbers of its frames, and their weights, (clips, length).

    As few clips as share a third of their frames with their neighbours, or more, lie at equal
    distances. A frame's pose is the mean of those in its clips, by weights that fall in a straight
    line from the middle of a clip to its ends, so that no clip begins or ends with a jump. The one
    clip of a sequence that is shorter repeats its first and its last frame, with weight zero.

    Raises:
        ValueError: if there is no frame.
    """
    if frames < 1:
        raise ValueError("there is no frame in the sequence")
    starts = np.array([(frames - length) // 2])
    if frames > length:
        count = 1 + math.ceil((frames - length) / (length - length // 3))
        starts = np.linspace(0, frames - length, count).round().astype(np.int64)
    numbers = starts[:, None] + np.arange(length)
    inside = (numbers >= 0) & (numbers < frames)
    weights = inside * (length // 2 + 1.0 - np.abs(np.arange(length) - length // 2))
    numbers = numbers.clip(0, frames - 1)
    return numbers, weights / np.bincount(numbers.ravel(), weights.ravel())[numbers]


def _predict_clips(
    model: nn.Module,
    keypoints: Sequence[np.ndarray],
    device: torch.device,
    precision: str,
    flip: bool,
    batch_size: int,
) -> list[Tensor]:
    """Return what `predict_on_device` does, from the poses of clips; the hip is zero."""
    parts = [clips_of(len(sequence), model.config.number_of_frames) for sequence in keypoints]
    clips = np.concatenate([k[numbers] for k, (numbers, _) in zip(keypoints, parts)])
    poses = []
    with autocast(device, precision):
        for batch in torch.from_numpy(clips).split(batch_size):
            views = both_views(batch.to(device), flip, model.config.confidence_chans)
            poses.append(average_views(model(views.flatten(0, 1)).float(), flip))
    result = []
    by_sequence = torch.cat(poses).split([len(numbers) for numbers, _ in parts])
    for sequence, own, (numbers, weights) in zip(keypoints, by_sequence, parts):
        weighted = own * torch.from_numpy(weights).to(own)[..., None, None]
        mean = own.new_zeros(len(sequence), NUM_JOINTS, 3)
        mean.index_add_(0, torch.from_numpy(numbers.ravel()).to(device), weighted.flatten(0, 1))
        mean[:, ROOT] = 0
        result.append(mean)
    return result


def both_views(keypoints: Tensor, flip: bool, confidences: int) -> Tensor:
    """Stack keypoints, or their DCT coefficients, (..., 17, C), with their mirror image."""
    return torch.stack([keypoints, flip_keypoints(keypoints, confidences)] if flip else [keypoints])


def average_views(poses: Tensor, flip: bool) -> Tensor:
    """Average poses (2 B, …, 17, 3) of both views, the second mirrored back: (B, …, 17, 3)."""
    if not flip:
        return poses
    original, mirrored = poses.chunk(2)
    return (original + flip_poses(mirrored)) / 2


def evaluate(
    model: nn.Module,
    sequences: Sequence[Sequence2d3d],
    world: World,
    precision: str,
    all_metrics: bool = True,
) -> MetricSums:
    """Measure a model, with flip test-time augmentation; every process takes a part.

    The model is on the device of `world` and is left in evaluation mode; the sequences are the same
    in every process, as are the sums over them that are returned. Without `all_metrics` there is
    MPJPE alone.
    """
    model.eval()
    sums = MetricSums()
    if mine := sequences[world.rank :: world.size]:
        keypoints = [s.keypoints for s in mine]
        poses = predict_on_device(model, keypoints, device=world.device, precision=precision)
        for s, predicted in zip(mine, poses):
            sums.add(s.subject, s.action, predicted, s.poses, all_metrics)
    sums.state = world.sum(sums.state)
    keys = list(dict.fromkeys((s.subject, s.action) for s in sequences))
    nothing = torch.zeros_like(sums.state[0, 0, 0])
    if keys:
        table = world.sum(torch.stack([sums.sequences.get(key, nothing) for key in keys]))
        sums.sequences = dict(zip(keys, table))
    return sums


def mean_pose_mpjpe_mm(pose: np.ndarray, sequences: Sequence[Sequence2d3d]) -> float:
    """Return the MPJPE of always answering one pose (17, 3), in mm, averaged over the actions.

    With the mean pose of the training data it is what a lifter that ignores its input would reach.
    """
    sums = MetricSums()
    for s in sequences:
        answer = torch.as_tensor(pose).expand(s.poses.shape)
        sums.add(s.subject, s.action, answer, s.poses, all_metrics=False)
    return sums.mpjpe_mm()
