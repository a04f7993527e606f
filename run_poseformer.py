"""Train a lifter on a 2D estimator's keypoints; resume; evaluate.

python run_poseformer.py --keypoints vitpose -c checkpoint/vitpose
python run_poseformer.py --keypoints vitpose -c checkpoint/vitpose --resume last_epoch.bin
python run_poseformer.py --keypoints vitpose --evaluate checkpoint/vitpose/best_epoch.bin
"""

import os

# Threads that wait for each other spin for tens of microseconds and then sleep: as fast alone as
# with OpenMP's own milliseconds, and several times as fast beside other work. It is read when
# PyTorch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no C++ stack beside a message of ours

import argparse
import json
import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from common.arguments import (
    evaluation_recipe,
    network_config,
    network_flags,
    parse_arguments,
    training_recipe,
)
from common.evaluation import evaluate, mean_pose_mpjpe_mm
from common.files.console import InputError, never_fail_to_print, run_script
from common.files.output import atomic_output, check_output
from common.generators import WindowGenerator, with_noise
from common.h36m_dataset import (
    Sequence2d3d,
    as_person_seen,
    average_pose,
    parse_subjects,
    pixels_to_normalized,
)
from common.lifters import LifterConfig, build_network, name_of
from common.loss import clip_loss, mpjpe
from common.report import format_report, latex_row, make_report
from common.training.checkpoint import Checkpoint, checkpoint_bytes
from common.training.cuda_graph import CapturedStep
from common.training.device import (
    allow_tf32,
    autocast,
    backward,
    compile_loss,
    keep_freed_memory,
    kept_statistics,
    resolve_precision,
)
from common.training.epoch import Epoch, Interruption, TrainingState
from common.training.optimizer import build_optimizer, init_at_mean_pose, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import LearningRates, Recipe
from common.training.run_folder import LAST, RunFolder, prepare_folder
from common.training.wandb_run import WandbRun
from common.training_data import load_data, load_training_data, noisy, training_windows

PAIRED = 8  # one of so many windows of a batch is also seen one frame later


def main() -> None:
    """Do what the command line asks for."""
    arguments = parse_arguments()
    keep_freed_memory()
    world = start_world(arguments.gpu)
    if arguments.tf32:
        allow_tf32(world.device, quiet=not world.is_main)
    try:
        if arguments.evaluate:
            evaluate_checkpoint(arguments, world)
        else:
            never_fail_to_print()
            train(arguments, world)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError("out of memory; choose a smaller --batch-size") from error
        if world.has_lost_another(error):
            raise InputError(
                "another process of this training has ended, so this one ends"
            ) from error
        raise
    finally:
        world.finish()


# Training ----------------------------------------------------------------------------------------


def loss_of(
    model: nn.Module,
    windows: WindowGenerator,
    batch: Tensor,
    weights: Tensor | None,
    precision: str,
    noise_std: float,
    velocity: Tensor | None,
) -> Tensor:
    """Return the loss of a batch, a scalar in metres: the function to edit for another loss.

    Its value is MPJPE, which log and curves show; its gradient is that of the whole loss.

    Args:
        model: the network, in training mode.
        windows: the training data on the device.
        batch: (B,) int64, indices of samples.
        weights: (B,), of each sample's loss in their sum; None for their mean.
        precision: of matrix products, a key of `DTYPES`.
        noise_std: of Gaussian noise on the keypoints, normalised units.
        velocity: weight of MPJVE, a scalar on the device; None without it, as for clips.
    """
    # (B, F, 17, C) normalised; (B, 17, 3) metres, or (B, F, 17, 3) where a lifter gives all frames
    inputs, targets = windows.gather(batch)
    if velocity is not None:  # some of the windows once more, one frame later: (B + B / 8, …)
        later = windows.gather(batch[::PAIRED], later=1)
        inputs, targets = (torch.cat(both) for both in zip((inputs, targets), later))
    inputs = with_noise(inputs, noise_std, confidences=windows.confidences)
    if noise_std and velocity is not None:  # a frame has one noise in both of its windows
        inputs[len(batch) :, :-1] = inputs[: len(batch) : PAIRED, 1:]
    with autocast(windows.device, precision):
        predicted = model(inputs)  # (B or more, 1 or F, 17, 3)
    if windows.all_frames:
        loss, error = (f(predicted, targets, weights) for f in (clip_loss, mpjpe))
        return error.detach() + (loss - loss.detach())
    poses, later = predicted.squeeze(1).float().tensor_split([len(batch)])
    targets, later_targets = targets.tensor_split([len(batch)])
    error = mpjpe(poses, targets, weights)
    if velocity is None:
        return error
    steps = later - poses[::PAIRED], later_targets - targets[::PAIRED]
    if weights is not None:  # those of the steps have the sum of all
        chosen = weights[::PAIRED]
        weights = chosen * weights.sum() / chosen.sum().clamp_min(1e-9)
    pull = velocity * mpjpe(*steps, weights)
    return error + (pull - pull.detach())


