"""Mixtures of several 2D estimators' keypoints of one view of one sequence; pure functions."""

from collections.abc import Mapping, Sequence

import numpy as np


def cut_to_shortest(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut arrays (frames, …) to the length of the shortest."""
    frames = min(map(len, views))
    return [view[:frames] for view in views]


def replace_joints(base: np.ndarray, sources: Mapping[int, np.ndarray]) -> np.ndarray:
    """Take some joints from other estimators.

    Args:
        base: (frames, 17, channels), pixels.
        sources: {joint: the array to take it from, in the form of `base`}.

    Returns:
        A new array in the form of `base`.
    """
    mixture = base.copy()
    for joint, source in sources.items():
        mixture[:, joint] = source[:, joint]
    return mixture


def weighted_mean(keypoints: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Average estimators, each joint of each frame by its own weights.

    Args:
        keypoints: one array (frames, joints, 2) for each estimator.
        weights: one array (frames, joints) for each estimator, not negative; where all of them
            are zero, the mean is the plain one.

    Returns:
        (frames, joints, 2), float64.
    """
    weights = np.stack(weights).astype(np.float64)
    weights = np.where(weights.sum(axis=0) > 0, weights, 1.0)
    weights /= weights.sum(axis=0)
    return np.einsum("efj,efjc->fjc", weights, np.stack(keypoints).astype(np.float64))


def weights_from_logits(logits: np.ndarray) -> np.ndarray:
    """Divide one sequence's logits by their maximum; negative ones weigh nothing.

    It puts an estimator like PCT, whose confidences are logits, on the scale of those whose
    confidences are probabilities (Mehraban, Qin and Taati, FG 2024).

    Args:
        logits: (frames, joints) of the whole sequence.

    Returns:
        (frames, joints), in [0, 1].
    """
    largest = logits.max()
    return np.maximum(logits, 0) / largest if largest > 0 else np.zeros_like(logits)
