"""Mixtures of several 2D estimators' keypoints; pure functions.

The published ones mix one view of one sequence. The fitted one (`FittedMixture`, `mix_fitted`) is
the best linear unbiased mixture, followed by a smoother over time:

Estimator e sees joint j in a frame as y_e = x + a(x) + b_e + n_e: the true position; what its
layout puts elsewhere, a linear function of the pose that all share (COCO has no hip and no head);
a constant bias of its own; and noise of mean zero. The noise has variance s_e(c), a function of the
confidence c that is tabulated for each estimator and joint, and the correlation matrix R of the
joint. With D = diag(s_e(c)^1/2), the covariance of the estimators' noise is C = D R D, and of all
linear mixtures that are unbiased, 1ᵀw = 1, the one of least variance has (Gauss-Markov theorem;
Aitken 1935)

    w = C⁻¹ 1 / (1ᵀ C⁻¹ 1),    variance 1 / (1ᵀ C⁻¹ 1).

Robustness: an estimator at distance d from the mixture has its variance divided by
(v + 2) / (v + d² / s_e), the weight of Student's t with v degrees of freedom in two dimensions
(Lange, Little and Taylor, JASA 1989); iterated from the estimators' median. Smoothing: a joint
moves with a velocity that is a random walk of intensity q (Bar-Shalom, Li and Kirubarajan,
Estimation with Applications to Tracking and Navigation, 2001, section 6.2.2), and the mixture is
its measurement with the variance above; the Rauch-Tung-Striebel smoother (AIAA Journal 1965) gives
the best estimate from all frames, earlier and later, so without delay. Finally a(x), as a
function of the mixed pose, is taken out.

Lengths are in units of the person's size in the view, so that a fit applies to other footage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.skeleton import BONES, NUM_JOINTS

_ROBUST_ITERATIONS = 3
# A start from almost no knowledge of the velocity: a person's size in a frame.
_START_VELOCITY_VARIANCE = 1.0
# Views mixed at a time, which bounds the memory.
_VIEWS_AT_A_TIME = 40


def cut_to_shortest(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut arrays (frames, …) to the length of the shortest."""
    frames = min(map(len, views))
    return [view[:frames] for view in views]


