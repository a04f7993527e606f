"""2D estimates beside the truth: the same views, and how far apart they are."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.camera import CAMERA_IDS
from common.files.confidences import WITH_CONFIDENCE
from common.files.console import InputError, listing
from common.files.npz import Positions2d
from common.h36m_dataset import action_class, keypoints_names, keypoints_path
from common.skeleton import JOINT_NAMES

PCK_SHARES = (0.02, 0.05, 0.1)  # of the person's size, in rising order
CALIBRATION_BINS = 10
CUMULATIVE_PX = tuple(range(41))  # thresholds of the cumulative error
# Ranks and correlations are taken of about so many frames, evenly spread; more change nothing.
_SAMPLED_FRAMES = 20_000


def list_estimators(data_dir: Path) -> list[str]:
    """Return the names of the estimators and mixtures that have Human3.6M files in a folder."""
    names = (n.removesuffix(WITH_CONFIDENCE) for n in keypoints_names(data_dir, "h36m"))
    return [name for name in dict.fromkeys(names) if name != "gt"]


def estimates_path(data_dir: Path, dataset: str, name: str) -> Path:
    """Return an estimator's file, the one with confidences where there is one.

    Raises InputError if there is none.
    """
    confident = name + WITH_CONFIDENCE
    there = confident in keypoints_names(data_dir, dataset)
    return keypoints_path(data_dir, dataset, confident if there else name)


class View(NamedTuple):
    """One camera's picture of one sequence."""

    subject: str
    action: str
    camera: int


def list_views(path: Path, positions: Positions2d, subjects: Iterable[str]) -> list[View]:
    """Return the views of these subjects in the file's order; InputError if it lacks one."""
    missing = [subject for subject in subjects if subject not in positions]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(positions)}")
    return [
        View(subject, action, camera)
        for subject in subjects
        for action, views in positions[subject].items()
        for camera in range(len(views))
    ]


def view_arrays(
    path: Path,
    positions: Positions2d,
    views: Sequence[View],
    lengths: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Return each view's frames, (frames, 17, 2 or 3), cut to `lengths` where these are given.

    Raises InputError if views are missing, or one has fewer frames.
    """
    missing = [f"{s} {a}" for s, a, _ in views if a not in positions.get(s, {})]
    if missing:
        raise InputError(
            f"{path}: lacks {listing(dict.fromkeys(missing))}, which the other files have"
        )
    arrays = [positions[subject][action][camera] for subject, action, camera in views]
    for (subject, action, camera), array, length in zip(views, arrays, lengths or ()):
        if len(array) < length:
            raise InputError(
                f"{path}: {subject} {action}, camera {CAMERA_IDS[camera]}: "
                f"{len(array)} frames, but gt has {length}"
            )
    return [array[:length] for array, length in zip(arrays, lengths or map(len, arrays))]


def measure(
    estimates: Sequence[np.ndarray], truths: Sequence[np.ndarray], views: Sequence[View]
) -> dict[str, Any]:
    """Measure one estimator on views: (frames, 17, 2 or 3), pixels and confidence, of each view.

    Returns:
        `mean_px`, `median_px`, `p95_px` of the Euclidean error; `bias_free_px`, its mean once each
        joint's mean difference is taken out; `pck_<share>` in percent, the joints that are nearer
        than this share of the person's size (Yang and Ramanan, PAMI 2013: the longer side of the
        box around the true joints); `jitter_px`, the mean length of the second difference in time
        of estimate - truth, so that the person's own acceleration is left out, None where no view
        has three frames; the same in `by_joint`, with `bias_px` (x, y), and in `by_action`,
        `by_camera` and `by_subject`; `cumulative`, the percent of errors up to each of
        `CUMULATIVE_PX`; and `confidence`, None where the estimates have none:
        `rank_correlation`: Spearman's, of confidence with the error without bias, mean over the
        joints; -1 where confidence orders the errors perfectly, None where it is constant.
        `by_joint`: that of each joint. `calibration`: ten bins of equal numbers of keypoints, from
        the least confident: `confidence` and `error_px`, the means in the bin.
    """
    bias = sum((e[..., :2] - t).sum(axis=0, dtype=np.float64) for e, t in zip(estimates, truths))
    bias = (bias / sum(map(len, truths))).astype(np.float32)
    confidence = None
    if estimates[0].shape[-1] == 3:
        sampled = sample_frames(estimates)
        errors = _lengths(sampled[..., :2] - sample_frames(truths) - bias)
        confidence = _measure_confidence(sampled[..., 2], errors)
    with ThreadPoolExecutor() as pool:
        by_view = list(pool.map(lambda e, t: _view_errors(e, t, bias), estimates, truths))
        total = _join(by_view)
        joints = pool.map(_figures, *(np.ascontiguousarray(array.T) for array in total))

        def by(key: Callable[[View], str]) -> dict[str, dict[str, float | None]]:
            groups: dict[str, list[_Errors]] = {}
            for view, errors in zip(views, by_view):
                groups.setdefault(key(view), []).append(errors)
            figures = pool.map(lambda parts: _figures(*_join(parts)), groups.values())
            return dict(zip(groups, figures))

        ordered = np.sort(total[0], axis=None)
        below = np.searchsorted(ordered, CUMULATIVE_PX, side="right") / ordered.size
        return {
            **_figures(*total),
            "by_joint": {
                joint: figures | {"bias_px": xy}
                for joint, figures, xy in zip(JOINT_NAMES, joints, bias.tolist())
            },
            "by_action": by(lambda view: action_class(view.action)),
            "by_camera": by(lambda view: CAMERA_IDS[view.camera]),
            "by_subject": by(lambda view: view.subject),
            "cumulative": (100 * below).tolist(),
            "confidence": confidence,
        }


# Of each keypoint, (frames, 17): error and bias-free error, pixels, and how many of `PCK_SHARES` it
# is within; and the jitter, (frames - 2 of each view, 17), pixels.
_Errors = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _view_errors(estimate: np.ndarray, truth: np.ndarray, bias: np.ndarray) -> _Errors:
    """Return one view's errors; arrays (frames, 17, 2 or 3), (frames, 17, 2) and (17, 2)."""
    difference = estimate[..., :2] - truth
    error = _lengths(difference)
    by_joint = np.ascontiguousarray(truth.swapaxes(0, 1))  # which is faster to reduce
    size = (by_joint.max(axis=0) - by_joint.min(axis=0)).max(axis=1, keepdims=True)
    within = np.sum([error < share * size for share in PCK_SHARES], axis=0, dtype=np.uint8)
    jitter = _lengths(np.diff(difference, n=2, axis=0))
    return error, _lengths(difference - bias), within, jitter


