"""The pictures of evaluate_2d.py, in the style of a paper."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from common.drawing.figures import COLORS, INK, paper_figure, save_figure
from common.fusion.errors_2d import CUMULATIVE_PX
from common.skeleton import JOINT_NAMES


def save_error_figures(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Draw the report of `evaluate_2d.evaluate` as PNGs in a folder; return their paths.

    The correlation of the errors takes two estimators, the error by confidence takes confidences.
    """
    estimators, correlation = report["estimators"], report["error_correlation"]
    colors = dict(zip(estimators, cycle(COLORS)))
    told = {name: s["confidence"] for name, s in estimators.items() if s["confidence"]}
    pictures = {"joint_errors": _joints(estimators)}
    pictures["cumulative_error"] = _cumulative(estimators, colors)
    if len(estimators) > 1:
        pictures["error_correlation"] = _correlation(correlation["names"], correlation["mean"])
    if told:
        pictures["calibration"] = _calibration(told, colors)
    paths = [folder / f"{name}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values()):
        save_figure(picture, path)
    return paths


def _joints(estimators: Mapping[str, Mapping[str, Any]]) -> Any:
    """A heat map joint × estimator of the error without bias; the best of a joint in bold."""
    joints = [summary["by_joint"] for summary in estimators.values()]
    errors = np.array([[of[joint]["bias_free_px"] for of in joints] for joint in JOINT_NAMES])
    picture, axes = paper_figure(2.2 + 0.75 * len(estimators), 5.6)
    axes.set_title("error without bias (px)", size=9, color=INK)
    _heat_map(axes, errors, JOINT_NAMES, list(estimators), "{:.1f}", errors.max())
    for row, best in enumerate(errors.argmin(axis=1)):
        axes.texts[row * len(estimators) + best].set_weight("bold")
    return picture


def _correlation(names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> Any:
    """The matrix of the errors' correlations."""
    picture, axes = paper_figure(2.0 + 0.75 * len(names), 1.4 + 0.5 * len(names))
    axes.set_title("correlation of the errors", size=9, color=INK)
    _heat_map(axes, np.array(matrix, dtype=float), names, names, "{:.2f}", 1.0)
    return picture


def _heat_map(
    axes: Any, values: np.ndarray, rows: Any, columns: Any, form: str, largest: float
) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1.15 * largest, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(rows)), rows, size=8)
    axes.set_xticks(range(len(columns)), columns, size=8, rotation=30, ha="right")
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > 0.65 * largest else INK
        axes.text(column, row, form.format(value), ha="center", va="center", size=8, color=ink)


def _cumulative(estimators: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> Any:
    """How many keypoints have an error of so many pixels at most."""
    picture, axes = paper_figure(5.2, 3.6)
    for name in sorted(estimators, key=lambda name: estimators[name]["mean_px"]):
        values = estimators[name]["cumulative"]
        axes.plot(CUMULATIVE_PX, values, color=colors[name], linewidth=1.6, label=name)
    axes.set(xlabel="error (px)", xlim=(0, CUMULATIVE_PX[-1]))
    axes.set(ylabel="keypoints (%)", ylim=(0, 101))
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return picture


def _calibration(told: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> Any:
    """Each estimator's error by its own confidence: scales differ, so tenths are compared."""
    picture, axes = paper_figure(5.2, 3.6)
    for name, confidence in told.items():
        errors = [one["error_px"] for one in confidence["calibration"]]
        tenths = (np.arange(len(errors)) + 0.5) * 100 / len(errors)
        rank, label = confidence["rank_correlation"], name
        if rank is not None:
            label += f" (rank correlation {rank:.2f})".replace("-0", "−0")
        style = {"linewidth": 1.6, "marker": "o", "markersize": 3.5}
        axes.plot(tenths, errors, color=colors[name], label=label, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=8)
    axes.set(xlabel="confidence (percentile)", ylabel="error without bias (px)", xlim=(0, 100))
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return picture
