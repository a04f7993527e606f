"""What a training writes into its checkpoint folder, and what it prints about it."""

import contextlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files.console import InputError, describe_os_error, warn
from common.files.output import atomic_output
from common.training.epoch import Interrupted, TrainingState
from common.training.processes import World
from common.training.run_log import LOG_NAME, save_training_curves
from common.training.wandb_run import WandbRun

BEST, LAST, CURVES = "best_epoch.bin", "last_epoch.bin", "training_curves.png"


def prepare_folder(folder: Path, overwrite: bool, resumed: Path | None = None) -> list[Path]:
    """Make sure that a run can write into the checkpoint folder, and does not mix with another.

    What an earlier run has left is returned, for a new run's first save to replace. A run that goes
    on from the checkpoint `resumed` replaces nothing: if that lies in the folder, the folder has
    no later one.

    Raises:
        InputError: if there is another run, or what came after `resumed`, and `overwrite` is false.
            A folder without a checkpoint holds no run.
        OSError: if the folder cannot be written to.
    """
    checkpoints = [p for p in (folder / LAST, folder / BEST) if p.exists()]
    checkpoints += sorted(folder.glob("epoch_*.bin"))
    if resumed and resumed.parent.resolve() == folder.resolve():
        checkpoints = [p for p in checkpoints[:1] if p.name == LAST != resumed.name]
    if checkpoints and not overwrite:
        name = checkpoints[0].name
        raise InputError(
            f"{folder}: holds another run ({name}); go on with -c {folder} --resume {name}, or "
            "choose another folder with -c"
            + ("" if resumed else ", or replace it with --overwrite")
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return [] if resumed else [*checkpoints, folder / LOG_NAME]


@dataclass
class RunFolder:
    """Checkpoints, log and curves of a training; as a context, it also ends the run.

    An epoch's files are written in one order, `last_epoch.bin` first, which holds all that is
    needed to write the others: a training that is killed between them is made whole by `complete`.
    A file that cannot be written, as on a full disk, is kept in memory and tried again at the next
    save, before any later `last_epoch.bin`.
    """

    folder: Path
    world: World  # of which the main process writes and prints
    state: TrainingState
    checkpoint: Callable[[], bytes]  # gives the bytes of a checkpoint as it is now
    epochs: int  # how many there are to be
    every: int = 0  # keep `epoch_N.bin` every so many epochs; 0 for never
    curves: bool = False  # draw the training curves after each epoch
    wandb: WandbRun = field(default_factory=lambda: WandbRun("disabled"))
    earlier: list[Path] = field(default_factory=list)  # of a run that the first save replaces
    _waiting: dict[str, bytes] = field(default_factory=dict, init=False)

    def save_epoch(self) -> None:
        """Save, print and log the epoch that was completed last."""
        if not self.world.is_main:
            return
        record = self.state.log[-1]
        checkpoint = self.checkpoint()
        self._save({LAST: checkpoint, **self._files_beside(checkpoint)})
        print_epoch(record, self.epochs, self.state.is_best)
        self.wandb.log_epoch(record)
        if self.curves:
            with _warning_of_failure():
                save_training_curves(self.state.log, self.folder / CURVES)

    def complete(self, resumed: Path) -> None:
        """Write what a kill may have kept the epoch of the resumed checkpoint from writing."""
        self._save(self._files_beside(resumed.read_bytes()))

    def _files_beside(self, checkpoint: bytes) -> dict[str, bytes]:
        """Return the contents of the files that belong to an epoch's `last_epoch.bin`."""
        state = self.state
        log = "".join(json.dumps(record) + "\n" for record in state.log)
        files = {LOG_NAME: log.encode()}
        is_between_epochs = state.epoch > 0 and state.step == 0
        if is_between_epochs and state.is_best:
            files[BEST] = checkpoint
        if is_between_epochs and self.every and state.epoch % self.every == 0:
            files[f"epoch_{state.epoch}.bin"] = checkpoint
        return files

    def _save(self, files: dict[str, bytes]) -> None:
        """Write what waits and these files, in their order; what fails waits for the next save."""
        waiting = {name: content for name, content in self._waiting.items() if name not in files}
        self._waiting = waiting | files
        with _warning_of_failure():
            for name, content in list(self._waiting.items()):
                with atomic_output(self.folder / name) as temporary:
                    temporary.write_bytes(content)
                    # The new run is on the disk; a kill from here on leaves one run or the other.
                    for path in self.earlier:
                        if path.name != name:
                            path.unlink(missing_ok=True)
                    self.earlier = []
                del self._waiting[name]

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """After an interruption save, say how to go on, and exit once all is saved."""
        if not isinstance(error, Interrupted):
            return
        if self.world.is_main:
            self._save({LAST: self.checkpoint()})
            how = how_to_resume(self.folder / LAST, self.state, saved=not self._waiting)
            print(how, file=sys.stderr)
            self.wandb.finish([], exit_code=error.exit_status)
        self.world.wait()
        raise SystemExit(error.exit_status) from None

    def finish(self) -> None:
        """Upload the checkpoints; after the last epoch.

        Raises:
            InputError: if something could not be saved to the end.
        """
        if not self.world.is_main:
            return
        self._save({})
        checkpoints = [p for n in (BEST, LAST) if (p := self.folder / n).is_file()]
        self.wandb.finish(checkpoints, exit_code=int(bool(self._waiting)))
        if self._waiting:
            raise InputError(
                f"{self.folder}: {', '.join(self._waiting)} could not be saved; make room, then "
                f"repeat what is not in {LAST} with --resume {LAST}"
            )


@contextlib.contextmanager
def _warning_of_failure() -> Iterator[None]:
    """Make an error of the file system in the block a warning."""
    try:
        yield
    except (OSError, InputError) as error:
        what = describe_os_error(error) if isinstance(error, OSError) else error
        warn(f"{what}. The training goes on and saves again after its epoch")


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


def how_to_resume(last: Path, state: TrainingState, saved: bool) -> str:
    """Return the line that tells how to go on from the last checkpoint after an interruption."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in ("-r", "--resume"):
            next(words, None)
        elif not word.startswith("--resume=") and word != "--overwrite":
            kept.append(word)
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = ["torchrun", f"--nproc_per_node={processes}"] if processes else ["python"]
    command = shlex.join([*launcher, sys.argv[0], *kept, "--resume", str(last)])
    place = f"stopped in epoch {state.epoch + 1} after step {state.step}"
    if not saved:
        return f"{place}, which could not be saved; go on from an earlier save with: {command}"
    return f"{place}; go on with: {command}"
