"""Fit the best linear unbiased mixture of `common.fusion` to the truth; keep it in a JSON file.

Every choice among values is made by leaving out one group (subject) at a time and measuring on it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import fusion
from common.console import InputError
from common.files import atomic_output
from common.fusion import FittedMixture
from common.skeleton import NUM_JOINTS

# Fewer frames do not give variances; more than the second number change nothing and take time.
LEAST_FRAMES, _MOST_FRAMES = 200, 40_000
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


def fit_mixture(
    estimators: Sequence[str],
    confident: Sequence[bool],
    views: Sequence[Sequence[np.ndarray]],
    truths: Sequence[np.ndarray],
    groups: Sequence[str],
) -> FittedMixture:
    """Fit a mixture; the arrays of `views` and `truths` are not changed.

    Args:
        estimators: E names.
        confident: for each, whether it has confidences.
        views: for each view the estimators' arrays (frames, 17, 2 or 3), of equal lengths, pixels.
        truths: for each view (frames, 17, 2), pixels.
        groups: for each view whose it is; what is chosen is chosen on groups that were left out.
            Where all views are one group's, every second view is another's.

    Returns:
        The mixture.

    Raises:
        InputError: if there are too few frames or views.
    """
    views, truths = _middle_frames(views), _middle_frames([[truth] for truth in truths])
    frames = sum(len(view[0]) for view in views)
    if frames < LEAST_FRAMES or len(views) < 2:
        raise InputError(
            f"{frames} frames in {len(views)} views with truth to fit a mixture to; it takes "
            f"{LEAST_FRAMES} in two views at least. Prepare more sequences, or take "
            "--strategy average"
        )
    groups = np.array(groups)
    if len(set(groups)) == 1:
        groups = np.arange(len(views)) % 2
    data = _Training(views, truths, groups, confident)
    freedom, mixed, variances = _choose_freedom(data)
    motion = _choose_motion(data, mixed, variances)
    layout = _fit_layout(data, fusion.smooth(mixed, variances, data.lengths, motion))
    names, confident = tuple(estimators), tuple(map(bool, confident))
    model = data.noise_model(slice(None))
    return FittedMixture(names, confident, *model, freedom, motion, layout)


def _middle_frames(views: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """Keep of each view so many frames of its middle that all together are not too many."""
    most = max(1, _MOST_FRAMES // len(views))
    return [
        [array[max(0, (len(array) - most) // 2) :][:most] for array in arrays] for arrays in views
    ]


class _Training:
    """Training frames in units of the person's size, and the noise in them."""

    def __init__(
        self,
        views: list[list[np.ndarray]],
        truths: list[list[np.ndarray]],
        groups: np.ndarray,
        confident: Sequence[bool],
    ) -> None:
        self.lengths = np.array([len(view[0]) for view in views])  # (views,)
        self.groups = np.repeat(groups, self.lengths)  # (frames,)
        keypoints, self._confidences = fusion.stack_estimates(views, confident)
        sizes = np.repeat(fusion.person_sizes(keypoints, self.lengths), self.lengths)[:, None, None]
        self.keypoints = keypoints / sizes  # (E, frames, 17, 2)
        self.truth = np.concatenate([truth for (truth,) in truths]) / sizes  # (frames, 17, 2)
        # Regressed on the truth, which has no noise, and common to all estimators: what one has
        # of its own is its noise.
        difference = np.mean(self.keypoints, axis=0) - self.truth
        shared = _regress(self.truth, difference, slice(None), min(_RIDGES))
        shared[NUM_JOINTS:] = 0
        # The truth as the estimators' layout has it, a(x) added, (frames, 17, 2).
        self.target = self.truth + fusion.apply_layout(shared, self.truth)

    def noise_model(self, rows: np.ndarray | slice) -> tuple[np.ndarray, ...]:
        """Return bias, knots, variances and correlation of these frames, as in `FittedMixture`."""
        noise = self.keypoints[:, rows] - self.target[rows]
        bias = noise.mean(axis=1)
        noise = noise - bias[:, None]
        confidences = self._confidences[:, rows]
        knots, variances = _fit_variances(noise, confidences)
        deviations = np.sqrt(fusion.noise_variances(knots, variances, confidences))
        return bias, knots, variances, _fit_correlation(noise / deviations[..., None])

    def mix(self, model: tuple[np.ndarray, ...], rows: np.ndarray, freedom: float) -> tuple:
        """Mix these frames; returns the mixture and its variance."""
        bias, knots, variances, correlation = model
        return fusion.best_unbiased(
            self.keypoints[:, rows] - bias[:, None],
            fusion.noise_variances(knots, variances, self._confidences[:, rows]),
            correlation,
            freedom,
        )


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
    unit = np.eye(len(noise))
    return (1 - _CORRELATION_SHRINKAGE) * correlation + _CORRELATION_SHRINKAGE * unit


