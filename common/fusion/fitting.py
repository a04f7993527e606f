"""Fit the best linear unbiased mixture of `mixtures.py` to the truth; keep in JSON what is learned.

Every choice among values is made by leaving out one group (subject) at a time and measuring on it.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from common.files.console import InputError
from common.files.output import atomic_output
from common.fusion import mixtures
from common.fusion.mixtures import FittedMixture
from common.skeleton import JOINT_NAMES, LEFT_JOINTS, NUM_JOINTS, RIGHT_JOINTS

# Fewer frames give no variances; more than the second number change nothing and take time.
_LEAST_FRAMES, _MOST_FRAMES = 200, 40_000
# Where confidence is cut into bins, each with a variance: finer where it is low, as it is there
# that it tells most.
_LEVELS = (0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.45, 0.6, 0.75, 0.9, 1)
_LEAST_FRAMES_IN_BIN = 20
# A thousandth of the person's size; below it an estimator is as good as exact.
_LEAST_VARIANCE = 1e-6
# The part of the unit matrix in the correlation, which keeps it invertible when an estimator is
# given twice.
_CORRELATION_SHRINKAGE = 0.01
# Beyond so many standard deviations noise does not count for the correlation.
_OUTLIER_DEVIATIONS = 3.0
# Not infinite: confidence may miss a failure that no training frame shows.
_DEGREES_OF_FREEDOM = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_MOTIONS = (*(4.0**-k for k in range(3, 12)), np.inf)
_RIDGES = tuple(10.0**-k for k in range(1, 8))
# The body's left and right are exchanged in a frame if putting them right leaves less of the error.
_EXCHANGED = 0.5


def fit_mixture(
    estimators: Sequence[str],
    views: Sequence[Sequence[np.ndarray]],
    truths: Sequence[np.ndarray],
    groups: Sequence[str],
) -> FittedMixture:
    """Fit a mixture; the arrays of `views` and `truths` are not changed.

    Args:
        estimators: E names.
        views: as `mix_fitted` takes them.
        truths: for each view (frames, 17, 2), pixels.
        groups: for each view whose it is. If all views are of one group, every second one is taken
            for another's.

    Raises:
        InputError: if there are too few frames or views.
    """
    most = _MOST_FRAMES // len(views)
    views = [[_middle(array, most) for array in arrays] for arrays in views]
    truths = [_middle(truth, most) for truth in truths]
    frames = sum(map(len, truths))
    if frames < _LEAST_FRAMES or len(views) < 2:
        raise InputError(
            f"{frames} frames in {len(views)} views with truth to fit a mixture to; it takes "
            f"{_LEAST_FRAMES} in two views at least. Prepare more sequences, or take "
            "--strategy average"
        )
    groups = np.array(groups)
    if len(set(groups)) == 1:
        groups = np.arange(len(views)) % 2
    confident = tuple(array.shape[-1] == 3 for array in views[0])
    data = _Training(views, truths, groups, confident)
    freedom, mixed, variances = _choose_freedom(data)
    motion = _choose_motion(data, mixed, variances)
    layout = _fit_layout(data, mixtures.rts_smooth(mixed, variances, data.lengths, motion))
    noise = data.noise_model(slice(None))
    return FittedMixture(tuple(estimators), confident, freedom, motion, *noise, layout)


def _middle(frames: np.ndarray, most: int) -> np.ndarray:
    return frames[max(0, (len(frames) - most) // 2) :][:most]


class _Training:
    """Training frames in units of the person's size, and the noise in them."""

    def __init__(
        self,
        views: Sequence[Sequence[np.ndarray]],
        truths: Sequence[np.ndarray],
        groups: np.ndarray,
        confident: Sequence[bool],
    ) -> None:
        self.lengths = np.array(list(map(len, truths)))  # (views,)
        groups = np.repeat(groups, self.lengths)
        # For each group, which of the frames are its own.
        self.folds = [groups == group for group in np.unique(groups)]
        keypoints, self._confidences = mixtures.stack_estimates(views, confident)
        sizes = mixtures.person_sizes(keypoints, self.lengths)
        self.keypoints = keypoints / sizes  # (E, frames, 17, 2)
        self.truth = np.concatenate(truths) / sizes  # (frames, 17, 2)
        # An exchange of left and right is a failure, which `mix` must bear, and no noise or bias.
        self._sided = _with_sides_right(self.keypoints, self.truth)
        # Regressed on the truth, which has no noise, and common to all estimators: what one has
        # of its own is its noise.
        difference = np.mean(self._sided, axis=0) - self.truth
        shared = _regress(self.truth, difference, min(_RIDGES))
        shared[NUM_JOINTS:] = 0
        # The truth as the estimators' layout has it, a(x) added, (frames, 17, 2).
        self.target = self.truth + mixtures.apply_layout(shared, self.truth)

    def noise_model(self, rows: np.ndarray | slice) -> tuple[np.ndarray, ...]:
        """Return bias, knots, variances and correlation of these frames, as in `FittedMixture`."""
        noise = self._sided[:, rows] - self.target[rows]
        bias = noise.mean(axis=1)
        noise = noise - bias[:, None]
        confidences = self._confidences[:, rows]
        knots, variances = _fit_variances(noise, confidences)
        deviations = np.sqrt(mixtures.noise_variances(knots, variances, confidences))
        return bias, knots, variances, _fit_correlation(noise / deviations[..., None])

    def mix(self, model: tuple[np.ndarray, ...], rows: np.ndarray, freedom: float) -> tuple:
        """Mix these frames; returns the mixture and its variance."""
        bias, knots, variances, correlation = model
        unbiased = self.keypoints[:, rows] - bias[:, None]
        noise = mixtures.noise_variances(knots, variances, self._confidences[:, rows])
        return mixtures.best_unbiased(unbiased, noise, correlation, freedom)


