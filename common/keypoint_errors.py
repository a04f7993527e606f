"""How far 2D estimates lie from the truth: per joint and group; bias, noise, confidence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.console import InputError
from common.h36m_cameras import CAMERA_IDS
from common.h36m_dataset import action_class
from common.npz_io import Positions2d
from common.skeleton import JOINT_NAMES

# Shares of the person's size, for PCK.
PCK_SHARES = (0.02, 0.05, 0.1)
CALIBRATION_BINS = 10
# Thresholds of the cumulative error, in pixels.
CUMULATIVE_PX = tuple(range(0, 41))
# Ranks and correlations are taken of about so many frames, evenly spread; more change nothing.
_SAMPLED_FRAMES = 20_000
# Errors are counted in bins of log2(1 + error in px), so that a percentile is known to
# (1 + error) / 500 px, whatever the number of frames.
_BINS_PER_OCTAVE, _BINS = 350, 350 * 13


class View(NamedTuple):
    """One camera's picture of one sequence."""

    subject: str
    action: str
    camera: int


def list_views(path: Path, truth: Positions2d, subjects: Sequence[str]) -> list[View]:
    """Return the views of these subjects in the order of the file.

    Raises:
        InputError: if the file lacks a subject.
    """
    missing = [subject for subject in subjects if subject not in truth]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(truth)}")
    return [
        View(subject, action, camera)
        for subject in subjects
        for action, cameras in truth[subject].items()
        for camera in range(len(cameras))
    ]


def view_arrays(
    path: Path, positions: Positions2d, views: Sequence[View], lengths: Sequence[int]
) -> list[np.ndarray]:
    """Return each view's frames, (frames, 17, 2 or 3), cut to `lengths`, as training cuts them.

    Raises:
        InputError: if a view is missing or has fewer frames.
    """
    arrays = []
    for (subject, action, camera), length in zip(views, lengths):
        if action not in positions.get(subject, {}):
            raise InputError(f"{path}: lacks {subject} {action}, which gt has")
        array = positions[subject][action][camera]
        if len(array) < length:
            raise InputError(
                f"{path}: {subject} {action}, camera {CAMERA_IDS[camera]}: "
                f"{len(array)} frames, but gt has {length}"
            )
        arrays.append(array[:length])
    return arrays


def measure(
    estimates: Sequence[np.ndarray], truths: Sequence[np.ndarray], views: Sequence[View]
) -> dict[str, Any]:
    """Measure one estimator on views.

    Args:
        estimates: for each view (frames, 17, 2 or 3), pixels; the third channel is the confidence.
        truths: for each view (frames, 17, 2), pixels.
        views: what they are.

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
    frames = sum(map(len, truths))
    bias = sum((e[..., :2] - t).sum(axis=0, dtype=np.float64) for e, t in zip(estimates, truths))
    bias = (bias / frames).astype(np.float32)
    with ThreadPoolExecutor() as pool:
        by_view = list(pool.map(lambda e, t: _view_sums(e, t, bias), estimates, truths))
    total = _Sums.of(by_view)
    confidence = None
    if estimates[0].shape[-1] == 3:
        sampled = np.concatenate([e[:: _step(frames), :, 2] for e in estimates])
        errors = _lengths(sample_differences(estimates, truths) - bias)
        confidence = _measure_confidence(sampled, errors)
    return {
        **total.figures(),
        "by_joint": {
            joint: total.joint(j).figures() | {"bias_px": bias[j].tolist()}
            for j, joint in enumerate(JOINT_NAMES)
        },
        "by_action": _by(by_view, views, lambda view: action_class(view.action)),
        "by_camera": _by(by_view, views, lambda view: CAMERA_IDS[view.camera]),
        "by_subject": _by(by_view, views, lambda view: view.subject),
        "cumulative": [100 * total.share_below(px) for px in CUMULATIVE_PX],
        "confidence": confidence,
    }


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over frames, J joints each, from which all figures follow."""

    frames: int
    second_differences: int  # of how many the jitter is
    error: np.ndarray  # (J,), pixels, as are the next two
    bias_free: np.ndarray
    jitter: np.ndarray
    near: np.ndarray  # (J, shares), keypoints within `PCK_SHARES`
    counts: np.ndarray  # (J, _BINS), keypoints with an error in this bin

    @classmethod
    def of(cls, parts: Iterable["_Sums"]) -> "_Sums":
        first, *others = parts
        sums = dict(vars(first))
        for part in others:
            for name, value in vars(part).items():
                sums[name] = sums[name] + value
        return cls(**sums)

    def joint(self, j: int) -> "_Sums":
        one = {name: value[j : j + 1] for name, value in vars(self).items() if np.ndim(value)}
        return _Sums(self.frames, self.second_differences, **one)

    def figures(self) -> dict[str, float | None]:
        keypoints, seconds = self.frames * len(self.error), self.second_differences
        near = 100 * self.near.sum(axis=0) / keypoints
        return {
            "mean_px": float(self.error.sum() / keypoints),
            "median_px": self.percentile(50),
            "p95_px": self.percentile(95),
            "bias_free_px": float(self.bias_free.sum() / keypoints),
            **{f"pck_{share:g}": float(x) for share, x in zip(PCK_SHARES, near)},
            "jitter_px": float(self.jitter.mean() / seconds) if seconds else None,
        }

    def percentile(self, percent: float) -> float:
        shares = np.cumsum(self.counts.sum(axis=0)) / self.counts.sum()
        edges = np.arange(1, _BINS + 1)
        return float(np.exp2(np.interp(percent / 100, shares, edges) / _BINS_PER_OCTAVE) - 1)

    def share_below(self, px: float) -> float:
        below = np.concatenate([[0], np.cumsum(self.counts.sum(axis=0))])
        edge = np.log2(1 + px) * _BINS_PER_OCTAVE
        return float(np.interp(edge, np.arange(_BINS + 1), below) / below[-1])


