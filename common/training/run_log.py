"""The record of a training: `log.jsonl`, and the curves drawn from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.drawing.figures import COLORS, INK, paper_figure, save_figure

LOG_NAME = "log.jsonl"


def save_training_curves(records: Sequence[dict[str, Any]], output: Path | str) -> None:
    """Draw a log's MPJPE in mm over the epochs, of training and of validation, the best marked.

    Raises:
        OSError: if the disk is full or read-only.
    """
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
