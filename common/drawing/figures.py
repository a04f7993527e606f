"""The paper style of this project's figures: colours, axes, saving."""

from pathlib import Path
from typing import Any

import numpy as np

from common.files.output import atomic_output

PAPER, INK, FAINT_INK = "#FFFFFF", "#222222", "#808080"
# Okabe and Ito's palette, which colour-blind people tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3C3C3C")
_GRID = "#E6E6E6"
_DPI = 200


def paper_figure(width: float, height: float, columns: tuple[float, ...] = (1,)) -> tuple[Any, Any]:
    """Return a matplotlib figure, inches, and its axes: thin lines, a faint grid behind the data.

    `columns` are the relative widths of axes side by side; of several, an array is returned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(columns), width_ratios=columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT_INK)
        one.grid(color=_GRID, linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(color=FAINT_INK, labelcolor=INK, labelsize=9)
    return figure, axes


def save_figure(figure: Any, output: Path | str) -> None:
    """Write a matplotlib figure atomically; the suffix of `output` decides on the format."""
    with atomic_output(output) as temporary:
        figure.savefig(temporary)
