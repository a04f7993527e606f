"""Text tables for a terminal."""

from collections.abc import Sequence


def format_table(
    rows: Sequence[Sequence[str]], label_width: int = 0, column_width: int = 9, gap: int = 2
) -> str:
    """Return rows of equally many cells, the header first, as aligned lines.

    The first column holds labels and is aligned on the left, the others on the right. The widths
    are the least ones, in characters; a column grows with its longest cell, before which `gap`
    spaces stay free.
    """
    labels, *columns = zip(*rows)
    label_width = max(label_width, *map(len, labels))
    widths = [max(column_width, gap + max(map(len, column))) for column in columns]
    return "\n".join(
        label.ljust(label_width) + "".join(map(str.rjust, cells, widths)) for label, *cells in rows
    )
