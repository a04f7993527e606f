"""The evaluation report: metrics by action, joint and subject, as a dict, as text, as LaTeX.

The field's figure is the mean over the 15 actions, each action being the mean over its frames.
The mean over all frames differs from it by about half a millimetre. Both are reported, each under
its name; "frames" counts every camera's.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from common.h36m_dataset import ACTION_ABBREVIATIONS, ACTIONS, SUBJECTS
from common.loss import METRICS, MetricSums
from common.skeleton import JOINT_NAMES

_UNITS = "MPJPE, P-MPJPE, N-MPJPE in mm; MPJVE in mm per frame; PCK@150 mm, AUC in %"
_LABEL_WIDTH, _COLUMN_WIDTH = 26, 8
_ACTION_LABEL_WIDTH, _ACTION_COLUMN_WIDTH = 8, 7

Figures = dict[str, float | None]


def make_report(sums: MetricSums) -> dict[str, Any]:
    """Return every average as plain numbers and dicts, ready for JSON.

    Returns:
        `frames`, `average_over_actions`, `average_over_frames`, `by_action`, `by_joint` (over all
        frames), `by_subject`, which holds the same again for each subject, and `by_sequence`, over
        a sequence's cameras. Units are in the names of the figures. Actions and subjects without
        frames are left out; a figure of which there is no value, as MPJVE of single frames, is
        None.

    Raises:
        ValueError: if no sequence was added.
    """
    state = sums.state.cpu()
    if not state.any():
        raise ValueError("no sequence was added")
    by_subject = {
        subject: _summary(state[i]) for i, subject in enumerate(SUBJECTS) if state[i].any()
    }
    by_sequence = {" ".join(key): _means(part.cpu()) for key, part in sums.sequences.items()}
    return {**_summary(state.sum(dim=0)), "by_subject": by_subject, "by_sequence": by_sequence}


def format_report(report: Mapping[str, Any], by_subject: bool = False) -> str:
    """Return the report as text for a terminal; its last line is the field's figure.

    Args:
        report: from `make_report`.
        by_subject: also give each subject's figures.
    """
    blocks = [
        _UNITS,
        _action_table(report),
        _figures_table("Mean", _averages(report)),
        _figures_table("Joint, over all frames", report["by_joint"]),
    ]
    if by_subject:
        for subject, summary in report["by_subject"].items():
            blocks += [
                f"{subject}\n{_action_table(summary)}",
                _figures_table(f"{subject}, mean", _averages(summary)),
            ]
    return "\n\n".join([*blocks, _validation_line(report)])


def latex_row(report: Mapping[str, Any], label: str, metric: str = "mpjpe_mm") -> str:
    r"""Return one row of the literature's table: `label & Dire. & … & WalkT. & Avg \\`.

    Args:
        report: from `make_report`.
        label: the row's name, plain text.
        metric: a key of `METRICS`.
    """
    cells = [_number(figure) for figure in _action_row(report, metric)]
    return " & ".join([escape_latex(label), *cells]) + r" \\"


def _summary(sums: Tensor) -> dict[str, Any]:
    """Return the report of sums (actions, joints, metrics, 2)."""
    by_action = {
        action: {"frames": _frames(sums[i]), **_means(sums[i])}
        for i, action in enumerate(ACTIONS)
        if sums[i].any()
    }
    return {
        "frames": _frames(sums),
        "average_over_actions": {
            metric: _mean_of(figures[metric] for figures in by_action.values())
            for metric in METRICS
        },
        "average_over_frames": _means(sums),
        "by_action": by_action,
        "by_joint": {joint: _means(sums[:, j]) for j, joint in enumerate(JOINT_NAMES)},
    }


def _means(sums: Tensor) -> Figures:
    """Return the six metrics of sums (..., metrics, 2), averaged over the leading dimensions."""
    totals = sums.reshape(-1, len(METRICS), 2).sum(dim=0).tolist()
    return {
        metric: total / count if count else None for metric, (total, count) in zip(METRICS, totals)
    }


def _mean_of(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def _frames(sums: Tensor) -> int:
    """Return the number of frames of sums (..., joints, metrics, 2): of the first joint's MPJPE."""
    return int(sums[..., 0, 0, 1].sum())


def _action_table(report: Mapping[str, Any]) -> str:
    """Return the literature's table: a row for each metric, a column for each action."""
    header = [*ACTION_ABBREVIATIONS.values(), "Avg"]
    rows = [("", header)] + [
        (name, [_number(figure) for figure in _action_row(report, metric)])
        for metric, name in METRICS.items()
    ]
    return _align(rows, _ACTION_LABEL_WIDTH, _ACTION_COLUMN_WIDTH)


def _action_row(report: Mapping[str, Any], metric: str) -> list[float | None]:
    """Return one metric for each of the 15 actions, None where there is none, and their mean."""
    by_action = report["by_action"]
    figures = [by_action.get(action, {}).get(metric) for action in ACTIONS]
    return [*figures, report["average_over_actions"][metric]]


def _averages(report: Mapping[str, Any]) -> dict[str, Figures]:
    return {
        _over_actions(report): report["average_over_actions"],
        _over_frames(report): report["average_over_frames"],
    }


def _over_actions(report: Mapping[str, Any]) -> str:
    count = len(report["by_action"])
    return f"over {count} action{'s' if count > 1 else ''}"


def _over_frames(report: Mapping[str, Any]) -> str:
    return f"over {report['frames']:,} frames"


def _figures_table(title: str, rows: Mapping[str, Figures]) -> str:
    """Return a table with a column for each metric."""
    lines = [(title, list(METRICS.values()))] + [
        (label, [_number(figures[metric], decimals=2) for metric in METRICS])
        for label, figures in rows.items()
    ]
    return _align(lines, _LABEL_WIDTH, _COLUMN_WIDTH)


def _align(rows: Iterable[tuple[str, list[str]]], label_width: int, column_width: int) -> str:
    return "\n".join(
        label.ljust(label_width) + "".join(cell.rjust(column_width) for cell in cells)
        for label, cells in rows
    )


def _validation_line(report: Mapping[str, Any]) -> str:
    over_actions = report["average_over_actions"]["mpjpe_mm"]
    over_frames = report["average_over_frames"]["mpjpe_mm"]
    return (
        f"MPJPE on Validation data: {over_actions:.2f} mm (mean {_over_actions(report)}; "
        f"mean {_over_frames(report)}: {over_frames:.2f} mm)"
    )


def _number(figure: float | None, decimals: int = 1) -> str:
    return "-" if figure is None else f"{figure:.{decimals}f}"


def escape_latex(text: str) -> str:
    """Return plain text as LaTeX shows it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(
        special.get(character, f"\\{character}" if character in "&%$#_{}" else character)
        for character in text
    )