def velocity_weight(recipe: Recipe, config: LifterConfig, device: torch.device) -> Tensor | None:
    """Return the weight of MPJVE that `loss_of` takes; None for lifters whose loss has its own.

    A tensor, as the step that is captured as a CUDA graph reads its present value.
    """
    if recipe.velocity == 0 or config.gives_all_frames:
        return None
    return torch.tensor(recipe.velocity, device=device)


def train(arguments: argparse.Namespace, world: World) -> None:
    """Train from the beginning, or go on from a checkpoint."""
    checkpoint = load_checkpoint(arguments, arguments.resume)
    last = arguments.checkpoint / LAST
    if world.restarts and last.is_file():  # by torchrun, after a save or before the first
        saved = load_checkpoint(arguments, last)
        checkpoint = saved if saved.content.get("launch") == world.launch else checkpoint
    initial = checkpoint or load_checkpoint(arguments, arguments.init_from)
    if initial and not checkpoint:
        flags = network_flags(arguments, name_of(initial.config))
        initial = initial.with_frames(flags.get("number_of_frames"))
    recipe = training_recipe(arguments, checkpoint, initial)
    precision = resolve_precision(recipe.precision, world.device)
    train_set, test_set = load_training_data(arguments, recipe, world)
    config = network_config(arguments, recipe, train_set, initial)
    if (config.view == "person") != (recipe.people > 0):
        raise InputError(
            f"{initial.path}: its network sees {config.view}s; --recipe footage trains those that "
            "see persons, and the other recipes those that see pictures"
        )
    windows = training_windows(train_set, config, recipe, world)
    LearningRates(recipe, math.ceil(len(windows) / recipe.batch_size))  # refuses a long warm-up
    noise_std = recipe.std * pixels_to_normalized(train_set[0].subject, train_set[0].camera)
    mean_pose = average_pose(train_set)

    torch.manual_seed(recipe.seed)
    model = build_network(config).to(world.device)
    if initial:
        initial.load_into(model)
    elif recipe.init == "mean_pose":
        init_at_mean_pose(model, mean_pose)
    optimizer = build_optimizer(model, recipe, precision)
    state = TrainingState(launch=world.launch)
    if checkpoint:
        checkpoint.resume(model, optimizer, state, world.is_main)
    world.share_weights(model)

    velocity = velocity_weight(recipe, config, world.device)
    how = {"precision": precision, "noise_std": noise_std, "velocity": velocity}
    batch_loss = partial(loss_of, model, windows, **how)
    batch_size = world.local_batch_size(recipe.batch_size)
    if world.device.type == "cuda" and not arguments.no_compile:
        batch_loss = compile_loss(batch_loss, model, batch_size, precision)

    def train_step(batch: Tensor, weights: Tensor | None) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(batch, weights)
        backward(loss, model, precision)
        world.average_gradients(model)
        optimizer.step()
        return loss.detach()

    if world.device.type == "cuda" and not arguments.no_cuda_graph:
        several = world.size > 1
        with kept_statistics(model):
            train_step = CapturedStep(train_step, optimizer, batch_size, world.device, several)

    def current_checkpoint() -> bytes:
        return checkpoint_bytes(model, optimizer, state, recipe, mean_pose)

    folder = RunFolder(arguments.checkpoint, world, state, current_checkpoint, recipe.epochs)
    folder.every, folder.curves = arguments.checkpoint_frequency, arguments.export_training_curves
    start_run(folder, arguments, asdict(recipe) | asdict(config), checkpoint)
    if world.is_main:
        describe(model, windows, test_set, precision, state, recipe)

    with Interruption(world) as interruption, folder:
        while state.epoch < recipe.epochs:
            model.train()
            epoch = Epoch(windows, state, recipe, world, interruption)
            for lr, batch, weights in epoch:
                set_learning_rate(optimizer, lr)
                if velocity is not None:
                    velocity.fill_(recipe.velocity * epoch.share_done)
                epoch.add(train_step(batch, weights))
            began = time.perf_counter()
            valid_mm = validate(model, test_set, world, precision, interruption)
            state.finish_epoch(valid_mm, epoch.samples_per_s, time.perf_counter() - began)
            folder.save_epoch()
    folder.finish()


