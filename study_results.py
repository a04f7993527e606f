"""What compare.py says of a study: which differences are real, tables, a figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import erfc, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from common.figures import COLORS, INK, paper_figure, save_figure
from common.files import atomic_output
from common.keypoint_errors import ranks
from common.report import escape_latex

SIGNIFICANT = 0.05
METRICS = ("mpjpe_mm", "p_mpjpe_mm")


def study_rows(
    reports: Mapping[str, Sequence[Mapping[str, Any]]], errors_2d: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each input, the best first.

    Returns:
        `keypoints`; `error_2d_px` and `bias_free_2d_px`, None for a concatenation; for both
        metrics `<metric>`, the mean over the seeds, `<metric>_std`, None for one seed, and
        `<metric>_seeds`; `p_best`, from `wilcoxon` against the best row, times the number of such
        tests (Bonferroni), None for the best; `worse`, whether it is so beyond chance: that p is
        significant, and the difference is more than two of `seed_error_mm`.
    """
    rows = []
    for name, of_seeds in reports.items():
        error_2d = errors_2d.get(name, {})
        row = {
            "keypoints": name,
            "error_2d_px": error_2d.get("mean_px"),
            "bias_free_2d_px": error_2d.get("bias_free_px"),
        }
        for metric in METRICS:
            values = [report["average_over_actions"][metric] for report in of_seeds]
            row[metric] = float(np.mean(values))
            row[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            row[f"{metric}_seeds"] = values
        rows.append(row)
    rows.sort(key=lambda row: row["mpjpe_mm"])
    best, error = rows[0], seed_error_mm(rows)
    for row in rows:
        difference, p = compare(reports[row["keypoints"]], reports[best["keypoints"]])
        row["p_best"] = None if row is best else min(1.0, p * (len(rows) - 1))
        row["worse"] = row is not best and row["p_best"] < SIGNIFICANT and difference > 2 * error
    return rows


def seed_error_mm(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard error of a difference of two inputs' MPJPE, by the chance of training.

    From the variance over the seeds, pooled over the inputs; 0 for one seed, which does not tell.
    """
    seeds = len(rows[0]["mpjpe_mm_seeds"])
    variances = [row["mpjpe_mm_std"] ** 2 for row in rows if row["mpjpe_mm_std"] is not None]
    return sqrt(2 * float(np.mean(variances)) / seeds) if variances else 0.0


def pairs(
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[tuple[str, str, float, float]]:
    """Return (a, b, MPJPE of a - that of b in mm, p) of any two inputs, p without a correction."""
    return [(a, b, *compare(reports[a], reports[b])) for a, b in combinations(reports, 2)]


def compare(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean difference in MPJPE over the test sequences, a - b in mm, and Wilcoxon's p.

    A sequence's error is the mean over its cameras and over the seeds: pictures of one motion are
    no independent trials.
    """
    names = list(a[0]["by_sequence"])
    errors = [
        np.mean([[r["by_sequence"][n]["mpjpe_mm"] for n in names] for r in reports], axis=0)
        for reports in (a, b)
    ]
    differences = errors[0] - errors[1]
    return float(differences.mean()), wilcoxon(differences)


def wilcoxon(differences: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1945).

    By the normal approximation, corrected for ties; differences of zero are left out.

    Args:
        differences: (pairs,).
    """
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    rank = ranks(np.abs(differences)) + 1
    positive = rank[differences > 0].sum()
    ties = np.unique(rank, return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    return erfc(abs(positive - n * (n + 1) / 4) / sqrt(2 * variance))


def write_results(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    compared: Sequence[tuple[str, str, float, float]],
    seeds: Sequence[int],
) -> str:
    """Write table.md, .tex, .csv, pairs.csv and study.png; return the table for the terminal."""
    markdown = markdown_table(rows, len(seeds))
    texts = {
        "table.md": markdown,
        "table.tex": latex_table(rows),
        "table.csv": csv_text(list(rows[0]), [row.values() for row in rows]),
        "pairs.csv": csv_text(["a", "b", "difference_mm", "p"], compared),
    }
    for name, text in texts.items():
        with atomic_output(folder / name) as temporary:
            temporary.write_text(text)
    save_figure(draw_study(rows), folder / "study.png")
    return f"{markdown}\nwrote {', '.join([*texts, 'study.png'])} into {folder}"


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the row's figures as text: 2D, 2D without bias, MPJPE, P-MPJPE, p."""
    flat = [row["error_2d_px"], row["bias_free_2d_px"]]
    p = row["p_best"]
    return [
        *("–" if x is None else f"{x:.2f}" for x in flat),
        *(with_spread(row[metric], row[f"{metric}_std"]) for metric in METRICS),
        "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def with_spread(mean: float, std: float | None) -> str:
    """Return "50.1 ± 0.3", or the mean alone where there is no deviation."""
    return f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}")


def best_cells(rows: Sequence[Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Return (row, column) of the lowest figure of each column but the last."""
    best = set()
    for column, name in enumerate(("error_2d_px", "bias_free_2d_px", *METRICS)):
        known = [(row[name], i) for i, row in enumerate(rows) if row[name] is not None]
        if known:
            best.add((min(known)[1], column))
    return best


def markdown_table(rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """Return the table in Markdown, the best of a column in bold."""
    head = ["2D, px", "2D without bias, px", "MPJPE, mm", "P-MPJPE, mm", "p"]
    lines = [f"| input | {' | '.join(head)} |", "|---|" + "--:|" * len(head)]
    best = best_cells(rows)
    for i, row in enumerate(rows):
        texts = [f"**{t}**" if (i, j) in best else t for j, t in enumerate(cells(row))]
        lines.append(f"| {row['keypoints']} | {' | '.join(texts)} |")
    worse = ", ".join(row["keypoints"] for row in rows if row["worse"])
    notes = [
        f"3D: {f'mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'one seed'}.",
        "p: Wilcoxon's signed-rank test over the test sequences against the best row, times "
        f"{max(1, len(rows) - 1)} (Bonferroni); it speaks of these trained networks.",
        f"How much training again changes a difference: {seed_error_mm(rows):.1f} mm (standard "
        "error, from the seeds)."
        if seeds > 1
        else "One seed does not tell what chance does.",
        f"Worse than {rows[0]['keypoints']} beyond chance, by "
        f"{'both' if seeds > 1 else 'the test'}: {worse or 'none'}.",
    ]
    return "\n".join(
        [
            *lines,
            "",
            " ".join(notes),
            "",
        ]
    )


def latex_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in LaTeX, the best of a column in bold."""
    best = best_cells(rows)
    lines = [
        r"\begin{tabular}{lrrrrr}",
        r"\hline",
        r"Input & 2D (px) & 2D, no bias (px) & MPJPE (mm) & P-MPJPE (mm) & $p$ \\",
        r"\hline",
    ]
    for i, row in enumerate(rows):
        texts = [
            text.replace("±", r"$\pm$").replace("–", "--").replace("<", "$<$")
            for text in cells(row)
        ]
        texts = [rf"\textbf{{{t}}}" if (i, j) in best else t for j, t in enumerate(texts)]
        lines.append(" & ".join([escape_latex(row["keypoints"]), *texts]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def csv_text(head: Sequence[str], rows: Sequence[Any]) -> str:
    """Return CSV; lists are joined by spaces."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([" ".join(map(str, x)) if isinstance(x, list) else x for x in row])
    return file.getvalue()


def draw_study(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the 2D error, MPJPE and P-MPJPE of each input: the mean, and each seed."""
    figure, axes = paper_figure(9.0, 1.1 + 0.3 * len(rows), columns=(1, 1, 1))
    places = np.arange(len(rows))
    for axis, (name, label) in zip(
        axes,
        {
            "bias_free_2d_px": "2D error without bias (px)",
            "mpjpe_mm": "MPJPE (mm)",
            "p_mpjpe_mm": "P-MPJPE (mm)",
        }.items(),
    ):
        values = np.array([row[name] for row in rows], dtype=float)
        best = np.nanmin(values) if np.isfinite(values).any() else None
        for place, row in enumerate(rows):
            color = COLORS[1] if row[name] == best else COLORS[0]
            for value in row.get(f"{name}_seeds", []):
                axis.plot(value, place, "o", color=color, markersize=4, alpha=0.4, mew=0)
            if row[name] is not None:
                axis.plot(row[name], place, "|", color=color, markersize=13, mew=2.2)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(places, [])
        axis.set_xlabel(label, color=INK, size=9)
        axis.margins(x=0.08)
    axes[0].set_yticks(places, [row["keypoints"] for row in rows], size=8)
    return figure