def _with_sides_right(keypoints: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return keypoints (E, frames, 17, 2), left and right as the truth (frames, 17, 2) has them."""
    sides, mirrored = [*LEFT_JOINTS, *RIGHT_JOINTS], [*RIGHT_JOINTS, *LEFT_JOINTS]
    error, mirrored_error = (
        np.linalg.norm(keypoints[:, :, joints] - truth[:, sides], axis=-1).sum(axis=-1)
        for joints in (sides, mirrored)
    )
    exchanged = mirrored_error < _EXCHANGED * error
    result = keypoints.copy()
    result[:, :, sides] = keypoints[:, :, mirrored]
    return np.where(exchanged[..., None, None], result, keypoints)


def _fit_variances(noise: np.ndarray, confidences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return knots and variances, both (E, 17, K), of noise (E, frames, 17, 2).

    The variance of a bin comes from the median of |n|², which is 2 ln 2 times the variance of a
    Gaussian in x, or in y; so a few failures count for nothing.
    """
    count = noise.shape[1]
    levels = [0.0]
    for level in _LEVELS[1:]:
        if (level - levels[-1]) * count >= _LEAST_FRAMES_IN_BIN:
            levels.append(level)
    levels = [*levels[: max(1, len(levels) - 1)], 1.0]
    squared = np.square(noise).sum(axis=-1)
    knots = np.empty((*squared.shape[::2], len(levels) - 1))
    variances = np.empty_like(knots)
    for e, j in np.ndindex(knots.shape[:2]):
        known = confidences[e, :, j]
        # Of equal confidences there is one bin; what is left of the table repeats the last one.
        edges = np.unique(np.quantile(known, levels[1:-1]))
        bins = np.searchsorted(edges, known, side="right")
        found = np.unique(bins)
        found = np.pad(found, (0, knots.shape[-1] - len(found)), mode="edge")
        for k, number in enumerate(found):
            members = bins == number
            knots[e, j, k] = np.median(known[members])
            variances[e, j, k] = np.median(squared[e, members, j]) / (2 * np.log(2))
    return knots, np.maximum(variances, _LEAST_VARIANCE)


def _fit_correlation(noise: np.ndarray) -> np.ndarray:
    """Return the correlation (17, E, E) of standardised noise (E, frames, 17, 2)."""
    noise = np.clip(noise, -_OUTLIER_DEVIATIONS, _OUTLIER_DEVIATIONS)
    products = np.einsum("atjc,btjc->jab", noise, noise, optimize=True)
    deviation = np.sqrt(np.maximum(np.einsum("jaa->ja", products), 1e-12))
    correlation = products / (deviation[:, :, None] * deviation[:, None])
    shrinkage = _CORRELATION_SHRINKAGE
    return (1 - shrinkage) * correlation + shrinkage * np.eye(len(noise))


def _choose_freedom(data: _Training) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the best degrees of freedom, and the mixture and its variance of groups left out."""
    errors = np.zeros(len(_DEGREES_OF_FREEDOM))
    models = [(fold, data.noise_model(~fold)) for fold in data.folds]
    for fold, model in models:
        for i, freedom in enumerate(_DEGREES_OF_FREEDOM):
            mixed, _ = data.mix(model, fold, freedom)
            errors[i] += np.linalg.norm(mixed - data.target[fold], axis=-1).sum()
    best = _DEGREES_OF_FREEDOM[int(errors.argmin())]
    mixed, variances = np.empty_like(data.truth), np.empty(data.truth.shape[:-1])
    for fold, model in models:
        mixed[fold], variances[fold] = data.mix(model, fold, best)
    return best, mixed, variances


def _choose_motion(data: _Training, mixed: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return for each joint the q with the lowest mean error, (17,)."""
    errors = []
    for q in _MOTIONS:
        smoothed = mixtures.rts_smooth(mixed, variances, data.lengths, np.full(NUM_JOINTS, q))
        errors.append(np.linalg.norm(smoothed - data.target, axis=-1).mean(axis=0))
    return np.array(_MOTIONS)[np.argmin(errors, axis=0)]


def _fit_layout(data: _Training, mixed: np.ndarray) -> np.ndarray:
    """Return how truth - mixture depends on the mixture, (19, 17)."""
    missing = data.truth - mixed
    errors = np.zeros(len(_RIDGES))
    for fold in data.folds:
        for i, ridge in enumerate(_RIDGES):
            layout = _regress(mixed[~fold], missing[~fold], ridge)
            left = missing[fold] - mixtures.apply_layout(layout, mixed[fold])
            errors[i] += np.linalg.norm(left, axis=-1).sum()
    return _regress(mixed, missing, _RIDGES[int(errors.argmin())])


def _regress(poses: np.ndarray, target: np.ndarray, ridge: float) -> np.ndarray:
    """Fit a layout (19, 17) that gives `target` (frames, 17, 2) from poses; ridge regression.

    x and y have the same coefficients, so that the fit knows no direction, and a constant each.
    The ridge is relative to the mean square of the poses.
    """
    relative = poses - poses.mean(axis=1, keepdims=True)
    constants = np.broadcast_to(np.eye(2), (len(relative), 2, 2))
    inputs = np.concatenate([relative, constants], axis=1)  # (frames, 19, 2)
    normal = np.einsum("fac,fbc->ab", inputs, inputs, optimize=True) / len(inputs)
    right = np.einsum("fac,fjc->aj", inputs, target, optimize=True) / len(inputs)
    joints = np.arange(NUM_JOINTS)
    normal[joints, joints] += ridge * max(normal[joints, joints].mean(), 1e-9 / NUM_JOINTS)
    return np.linalg.solve(normal, right)


def write_mixture(path: Path, mixture: FittedMixture) -> None:
    """Write a mixture as JSON, atomically; infinite `motion` as null, which JSON has."""
    motion = [q if np.isfinite(q) else None for q in mixture.motion]
    text = json.dumps(vars(mixture) | {"motion": motion}, default=np.ndarray.tolist)
    with atomic_output(path) as temporary:
        temporary.write_text(text + "\n")


def write_joints(path: Path, joints: dict[int, str]) -> None:
    """Write {joint: the estimator that is best for it} as JSON, atomically, joints by name."""
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps({JOINT_NAMES[j]: n for j, n in joints.items()}) + "\n")


