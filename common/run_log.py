"""The record of a training: `log.jsonl`, the curves drawn from it, and a Weights & Biases run."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from common.console import LARGEST_INTEGER, InputError, shown, warn
from common.figures import COLORS, INK, paper_figure, save_figure
from common.files import atomic_output, check_output

LOG_NAME = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `log.jsonl`: of each epoch the last, in their order.

    What stands behind the last end of a line is a record that was cut short; it is left out.

    Raises:
        InputError: if the file is missing or a line of it is no record of an epoch.
    """
    try:
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        records = {_checked_epoch(record): record for record in map(json.loads, lines)}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; training writes it") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a training log (a line is damaged: {str(error)[:200]})"
        ) from error
    return [records[epoch] for epoch in sorted(records)]


def _checked_epoch(record: dict[str, Any]) -> int:
    epoch = record["epoch"]
    if type(epoch) is not int or not 0 < epoch <= LARGEST_INTEGER:
        raise ValueError(f"its epoch is {shown(epoch)}")
    return epoch


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
    try:  # as floats, None becomes NaN
        train, valid = np.array([[r.get(key) for r in records] for key in keys], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a training log ({error})") from error
    return [record["epoch"] for record in records], train, valid


class RunLog:
    """Writes one line an epoch to `log.jsonl` and the same figures to Weights & Biases.

    Args:
        folder: the checkpoint folder.
        completed_epochs: lines of later epochs, left by a run that was killed before it saved its
            checkpoint, are dropped; 0 starts a new log.
        wandb_run: a run of `start_wandb`, or None.
    """

    def __init__(self, folder: Path, completed_epochs: int, wandb_run: Any) -> None:
        self.path = folder / LOG_NAME
        self.wandb_run = wandb_run
        earlier = read_log(self.path) if completed_epochs and self.path.is_file() else []
        kept = [record for record in earlier if record["epoch"] <= completed_epochs]
        with atomic_output(self.path) as temporary:
            temporary.write_text("".join(map(_line, kept)))

    def add_epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch's figures.

        Args:
            record: epoch, lr, train_mpjpe_mm, valid_mpjpe_mm (None without validation),
                samples_per_s, seconds.
        """
        with self.path.open("a") as file:
            file.write(_line(record))
        if self.wandb_run is not None:
            figures = {"lr": record["lr"], "loss/train": record["train_mpjpe_mm"]}
            if record["valid_mpjpe_mm"] is not None:
                figures["loss/valid"] = record["valid_mpjpe_mm"]
            self.wandb_run.log(figures, step=record["epoch"])

    def finish(self, checkpoints: list[Path]) -> None:
        """Upload the checkpoints as one model artifact and close the Weights & Biases run."""
        if self.wandb_run is None:
            return
        import wandb

        artifact = wandb.Artifact(f"model-{self.wandb_run.id}", type="model")
        for path in checkpoints:
            artifact.add_file(str(path))
        self.wandb_run.log_artifact(artifact, aliases=["final"])
        self.close()

    def close(self, exit_code: int = 0) -> None:
        """Close the Weights & Biases run; a failed one with its exit code."""
        if self.wandb_run is None:
            return
        offline, sync_dir = self.wandb_run.settings._offline, self.wandb_run.settings.sync_dir
        self.wandb_run.finish(exit_code=exit_code)
        if offline:
            print(f"Weights & Biases was offline; upload the run with: wandb sync '{sync_dir}'")


def start_wandb(
    mode: str, *, project: str, name: str | None, run_id: str | None, config: dict[str, Any]
) -> Any:
    """Start a Weights & Biases run, or go on with one.

    Args:
        mode: "online", "offline", "disabled", or "auto": what WANDB_MODE says, else online where
            the user is logged in, else offline.
        project: its project.
        name: its name; None for one that Weights & Biases invents.
        run_id: id of the run to go on with; None for a new one.
        config: plain values, shown beside the run.

    Returns:
        The run; None where it is disabled or the package is not installed.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto")
    if mode == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        warn("the package wandb is not installed, so this run is logged to log.jsonl alone")
        return None
    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    return wandb.init(
        mode=mode,
        project=project,
        name=name,
        id=run_id,
        # Offline, the id alone makes `wandb sync` go on with the run.
        resume="allow" if run_id and mode == "online" else None,
        config=config,
        settings=wandb.Settings(silent=True),
    )


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