def _view_sums(estimate: np.ndarray, truth: np.ndarray, bias: np.ndarray) -> _Sums:
    """Return one view's sums; arrays (frames, 17, 2 or 3), (frames, 17, 2) and (17, 2)."""
    difference = estimate[..., :2] - truth
    errors, bias_free = _lengths(difference), _lengths(difference - bias)
    jitter = _lengths(np.diff(difference, n=2, axis=0))
    sizes = (truth.max(axis=1) - truth.min(axis=1)).max(axis=1)
    near = [(errors < share * sizes[:, None]).sum(axis=0) for share in PCK_SHARES]
    bins = (np.log2(1 + errors) * _BINS_PER_OCTAVE).astype(np.int64)
    bins = np.minimum(bins, _BINS - 1) + _BINS * np.arange(errors.shape[1])
    counts = np.bincount(bins.ravel(), minlength=_BINS * errors.shape[1])
    return _Sums(
        frames=len(errors),
        second_differences=len(jitter),
        error=errors.sum(axis=0, dtype=np.float64),
        bias_free=bias_free.sum(axis=0, dtype=np.float64),
        jitter=jitter.sum(axis=0, dtype=np.float64),
        near=np.stack(near, axis=1),
        counts=counts.reshape(-1, _BINS).astype(np.int32),
    )


def _by(
    by_view: Sequence[_Sums], views: Sequence[View], key: Callable[[View], str]
) -> dict[str, dict[str, float | None]]:
    """Return {key of the view: figures}, in the order in which the keys first occur."""
    groups: dict[str, list[_Sums]] = {}
    for view, sums in zip(views, by_view):
        groups.setdefault(key(view), []).append(sums)
    return {name: _Sums.of(parts).figures() for name, parts in groups.items()}


def sample_differences(estimates: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> np.ndarray:
    """Return estimate - truth (frames, 17, 2), pixels, of about 20,000 frames of all views."""
    step = _step(sum(map(len, truths)))
    return np.concatenate([e[::step, :, :2] - t[::step] for e, t in zip(estimates, truths)])


def _step(frames: int) -> int:
    return max(1, frames // _SAMPLED_FRAMES)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _measure_confidence(confidence: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    """Measure how well confidence (frames, 17) predicts errors of this shape, pixels."""
    by_joint = dict(zip(JOINT_NAMES, map(rank_correlation, confidence.T, errors.T)))
    known = [value for value in by_joint.values() if value is not None]
    order = np.argsort(confidence, axis=None, kind="stable")
    bins = [
        {
            "confidence": float(confidence.flat[part].mean(dtype=np.float64)),
            "error_px": float(errors.flat[part].mean(dtype=np.float64)),
        }
        for part in np.array_split(order, CALIBRATION_BINS)
        if len(part)
    ]
    return {
        "rank_correlation": float(np.mean(known)) if known else None,
        "by_joint": by_joint,
        "calibration": bins,
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of two arrays (n,); None where one is constant."""
    both = np.stack([ranks(a), ranks(b)])
    both -= both.mean(axis=1, keepdims=True)
    (aa, ab), (_, bb) = both @ both.T
    return float(ab / np.sqrt(aa * bb)) if aa > 0 and bb > 0 else None


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (n,) of values (n,), from 0; equal values share the mean of their ranks."""
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, side="left")
    return (first + np.searchsorted(ordered, values, side="right") - 1) / 2


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


def best_by_joint(summaries: Mapping[str, Mapping[str, Any]], figure: str) -> dict[str, str]:
    """Return {joint: the estimator with the lowest `figure`} of results of `measure`."""
    return {
        joint: min(summaries, key=lambda name: summaries[name]["by_joint"][joint][figure])
        for joint in JOINT_NAMES
    }