def validate(
    model: nn.Module,
    test_set: list[Sequence2d3d],
    world: World,
    precision: str,
    interruption: Interruption,
) -> float | None:
    """Return the MPJPE on the test subjects in mm, over the actions; None without them."""
    world.share_weights(model)  # the statistics of batch norms differ
    part = test_set[world.rank :: world.size]
    sums = interruption.run_interruptible(
        lambda: evaluate(model, part, world.alone(), precision, all_metrics=False)
    )
    sums.state = world.sum(sums.state)
    return sums.mpjpe_mm() if test_set else None


def load_checkpoint(arguments: argparse.Namespace, path: Path | None) -> Checkpoint | None:
    """Load a checkpoint, None for none, as the flags tell of its network."""
    return path and Checkpoint.load(path, arguments.number_of_frames, arguments.model)


def start_run(
    folder: RunFolder,
    arguments: argparse.Namespace,
    settings: dict,
    checkpoint: Checkpoint | None,
) -> None:
    """Prepare the checkpoint folder and start the Weights & Biases run, whose id state keeps."""
    if not folder.world.is_main:
        return
    state = folder.state
    resumed = checkpoint and checkpoint.path
    folder.earlier = prepare_folder(arguments.checkpoint, arguments.overwrite, resumed)
    settings = vars(arguments) | settings
    folder.wandb = WandbRun(
        arguments.wandb_mode,
        project=arguments.wandb_project,
        name=arguments.wandb_name,
        run_id=arguments.wandb_id or state.wandb_id,
        config={k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()},
    )
    state.wandb_id = folder.wandb.id or state.wandb_id
    if resumed:
        folder.complete(resumed)


def describe(
    model: nn.Module,
    windows: WindowGenerator,
    test_set: list[Sequence2d3d],
    precision: str,
    state: TrainingState,
    recipe: Recipe,
) -> None:
    """Print what is about to be trained."""
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, {len(windows):,} training samples, "
        f"{number_of_frames(test_set):,} validation frames, {windows.device}, {precision}"
    )
    if state.epoch >= recipe.epochs:
        print(f"all {state.epoch} epochs are done")


# Evaluation --------------------------------------------------------------------------------------


def evaluate_checkpoint(arguments: argparse.Namespace, world: World) -> None:
    """Measure a checkpoint on the test subjects and print the report."""
    if arguments.report:
        check_output(arguments.report, (".json",))
    checkpoint = load_checkpoint(arguments, arguments.evaluate)
    recipe = evaluation_recipe(arguments, checkpoint)
    sequences = load_data(arguments, recipe, list(parse_subjects(recipe.subjects_test)), world)
    network_config(arguments, recipe, sequences, checkpoint)  # refuses what contradicts it
    sequences = noisy(sequences, recipe)
    if checkpoint.config.view == "person":
        sequences = [as_person_seen(s) for s in sequences]
    precision = resolve_precision(recipe.precision, world.device)
    model = checkpoint.build_model(world.device)
    began = time.perf_counter()
    sums = evaluate(model, sequences, world, precision)
    seconds = time.perf_counter() - began
    if not world.is_main:
        return
    report, pose = make_report(sums), checkpoint.mean_pose()
    average = None if pose is None else mean_pose_mpjpe_mm(pose, sequences)
    report |= {
        "checkpoint": str(checkpoint.path),
        "keypoints": recipe.keypoints,
        "precision": precision,
        "frames": number_of_frames(sequences),
        "seconds": seconds,
        "frames_per_s": number_of_frames(sequences) / seconds,
        "mean_pose_mpjpe_mm": average,
    }
    if average is not None:
        print(f"MPJPE of the training data's mean pose: {average:.2f} mm")
    if arguments.latex:
        print(latex_row(report, recipe.keypoints))
    print(format_report(report, by_subject=arguments.by_subject))
    if arguments.report:
        with atomic_output(arguments.report) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def number_of_frames(sequences: list[Sequence2d3d]) -> int:
    """Return how many frames the sequences have together."""
    return sum(len(sequence.poses) for sequence in sequences)


if __name__ == "__main__":
    run_script(main)
