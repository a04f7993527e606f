"""The study: train on every 2D estimator and mixture with one recipe, evaluate, compare.

python compare.py --study study --seeds 0 1 2 --epochs 40
python compare.py --study study --keypoints vitpose merge_fitted vitpose_w_conf --gpus 0,1

Flags that it does not know go to run_poseformer.py, which does each run in a folder of its own.
The same command goes on where it was stopped and does only what is missing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.arguments import (
    estimator_names,
    parse_arguments,
    training_recipe,
)
from common.confidences import WITH_CONFIDENCE
from common.console import (
    ArgumentParser,
    InputError,
    progress,
    run,
    split_names,
)
from common.flags import NETWORK_FLAGS
from common.h36m_dataset import keypoints_names, keypoints_path, positions_3d_path
from common.keypoint_errors import list_views, measure, view_arrays
from common.npz_io import read_positions_2d
from common.runs import Run, do_runs, parse_study_arguments, prepare_study
from study_results import pairs, study_rows, write_results


def main() -> None:
    """Do the runs that are missing, then write tables and figure."""
    arguments, passed = parse_own_arguments()
    recipe = study_recipe(passed)
    data_dir, dataset = Path(recipe["data_dir"]), recipe["dataset"]
    inputs = arguments.keypoints or default_inputs(data_dir, dataset)
    check_inputs(data_dir, dataset, inputs)
    errors_2d = measure_inputs(data_dir, dataset, inputs, split_names(recipe["subjects_test"]))
    prepare_study(arguments.study, recipe)

    def run_of(name: str, seed: int) -> Run:
        flags = (*passed, "--keypoints", name, "--seed", str(seed), "--no-eval")
        return Run(f"{name}, seed {seed}", flags, arguments.study / name / f"seed_{seed}")

    runs = {(name, seed): run_of(name, seed) for seed in arguments.seeds for name in inputs}
    do_runs(list(runs.values()), arguments.gpus)
    reports = {n: [runs[n, seed].report() for seed in arguments.seeds] for n in inputs}
    rows = study_rows(reports, errors_2d)
    print(write_results(arguments.study, rows, pairs(reports), arguments.seeds))


# The command line --------------------------------------------------------------------------------


def parse_own_arguments() -> tuple[Any, list[str]]:
    """Return this script's flags, and those for run_poseformer.py."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="All other flags, such as --epochs 40 or --data-dir DIR, go to run_poseformer.py.",
    )
    parser.add_argument(
        "--keypoints",
        nargs="+",
        metavar="NAME",
        help="inputs, as run_poseformer.py takes them (default: each estimator and mixture that "
        "there is, the estimators concatenated, and with confidences where there are any)",
    )
    arguments, passed = parse_study_arguments(parser, {"-k", "--keypoints"})
    if arguments.keypoints and len(set(arguments.keypoints)) < len(arguments.keypoints):
        parser.error("--keypoints: one is given twice")
    return arguments, passed


def study_recipe(passed: Sequence[str]) -> dict[str, Any]:
    """Return what all runs of the study have in common, as plain values."""
    arguments = parse_arguments(list(passed))
    recipe = asdict(training_recipe(arguments, None, None))
    del recipe["keypoints"], recipe["seed"]
    architecture = {name: getattr(arguments, name) for name in NETWORK_FLAGS}
    data = {"data_dir": str(arguments.data_dir.resolve()), "dataset": arguments.dataset}
    return recipe | architecture | data


def default_inputs(data_dir: Path, dataset: str) -> list[str]:
    """Return each estimator, each mixture, the concatenation, and those with confidences."""
    names = keypoints_names(data_dir, dataset)
    bare = [n for n in names if n != "gt" and not n.endswith(WITH_CONFIDENCE)]
    estimators = [n for n in bare if not n.startswith("merge_")]
    confident = [n + WITH_CONFIDENCE for n in bare if n + WITH_CONFIDENCE in names]
    mixtures = [n for n in bare if n.startswith("merge_")]
    groups = (estimators, [n + WITH_CONFIDENCE for n in estimators])
    concatenated = ["+".join(g) for g in groups if len(g) > 1 and set(g) <= set(names)]
    return estimators + mixtures + confident + concatenated


def check_inputs(data_dir: Path, dataset: str, inputs: Sequence[str]) -> None:
    """Make sure that every file is there before the first run.

    Raises:
        InputError: naming the first that is not, or if there is no input.
    """
    positions_3d_path(data_dir, dataset)
    keypoints_path(data_dir, dataset, "gt")
    for name in inputs:
        if "" in name.split("+") or "/" in name:
            raise InputError(f"--keypoints '{name}': not an estimator's name")
        for estimator in estimator_names(name):
            keypoints_path(data_dir, dataset, estimator)
    if not inputs:
        raise InputError(f"{data_dir}: holds no estimator's data_2d_{dataset}_*.npz")


# The 2D errors -----------------------------------------------------------------------------------


def measure_inputs(
    data_dir: Path, dataset: str, inputs: Sequence[str], subjects: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return {input: what `measure` says of its 2D}, without concatenations, which are several."""
    path = keypoints_path(data_dir, dataset, "gt")
    truth = read_positions_2d(path)
    views = list_views(path, truth, subjects)
    truths = [truth[s][a][camera][..., :2] for s, a, camera in views]
    measured = {}
    for name in progress(inputs, desc="2D errors", unit="file"):
        if len(estimator_names(name)) == 1:
            path = keypoints_path(data_dir, dataset, name)
            estimates = view_arrays(path, read_positions_2d(path), views, list(map(len, truths)))
            measured[name] = measure(estimates, truths, views)
    return measured


if __name__ == "__main__":
    run(main)