def read_joints(path: Path) -> dict[int, str]:
    """Read what `write_joints` wrote; InputError if it is no such choice, OSError if missing."""
    try:
        contents = json.loads(path.read_text())
        return {joint: str(contents[name]) for joint, name in enumerate(JOINT_NAMES)}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: not a choice of joints; write it again with merge.py --strategy best_joint"
        ) from error


def read_mixture(path: Path) -> FittedMixture:
    """Read what `write_mixture` wrote; InputError if it is no mixture, OSError if missing."""
    try:
        contents = json.loads(path.read_text())
        names, confident, freedom, *numbers = (contents[f.name] for f in fields(FittedMixture))
        motion, *arrays = (np.array(value, dtype=np.float64) for value in numbers)
        motion[np.isnan(motion)] = np.inf
        mixture = FittedMixture(tuple(names), tuple(confident), float(freedom), motion, *arrays)
        e, j, k = len(names), NUM_JOINTS, mixture.knots.shape[-1]
        shapes = [(e,), (j,), (e, j, 2), (e, j, k), (e, j, k), (j, e, e), (j + 2, j)]
        if [array.shape for array in (np.array(confident), motion, *arrays)] != shapes:
            raise ValueError("the shapes of its arrays do not match")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("a number is not finite")
        np.linalg.cholesky(mixture.correlation)  # must be positive definite
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: not a fitted mixture ({error}); write it again with merge.py "
            "--strategy fitted"
        ) from error
    return mixture
