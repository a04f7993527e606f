"""Trainings by `run_poseformer.py`, each in a folder of its own: done once, resumed, parallel."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common.arguments import NETWORK_FLAGS, make_parser, parse_arguments, training_recipe
from common.files.console import (
    REPOSITORY,
    ArgumentParser,
    InputError,
    non_negative_int,
    progress,
    split_names,
)
from common.files.output import atomic_output
from common.lifters import DEFAULT, LIFTERS
from common.training.device import choose_device
from common.training.run_folder import LAST

_POLL_S = 0.05  # how often a process is looked at
REPORT, OUTPUT, SETTINGS = "report.json", "output.txt", "study.json"
# Flags of `run_poseformer.py` that each run gets here, so that a user cannot pass them on.
_SET_HERE = {"--seed", "-c", "--checkpoint", "-g", "--gpu", "-r", "--resume", "--evaluate"}
_SET_HERE |= {"--render", "--overwrite", "--report", "--wandb-id", "--no-eval"}
# A training's flags that its evaluation is given too.
_EVALUATED = ("data_dir", "dataset", "trust_data", "subjects_test", "actions", "downsample", "std")
_EVALUATED += ("precision",)


@dataclass(frozen=True)
class Run:
    """One training: what it is called, its flags for `run_poseformer.py`, its folder."""

    name: str
    flags: tuple[str, ...]
    folder: Path

    def report(self) -> dict[str, Any]:
        """Return its evaluation."""
        return json.loads((self.folder / REPORT).read_text())


def parse_study_arguments(
    description: str, set_here: set[str], own_flags: Mapping[str, Mapping[str, Any]]
) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line of a study: the script's own flags, and those to pass on.

    Args:
        description: the script's docstring, of which the first line is shown.
        set_here: further flags of `run_poseformer.py` that a user cannot pass on.
        own_flags: beside `study`, `seeds` and `gpus`; options for `add_argument`.
    """
    parser = ArgumentParser(
        description=description.splitlines()[0],
        epilog="All other flags, such as --epochs 40 or --data-dir DIR, go to run_poseformer.py.",
    )
    add = parser.add_argument
    for flag, options in own_flags.items():
        add(flag, **{"nargs": "+", "metavar": "NAME"} | options)
    add("--study", type=Path, required=True, metavar="DIR", help="folder of the runs and results")
    add("--seeds", nargs="+", type=non_negative_int, default=[0, 1, 2], metavar="N", help="seeds")
    gpus = "one run at a time on each; cpu for none; cpu,cpu: two at a time, with half the threads"
    add("--gpus", type=split_names, default="0", metavar="N,…", help=gpus)
    arguments, passed = parser.parse_known_args()
    for flag in (word.split("=")[0] for word in passed):
        if flag in _SET_HERE | set_here:
            parser.error(f"{flag}: each run gets its own; leave it out")
    for name, values in vars(arguments).items():
        if not isinstance(values, list):
            continue
        different = values if name == "gpus" else set(values)
        if len(different) < max(1, len(values)):
            parser.error(f"--{name}: one is given twice, or none")
    if parse_arguments(passed).epochs == 0:
        parser.error("--epochs 0: there is nothing to compare; give 1 or more")
    for gpu in arguments.gpus:
        choose_device(gpu, quiet=True)  # raises where there is none of this number
    return arguments, passed


def study_recipe(passed: Sequence[str]) -> dict[str, Any]:
    """Return what runs with these flags have in common, as plain values."""
    arguments = parse_arguments(list(passed))
    recipe = asdict(training_recipe(arguments, None))
    del recipe["keypoints"], recipe["seed"]
    names = ["model", "preset", *(name for _, name, *_ in NETWORK_FLAGS)]
    network = {name: getattr(arguments, name) for name in names}
    data = {"data_dir": str(arguments.data_dir.resolve()), "dataset": arguments.dataset}
    start = arguments.init_from and str(arguments.init_from.resolve())
    return network | recipe | data | {"init_from": start}


def prepare_study(folder: Path, settings: dict[str, Any]) -> None:
    """Create the folder of a study, or make sure that it holds the same study.

    The settings are what all runs have in common, plain values; of several recipes their names are
    "RECIPE: NAME".

    Raises:
        InputError: if it holds something else.
    """
    path, stored = folder / SETTINGS, {}
    if path.is_file():
        stored = json.loads(path.read_text())
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: holds something else; choose another --study")
    for name, value in settings.items():
        if (earlier := stored.get(name, value)) != value:
            raise InputError(
                f"{path}: this study has {name} {earlier}, not {value}; "
                "give the same flags, or choose another --study"
            )
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(stored | settings, indent=2) + "\n")


