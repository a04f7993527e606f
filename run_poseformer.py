"""Train PoseFormerV2 on a 2D estimator's keypoints; resume; evaluate; render.

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
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.arguments import (
    architecture,
    confidence_count,
    estimator_names,
    evaluation_recipe,
    parse_arguments,
    render_options,
    training_recipe,
)
from common.camera import camera_to_world, image_coordinates
from common.checkpoint import (
    contents,
    find_checkpoint,
    load_checkpoint,
    load_into,
    mean_pose,
    model_state,
    restore,
)
from common.console import InputError, never_fail_to_print, run, split_names
from common.device import (
    allow_tf32,
    autocast,
    build_network,
    compile_network,
    keep_freed_memory,
    resolve_precision,
)
from common.distributed import World, start_world
from common.evaluation import evaluate, mean_pose_mpjpe_mm, predict
from common.files import atomic_output, check_output
from common.flags import DEFAULT_CAMERA, OWN_FOOTAGE
from common.footage import lift_footage, load_footage, stand
from common.generators import WindowGenerator, with_noise
from common.h36m_cameras import camera_index, load_cameras
from common.h36m_dataset import (
    FPS,
    Sequence2d3d,
    average_pose,
    canonical_action,
    downsample,
    keypoints_path,
    load_sequences,
    pixels_to_normalized,
    positions_3d_path,
    subset,
)
from common.loss import mpjpe
from common.model_poseformer import PoseFormerV2
from common.recipe import LearningRates, Recipe
from common.report import format_report, latex_row, make_report
from common.run_folder import LAST, RunFolder, prepare_folder
from common.run_log import LOG_NAME, WandbRun, read_log, start_wandb
from common.scenes import NewScenes
from common.skeleton import ROOT
from common.train_step import TrainStep, build_optimizer, set_learning_rate, start_at
from common.training import Epoch, Interruption, TrainingState


def main() -> None:
    """Do what the command line asks for."""
    arguments = parse_arguments()
    keep_freed_memory()
    world = start_world(arguments.gpu)
    if arguments.tf32:
        allow_tf32(world.device, quiet=not world.is_main)
    try:
        if arguments.dataset == OWN_FOOTAGE:
            lift_own_footage(arguments, world)
        elif arguments.render:
            render_checkpoint(arguments, world)
        elif arguments.evaluate:
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
    model: nn.Module, windows: WindowGenerator, batch: Tensor, precision: str, noise_std: float
) -> Tensor:
    """Return the mean loss of a batch, a scalar in metres: the function to edit for another loss.

    Args:
        model: the network, in training mode.
        windows: the training data on the device.
        batch: (B,) int64, indices of samples.
        precision: "fp32" or "bf16", of matrix products.
        noise_std: of Gaussian noise on the keypoints, normalised units.
    """
    inputs, targets = windows.gather(batch)  # (B, F, 17, C) normalised; (B, 17, 3) metres
    inputs = with_noise(inputs, noise_std, confidences=windows.confidences)
    with autocast(windows.device, precision):
        predicted = model(inputs).squeeze(1)  # (B, 17, 3)
    return mpjpe(predicted, targets)


def train(arguments: argparse.Namespace, world: World) -> None:
    """Train from the beginning, or go on from a checkpoint."""
    path = checkpoint_to_resume(arguments, world)
    checkpoint = load_checkpoint(path) if path else None
    recipe = training_recipe(arguments, checkpoint, path)
    config = architecture(arguments, recipe, checkpoint, path)
    precision = resolve_precision(recipe.precision, world.device)
    train_set, test_set = load_training_data(arguments, recipe)

    torch.manual_seed(recipe.seed)
    model = build_network(config, world.device, precision)
    pose = average_pose(train_set)
    if recipe.init == "mean_pose":
        start_at(model, pose)
    optimizer = build_optimizer(
        model,
        recipe.learning_rate,
        name=recipe.optimizer,
        beta2=recipe.beta2,
        precision=precision,
    )
    state = TrainingState()
    if checkpoint:
        restore(model, optimizer, state, checkpoint, path, world.is_main)
    windows = training_windows(train_set, config.number_of_frames, recipe, world)
    noise_std = recipe.std * pixels_to_normalized(train_set[0].subject, train_set[0].camera)
    world.share_weights(model)
    rates = LearningRates(recipe, math.ceil(len(windows) / recipe.batch_size))
    batches = world.batches(len(windows), recipe.batch_size)
    network = model if arguments.no_compile else compiled(model, windows, batches[0][0], precision)
    train_step = TrainStep(
        lambda batch: loss_of(network, windows, batch, precision, noise_std),
        optimizer,
        world.device,
        batches=batches,
        average_gradients=world.average_gradients if world.size > 1 else None,
        capture=not arguments.no_cuda_graph and recipe.batch_size >= world.size,
    )
    saved = partial(contents, model, optimizer, state, asdict(recipe), pose)
    settings = asdict(recipe) | asdict(config)
    folder = start_run(arguments, settings, state, saved, world, path)
    folder.describe(model, windows, number_of_frames(test_set), precision)

    with Interruption(world) as interruption, folder:
        for number in range(state.epoch + 1, recipe.epochs + 1):
            began = time.perf_counter()
            model.train()
            epoch = Epoch(windows, state, recipe.seed, recipe.batch_size, world, interruption)
            for step, batch, weight in epoch:
                set_learning_rate(optimizer, rates[step])
                epoch.add(train_step(batch, weight))
            lr = rates.at_end_of(number)
            set_learning_rate(optimizer, lr)  # to be saved; a resume may have left no step to do
            figures = {"epoch": number, "lr": lr, "train_mpjpe_mm": state.mean_loss_mm}
            figures["valid_mpjpe_mm"] = validate(model, test_set, world, precision, interruption)
            state.finish_epoch(figures["valid_mpjpe_mm"])
            figures["samples_per_s"] = epoch.samples_per_s
            figures["seconds"] = time.perf_counter() - began
            folder.keep(**figures)
    folder.finish()


def compiled(
    model: PoseFormerV2, windows: WindowGenerator, batch_size: int, precision: str
) -> nn.Module:
    """Return the network compiled for batches of this size, on a GPU; on a CPU as it is."""
    if windows.device.type == "cpu":
        return model
    samples = torch.zeros(batch_size, dtype=torch.int64, device=windows.device)
    return compile_network(model.train(), windows.gather(samples)[0], precision)


def validate(
    model: PoseFormerV2,
    test_set: list[Sequence2d3d],
    world: World,
    precision: str,
    interruption: Interruption,
) -> float | None:
    """Return the MPJPE on the test subjects in mm, over the actions; None without them."""
    part = test_set[world.rank :: world.size]
    sums = interruption.attempt(
        lambda: evaluate(model, part, world.alone(), precision, all_metrics=False)
    )
    sums.state = world.sum(sums.state)
    return sums.mpjpe_mm() if test_set else None


def checkpoint_to_resume(arguments: argparse.Namespace, world: World) -> Path | None:
    """Return the checkpoint that --resume names; after a restart by torchrun, the last one."""
    if world.restarts and (arguments.checkpoint / LAST).is_file():
        return arguments.checkpoint / LAST
    if arguments.resume:
        return find_checkpoint(arguments.resume, arguments.checkpoint)
    return None


def training_windows(
    train_set: list[Sequence2d3d], number_of_frames: int, recipe: Recipe, world: World
) -> WindowGenerator:
    """Put the training sequences on the device, cut into windows."""
    options = {
        "device": world.device,
        "augment": not recipe.no_data_augmentation,
        "stride": recipe.stride,
        "confidences": confidence_count(recipe.keypoints),
    }
    if any(recipe.scenes.values()) and not recipe.no_data_augmentation:
        return NewScenes(train_set, number_of_frames, **recipe.scenes, **options)
    keypoints, poses = [s.keypoints for s in train_set], [s.poses for s in train_set]
    return WindowGenerator(keypoints, poses, number_of_frames, **options)


def load_training_data(
    arguments: argparse.Namespace, recipe: Recipe
) -> tuple[list[Sequence2d3d], list[Sequence2d3d]]:
    """Return the training and, unless --no-eval, the validation sequences."""
    train_subjects = split_names(recipe.subjects_train)
    test_subjects = [] if arguments.no_eval else split_names(recipe.subjects_test)
    sequences = load_data(arguments, recipe, list(dict.fromkeys(train_subjects + test_subjects)))
    train_set = [s for s in sequences if s.subject in train_subjects]
    test_set = [s for s in sequences if s.subject in test_subjects]
    test_set = noisy(test_set, recipe.std, recipe.seed, confidence_count(recipe.keypoints))
    return subset(train_set, recipe.subset, recipe.seed), test_set


def load_data(
    arguments: argparse.Namespace, recipe: Recipe, subjects: list[str]
) -> list[Sequence2d3d]:
    """Return the sequences of these subjects, as the data flags choose them."""
    data_dir, dataset = arguments.data_dir, arguments.dataset
    sequences = load_sequences(
        positions_3d_path(data_dir, dataset),
        [keypoints_path(data_dir, dataset, n) for n in estimator_names(recipe.keypoints)],
        subjects,
        None if recipe.actions == "*" else split_names(recipe.actions),
    )
    return downsample(sequences, recipe.downsample)


def noisy(
    sequences: list[Sequence2d3d], std_px: float, seed: int, confidences: int = 0
) -> list[Sequence2d3d]:
    """Return test sequences with Gaussian noise of `std_px` pixels, the same for each epoch.

    The last channels, `confidences` of them, are left alone.
    """
    if std_px == 0:
        return sequences
    random = torch.Generator().manual_seed(seed)

    def keypoints(s: Sequence2d3d) -> np.ndarray:
        std = std_px * pixels_to_normalized(s.subject, s.camera)
        return with_noise(torch.from_numpy(s.keypoints), std, random, confidences).numpy()

    return [replace(s, keypoints=keypoints(s)) for s in sequences]


def start_run(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    state: TrainingState,
    contents: Callable[[], dict[str, Any]],
    world: World,
    resumed: Path | None,
) -> RunFolder:
    """Open the checkpoint folder and the Weights & Biases run, whose id state keeps."""
    folder = RunFolder(
        folder=arguments.checkpoint,
        world=world,
        wandb=WandbRun(None),
        state=state,
        contents=contents,
        epochs=settings["epochs"],
        every=arguments.checkpoint_frequency,
        curves=arguments.export_training_curves,
    )
    if not world.is_main:
        return folder
    if not resumed:
        folder.earlier = prepare_folder(arguments.checkpoint, arguments.overwrite)
    settings = vars(arguments) | settings
    folder.wandb = start_wandb(
        arguments.wandb_mode,
        project=arguments.wandb_project,
        name=arguments.wandb_name,
        run_id=arguments.wandb_id or state.wandb_id,
        config={k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()},
    )
    state.wandb_id = folder.wandb.id or state.wandb_id
    if resumed:
        log = folder.folder / LOG_NAME
        if not state.log and log.is_file():  # of a version whose checkpoints do not hold the log
            state.log = [r for r in read_log(log) if r["epoch"] <= state.epoch]
        folder.complete(resumed)
    return folder


# Evaluation and pictures --------------------------------------------------------------------------


def evaluate_checkpoint(arguments: argparse.Namespace, world: World) -> None:
    """Measure a checkpoint on the test subjects and print the report."""
    if arguments.report:
        check_output(arguments.report, (".json",))
    model, recipe, path, checkpoint = load_model(arguments, world)
    sequences = load_data(arguments, recipe, split_names(recipe.subjects_test))
    confidences = confidence_count(recipe.keypoints)
    sequences = noisy(sequences, recipe.std, recipe.seed, confidences)
    precision = resolve_precision(recipe.precision, world.device)
    began = time.perf_counter()
    sums = evaluate(model, sequences, world, precision)
    seconds = time.perf_counter() - began
    if not world.is_main:
        return
    report, pose = make_report(sums), mean_pose(checkpoint)
    average = None if pose is None else mean_pose_mpjpe_mm(pose, sequences)
    report |= {
        "checkpoint": str(path),
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


def render_checkpoint(arguments: argparse.Namespace, world: World) -> None:
    """Draw a checkpoint's prediction of one sequence, and export it if asked to."""
    options = render_options(arguments)
    model, recipe, _, _ = load_model(arguments, world)
    sequence = chosen_sequence(arguments, recipe)
    view = load_cameras()[sequence.subject][sequence.camera]
    chosen = options.frames(len(sequence.poses))
    precision = resolve_precision(recipe.precision, world.device)
    poses = predict(model, [sequence.keypoints], device=world.device, precision=precision)[0]
    poses[:, ROOT] = 0  # a picture shows the pose at the hip's true place

    def in_world_m(poses: np.ndarray) -> np.ndarray:
        in_camera = (poses + sequence.root[:, None])[chosen]
        return camera_to_world(in_camera, view.orientation, view.translation_m)

    estimators = estimator_names(recipe.keypoints)
    coordinates = np.split(
        sequence.keypoints[chosen, :, : 2 * len(estimators)], len(estimators), axis=-1
    )
    pixels = [image_coordinates(c, view.width, view.height) for c in coordinates]
    options.write(
        f"{sequence.subject}_{sequence.action}_{view.id}".replace(" ", "_"),
        dict(zip(estimators, pixels)),
        in_world_m(poses),
        in_world_m(sequence.poses),
        place="world, with the hip at its true place",
        frame_numbers=[frame * recipe.downsample for frame in chosen],
        recorded_fps=FPS,
        fps=FPS / recipe.downsample / options.downsample,
        title=f"{sequence.subject} {sequence.action}, camera {view.id}",
        azimuth=view.azimuth,
        image_size=(view.width, view.height),
    )


