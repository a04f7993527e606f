"""The study: train on every 2D estimator and mixture with one recipe, evaluate, compare.

python compare.py --study study --seeds 0 1 2 --epochs 200
python compare.py --study study --keypoints vitpose merge_fitted vitpose_w_conf --gpus 0,1

Flags that it does not know go to run_poseformer.py, which does each run in a folder of its own.
The same command goes on where it was stopped and does only what is missing.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.arguments import (
    estimator_names,
    parse_arguments,
    training_recipe,
)
from common.confidences import WITH_CONFIDENCE
from common.console import (
    REPOSITORY,
    ArgumentParser,
    InputError,
    non_negative_int,
    progress,
    run,
    split_names,
)
from common.files import atomic_output
from common.flags import NETWORK_FLAGS
from common.h36m_dataset import keypoints_names, keypoints_path, positions_3d_path
from common.keypoint_errors import list_views, measure, view_arrays
from common.npz_io import read_positions_2d
from study_results import pairs, study_rows, write_results

REPORT, RECIPE, OUTPUT = "report.json", "study.json", "output.txt"
# What compare.py itself gives to run_poseformer.py.
OWN_FLAGS = {"-k", "--keypoints", "--seed", "-c", "--checkpoint", "-g", "--gpu", "-r", "--resume"}
OWN_FLAGS |= {"--evaluate", "--render", "--overwrite", "--report", "--wandb-id"}
# What its evaluations read of the flags that are passed on.
EVALUATED = ("data_dir", "dataset", "subjects_test", "actions", "downsample", "std", "precision")


@dataclass(frozen=True)
class Run:
    """One training: its input, its seed, its folder."""

    keypoints: str
    seed: int
    folder: Path


def main() -> None:
    """Do the runs that are missing, then write tables and figure."""
    arguments, passed = parse_own_arguments()
    recipe = study_recipe(passed)
    data_dir, dataset = Path(recipe["data_dir"]), recipe["dataset"]
    inputs = arguments.keypoints or default_inputs(data_dir, dataset)
    check_inputs(data_dir, dataset, inputs)
    errors_2d = measure_inputs(data_dir, dataset, inputs, split_names(recipe["subjects_test"]))
    prepare_study(arguments.study, recipe)
    runs = [
        Run(name, seed, arguments.study / name / f"seed_{seed}")
        for seed in arguments.seeds
        for name in inputs
    ]
    do_runs(runs, passed, arguments.gpus, recipe["epochs"])
    reports = {name: [read_report(one) for one in runs if one.keypoints == name] for name in inputs}
    rows = study_rows(reports, errors_2d)
    print(write_results(arguments.study, rows, pairs(reports), arguments.seeds))


# The command line --------------------------------------------------------------------------------


def parse_own_arguments() -> tuple[Any, list[str]]:
    """Return this script's flags, and those for run_poseformer.py."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="All other flags, such as --epochs 200 or --data-dir DIR, go to run_poseformer.py.",
    )
    add = parser.add_argument
    add("--study", type=Path, required=True, metavar="DIR", help="folder of the runs and results")
    add(
        "--keypoints",
        nargs="+",
        metavar="NAME",
        help="inputs, as run_poseformer.py takes them (default: each estimator and mixture that "
        "there is, the estimators concatenated, and with confidences where there are any)",
    )
    add("--seeds", nargs="+", type=non_negative_int, default=[0, 1, 2], metavar="N", help="seeds")
    add("--gpus", default="0", metavar="N,…", help="one run at a time on each; cpu for none")
    arguments, passed = parser.parse_known_args()
    for word in passed:
        if word.split("=")[0] in OWN_FLAGS:
            parser.error(f"{word.split('=')[0]} is compare.py's to give to each run")
    arguments.gpus = split_names(arguments.gpus)
    for name in ("keypoints", "seeds", "gpus"):
        values = getattr(arguments, name)
        if values is not None and len(set(values)) < max(1, len(values)):
            parser.error(f"--{name}: one is given twice, or none")
    return arguments, passed


def study_recipe(passed: Sequence[str]) -> dict[str, Any]:
    """Return what all runs of the study have in common, as plain values."""
    arguments = parse_arguments(list(passed))
    recipe = asdict(training_recipe(arguments, None, None))
    del recipe["keypoints"], recipe["seed"]
    architecture = {name: getattr(arguments, name) for name in NETWORK_FLAGS}
    data = {"data_dir": str(arguments.data_dir.resolve()), "dataset": arguments.dataset}
    return recipe | architecture | data | {"epochs": arguments.epochs}


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


