"""Trainings by `run_poseformer.py`, each in a folder of its own: done once, resumed, parallel."""

import argparse
import json
import math
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.arguments import parse_arguments
from common.console import (
    REPOSITORY,
    ArgumentParser,
    InputError,
    non_negative_int,
    progress,
    split_names,
)
from common.device import choose_device
from common.files import atomic_output
from common.run_folder import LAST

REPORT, OUTPUT, SETTINGS = "report.json", "output.txt", "study.json"
# What is given to each run here, and so is not among the flags that the user passes on.
_OWN_FLAGS = {"--seed", "-c", "--checkpoint", "-g", "--gpu", "-r", "--resume", "--evaluate"}
_OWN_FLAGS |= {"--render", "--overwrite", "--report", "--wandb-id", "--no-eval"}
# What an evaluation reads of a training's flags.
_EVALUATED = ("data_dir", "dataset", "subjects_test", "actions", "downsample", "std", "precision")


@dataclass(frozen=True)
class Run:
    """One training: what it is called, its flags for `run_poseformer.py`, its folder."""

    name: str
    flags: tuple[str, ...]
    folder: Path

    def is_done(self) -> bool:
        """Tell whether its report is there."""
        return (self.folder / REPORT).is_file()

    def report(self) -> dict[str, Any]:
        """Return its evaluation.

        Raises:
            InputError: if the report is damaged.
        """
        path = self.folder / REPORT
        try:
            report = json.loads(path.read_text())
            if not math.isfinite(report["average_over_actions"]["mpjpe_mm"]):
                raise ValueError("its MPJPE is not a finite number")
            dict(report["by_sequence"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: damaged; delete it, and it is made again") from error
        return report


def parse_study_arguments(
    parser: ArgumentParser, own_flags: set[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Add the flags of a study, and parse the command line.

    Args:
        parser: with what one study has beyond others.
        own_flags: of `run_poseformer.py`, which the script gives to each run itself.

    Returns:
        The script's own flags, with `study`, `seeds` and `gpus`, and those to pass on.
    """
    add = parser.add_argument
    add("--study", type=Path, required=True, metavar="DIR", help="folder of the runs and results")
    add("--seeds", nargs="+", type=non_negative_int, default=[0, 1, 2], metavar="N", help="seeds")
    gpus = "one run at a time on each; cpu for none"
    add("--gpus", type=split_names, default="0", metavar="N,…", help=gpus)
    arguments, passed = parser.parse_known_args()
    for word in passed:
        if word.split("=")[0] in _OWN_FLAGS | own_flags:
            parser.error(f"{word.split('=')[0]}: each run gets its own; leave it out")
    for name in ("seeds", "gpus"):
        values = getattr(arguments, name)
        if len(set(values)) < max(1, len(values)):
            parser.error(f"--{name}: one is given twice, or none")
    for gpu in arguments.gpus:
        choose_device(gpu, quiet=True)  # raises where there is none of this number
    return arguments, passed


def prepare_study(folder: Path, settings: dict[str, Any]) -> None:
    """Create the folder of a study, or make sure that it holds the same study.

    Args:
        folder: of all its runs.
        settings: what they have in common, plain values.

    Raises:
        InputError: if it holds something else.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise InputError(f"{folder}: holds something else; choose another --study")
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
    try:
        earlier = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({str(error)[:200]}); choose another --study") from error
    for name in settings.keys() | earlier.keys():
        if settings.get(name) != earlier.get(name):
            raise InputError(
                f"{path}: this study has {name} {earlier.get(name)}, not {settings.get(name)}; "
                f"give the same flags, or choose another --study"
            )


def do_runs(runs: Sequence[Run], gpus: Sequence[str]) -> None:
    """Do all runs that have no report yet, one at a time on each GPU.

    Raises:
        InputError: if one fails; those that are under way are stopped first.
    """
    missing = [one for one in runs if not one.is_done()]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    free: queue.Queue[str] = queue.Queue()
    for gpu in gpus:
        free.put(gpu)
    processes = Processes()

    def do(one: Run) -> Run:
        gpu = free.get()
        try:
            _do_run(one, gpu, processes)
        finally:
            free.put(gpu)
        return one

    with ThreadPoolExecutor(len(gpus)) as pool:
        try:
            for one in progress(pool.map(do, missing), total=len(missing), unit="run"):
                error = one.report()["average_over_actions"]["mpjpe_mm"]
                print(f"{one.name}: {error:.1f} mm", flush=True)
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


def _do_run(one: Run, gpu: str, processes: Processes) -> None:
    """Train and evaluate, from where the folder's checkpoint stands.

    The last epoch is evaluated: to choose the best one by the test subjects would flatter it.

    Raises:
        InputError: if run_poseformer.py fails, with its last line.
    """
    folder = one.folder
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(REPOSITORY / "run_poseformer.py")]
    common = ["-c", str(folder), "--gpu", gpu]
    start = ["--resume", LAST] if (folder / LAST).is_file() else ["--overwrite"]
    partial = folder / f"partial_{REPORT}"
    train = [*program, *one.flags, *common, *start, "--wandb-mode", "disabled"]
    evaluate = [*program, *evaluation_flags(one.flags), *common, "--evaluate", LAST]
    for command in (train, [*evaluate, "--report", str(partial)]):
        if processes.call(command, folder / OUTPUT):
            lines = (folder / OUTPUT).read_text().split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "stopped")
            raise InputError(f"{folder / OUTPUT}: {last.removeprefix('error: ')}")
    partial.replace(folder / REPORT)


def evaluation_flags(flags: Sequence[str]) -> list[str]:
    """Return those of a training's flags that an evaluation reads."""
    values = vars(parse_arguments(list(flags)))
    given = {name: values[name] for name in _EVALUATED if values[name] is not None}
    words = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [word for pair in words for word in pair]
