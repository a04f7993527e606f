"""The study: train on every 2D estimator and mixture with one recipe, evaluate, compare.

python study.py --study study --seeds 0 1 2 --epochs 40
python study.py --study study --keypoints vitpose merge_fitted vitpose_w_conf --gpus 0,1
python study.py --study study --model poseformerv2 motionagformer

Flags that it does not know go to run_poseformer.py, which does each run in a folder of its own.
The same command goes on where it was stopped and does only what is missing. Of several lifters
each trains by its own recipe unless --recipe is given, and a flag of the network that only one of
them has goes to that one; the first one's runs lie in the study's folder, as if it were alone.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from common.drawing.figures import COLORS, INK, paper_figure, save_figure
from common.files.confidences import WITH_CONFIDENCE
from common.files.console import InputError, progress, run_script, split_names
from common.files.npz import read_positions_2d
from common.files.output import atomic_output
from common.files.tables import format_markdown, latex_cells, mean_and_spread
from common.fusion.errors_2d import list_views, measure, view_arrays
from common.h36m_dataset import (
    estimator_names,
    keypoints_names,
    keypoints_path,
    positions_3d_path,
    select_actions,
)
from common.lifters import DEFAULT, LIFTERS
from common.study_runs import (
    do_runs,
    flags_of_lifters,
    parse_study_arguments,
    prepare_study,
    study_recipe,
)

Report = Mapping[str, Any]  # of `make_report`
Row = dict[str, Any]  # of `study_rows`

OWN_FLAGS = {
    "--keypoints": {
        "help": "inputs, as run_poseformer.py takes them (default: each estimator and mixture that "
        "there is, the estimators concatenated, and with confidences where there are any)"
    },
    "--model": {
        "choices": tuple(LIFTERS),
        "default": [DEFAULT],
        "help": f"lifters: {', '.join(LIFTERS)} (default: {DEFAULT})",
    },
}
SIGNIFICANT = 0.05
METRICS = ("mpjpe_mm", "p_mpjpe_mm")


def main() -> None:
    """Do the runs that are missing, then write tables and figure."""
    arguments, passed = parse_study_arguments(__doc__, {"-k"}, OWN_FLAGS)
    flags = {m: passed if m == DEFAULT else [*passed, "--model", m] for m in arguments.model}
    flags = flags_of_lifters(flags)
    recipes = {model: study_recipe(words) for model, words in flags.items()}
    recipe = recipes[arguments.model[0]]
    data_dir, dataset = Path(recipe["data_dir"]), recipe["dataset"]
    inputs = arguments.keypoints or default_inputs(data_dir, dataset)
    check_inputs(data_dir, dataset, inputs)
    tested = split_names(recipe["subjects_test"]), recipe["actions"]
    errors_2d = measure_inputs(data_dir, dataset, inputs, *tested)
    places = {m: "" if m == arguments.model[0] else f"{m}/" for m in arguments.model}
    for model, place in places.items():
        prepare_study(arguments.study / place, recipes[model])
    trainings = {
        place + name: (*flags[model], "--keypoints", name, "--no-eval")
        for name in inputs
        for model, place in places.items()
    }
    runs = do_runs(arguments.study, trainings, arguments.seeds, arguments.gpus)
    reports = {
        model: {name: [one.report() for one in runs[place + name]] for name in inputs}
        for model, place in places.items()
    }
    blocks = {model: study_rows(of_inputs, errors_2d) for model, of_inputs in reports.items()}
    if len(blocks) > 1:
        add_ranks(blocks)
    print(write_results(arguments.study, list(blocks.values()), reports))


# The inputs --------------------------------------------------------------------------------------


def default_inputs(data_dir: Path, dataset: str) -> list[str]:
    """Return each estimator, each mixture, those with confidences, and the concatenations."""
    names = keypoints_names(data_dir, dataset)
    bare = [n for n in names if n != "gt" and not n.endswith(WITH_CONFIDENCE)]
    estimators = [n for n in bare if not n.startswith("merge_")]
    mixtures = [n for n in bare if n.startswith("merge_")]
    confident = [n + WITH_CONFIDENCE for n in bare if n + WITH_CONFIDENCE in names]
    groups = (estimators, [n + WITH_CONFIDENCE for n in estimators])
    concatenated = ["+".join(g) for g in groups if len(g) > 1 and set(g) <= set(names)]
    return estimators + mixtures + confident + concatenated


def check_inputs(data_dir: Path, dataset: str, inputs: Sequence[str]) -> None:
    """Make sure that every file is there before the first run.

    Raises:
        InputError: naming the first that is not, or if there is no input.
    """
    if not inputs:
        raise InputError(f"{data_dir}: holds no estimator's data_2d_{dataset}_*.npz")
    positions_3d_path(data_dir, dataset)
    for name in ("gt", *inputs):
        if "" in name.split("+") or "/" in name:
            raise InputError(f"--keypoints '{name}': not an estimator's name")
        for estimator in estimator_names(name):
            keypoints_path(data_dir, dataset, estimator)


def measure_inputs(
    data_dir: Path, dataset: str, inputs: Sequence[str], subjects: Sequence[str], actions: str
) -> dict[str, dict[str, Any]]:
    """Return {input: 2D errors as `measure` gives them}, without concatenations.

    They are of what the networks are tested on: these subjects, and of `actions` "*" or "A,B".
    """
    path = keypoints_path(data_dir, dataset, "gt")
    truth = read_positions_2d(path)
    views = list_views(path, truth, subjects)
    names = None if actions == "*" else split_names(actions)
    chosen = select_actions(path, {view.action for view in views}, names)
    views = [view for view in views if view.action in chosen]
    truths = [truth[s][a][camera][..., :2] for s, a, camera in views]
    measured = {}
    for name in progress(inputs, desc="2D errors", unit="file"):
        if len(estimator_names(name)) == 1:
            path = keypoints_path(data_dir, dataset, name)
            estimates = view_arrays(path, read_positions_2d(path), views, list(map(len, truths)))
            measured[name] = measure(estimates, truths, views)
    return measured


# The comparison ----------------------------------------------------------------------------------


def study_rows(
    reports: Mapping[str, Sequence[Report]], errors_2d: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Return a row for each input, the best first.

    It holds `keypoints`; `error_2d_px` and `bias_free_2d_px`, None for a concatenation; for both
    metrics `<metric>`, the mean over the seeds, `<metric>_std`, None for one seed, and
    `<metric>_seeds`; `p_best`, from `compare` with the best row, times the number of such tests
    (Bonferroni; any two inputs might have been the best and the worst), None for the best; `worse`,
    whether it is so beyond chance: that p is significant, and the difference is more than
    `seed_limit_mm`.
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
    best, tests = rows[0], math.comb(len(rows), 2)
    least_mm = seed_limit_mm(rows)
    for row in rows:
        difference, p = compare(reports[row["keypoints"]], reports[best["keypoints"]])
        row["p_best"] = None if row is best else min(1.0, p * tests)
        is_significant = row is not best and row["p_best"] < SIGNIFICANT
        row["worse"] = is_significant and difference > least_mm
    return rows


def add_ranks(blocks: Mapping[str, Sequence[Row]]) -> None:
    """Add to each row its lifter, and how all lifters, which have the same inputs, rank them.

    A row gets `model`, its lifter; for each lifter `rank_<lifter>`, its input's by MPJPE, 1 the
    best, equal errors sharing their mean; and `spearman_<lifter>`, the correlation of all ranks by
    that lifter with those by the row's own; NaN for one input.
    """
    errors = [{row["keypoints"]: row["mpjpe_mm"] for row in rows} for rows in blocks.values()]
    names = list(errors[0])
    ranked = stats.rankdata([[e[name] for name in names] for e in errors], axis=1)
    centred = ranked - ranked.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for model, correlations in zip(blocks, (unit @ unit.T).tolist()):
        for row in blocks[model]:
            own = ranked[:, names.index(row["keypoints"])].tolist()
            row |= {"model": model} | {f"rank_{m}": rank for m, rank in zip(blocks, own)}
            row |= {f"spearman_{m}": r for m, r in zip(blocks, correlations)}


def seed_error_mm(rows: Sequence[Row]) -> float:
    """Return the standard error of a difference of two inputs' MPJPE, by the chance of training.

    From the variance over the seeds, pooled over the inputs; 0 for one seed, which does not tell.
    """
    seeds = len(rows[0]["mpjpe_mm_seeds"])
    if seeds == 1:
        return 0.0
    return math.sqrt(2 * float(np.mean([row["mpjpe_mm_std"] ** 2 for row in rows])) / seeds)


def seed_limit_mm(rows: Sequence[Row]) -> float:
    """Return how far apart the best and the worst of equally good inputs may be, by that chance.

    In one study of twenty they are further apart: `seed_error_mm` times the 95% quantile of the
    studentized range (Tukey, 1953) over √2; 0 for one input, or one seed.
    """
    freedom = len(rows) * (len(rows[0]["mpjpe_mm_seeds"]) - 1)
    if freedom == 0 or len(rows) == 1:
        return 0.0
    quantile = float(stats.studentized_range.ppf(0.95, len(rows), freedom))
    return quantile / math.sqrt(2) * seed_error_mm(rows)


def compare(a: Sequence[Report], b: Sequence[Report]) -> tuple[float, float]:
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
    p = float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
    return float(differences.mean()), p


# Tables and figure -------------------------------------------------------------------------------


def write_results(
    folder: Path,
    blocks: Sequence[Sequence[Row]],
    reports: Mapping[str, Mapping[str, Sequence[Report]]],
) -> str:
    """Write table.md, .tex, .csv, pairs.csv and study.png; return the table for the terminal.

    `blocks` are the rows of each lifter; `reports` {lifter: {input: of its seeds}}.
    """
    rows = [row for block in blocks for row in block]
    compared = [
        (model, a, b, *compare(of_inputs[a], of_inputs[b]))  # p without a correction
        for model, of_inputs in reports.items()
        for a, b in combinations(of_inputs, 2)
    ]
    first = 0 if len(blocks) > 1 else 1  # of several lifters the table says which
    titles = ("model", "a", "b", "difference_mm", "p")
    texts = {
        "table.md": markdown_table(blocks),
        "table.tex": latex_table(blocks),
        "table.csv": csv_text(rows[0], (row.values() for row in rows)),
        "pairs.csv": csv_text(titles[first:], (pair[first:] for pair in compared)),
    }
    for name, text in texts.items():
        with atomic_output(folder / name) as temporary:
            temporary.write_text(text)
    save_figure(draw_study(blocks), folder / "study.png")
    return f"{texts['table.md']}\nwrote {', '.join([*texts, 'study.png'])} into {folder}"


def label(row: Row) -> str:
    """Return a row's input, of several lifters with the lifter."""
    return f"{row['model']}: {row['keypoints']}" if "model" in row else row["keypoints"]


