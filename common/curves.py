"""Pictures of figures over time: training curves, and an estimator's 2D error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.console import InputError
from common.files import atomic_output, check_output
from common.panels import FAINT_INK, INK
from common.run_log import read_log
from common.skeleton import JOINT_NAMES

# Okabe and Ito's palette, which colour-blind people tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3C3C3C")
_GRID = "#E6E6E6"
_DPI = 200
_LOG_KEYS = ("train_mpjpe_mm", "valid_mpjpe_mm")


def save_training_curves(log_path: Path | str, output: Path | str) -> None:
    """Draw the MPJPE in mm over the epochs, of training and of validation, the best marked.

    Args:
        log_path: `log.jsonl`, one JSON object a line with `epoch`, `train_mpjpe_mm` and, where
            there was a validation, `valid_mpjpe_mm`. Of an epoch that occurs twice, as after
            resuming, the later line counts.
        output: the PNG.

    Raises:
        InputError: if the log is missing, empty or damaged, the ending is not .png, or the
            output's folder is missing.
        OSError: if the disk is full or read-only.
    """
    output = check_output(output, (".png",))
    epochs, train, valid = _errors_by_epoch(Path(log_path))
    figure, axes = _figure(6.4, 3.8)
    marker = "o" if len(epochs) < 25 else None
    style = {"linewidth": 1.8, "marker": marker, "markersize": 3.5}
    axes.plot(epochs, train, color=_COLORS[0], label="training", **style)
    if not np.isnan(valid).all():
        best = int(np.nanargmin(valid))
        label = f"validation (best: {valid[best]:.1f} mm, epoch {epochs[best]})"
        axes.plot(epochs, valid, color=_COLORS[1], label=label, **style)
        axes.plot(epochs[best], valid[best], "o", color=_COLORS[1], markersize=7, zorder=5)
    axes.set(xlabel="epoch", ylabel="MPJPE (mm)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(frameon=False, labelcolor=INK)
    _save(figure, output)


def _errors_by_epoch(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (epochs,) each: the epoch's number, and both errors in mm, NaN where there is none."""
    records = read_log(path)
    if not records:
        raise InputError(f"{path}: holds no epoch yet")
    try:
        errors = [
            [np.nan if record.get(key) is None else float(record[key]) for key in _LOG_KEYS]
            for record in records
        ]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a training log ({error})") from error
    train, valid = np.array(errors).T
    return np.array([record["epoch"] for record in records]), train, valid


def save_errors(
    output: Path | str,
    errors_px: Mapping[str, np.ndarray],
    title: str,
    frame_numbers: np.ndarray,
) -> None:
    """Draw estimators' 2D errors: the mean over the joints over time, and each joint's.

    Args:
        output: the PNG.
        errors_px: {estimator: (frames, 17)}, distance from the true keypoint in pixels.
        title: what stands at the top.
        frame_numbers: (frames,), what the frames are called.

    Raises:
        InputError: if the ending is not .png or the folder is missing.
        OSError: if the disk is full or read-only.
    """
    output = check_output(output, (".png",))
    figure, (over_time, by_joint) = _figure(11, 4.6, columns=(1.7, 1))
    figure.suptitle(title, x=0.015, ha="left", size=11, weight="bold", color=INK)
    for index, (name, errors) in enumerate(errors_px.items()):
        color = _COLORS[index % len(_COLORS)]
        label = f"{name}: {errors.mean():.1f} px"
        over_time.plot(frame_numbers, errors.mean(axis=1), color=color, linewidth=1.3, label=label)
        offset = 0.6 * ((index + 0.5) / len(errors_px) - 0.5)
        _draw_joints(by_joint, errors, offset, color)
    over_time.set(xlabel="frame", ylabel="mean error over the joints (px)", ylim=(0, None))
    over_time.margins(x=0.01)
    over_time.legend(frameon=False, labelcolor=INK, ncols=2)
    by_joint.set(xlabel="error (px): mean, and 10 % to 90 % of frames", xlim=(0, None))
    by_joint.set_yticks(range(len(JOINT_NAMES)), JOINT_NAMES, size=8)
    by_joint.invert_yaxis()
    _save(figure, output)


def _draw_joints(axes: Any, errors: np.ndarray, offset: float, color: str) -> None:
    rows = np.arange(len(JOINT_NAMES)) + offset
    low, high = np.percentile(errors, (10, 90), axis=0)
    axes.hlines(rows, low, high, color=color, linewidth=1.6, alpha=0.45)
    axes.plot(errors.mean(axis=0), rows, "o", color=color, markersize=4)


def _figure(width: float, height: float, columns: tuple[float, ...] = (1,)) -> tuple[Any, Any]:
    """Return a figure of this size in inches, and its axes in paper style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(columns), width_ratios=columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT_INK)
        one.grid(color=_GRID, linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(color=FAINT_INK, labelcolor=INK, labelsize=9)
    return figure, axes


def _save(figure: Any, output: Path) -> None:
    with atomic_output(output) as temporary:
        figure.savefig(temporary)