def weighted_mean(keypoints: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Average keypoints (frames, joints, 2) by weights (frames, joints), not negative; float64.

    Where the weights of all estimators are zero, the mean is the plain one.
    """
    weights = np.stack(weights).astype(np.float64)
    weights = np.where(weights.sum(axis=0) > 0, weights, 1.0)
    weights /= weights.sum(axis=0)
    return np.einsum("efj,efjc->fjc", weights, np.stack(keypoints).astype(np.float64))


@dataclass(frozen=True, eq=False)
class FittedMixture:
    """What `mix_fitted` needs to know, E estimators; lengths in units of the person's size."""

    estimators: tuple[str, ...]  # their names
    confident: tuple[bool, ...]  # for each, whether its variance is a function of confidence
    degrees_of_freedom: float  # Student's v
    motion: np.ndarray  # (17,), q; infinite for no smoothing
    bias: np.ndarray  # (E, 17, 2), mean of estimate - truth
    knots: np.ndarray  # (E, 17, K), confidences in rising order
    variances: np.ndarray  # (E, 17, K), variance of the noise in x, or in y, at the knots
    correlation: np.ndarray  # (17, E, E), of the estimators' noise
    # (19, 17), for each joint how truth - mixture depends on the 17 joints' places relative to
    # their centre, and its constants in x and y.
    layout: np.ndarray


def mix_fitted(
    mixture: FittedMixture, views: Sequence[Sequence[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Mix views, each from its own frames alone; yield (frames, 17, 2), float32, pixels, of each.

    `views` are for each view the estimators' arrays (frames, 17, 2 or 3), of equal lengths, pixels,
    in the order of `mixture.estimators`; the third channel is the confidence, which those that are
    `confident` need.
    """
    for first in range(0, len(views), _VIEWS_AT_A_TIME):
        some = views[first : first + _VIEWS_AT_A_TIME]
        lengths = np.array([len(view[0]) for view in some])
        keypoints, confidences = stack_estimates(some, mixture.confident)
        sizes = person_sizes(keypoints, lengths)
        unbiased = keypoints / sizes - mixture.bias[:, None]
        noise = noise_variances(mixture.knots, mixture.variances, confidences)
        mixed, variances = best_unbiased(
            unbiased, noise, mixture.correlation, mixture.degrees_of_freedom
        )
        mixed = rts_smooth(mixed, variances, lengths, mixture.motion)
        mixed = (mixed + apply_layout(mixture.layout, mixed)) * sizes
        yield from np.split(mixed.astype(np.float32), np.cumsum(lengths)[:-1])


def stack_estimates(
    views: Sequence[Sequence[np.ndarray]], confident: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the views of `mix_fitted` along the frames, float64.

    Returns keypoints (E, frames, 17, 2), pixels, and confidences (E, frames, 17), zero for an
    estimator that is not `confident`.
    """
    arrays = [np.concatenate(parts, dtype=np.float64) for parts in zip(*views)]
    confidences = [
        a[..., 2] if known else np.zeros(a.shape[:2]) for a, known in zip(arrays, confident)
    ]
    return np.stack([array[..., :2] for array in arrays]), np.stack(confidences)


def person_sizes(keypoints: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return for each frame how large the person is in its view, (frames, 1, 1), pixels.

    The size is the mean length of the bones in the estimators' median, and of this the 90th
    percentile over the view's frames, as in a frame that shows the person nearly full length. Given
    are keypoints (E, frames, 17, 2), pixels, the views one after the other, and their lengths.
    """
    ends = np.median(keypoints, axis=0)[:, np.array(BONES)]  # (frames, bones, 2, 2)
    bones = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1).mean(axis=1)
    parts = np.split(bones, np.cumsum(lengths)[:-1])
    sizes = np.maximum([np.percentile(part, 90) for part in parts], 1.0)
    return np.repeat(sizes, lengths)[:, None, None]


def noise_variances(
    knots: np.ndarray, variances: np.ndarray, confidences: np.ndarray
) -> np.ndarray:
    """Look up the variances (E, frames, 17) of confidences of this shape.

    Between the knots (E, 17, K) the logarithm of the variance is linear, outside it is constant.
    """
    result = np.empty_like(confidences)
    for e, j in np.ndindex(knots.shape[:2]):
        result[e, :, j] = np.interp(confidences[e, :, j], knots[e, j], np.log(variances[e, j]))
    return np.exp(result, out=result)


def best_unbiased(
    keypoints: np.ndarray, variances: np.ndarray, correlation: np.ndarray, v: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mix keypoints (E, frames, joints, 2), without bias, with the weights of least variance.

    The noise has variances (E, frames, joints) in x, or in y; correlation (joints, E, E), which is
    invertible; and Student's v degrees of freedom. Returns the mixture (frames, joints, 2) and its
    variance (frames, joints).
    """
    precision = np.linalg.inv(correlation)
    mixed = np.median(keypoints, axis=0)
    for _ in range(_ROBUST_ITERATIONS):
        squared = np.square(keypoints - mixed).sum(axis=-1)
        trust = (v + 2) / (v + squared / variances)
        scale = np.sqrt(trust / variances)  # D⁻¹
        weights = scale * np.einsum("jef,ftj->etj", precision, scale, optimize=True)  # C⁻¹ 1
        total = weights.sum(axis=0)
        mixed = np.einsum("etj,etjc->tjc", weights / total, keypoints, optimize=True)
    return mixed, 1 / total


def rts_smooth(
    positions: np.ndarray, variances: np.ndarray, lengths: np.ndarray, motion: np.ndarray
) -> np.ndarray:
    """Smooth every joint over time, view by view, forward and backward: Rauch-Tung-Striebel.

    The state is (position, velocity), in x and y alike; from frame to frame it becomes
    F = [[1, 1], [0, 1]] times itself plus noise of covariance q [[1/3, 1/2], [1/2, 1]].

    Takes and returns positions (frames, joints, 2), the views one after the other; the variances
    (frames, joints) are of their noise, the lengths are the views' numbers of frames, `motion`
    (joints,) is q, infinite where a joint is left as it is.
    """
    moving = np.isfinite(motion)
    if not moving.any():
        return positions
    result, q = positions.copy(), motion[moving]
    positions, variances = positions[:, moving], variances[:, moving]
    # All views take a step at a time; the longest come first, so that those that go on are the
    # first ones.
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    going = np.searchsorted(-lengths[order], -np.arange(lengths.max()), side="left")
    rows = [starts[:views] + t for t, views in enumerate(going)]

    place, speed = positions.copy(), np.zeros_like(positions)  # (frames, joints, 2)
    # The state's covariance [[a, b], [b, c]], each (frames, joints).
    a, b = variances.copy(), np.zeros_like(variances)
    c = np.full_like(variances, _START_VELOCITY_VARIANCE)
    for now in rows[1:]:
        before = now - 1
        pa, pb, pc = _predict(a[before], b[before], c[before], q)
        gain, gain_speed = pa / (pa + variances[now]), pb / (pa + variances[now])
        guess = place[before] + speed[before]
        surprise = positions[now] - guess
        place[now] = guess + gain[..., None] * surprise
        speed[now] = speed[before] + gain_speed[..., None] * surprise
        a[now], b[now], c[now] = (1 - gain) * pa, (1 - gain) * pb, pc - gain_speed * pb
    for after in rows[:0:-1]:
        now = after - 1
        na, nb, nc = a[now], b[now], c[now]
        pa, pb, pc = _predict(na, nb, nc, q)
        place_change = (place[after] - place[now] - speed[now])[..., None]
        speed_change = (speed[after] - speed[now])[..., None]
        change = np.concatenate([place_change, speed_change], axis=-1)
        # The gain is G = P Fᵀ (F P Fᵀ + Q)⁻¹.
        determinant = pa * pc - pb * pb
        gains = np.stack(
            [(na + nb) * pc - nb * pb, nb * pa - (na + nb) * pb,
             (nb + nc) * pc - nc * pb, nc * pa - (nb + nc) * pb], axis=-1
        )  # fmt: skip
        gains = (gains / determinant[..., None])[:, :, None]
        place[now] += (gains[..., :2] * change).sum(axis=-1)
        speed[now] += (gains[..., 2:] * change).sum(axis=-1)
    result[:, moving] = place
    return result


def _predict(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the covariance of the next frame's state, F P Fᵀ + Q."""
    return a + 2 * b + c + q / 3, b + c + q / 2, c + q


def apply_layout(layout: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return what the layout (19, 17) adds to poses (frames, 17, 2), of their shape."""
    relative = poses - poses.mean(axis=1, keepdims=True)
    added = np.einsum("fkc,kj->fjc", relative, layout[:NUM_JOINTS], optimize=True)
    return added + layout[NUM_JOINTS:].T