def rank_columns(blocks: Sequence[Sequence[Row]]) -> list[str]:
    """Return the names of the columns of ranks, which several lifters have."""
    return [name for name in blocks[0][0] if name.startswith("rank_")]


def rank_correlations(blocks: Sequence[Sequence[Row]]) -> str:
    """Say how alike the lifters rank the inputs; nothing for one lifter."""
    found = [
        f"{a['model']} and {b['model']} {a['spearman_' + b['model']]:.2f}"
        for (a, *_), (b, *_) in combinations(blocks, 2)
    ]
    return f"Spearman's correlation of the ranks: {', '.join(found)}." if found else ""


def table_cells(rows: Sequence[Row], bold: str) -> list[list[str]]:
    """Return each row's input, 2D error, 2D error without bias, MPJPE, P-MPJPE, p, ranks as text.

    The lowest figure of a column of errors is set in `bold`, such as "**%s**".
    """
    table = []
    for row in rows:
        flat = [row["error_2d_px"], row["bias_free_2d_px"]]
        p = row["p_best"]
        table.append([
            label(row),
            *("–" if px is None else f"{px:.2f}" for px in flat),
            *(mean_and_spread(row[f"{metric}_seeds"]) for metric in METRICS),
            "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
            *(f"{row[name]:g}" for name in rank_columns([rows])),
        ])  # fmt: skip
    for column, name in enumerate(("error_2d_px", "bias_free_2d_px", *METRICS), start=1):
        known = [i for i, row in enumerate(rows) if row[name] is not None]
        if known:
            best = table[min(known, key=lambda i: rows[i][name])]
            best[column] = bold % best[column]
    return table


