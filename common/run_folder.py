"""What a training writes into its checkpoint folder, and what it prints about it."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checkpoint import save_checkpoint
from common.console import InputError
from common.generators import WindowGenerator
from common.model_poseformer import PoseFormerV2
from common.run_log import LOG_NAME, RunLog, save_training_curves
from common.training import Interrupted, TrainingState

BEST, LAST, CURVES = "best_epoch.bin", "last_epoch.bin", "training_curves.png"


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make sure that a new run does not mix with an earlier one in the checkpoint folder.

    Raises:
        InputError: if there is an earlier run and `overwrite` is false.
    """
    earlier = [p for p in (folder / LAST, folder / BEST, folder / LOG_NAME) if p.exists()]
    earlier += sorted(folder.glob("epoch_*.bin"))
    if earlier and not overwrite:
        raise InputError(
            f"{folder}: holds an earlier run ({earlier[0].name}); go on with --resume {LAST}, "
            "choose another folder with -c, or replace it with --overwrite"
        )
    for path in earlier:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


@dataclass
class RunFolder:
    """Log, checkpoints and curves of a training; as a context, it also ends the run.

    Attributes:
        folder: the checkpoint folder.
        log: the run's log; None in all processes but the main one, which alone writes.
        state: where the training is.
        contents: gives what a checkpoint holds now.
        epochs: how many there are to be.
        every: keep `epoch_N.bin` every so many epochs; 0 for never.
        curves: whether to draw the training curves after each epoch.
    """

    folder: Path
    log: RunLog | None
    state: TrainingState
    contents: Callable[[], dict[str, Any]]
    epochs: int
    every: int = 0
    curves: bool = False

    def describe(
        self, model: PoseFormerV2, windows: WindowGenerator, valid_frames: int, precision: str
    ) -> None:
        """Print what is about to be trained."""
        if self.log is None:
            return
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{parameters:,} parameters, {len(windows):,} training samples, "
            f"{valid_frames:,} validation frames, {windows.device}, {precision}"
        )
        if self.state.epoch >= self.epochs:
            print(f"{self.state.epoch} epochs are done; a higher --epochs goes on")

    def keep(self, is_best: bool, **record: Any) -> None:
        """Log and print an epoch's figures, those of `RunLog.add_epoch`; save its checkpoints."""
        if self.log is None:
            return
        self.log.add_epoch(record)
        print_epoch(record, self.epochs, is_best)
        if self.curves:
            save_training_curves(self.log.path, self.folder / CURVES)
        # After the log: a line without its checkpoint is dropped when the run is resumed.
        self._save(LAST)
        if is_best:
            self._save(BEST)
        if self.every and record["epoch"] % self.every == 0:
            self._save(f"epoch_{record['epoch']}.bin")

    def _save(self, name: str) -> None:
        save_checkpoint(self.folder / name, self.contents())

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """After an interruption save, say how to go on, and exit; after the last epoch upload."""
        if isinstance(error, Interrupted):
            if self.log is not None:
                self._save(LAST)
                self.log.close(exit_code=error.exit_status)
                print(how_to_resume(self.state), file=sys.stderr)
            raise SystemExit(error.exit_status) from None
        if error is None and self.log is not None:
            self.log.finish([p for n in (BEST, LAST) if (p := self.folder / n).is_file()])


def print_epoch(record: dict[str, Any], epochs: int, is_best: bool) -> None:
    """Print one epoch's figures as one line."""
    valid = record["valid_mpjpe_mm"]
    print(
        f"epoch {record['epoch']}/{epochs}  lr {record['lr']:.2e}  "
        f"train {record['train_mpjpe_mm']:.1f} mm  "
        + (f"valid {valid:.1f} mm{' (best)' if is_best else ''}  " if valid is not None else "")
        + f"{record['seconds']:.1f} s  {record['samples_per_s']:,.0f} samples/s",
        flush=True,
    )


def how_to_resume(state: TrainingState) -> str:
    """Return the line that tells how to go on after an interruption."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in ("-r", "--resume"):
            next(words, None)
        elif not word.startswith("--resume=") and word != "--overwrite":
            kept.append(word)
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = ["torchrun", f"--nproc_per_node={processes}"] if processes else ["python"]
    command = shlex.join([*launcher, sys.argv[0], *kept, "--resume", LAST])
    return f"stopped in epoch {state.epoch + 1} after step {state.step}; go on with: {command}"
