"""The course of a training: where it is, an epoch of it, stopping and going on."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.files.console import InputError, progress
from common.generators import WindowGenerator
from common.training.processes import World
from common.training.recipe import LearningRates, Recipe

# A GPU's losses are read only every so many steps, as reading waits for the device.
STEPS_BETWEEN_READS_ON_GPU = 50
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


@dataclass
class TrainingState:
    """How far a training has come; what it takes to go on exactly.

    Attributes:
        epoch: completed epochs.
        step: steps done of the epoch that follows them.
        samples: samples that these steps have seen, in all processes.
        loss_sum: sum of their losses, in metres.
        lr: learning rate of the last step.
        min_loss: lowest validation MPJPE so far, in mm.
        wandb_id: id of the Weights & Biases run.
        random_state: of PyTorch's generators after these steps; None between epochs.
        is_best: whether the last completed epoch is the one of `min_loss`.
        log: the figures of each completed epoch, as in log.jsonl.
        seconds: what the steps of the epoch under way took.
        launch: id of the launch by torchrun, which its restarts share.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    lr: float = 0.0
    min_loss: float = math.inf
    wandb_id: str | None = None
    random_state: list[Tensor] | None = None
    is_best: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    launch: str | None = None

    @property
    def mean_loss_mm(self) -> float:
        """Training MPJPE of the current epoch so far, in mm."""
        return 1000 * self.loss_sum / max(1, self.samples)

    def finish_epoch(
        self, valid_mpjpe_mm: float | None, samples_per_s: float, seconds: float
    ) -> None:
        """Count the epoch as completed and add its line to the log.

        `valid_mpjpe_mm` is None without a validation, which took `seconds`; the samples are those
        of all processes.
        """
        self.epoch += 1
        record = {"epoch": self.epoch, "lr": self.lr, "train_mpjpe_mm": self.mean_loss_mm}
        record |= {"valid_mpjpe_mm": valid_mpjpe_mm, "samples_per_s": samples_per_s}
        self.log.append(record | {"seconds": self.seconds + seconds})
        self.step, self.samples, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.random_state = None
        self.is_best = valid_mpjpe_mm is not None and valid_mpjpe_mm < self.min_loss
        if self.is_best:
            self.min_loss = valid_mpjpe_mm