def lift_own_footage(arguments: argparse.Namespace, world: World) -> None:
    """Lift sequences without true 3D: print what can be measured, draw and export them."""
    options = render_options(arguments) if arguments.render else None
    model, recipe, _, _ = load_model(arguments, world)
    path = keypoints_path(arguments.data_dir, OWN_FOOTAGE, recipe.keypoints)
    footages = load_footage(path, None if recipe.actions == "*" else split_names(recipe.actions))
    camera = None
    if arguments.viz_camera:
        camera = load_cameras()[arguments.viz_subject][camera_index(arguments.viz_camera)]
    for footage in footages:
        poses = lift_footage(
            footage,
            model,
            resample=not arguments.no_resample,
            causal=arguments.causal,
            smooth_hz=arguments.smooth,
            device=world.device,
            precision=resolve_precision(recipe.precision, world.device),
        )
        if options:
            chosen = options.frames(len(poses))
            in_world, azimuth = stand(poses, footage.fps, arguments.up, camera)
            options.write(
                f"{footage.name}_3d",
                {"Keypoints": footage.keypoints_px[chosen]},
                in_world[chosen],
                place="world, the hip above the origin, the lowest joint on the floor",
                frame_numbers=[footage.first_frame + frame for frame in chosen],
                recorded_fps=footage.fps,
                counts_video=True,
                fps=footage.fps / options.downsample,
                title=footage.name,
                azimuth=azimuth,
                image_size=footage.size,
                part=footage.name if len(footages) > 1 else None,
            )


