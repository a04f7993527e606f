"""The record of a training: `log.jsonl`, and the curves drawn from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.drawing.figures import COLORS, INK, paper_figure, save_figure
from common.files.console import InputError

LOG_NAME = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `log.jsonl`: of each epoch the last, in their order.

    What stands behind the last end of a line is a record that was cut short; it is left out.

    Raises:
        InputError: if the file is missing or a line of it is no record of an epoch.
    """
    records = {}
    try:
        text = path.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():
            record = json.loads(line)
            records[record["epoch"]] = record
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; training writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)[:200]
        raise InputError(f"{path}: not a training log (a line is damaged: {reason})") from error
    return [records[epoch] for epoch in sorted(records)]


def save_training_curves(log_path: Path | str, output: Path | str) -> None:
    """Draw a log's MPJPE in mm over the epochs, of training and of validation, the best marked.

    Raises:
        InputError: if the log is missing, empty or damaged.
        OSError: if the disk is full or read-only.
    """
    records = read_log(Path(log_path))
    if not records:
        raise InputError(f"{log_path}: holds no epoch yet")
    epochs = [record["epoch"] for record in records]
    keys = ("train_mpjpe_mm", "valid_mpjpe_mm")
    # As floats, None becomes NaN.
    train, valid = np.array([[r.get(key) for r in records] for key in keys], dtype=np.float64)
    figure, axes = paper_figure(6.4, 3.8)
    style = {"linewidth": 1.8, "marker": "o" if len(epochs) < 25 else None, "markersize": 3.5}
    axes.plot(epochs, train, color=COLORS[0], label="training", **style)
    if not np.isnan(valid).all():
        best = int(np.nanargmin(valid))
        label = f"validation (best: {valid[best]:.1f} mm, epoch {epochs[best]})"
        axes.plot(epochs, valid, color=COLORS[1], label=label, **style)
        axes.plot(epochs[best], valid[best], "o", color=COLORS[1], markersize=7, zorder=5)
    axes.set(xlabel="epoch", ylabel="MPJPE (mm)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, output)