def markdown_table(blocks: Sequence[Sequence[Row]]) -> str:
    """Return the table in Markdown, with notes on what chance does."""
    titles = ["input", "2D, px", "2D without bias, px", "MPJPE, mm", "P-MPJPE, mm", "p"]
    titles += [name.replace("rank_", "rank, ") for name in rank_columns(blocks)]
    cells = [cells for rows in blocks for cells in table_cells(rows, "**%s**")]
    notes = [*map(notes_on_chance, blocks), rank_correlations(blocks)]
    return "\n\n".join([format_markdown([titles, *cells]), *filter(None, notes)]) + "\n"


def notes_on_chance(rows: Sequence[Row]) -> str:
    """Return what the spread and the p of a lifter's rows are, and which rows are worse."""
    seeds = len(rows[0]["mpjpe_mm_seeds"])
    spread, chance, tests = "one seed", "One seed does not tell what chance does", "the test"
    if seeds > 1:
        spread, tests = f"mean ± standard deviation over {seeds} seeds", "both"
        chance = (
            f"How much training again changes a difference: {seed_error_mm(rows):.1f} mm (standard "
            "error, from the seeds); equally good inputs differ by up to "
            f"{seed_limit_mm(rows):.1f} mm in 19 of 20 studies"
        )
    worse = ", ".join(map(label, (row for row in rows if row["worse"]))) or "none"
    return (
        f"3D: {spread}. p: Wilcoxon's signed-rank test over the test sequences against the best "
        f"row, times {max(1, math.comb(len(rows), 2))} (Bonferroni); it speaks of these trained "
        f"networks. {chance}. Worse than {label(rows[0])} beyond chance, by {tests}: {worse}."
    )


