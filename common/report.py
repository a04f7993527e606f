"""The evaluation report: metrics by action, joint and subject, as a dict, as text, as LaTeX.

The field's figure is the mean over the 15 actions, each action being the mean over its frames.
The mean over all frames differs from it by about half a millimetre. Both are reported, each under
its name; "frames" counts every camera's.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from common.files.tables import format_table, latex_cells
from common.h36m_dataset import ACTION_ABBREVIATIONS, ACTIONS, SUBJECTS
from common.loss import METRICS, MetricSums
from common.skeleton import JOINT_NAMES

_UNITS = "MPJPE, P-MPJPE, N-MPJPE in mm; MPJVE in mm per frame; PCK@150 mm, AUC in %"

Figures = dict[str, float | None]


def make_report(sums: MetricSums) -> dict[str, Any]:
    """Return every average as plain numbers and dicts, ready for JSON, units in their names.

    They are `frames`, `average_over_actions`, `average_over_frames`, `by_action`, `by_joint` (over
    all frames), `by_subject`, which holds the same again for each subject, and `by_sequence`, over
    a sequence's cameras. Actions and subjects without frames are left out; a figure of which there
    is no value, as MPJVE of single frames, is None.
    """
    state = sums.state.cpu()
    return {
        **_summary(state.sum(dim=0)),
        "by_subject": {s: _summary(part) for s, part in zip(SUBJECTS, state) if part.any()},
        "by_sequence": {" ".join(k): _means(part.cpu()) for k, part in sums.sequences.items()},
    }


def format_report(report: Mapping[str, Any], by_subject: bool = False) -> str:
    """Return a report as text for a terminal, which the field's figure ends; by subject, too."""
    blocks = [
        _UNITS,
        _action_table(report),
        _metrics_table("Mean", _averages(report)),
        _metrics_table("Joint, over all frames", report["by_joint"]),
    ]
    for subject, summary in report["by_subject"].items() if by_subject else ():
        blocks.append(f"{subject}\n{_action_table(summary)}")
        blocks.append(_metrics_table(f"{subject}, mean", _averages(summary)))
    (actions, over_actions), (frames, over_frames) = _averages(report).items()
    blocks.append(
        f"MPJPE on Validation data: {over_actions['mpjpe_mm']:.2f} mm (mean {actions}; "
        f"mean {frames}: {over_frames['mpjpe_mm']:.2f} mm)"
    )
    return "\n\n".join(blocks)


def latex_row(report: Mapping[str, Any], label: str) -> str:
    r"""Return one row of the literature's table, of MPJPE: `label & Dire. & … & Avg \\`."""
    return latex_cells([label, *_action_cells(report, "mpjpe_mm")])


def _summary(sums: Tensor) -> dict[str, Any]:
    """Return the report of sums (actions, joints, metrics, 2)."""
    frames = sums[:, 0, 0, 1].int().tolist()  # the first joint's MPJPE's
    counted = zip(ACTIONS, frames, sums)
    by_action = {action: {"frames": n, **_means(part)} for action, n, part in counted if part.any()}
    over_actions: Figures = {}
    for metric in METRICS:
        figures = [means[metric] for means in by_action.values() if means[metric] is not None]
        over_actions[metric] = sum(figures) / len(figures) if figures else None
    return {
        "frames": sum(frames),
        "average_over_actions": over_actions,
        "average_over_frames": _means(sums),
        "by_action": by_action,
        "by_joint": {joint: _means(sums[:, j]) for j, joint in enumerate(JOINT_NAMES)},
    }


def _means(sums: Tensor) -> Figures:
    """Return the six metrics of sums (..., metrics, 2), averaged over the leading dimensions."""
    totals = sums.reshape(-1, len(METRICS), 2).sum(dim=0).tolist()
    return {m: total / count if count else None for m, (total, count) in zip(METRICS, totals)}


def _action_table(report: Mapping[str, Any]) -> str:
    """Return the literature's table: a row for each metric, a column for each action."""
    rows = [["", *ACTION_ABBREVIATIONS.values(), "Avg"]]
    rows += [[name, *_action_cells(report, metric)] for metric, name in METRICS.items()]
    return format_table(rows, label_width=8, column_width=7, gap=1)


def _action_cells(report: Mapping[str, Any], metric: str) -> list[str]:
    """Return one metric for each of the 15 actions, and their mean."""
    by_action = report["by_action"]
    figures = [by_action.get(action, {}).get(metric) for action in ACTIONS]
    return [_number(figure, 1) for figure in (*figures, report["average_over_actions"][metric])]


def _averages(report: Mapping[str, Any]) -> dict[str, Figures]:
    """Return the two averages by their names, that over the actions first."""
    count = len(report["by_action"])
    return {
        f"over {count} action{'s' if count > 1 else ''}": report["average_over_actions"],
        f"over {report['frames']:,} frames": report["average_over_frames"],
    }


def _metrics_table(title: str, by_label: Mapping[str, Figures]) -> str:
    """Return a table with a column for each metric."""
    rows = [[title, *METRICS.values()]]
    rows += [[label, *(_number(f[m], 2) for m in METRICS)] for label, f in by_label.items()]
    return format_table(rows, label_width=26, column_width=8, gap=1)


def _number(figure: float | None, decimals: int) -> str:
    return "-" if figure is None else f"{figure:.{decimals}f}"
