"""Train a list of recipes on equal samples with several seeds: errors, seconds, a figure.

python benchmarks/recipes.py --study recipes --data-dir data/sample --seeds 0 1 2 --epochs 4
python benchmarks/recipes.py --study recipes --recipes published default --epochs 40

Flags that it does not know go to run_poseformer.py, which does each run in a folder of its own. The
same command goes on where it was stopped. Choose by training subjects that are held back
(--subjects-train S5,S6,S7 --subjects-test S8), and look at the test subjects at the end.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.arguments import parse_arguments
from common.console import ArgumentParser, run
from common.figures import COLORS, paper_figure, save_figure
from common.files import atomic_output
from common.run_log import LOG_NAME, read_log
from common.runs import Run, do_runs, parse_study_arguments, prepare_study
from study_results import with_spread

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
    "default, batch 256": "--batch-size 256 --learning-rate 4e-3",
    "default, fp32": "--precision fp32",
}
TABLE, FIGURE = "recipes.md", "recipes.png"


def main() -> None:
    """Do the runs that are missing, then write the table and the figure."""
    arguments, passed = parse_own_arguments()
    settings = {name: str(value) for name, value in vars(parse_arguments(passed)).items()}
    prepare_study(arguments.study, settings)

    def run_of(name: str, seed: int) -> Run:
        flags = (*RECIPES[name].split(), *passed, "--seed", str(seed))
        folder = name.replace(", ", "_").replace(" ", "_")
        return Run(f"{name}, seed {seed}", flags, arguments.study / folder / f"seed_{seed}")

    runs = {n: [run_of(n, seed) for seed in arguments.seeds] for n in arguments.recipes}
    do_runs([one for of_seed in zip(*runs.values()) for one in of_seed], arguments.gpus)
    courses = {name: [course(one.folder) for one in of_all] for name, of_all in runs.items()}
    table = markdown(runs, courses)
    with atomic_output(arguments.study / TABLE) as temporary:
        temporary.write_text(table)
    save_figure(draw(courses), arguments.study / FIGURE)
    print(table, end="")


def parse_own_arguments() -> tuple[Any, list[str]]:
    """Return this script's flags, and those for run_poseformer.py."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="All other flags, such as --epochs 4 or --data-dir DIR, go to run_poseformer.py.",
    )
    names = {"nargs": "+", "choices": tuple(RECIPES), "default": list(RECIPES), "metavar": "NAME"}
    parser.add_argument("--recipes", **names, help=f"among: {'; '.join(RECIPES)}")
    arguments, passed = parse_study_arguments(parser, {"--recipe"})
    if not any(word.split("=")[0] in ("-e", "--epochs") for word in passed):
        parser.error("--epochs N: all recipes are to see as many samples")
    return arguments, passed


def course(folder: Path) -> np.ndarray:
    """Return seconds since the start and validation MPJPE in mm after each epoch, (epochs, 2)."""
    records = read_log(folder / LOG_NAME)
    seconds = np.cumsum([record["seconds"] for record in records])
    return np.stack([seconds, [record["valid_mpjpe_mm"] for record in records]], axis=1)


def markdown(runs: Mapping[str, Sequence[Run]], courses: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Return the table: a row for each recipe, means and standard deviations over the seeds."""
    metrics = {"MPJPE": "mpjpe_mm", "P-MPJPE": "p_mpjpe_mm", "MPJVE": "mpjve_mm"}
    titles = " | ".join(f"{name}, mm" for name in metrics)
    lines = [f"| recipe | {titles} | seconds |", "|---|--:|--:|--:|--:|"]
    for name, of_seeds in runs.items():
        averages = [one.report()["average_over_actions"] for one in of_seeds]
        cells = " | ".join(spread([a[m] for a in averages]) for m in metrics.values())
        seconds = np.mean([c[-1, 0] for c in courses[name]])
        lines.append(f"| {name} | {cells} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text, or the value alone where there is one."""
    return with_spread(np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None)


def draw(courses: Mapping[str, Sequence[np.ndarray]]) -> Any:
    """Draw validation MPJPE over wall time: the mean of the seeds, and their range."""
    figure, axes = paper_figure(6.4, 3.6)
    for color, (name, of_seeds) in zip(COLORS * len(courses), courses.items()):
        seconds, errors = np.moveaxis(np.stack(of_seeds), -1, 0)  # (seeds, epochs) each
        minutes = seconds.mean(0) / 60
        axes.plot(
            minutes, errors.mean(0), "o-", color=color, label=name, linewidth=1.8, markersize=3.5
        )
        axes.fill_between(
            minutes, errors.min(0), errors.max(0), color=color, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("minutes, validation included")
    axes.set_ylabel("validation MPJPE, mm")
    axes.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    run(main)
