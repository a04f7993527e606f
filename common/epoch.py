"""One epoch of training: its order, its interruptions, and the state that resuming needs."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.console import InputError, progress
from common.distributed import World
from common.interruption import Interruption
from common.training import TrainStep

# A GPU's losses are read only every so many steps, as reading waits for the device.
STEPS_BETWEEN_READS_ON_GPU = 50


@dataclass
class TrainingState:
    """How far a training has come; what it takes to go on exactly.

    Attributes:
        epoch: completed epochs.
        step: steps done of the epoch that follows them.
        samples: samples that these steps have seen, in all processes.
        loss_sum: sum of their losses, in metres.
        min_loss: lowest validation MPJPE so far, in mm.
        wandb_id: id of the Weights & Biases run.
        random_state: of PyTorch's generators after these steps; None between epochs.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    min_loss: float = math.inf
    wandb_id: str | None = None
    random_state: list[Tensor] | None = None

    @property
    def mean_loss_mm(self) -> float:
        """Training MPJPE of the current epoch so far, in mm."""
        return 1000 * self.loss_sum / max(1, self.samples)

    def contents(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the epoch that is under way."""
        return {
            "step": self.step,
            "samples": self.samples,
            "loss_sum": self.loss_sum,
            "random_state": self.random_state,
        }

    def restore(self, checkpoint: dict[str, Any], path: Path, world: World) -> None:
        """Go on where the checkpoint stopped; a published one, after its last whole epoch.

        Raises:
            InputError: if the checkpoint does not say where it stopped.
        """
        progress = checkpoint.get("progress", self.contents())
        try:
            self.epoch = int(checkpoint["epoch"])
            self.step, self.samples = int(progress["step"]), int(progress["samples"])
            # The sum is over all processes already, so one of them takes it on.
            self.loss_sum = float(progress["loss_sum"]) if world.is_main else 0.0
            self.random_state = progress["random_state"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: does not say where its training stopped ({error}); evaluate it, or "
                "resume from another checkpoint"
            ) from error
        if "progress" in checkpoint:  # published files do not say in which unit the loss is
            self.min_loss = float(checkpoint["min_loss"])
        self.wandb_id = checkpoint.get("wandb_id")

    def finish_epoch(self, valid_mpjpe_mm: float | None) -> bool:
        """Count the epoch as completed; tell whether its validation MPJPE is the lowest so far."""
        self.epoch += 1
        self.step, self.samples, self.loss_sum, self.random_state = 0, 0, 0.0, None
        is_best = valid_mpjpe_mm is not None and valid_mpjpe_mm < self.min_loss
        if is_best:
            self.min_loss = valid_mpjpe_mm
        return is_best


def train_epoch(
    train_step: TrainStep,
    state: TrainingState,
    *,
    seed: int,
    batch_size: int,
    world: World,
    interruption: Interruption,
) -> float:
    """Train on every sample that the current epoch still has.

    Args:
        train_step: makes one step from indices of samples.
        state: where the epoch begins; moved on as the steps are done.
        seed: of the order of the samples and of dropout, with the epoch's number.
        batch_size: samples a step, over all processes.
        world: this process among the others.
        interruption: asked between steps.

    Returns:
        Samples a second, of all processes; 0 if no step was left.

    Raises:
        Interrupted: after a step, with `state` ready to be saved.
        InputError: if a loss is NaN or infinite.
    """
    epoch = state.epoch + 1
    train_step.model.train()
    order = train_step.generator.order(seed, epoch)
    seed_dropout(seed, state, world)
    samples_before, began = state.samples, time.perf_counter()
    every = 1 if world.device.type == "cpu" else STEPS_BETWEEN_READS_ON_GPU
    starts = range(state.step * batch_size, len(order), batch_size)
    unread: list[tuple[Tensor, int, int]] = []  # loss, samples here, samples in all processes
    with progress(total=len(order), initial=state.samples, desc=f"epoch {epoch}") as bar:
        for start in starts:
            batch = order[start : start + batch_size]
            indices, weight = world.share_of(batch)
            loss = train_step(indices, weight)
            unread.append((loss, len(indices) if weight else 0, len(batch)))
            if len(unread) == every or start == starts[-1]:
                count_losses(unread, state)
                unread.clear()
                bar.update(state.samples - bar.n)
                bar.set_postfix_str(f"loss {state.mean_loss_mm:.1f} mm")
                if interruption.is_requested():
                    break
    state.loss_sum = float(world.sum(torch.tensor(state.loss_sum, dtype=torch.float64)))
    state.random_state = random_state(world.device)
    interruption.check()
    return (state.samples - samples_before) / (time.perf_counter() - began)


def seed_dropout(seed: int, state: TrainingState, world: World) -> None:
    """Seed what dropout draws from: by epoch, by process, and where an epoch goes on, by step.

    A single process that goes on within an epoch takes the stored state instead, and so draws
    what the uninterrupted run would have drawn.
    """
    if state.random_state is not None and world.size == 1:
        set_random_state(state.random_state, world.device)
        return
    entropy = [seed, state.epoch, state.step, world.rank]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the generators that training on `device` draws from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Undo what has been drawn since `random_state`; a GPU's is left out on the CPU."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def count_losses(losses: list[tuple[Tensor, int, int]], state: TrainingState) -> None:
    """Add steps' losses to the state.

    Args:
        losses: of each step the mean loss in metres, its samples in this process and in all.
        state: is moved on by these steps.

    Raises:
        InputError: at the first loss that is NaN or infinite, naming its step.
    """
    values = torch.stack([loss for loss, _, _ in losses]).tolist()
    for value, (_, here, everywhere) in zip(values, losses):
        state.step += 1
        if not math.isfinite(value):
            raise InputError(
                f"the loss became {value} at epoch {state.epoch + 1}, step {state.step}; the "
                "checkpoints of the epochs before are kept. Try a lower --learning-rate"
            )
        state.samples += everywhere
        state.loss_sum += value * here