def chosen_sequence(arguments: argparse.Namespace, recipe: Recipe) -> Sequence2d3d:
    """Return the sequence that --viz-subject, --viz-action and --viz-camera name.

    Raises:
        InputError: if there is none; the message says what there is.
    """
    camera = camera_index(arguments.viz_camera or DEFAULT_CAMERA)
    recipe = replace(recipe, actions=arguments.viz_action)
    takes = load_data(arguments, recipe, [arguments.viz_subject])
    takes = [take for take in takes if take.camera == camera]
    # "Walking" alone is a take's whole name in some subjects' data, beside "Walking 1".
    return min(takes, key=lambda take: take.action != canonical_action(arguments.viz_action))


def load_model(
    arguments: argparse.Namespace, world: World
) -> tuple[PoseFormerV2, Recipe, Path, dict[str, Any]]:
    """Return --evaluate's model on the device, how to evaluate it, its file, what that holds."""
    path = find_checkpoint(arguments.evaluate, arguments.checkpoint)
    checkpoint = load_checkpoint(path)
    recipe = evaluation_recipe(arguments, checkpoint, path)
    config = architecture(arguments, recipe, checkpoint, path)
    precision = resolve_precision(recipe.precision, world.device)
    model = build_network(config, world.device, precision)
    load_into(model, model_state(checkpoint), path)
    return model.eval(), recipe, path, checkpoint


def number_of_frames(sequences: list[Sequence2d3d]) -> int:
    """Return how many frames the sequences have together."""
    return sum(len(sequence.poses) for sequence in sequences)


if __name__ == "__main__":
    run(main)
