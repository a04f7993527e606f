"""Train a list of recipes on equal samples with several seeds: errors, seconds, a figure.

python benchmarks/recipes.py --study recipes --data-dir data/sample --seeds 0 1 2 --epochs 4
python benchmarks/recipes.py --study recipes --recipes published default --epochs 40
python benchmarks/recipes.py --study lifters --recipes default motionagformer --minutes 60

Flags that it does not know go to run_poseformer.py, which does each run in a folder of its own; one
of the network that only one lifter has goes to that one. The same command goes on where it was
stopped. With --minutes one epoch of each recipe is timed first. Choose by training subjects that
are held back (--subjects-train S5,S6,S7 --subjects-test S8), and look at the test subjects at the
end.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.arguments import parse_arguments
from common.drawing.figures import COLORS, paper_figure, save_figure
from common.files.console import InputError, positive_float, run_script
from common.files.output import atomic_output
from common.files.tables import format_markdown, mean_and_spread
from common.study_runs import (
    Run,
    do_runs,
    flags_of_lifters,
    parse_study_arguments,
    prepare_study,
    study_recipe,
)
from common.training.run_log import LOG_NAME

RECIPES = {
    "published": "--recipe published",
    "published, linear": "--recipe published --schedule linear --warmup 0.1",
    "default": "",
    "default, published rate": "--schedule published --warmup 0",
    "default, cosine": "--schedule cosine",
    "default, published start": "--init published",
    "default, beta2 0.999": "--beta2 0.999",
    "default, AdamW": "--optimizer adamw",
    "default, AdamW, batch 64": "--optimizer adamw --batch-size 64 --learning-rate 2e-3",
    "default, not turned": "--turn 0",
    "default, not resized": "--resize 0",
    "default, limbs not exchanged": "--exchange-limbs 0",
    "default, limbs exchanged to the end": "--exchange-until 1",
    "default, no velocities": "--velocity 0",
    "default, batch 256": "--batch-size 256 --learning-rate 4e-3",
    "default, fp32": "--precision fp32",
    "motionagformer": "--model motionagformer",
    "motionagformer, default": "--model motionagformer --recipe default -b 4 --stride 9",
}
OWN_FLAGS = {
    "--recipes": {
        "choices": tuple(RECIPES),
        "default": [name for name, flags in RECIPES.items() if "--model" not in flags],
        "help": f"{'; '.join(RECIPES)} (default: those of poseformerv2)",
    },
    "--minutes": {
        **{"nargs": None, "type": positive_float, "metavar": "M"},
        "help": "as many whole epochs of each recipe as take about so long, in place of --epochs",
    },
}
METRICS = {"MPJPE, mm": "mpjpe_mm", "P-MPJPE, mm": "p_mpjpe_mm", "MPJVE, mm/frame": "mpjve_mm"}


def main() -> None:
    """Do the runs that are missing, then write the table and the figure."""
    arguments, passed = parse_study_arguments(__doc__, {"--recipe"}, OWN_FLAGS)
    epochs = parse_arguments(passed).epochs
    if (epochs is None) == (arguments.minutes is None):
        raise InputError(
            "give either --epochs N, and all recipes see as many samples, or --minutes M, and all "
            "train about as long"
        )
    flags = flags_of_lifters({n: (*RECIPES[n].split(), *passed) for n in arguments.recipes})
    settings: dict[str, Any] = {"minutes": str(arguments.minutes), "--epochs": epochs}
    for name, words in flags.items():
        settings |= {f"{name}: {field}": value for field, value in study_recipe(words).items()}
    prepare_study(arguments.study, settings)
    if arguments.minutes:
        once = {name: (*words, "--epochs", "1") for name, words in flags.items()}
        timed = do_runs(arguments.study / "one_epoch", once, arguments.seeds[:1], arguments.gpus)
        for name, (run,) in timed.items():
            epochs = max(1, round(60 * arguments.minutes / course(run)[0, 0]))
            flags[name] += ["--epochs", str(epochs)]
    runs = do_runs(arguments.study, flags, arguments.seeds, arguments.gpus)
    courses = {name: np.stack([course(run) for run in of_seeds]) for name, of_seeds in runs.items()}
    table = markdown_table(runs, courses)
    with atomic_output(arguments.study / "recipes.md") as temporary:
        temporary.write_text(table)
    save_figure(draw(courses), arguments.study / "recipes.png")
    print(table, end="")


def course(run: Run) -> np.ndarray:
    """Return seconds since the start and validation MPJPE in mm after each epoch, (epochs, 2)."""
    lines = (run.folder / LOG_NAME).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    seconds = np.cumsum([record["seconds"] for record in records])
    return np.stack([seconds, [record["valid_mpjpe_mm"] for record in records]], axis=1)


def markdown_table(runs: Mapping[str, Sequence[Run]], courses: Mapping[str, np.ndarray]) -> str:
    """Return the table: a row for each recipe, means and standard deviations over the seeds."""
    rows = [["recipe", *METRICS, "seconds", "evaluation, frames/s"]]
    for name, of_seeds in runs.items():
        reports = [run.report() for run in of_seeds]
        averages = [report["average_over_actions"] for report in reports]
        cells = [mean_and_spread([a[metric] for a in averages]) for metric in METRICS.values()]
        cells.append(f"{courses[name][:, -1, 0].mean():.0f}")
        rows.append([name, *cells, f"{np.mean([r['frames_per_s'] for r in reports]):,.0f}"])
    return format_markdown(rows) + "\n"


def draw(courses: Mapping[str, np.ndarray]) -> Any:
    """Draw validation MPJPE over wall time, the seeds' mean and range, from `course` of each."""
    figure, axes = paper_figure(6.4, 3.6)
    for color, (name, of_seeds) in zip(COLORS * len(courses), courses.items()):
        minutes, errors = of_seeds[..., 0].mean(0) / 60, of_seeds[..., 1]
        axes.plot(minutes, errors.mean(0), "o-", color=color, label=name, lw=1.8, ms=3.5)
        axes.fill_between(minutes, errors.min(0), errors.max(0), color=color, alpha=0.15, lw=0)
    axes.set(xlabel="minutes, validation included", ylabel="validation MPJPE, mm")
    axes.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    run_script(main)