def prepare_study(folder: Path, recipe: dict[str, Any]) -> None:
    """Create the study's folder, or make sure that it holds the same study.

    Raises:
        InputError: if it holds runs of another recipe.
    """
    path = folder / RECIPE
    if not path.is_file():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise InputError(f"{folder}: holds something else; choose another --study")
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(recipe, indent=2) + "\n")
    try:
        earlier = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); choose another --study") from error
    for name in recipe.keys() | earlier.keys():
        if recipe.get(name) != earlier.get(name):
            raise InputError(
                f"{path}: this study has {name} {earlier.get(name)}, not {recipe.get(name)}; give "
                "the same flags, or choose another --study"
            )


# The runs ----------------------------------------------------------------------------------------


def do_runs(runs: Sequence[Run], passed: Sequence[str], gpus: Sequence[str], epochs: int) -> None:
    """Do all runs that have no report yet, one at a time on each GPU.

    Raises:
        InputError: if one fails; those that are under way are stopped first.
    """
    missing = [one for one in runs if not is_done(one)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    free: queue.Queue[str] = queue.Queue()
    for gpu in gpus:
        free.put(gpu)
    processes = Processes()

    def do(one: Run) -> Run:
        gpu = free.get()
        try:
            do_run(one, [*passed, "--gpu", gpu], epochs, processes)
        finally:
            free.put(gpu)
        return one

    with ThreadPoolExecutor(len(gpus)) as pool:
        try:
            for one in progress(pool.map(do, missing), total=len(missing), unit="run"):
                error = read_report(one)["average_over_actions"]["mpjpe_mm"]
                print(f"{one.keypoints}, seed {one.seed}: {error:.1f} mm", flush=True)
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


class Processes:
    """The processes under way, which can be stopped together."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = threading.Lock(), set(), False

    def call(self, command: list[str], output: Path) -> int:
        """Run a command, its output added to a file; return its exit status."""
        with output.open("a") as file:
            with self._lock:
                if self._stopped:
                    return 1
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
                self._running.add(process)
            status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status

    def stop(self) -> None:
        """Ask all processes to save and end, and start no others."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def do_run(one: Run, passed: Sequence[str], epochs: int, processes: Processes) -> None:
    """Train and evaluate, from where the folder's checkpoint stands.

    The last epoch is evaluated: to choose the best one by the test subjects would flatter it.

    Raises:
        InputError: if run_poseformer.py fails, with its last line.
    """
    folder = one.folder
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(REPOSITORY / "run_poseformer.py")]
    common = ["-c", str(folder), "--keypoints", one.keypoints]
    start = ["--resume", "last_epoch.bin"]
    if not (folder / "last_epoch.bin").is_file():
        start = ["--overwrite"]
    train = [*program, *passed, *common, "--seed", str(one.seed), "--epochs", str(epochs), *start]
    train += ["--no-eval", "--wandb-mode", "disabled"]
    partial = folder / f"partial_{REPORT}"
    evaluate = [*program, *evaluation_flags(passed), *common, "--evaluate", "last_epoch.bin"]
    evaluate += ["--report", str(partial)]
    for command in (train, evaluate):
        if processes.call(command, folder / OUTPUT):
            lines = (folder / OUTPUT).read_text().split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "stopped")
            raise InputError(f"{folder / OUTPUT}: {last.removeprefix('error: ')}")
    partial.replace(folder / REPORT)


def evaluation_flags(passed: Sequence[str]) -> list[str]:
    """Return those of the flags that an evaluation reads; the others are for the training."""
    values = vars(parse_arguments(list(passed)))
    given = {name: values[name] for name in EVALUATED if values[name] is not None}
    words = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [word for pair in words for word in pair]


def is_done(one: Run) -> bool:
    """Tell whether the run's report is there."""
    return (one.folder / REPORT).is_file()


def read_report(one: Run) -> dict[str, Any]:
    """Return the run's evaluation.

    Raises:
        InputError: if it is damaged.
    """
    path = one.folder / REPORT
    try:
        report = json.loads(path.read_text())
        float(report["average_over_actions"]["mpjpe_mm"]), dict(report["by_sequence"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged; delete it, and it is made again") from error
    return report


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
