"""The record of a training: `log.jsonl`, the curves drawn from it, and a Weights & Biases run."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.console import InputError, Kind, positive_int, shown, warn
from common.figures import COLORS, INK, paper_figure, save_figure
from common.files import check_output

LOG_NAME = "log.jsonl"
_WANDB_TIMEOUT_S = 8  # to reach the server at the start


_figure = Kind(float, lambda x: not math.isinf(x), "a finite number")
_FIGURES = ("lr", "train_mpjpe_mm", "valid_mpjpe_mm", "samples_per_s", "seconds")


def checked_record(record: Any, where: str) -> dict[str, Any]:
    """Return an epoch's figures that were read from a log or a checkpoint.

    Raises:
        InputError: if it is no record of an epoch; the message begins with `where`.
    """
    if not isinstance(record, dict) or "epoch" not in record:
        raise InputError(f"{where} is {shown(record)}, not an epoch's figures")
    positive_int.check(record["epoch"], f"{where}: its epoch")
    for name in _FIGURES:
        if record.get(name) is not None:
            _figure.check(record[name], f"{where}: its {name}")
    return record


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `log.jsonl`: of each epoch the last, in their order.

    What stands behind the last end of a line is a record that was cut short; it is left out.

    Raises:
        InputError: if the file is missing or a line of it is no record of an epoch.
    """
    records = {}
    try:
        text = path.read_text()
        for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
            record = checked_record(json.loads(line), f"{path}: line {number}")
            records[record["epoch"]] = record
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; training writes it") from error
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise InputError(f"{path}: not a training log (a line is damaged: {reason})") from error
    return [records[epoch] for epoch in sorted(records)]


def save_training_curves(log_path: Path | str, output: Path | str) -> None:
    """Draw the MPJPE in mm over the epochs, of training and of validation, the best marked.

    Args:
        log_path: `log.jsonl`, whose records have `epoch`, `train_mpjpe_mm` and, where there was a
            validation, `valid_mpjpe_mm`.
        output: the PNG.

    Raises:
        InputError: if the log is missing, empty or damaged, the suffix is not .png, or the
            output's folder is missing.
        OSError: if the disk is full or read-only.
    """
    output = check_output(output, (".png",))
    epochs, train, valid = _errors_by_epoch(Path(log_path))
    figure, axes = paper_figure(6.4, 3.8)
    style = {"linewidth": 1.8, "marker": "o" if len(epochs) < 25 else None, "markersize": 3.5}
    axes.plot(epochs, train, color=COLORS[0], label="training", **style)
    if not np.isnan(valid).all():
        best = int(np.nanargmin(valid))
        label = f"validation (best: {valid[best]:.1f} mm, epoch {epochs[best]})"
        axes.plot(epochs, valid, color=COLORS[1], label=label, **style)
        axes.plot(epochs[best], valid[best], "o", color=COLORS[1], markersize=7, zorder=5)
    axes.set(xlabel="epoch", ylabel="MPJPE (mm)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, output)


def _errors_by_epoch(path: Path) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return (epochs,) each: the epoch's number, and both errors in mm, NaN where there is none."""
    records = read_log(path)
    if not records:
        raise InputError(f"{path}: holds no epoch yet")
    keys = ("train_mpjpe_mm", "valid_mpjpe_mm")
    # As floats, None becomes NaN.
    train, valid = np.array([[r.get(key) for r in records] for key in keys], dtype=np.float64)
    return [record["epoch"] for record in records], train, valid


class WandbRun:
    """A Weights & Biases run, or none; what fails in it is said, and ends no training.

    Args:
        run: of `wandb.init`, or None.

    Attributes:
        id: with which a later training goes on with the run; None without a run.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self.id = None if run is None else run.id

    def add_epoch(self, record: dict[str, Any]) -> None:
        """Log one epoch's figures, a record of log.jsonl."""
        figures = {"lr": record["lr"], "loss/train": record["train_mpjpe_mm"]}
        if record["valid_mpjpe_mm"] is not None:
            figures["loss/valid"] = record["valid_mpjpe_mm"]
        if not self._succeeds("log", lambda: self._run.log(figures, step=record["epoch"])):
            self._run = None

    def upload(self, checkpoints: list[Path]) -> None:
        """Add the checkpoints to the run as one model artifact."""

        def add() -> None:
            import wandb

            artifact = wandb.Artifact(f"model-{self.id}", type="model")
            for path in checkpoints:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["final"])

        self._succeeds("take the checkpoints", add)

    def close(self, exit_code: int = 0) -> None:
        """Close the run, a failed one with its exit code; say how an offline one is uploaded."""
        if self._run is None:
            return
        offline, sync_dir = self._run.settings._offline, self._run.settings.sync_dir
        self._succeeds("close the run", lambda: self._run.finish(exit_code=exit_code))
        if offline:
            print(f"Weights & Biases was offline; upload the run with: wandb sync '{sync_dir}'")

    def _succeeds(self, what: str, call: Callable[[], None]) -> bool:
        """Do something with the run, if there is one; warn and return False where it fails."""
        try:
            if self._run is not None:
                call()
        except Exception as error:
            warn(f"Weights & Biases did not {what}: {_first_line(error)}")
            return False
        return True


def start_wandb(
    mode: str, *, project: str, name: str | None, run_id: str | None, config: dict[str, Any]
) -> WandbRun:
    """Start a Weights & Biases run, or go on with one; offline or not at all where that fails.

    Args:
        mode: "online", "offline", "disabled", or "auto": what WANDB_MODE says, else online where
            the user is logged in, else offline.
        project: its project.
        name: its name; None for one that Weights & Biases invents.
        run_id: id of the run to go on with; None for a new one.
        config: plain values, shown beside the run.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto")
    if mode == "disabled":
        return WandbRun(None)
    problem, run = None, None
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            run = _start(attempt, project=project, name=name, id=run_id, config=config)
            break
        except Exception as error:  # a broken installation raises what it likes
            problem = problem or _first_line(error)
    if problem:
        where = "to log.jsonl alone" if run is None else "offline"
        warn(f"Weights & Biases: {problem}; this run is logged {where}")
    return WandbRun(run)


def _start(mode: str, **settings: Any) -> Any:
    import wandb

    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    elif mode == "online" and not wandb.api.api_key:  # it would ask for a key, and wait
        raise InputError("there is no login (wandb login)")
    online = mode == "online"
    return wandb.init(
        mode=mode,
        # Offline, the id alone makes `wandb sync` go on with the run.
        resume="allow" if settings["id"] and online else None,
        settings=wandb.Settings(
            silent=True, **({"init_timeout": _WANDB_TIMEOUT_S} if online else {})
        ),
        **settings,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