def _join(views: Sequence[_Errors]) -> _Errors:
    return tuple(map(np.concatenate, zip(*views)))


def _figures(
    error: np.ndarray, bias_free: np.ndarray, within: np.ndarray, jitter: np.ndarray
) -> dict[str, float | None]:
    median, p95 = np.percentile(error, (50, 95))
    near = [np.count_nonzero(within > i) for i in range(len(PCK_SHARES))]
    return {
        "mean_px": float(error.mean(dtype=np.float64)),
        "median_px": float(median),
        "p95_px": float(p95),
        "bias_free_px": float(bias_free.mean(dtype=np.float64)),
        **{f"pck_{share:g}": 100 * n / error.size for share, n in zip(PCK_SHARES, near[::-1])},
        "jitter_px": float(jitter.mean(dtype=np.float64)) if jitter.size else None,
    }


def sample_frames(views: Sequence[np.ndarray]) -> np.ndarray:
    """Return about 20,000 frames of arrays (frames, …), evenly spread over each."""
    step = max(1, sum(map(len, views)) // _SAMPLED_FRAMES)
    return np.concatenate([view[::step] for view in views])


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _measure_confidence(confidence: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    """Measure how well confidence (frames, 17) predicts errors of this shape, pixels."""
    by_joint = dict(zip(JOINT_NAMES, map(rank_correlation, confidence.T, errors.T)))
    known = [value for value in by_joint.values() if value is not None]
    order = np.argsort(confidence, axis=None, kind="stable")
    values = {"confidence": confidence, "error_px": errors}
    return {
        "rank_correlation": float(np.mean(known)) if known else None,
        "by_joint": by_joint,
        "calibration": [
            {name: float(array.flat[part].mean(dtype=np.float64)) for name, array in values.items()}
            for part in np.array_split(order, CALIBRATION_BINS)
        ],
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of two arrays (n,); None where one is constant."""
    from scipy.stats import spearmanr  # here, as it takes a second, which mixing need not wait

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def error_correlation(differences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the correlation of the estimators' errors, (17, estimators, estimators).

    Of each estimator's estimate - truth, (frames, 17, 2): Pearson's, x and y together, each with
    its mean taken out; NaN where an estimator is exact.
    """
    errors = np.stack(differences).astype(np.float64)
    errors -= errors.mean(axis=1, keepdims=True)
    covariance = np.einsum("afjc,bfjc->jab", errors, errors, optimize=True)
    deviation = np.sqrt(np.einsum("jaa->ja", covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / (deviation[:, :, None] * deviation[:, None])