def runs_folder(study: Path, name: str) -> Path:
    """Return the folder of the runs of this name."""
    return study / name.replace(", ", "_").replace(" ", "_")


def do_runs(
    study: Path, flags: Mapping[str, Sequence[str]], seeds: Sequence[int], gpus: Sequence[str]
) -> dict[str, list[Run]]:
    """Do all runs of a study that have no report yet, one at a time on each GPU; return all.

    They are one for each seed, for each name; of `flags` each name has its own. The first seed of
    all names comes first.

    Raises:
        InputError: if one fails; the others save where they are and end.
    """
    runs: dict[str, list[Run]] = {}
    for name, words in flags.items():
        for seed in seeds:
            place = runs_folder(study, name) / f"seed_{seed}"
            one = Run(f"{name}, seed {seed}", (*words, "--seed", f"{seed}"), place)
            runs.setdefault(name, []).append(one)
    ordered = [one for of_seed in zip(*runs.values()) for one in of_seed]
    missing = [one for one in ordered if not (one.folder / REPORT).is_file()]
    print(f"{len(ordered)} runs, {len(ordered) - len(missing)} of them done", flush=True)
    waiting, stop = iter(missing), threading.Event()
    if len(gpus) > 1:  # side by side, they share the processors
        os.environ.setdefault("OMP_NUM_THREADS", f"{max(1, torch.get_num_threads() // len(gpus))}")

    def work(gpu: str) -> None:
        for one in waiting:  # each is taken by one thread
            train_and_evaluate(one, gpu, stop)
            bar.update(1)
            error = one.report()["average_over_actions"]["mpjpe_mm"]
            print(f"{one.name}: {error:.1f} mm", flush=True)

    with progress(total=len(missing), unit="run") as bar, ThreadPoolExecutor(len(gpus)) as pool:
        try:
            for worker in as_completed([pool.submit(work, gpu) for gpu in gpus]):
                worker.result()
        finally:  # after an error or a signal
            stop.set()
    return runs


def train_and_evaluate(one: Run, gpu: str, stop: threading.Event) -> None:
    """Train from where the folder's checkpoint stands, and evaluate.

    The last epoch is evaluated: an epoch that is chosen by the test subjects looks too good.

    Raises:
        InputError: if run_poseformer.py fails, with its last line.
    """
    folder = one.folder
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(REPOSITORY / "run_poseformer.py")]
    place = ["-c", str(folder), "--gpu", gpu]
    start = ["--resume", LAST] if (folder / LAST).is_file() else ["--overwrite"]
    partial = folder / f"partial_{REPORT}"
    values = vars(parse_arguments(list(one.flags)))
    shared = as_flags(
        {name: values[name] for name in _EVALUATED if values[name] not in (None, False)}
    )
    train = [*one.flags, *place, *start, "--wandb-mode", "disabled"]
    evaluate = [*shared, *place, "--evaluate", LAST, "--report", str(partial)]
    for flags in (train, evaluate):
        if run_command([*program, *flags], folder / OUTPUT, stop):
            lines = (folder / OUTPUT).read_text().split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "stopped")
            raise InputError(f"{folder / OUTPUT}: {last.removeprefix('error: ')}")
    partial.replace(folder / REPORT)


def run_command(command: list[str], output: Path, stop: threading.Event) -> int:
    """Run a command, its output added to a file; return its exit status.

    Once `stop` is set, the command is asked to save and end.
    """
    with output.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None and not stop.wait(_POLL_S):
            pass
        process.terminate()  # does nothing where it has ended
        return process.wait()


def flags_of_lifters(flags: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the flags of each name, without those that only another name's lifter has."""
    given = {name: vars(make_parser().parse_args(words)) for name, words in flags.items()}
    lifters = {name: LIFTERS[values.get("model", DEFAULT)] for name, values in given.items()}
    every = set().union(*(lifter.own_flags for lifter in lifters.values()))
    foreign = {name: every - lifter.own_flags for name, lifter in lifters.items()}
    return {
        name: as_flags({flag: value for flag, value in values.items() if flag not in foreign[name]})
        for name, values in given.items()
    }


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return values of `run_poseformer.py`'s flags as its command line has them."""
    words = []
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words
