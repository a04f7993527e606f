"""Text tables for a terminal, Markdown and LaTeX."""

import statistics
from collections.abc import Sequence


def format_table(
    rows: Sequence[Sequence[str]], label_width: int = 0, column_width: int = 9, gap: int = 2
) -> str:
    """Return rows of cells, the header first, as lines: labels on the left, others on the right.

    The widths are the least ones, in characters; a column grows with its longest cell, before which
    `gap` spaces stay free.
    """
    labels, *columns = zip(*rows)
    label_width = max(label_width, *map(len, labels))
    widths = [max(column_width, gap + max(map(len, column))) for column in columns]
    return "\n".join(
        label.ljust(label_width) + "".join(map(str.rjust, cells, widths)) for label, *cells in rows
    )


def format_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the header first, as a Markdown table."""
    header, *body = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([header, "|---|" + "--:|" * (len(rows[0]) - 1), *body])


def latex_cells(cells: Sequence[str]) -> str:
    r"""Return one row of a LaTeX table, `label & 1.0 & 2.0 \\`; the label is plain text."""
    label, *others = cells
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return " & ".join([label.translate(str.maketrans(special)), *others]) + r" \\"


def mean_and_spread(values: Sequence[float]) -> str:
    """Return "50.1 ± 0.3", mean and standard deviation, or the value alone where there is one."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