def _choose_freedom(data: _Training) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the best degrees of freedom, and the mixture and its variance of groups left out."""
    errors = np.zeros(len(_DEGREES_OF_FREEDOM))
    folds = [data.groups == group for group in np.unique(data.groups)]
    models = [data.noise_model(~fold) for fold in folds]
    for fold, model in zip(folds, models):
        for i, freedom in enumerate(_DEGREES_OF_FREEDOM):
            mixed, _ = data.mix(model, fold, freedom)
            errors[i] += np.linalg.norm(mixed - data.target[fold], axis=-1).sum()
    best = _DEGREES_OF_FREEDOM[int(errors.argmin())]
    mixed, variances = np.empty_like(data.truth), np.empty(data.truth.shape[:-1])
    for fold, model in zip(folds, models):
        mixed[fold], variances[fold] = data.mix(model, fold, best)
    return best, mixed, variances


def _choose_motion(data: _Training, mixed: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return for each joint the q with the lowest mean error, (17,)."""
    errors = []
    for q in _MOTIONS:
        smoothed = fusion.smooth(mixed, variances, data.lengths, np.full(NUM_JOINTS, q))
        errors.append(np.linalg.norm(smoothed - data.target, axis=-1).mean(axis=0))
    return np.array(_MOTIONS)[np.argmin(errors, axis=0)]


def _fit_layout(data: _Training, mixed: np.ndarray) -> np.ndarray:
    """Return how truth - mixture depends on the mixture, (19, 17)."""
    missing = data.truth - mixed
    errors = np.zeros(len(_RIDGES))
    for group in np.unique(data.groups):
        fold = data.groups == group
        for i, ridge in enumerate(_RIDGES):
            layout = _regress(mixed, missing, ~fold, ridge)
            left = missing[fold] - fusion.apply_layout(layout, mixed[fold])
            errors[i] += np.linalg.norm(left, axis=-1).sum()
    return _regress(mixed, missing, slice(None), _RIDGES[int(errors.argmin())])


def _regress(
    poses: np.ndarray, target: np.ndarray, rows: np.ndarray | slice, ridge: float
) -> np.ndarray:
    """Fit a layout (19, 17) that gives `target` (frames, 17, 2) from poses; ridge regression.

    x and y have the same coefficients, so that the fit knows no direction, and a constant each.
    The ridge is relative to the mean square of the poses.
    """
    relative = poses[rows] - poses[rows].mean(axis=1, keepdims=True)
    constants = np.broadcast_to(np.eye(2), (len(relative), 2, 2))
    inputs = np.concatenate([relative, constants], axis=1)  # (frames, 19, 2)
    normal = np.einsum("fac,fbc->ab", inputs, inputs, optimize=True) / len(inputs)
    right = np.einsum("fac,fjc->aj", inputs, target[rows], optimize=True) / len(inputs)
    joints = np.arange(NUM_JOINTS)
    normal[joints, joints] += ridge * max(normal[joints, joints].mean(), 1e-9 / NUM_JOINTS)
    return np.linalg.solve(normal, right)


def write_mixture(path: Path, mixture: FittedMixture) -> None:
    """Write a mixture as JSON, atomically; infinite numbers as null."""
    freedom, *motion = (
        value if np.isfinite(value) else None
        for value in (mixture.degrees_of_freedom, *mixture.motion.tolist())
    )
    contents = {
        "estimators": mixture.estimators,
        "confident": mixture.confident,
        "degrees_of_freedom": freedom,
        "motion": motion,
        **{name: getattr(mixture, name).tolist() for name in _shapes(0, 0)},
    }
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(contents) + "\n")


def _shapes(estimators: int, knots: int) -> dict[str, tuple[int, ...]]:
    return {
        "bias": (estimators, NUM_JOINTS, 2),
        "knots": (estimators, NUM_JOINTS, knots),
        "variances": (estimators, NUM_JOINTS, knots),
        "correlation": (NUM_JOINTS, estimators, estimators),
        "layout": (NUM_JOINTS + 2, NUM_JOINTS),
    }


def read_mixture(path: Path) -> FittedMixture:
    """Read what `write_mixture` wrote.

    Raises:
        InputError: if the file is missing or holds no such mixture.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (merge.py --strategy fitted writes it)")
    try:
        contents = json.loads(path.read_text())
        names = tuple(map(str, contents["estimators"]))
        confident = tuple(map(bool, contents["confident"]))
        freedom, *motion = (
            np.inf if value is None else float(value)
            for value in (contents["degrees_of_freedom"], *contents["motion"])
        )
        motion = np.array(motion).reshape(NUM_JOINTS)
        knots = len(contents["knots"][0][0])
        arrays = {
            name: np.array(contents[name], dtype=np.float64).reshape(shape)
            for name, shape in _shapes(len(names), knots).items()
        }
        np.linalg.cholesky(arrays["correlation"])  # positive definite, or there is no least
        numbers = np.concatenate([array.ravel() for array in arrays.values()])
        positive = [freedom, motion.min(), arrays["variances"].min()]
        if not (np.isfinite(numbers).all() and min(positive) > 0 and len(confident) == len(names)):
            raise ValueError("some numbers are out of range")
    except (
        *(ValueError, KeyError, IndexError, TypeError, OverflowError),
        *(RecursionError, np.linalg.LinAlgError),
    ) as error:
        raise InputError(
            f"{path}: not a fitted mixture ({error}); write it again with merge.py "
            "--strategy fitted"
        ) from error
    return FittedMixture(names, confident, **arrays, degrees_of_freedom=freedom, motion=motion)