def latex_table(blocks: Sequence[Sequence[Row]]) -> str:
    """Return the table in LaTeX."""
    titles = ["Input", "2D (px)", "2D, no bias (px)", "MPJPE (mm)", "P-MPJPE (mm)", "$p$"]
    titles += [name.replace("rank_", "Rank, ") for name in rank_columns(blocks)]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", r"\hline"]
    for rows in ([titles], *(table_cells(rows, r"\textbf{%s}") for rows in blocks)):
        text = "\n".join(map(latex_cells, rows))
        text = text.replace("±", r"$\pm$").replace("–", "--").replace("<", "$<$")
        lines += [text, r"\hline"]
    found = rank_correlations(blocks)
    return "\n".join([*lines, r"\end{tabular}", *([f"% {found}"] if found else []), ""])


def csv_text(titles: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV; lists are joined by spaces."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(titles)
    for row in rows:
        writer.writerow([" ".join(map(str, x)) if isinstance(x, list) else x for x in row])
    return file.getvalue()


def draw_study(blocks: Sequence[Sequence[Row]]) -> Any:
    """Draw the 2D error, MPJPE and P-MPJPE of each input: the mean, and each seed."""
    rows = [row for block in blocks for row in block]
    labels = {
        "bias_free_2d_px": "2D error without bias (px)",
        "mpjpe_mm": "MPJPE (mm)",
        "p_mpjpe_mm": "P-MPJPE (mm)",
    }
    figure, axes = paper_figure(9.0, 1.1 + 0.3 * len(rows), columns=(1, 1, 1))
    figure.suptitle(rank_correlations(blocks), size=9, color=INK)
    for axis, (name, title) in zip(axes, labels.items()):
        known = [[row[name] for row in block if row[name] is not None] for block in blocks]
        best = [min(known[i], default=None) for i, block in enumerate(blocks) for _ in block]
        for place, row in enumerate(rows):
            if row[name] is None:
                continue
            color = COLORS[1] if row[name] == best[place] else COLORS[0]
            seeds = row.get(f"{name}_seeds", [])
            axis.plot(seeds, [place] * len(seeds), "o", color=color, markersize=4, alpha=0.4, mew=0)
            axis.plot(row[name], place, "|", color=color, markersize=13, mew=2.2)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(range(len(rows)), [])
        axis.set_xlabel(title, color=INK, size=9)
        axis.margins(x=0.08)
    axes[0].set_yticks(range(len(rows)), [label(row) for row in rows], size=8)
    return figure


if __name__ == "__main__":
    run_script(main)