class Epoch:
    """What the current epoch still has to train on: `for lr, batch, weights in epoch: …`.

    The body of the loop gives each batch's loss to `add`. The samples come in an order that the
    seed and the epoch's number determine. `state` is brought up to date as the steps are done.
    Between two steps the loop ends with `Interrupted` if a signal was received, and `state` is then
    ready to be saved. `samples_per_s` is of all processes, 0 if no step was left; `share_done` is
    the part of the whole training that lies before the present step.
    """

    def __init__(
        self,
        windows: WindowGenerator,
        state: TrainingState,
        recipe: Recipe,
        world: World,
        interruption: "Interruption",
    ) -> None:
        self._began = time.perf_counter()
        self._order = windows.start_epoch(recipe.seed, state.epoch + 1)
        self._batches = self._order.split(recipe.batch_size)
        if state.samples != min(state.step * recipe.batch_size, len(self._order)):
            raise InputError(
                f"the checkpoint stopped after {state.step} steps and {state.samples} samples of "
                f"an epoch, which does not fit {len(self._order)} samples in steps of "
                f"{recipe.batch_size}; use the data that it was trained on"
            )
        self._state, self._recipe, self._world = state, recipe, world
        self._interruption = interruption
        self._unread: list[Tensor] = []
        self.samples_per_s = self.share_done = 0.0

    def __iter__(self) -> Iterator[tuple[float, Tensor, Tensor | None]]:
        """Yield each step's learning rate, and this process's indices (B,) and weights.

        Raises:
            Interrupted: after a step.
            InputError: if a loss is NaN or infinite.
        """
        state, world, batches = self._state, self._world, self._batches
        rates = LearningRates(self._recipe, len(batches))
        seed_dropout(self._recipe.seed, state, world)
        samples_before, began = state.samples, time.perf_counter()
        every = 1 if world.device.type == "cpu" else STEPS_BETWEEN_READS_ON_GPU
        first = state.epoch * len(batches)
        state.lr = rates[max(0, first + state.step - 1)]
        title = f"epoch {state.epoch + 1}"
        with progress(total=len(self._order), initial=state.samples, desc=title) as bar:
            for number, batch in list(enumerate(batches))[state.step :]:
                state.lr = rates[first + number]
                self.share_done = (first + number) / (self._recipe.epochs * len(batches))
                yield state.lr, *world.local_batch(batch, self._recipe.batch_size)
                if len(self._unread) == every or number == len(batches) - 1:
                    self._read_losses()
                    bar.update(state.samples - bar.n)
                    bar.set_postfix_str(f"loss {state.mean_loss_mm:.1f} mm")
                    if self._interruption.is_requested():
                        break
        state.seconds += time.perf_counter() - self._began
        state.loss_sum = float(world.sum(torch.tensor(state.loss_sum, dtype=torch.float64)))
        state.random_state = [torch.get_rng_state()]
        if world.device.type == "cuda":
            state.random_state.append(torch.cuda.get_rng_state(world.device))
        self._interruption.check()
        self.samples_per_s = (state.samples - samples_before) / (time.perf_counter() - began)

    def add(self, loss: Tensor) -> None:
        """Count the batch that was yielded last, with its loss in metres, on the device."""
        self._unread.append(loss)

    def _read_losses(self) -> None:
        """Add the losses of the last steps to the state."""
        state = self._state
        for value in torch.stack(self._unread).tolist():
            samples = len(self._batches[state.step])
            state.step += 1
            if not math.isfinite(value):
                raise InputError(
                    f"the loss became {value} at epoch {state.epoch + 1}, step {state.step}; the "
                    "checkpoints of the epochs before are kept. Try a lower --learning-rate "
                    "or --precision fp32"
                )
            state.samples += samples
            state.loss_sum += value * samples / self._world.size
        self._unread.clear()


def seed_dropout(seed: int, state: TrainingState, world: World) -> None:
    """Seed what dropout draws from: by epoch, by process, and where an epoch goes on, by step.

    A single process that goes on within an epoch takes the stored state instead, and so draws
    what the uninterrupted run would have drawn.
    """
    if state.random_state is not None and world.size == 1:
        torch.set_rng_state(state.random_state[0])
        if world.device.type == "cuda" and len(state.random_state) > 1:
            torch.cuda.set_rng_state(state.random_state[1], world.device)
        return
    entropy = [seed, state.epoch, state.step, world.rank]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


class Interrupted(Exception):
    """The user, or the machine's scheduler, wants the training to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class Interruption:
    """Makes SIGINT and SIGTERM wait for the end of the step, or end `run_interruptible`.

    Of a single process, a second signal of the same kind does what it always does, so a user can
    still end it at once. Several processes get each signal twice, from the terminal or the
    scheduler and from torchrun, which kills them after 30 s; they ignore the second one.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0  # number of the signal that came to this process; the handler sets it
        self._agreed = 0  # number of the signal that came to any process
        self._immediate = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._earlier = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Tell whether any of the processes has received a signal.

        Every process asks after the same steps, so that all stop after the same one.
        """
        self._agreed = int(self.world.maximum(torch.tensor(self.received)))
        return self._agreed > 0

    def check(self) -> None:
        """Raise `Interrupted` if any of the processes has received a signal; all ask together."""
        if self.is_requested():
            raise Interrupted(self._agreed)

    def run_interruptible(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; after a signal, end it at once and raise `Interrupted`.

        All processes call it together, and all raise after the work of each, which leaves nothing
        half-done and does not wait for other processes.
        """
        self.check()
        try:
            self._immediate = not self.received
            result = work() if self._immediate else None
            self._immediate = False
        except Interrupted:
            pass
        self.check()
        return result

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if self.world.size == 1:
            signal.signal(number, self._earlier[number])
        if self._immediate:
            self._immediate = False
            raise Interrupted(number)
