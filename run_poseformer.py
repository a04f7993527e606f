"""Train PoseFormerV2 on a 2D estimator's keypoints; resume; evaluate; render.

python run_poseformer.py --keypoints vitpose -c checkpoint/vitpose
python run_poseformer.py --keypoints vitpose -c checkpoint/vitpose --resume last_epoch.bin
python run_poseformer.py --keypoints vitpose --evaluate checkpoint/vitpose/best_epoch.bin
"""

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.arguments import (
    RECIPE_DEFAULTS,
    VIDEO_FLAGS,
    estimator_names,
    fill_defaults,
    parse_arguments,
    refuse_flags,
)
from common.camera import camera_to_world, image_coordinates
from common.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_into,
    model_state,
    save_checkpoint,
)
from common.console import InputError, run, split_names
from common.distributed import World, start_world
from common.epoch import TrainingState, train_epoch
from common.evaluation import evaluate, mean_pose_mpjpe_mm, predict
from common.export import POSE_SUFFIXES, export_poses
from common.files import atomic_output, check_output
from common.generators import WindowGenerator
from common.h36m_dataset import (
    FPS,
    Sequence2d3d,
    add_noise,
    camera_index,
    canonical_action,
    downsample,
    keypoints_path,
    load_cameras,
    load_sequences,
    mean_pose,
    pixels_to_normalized,
    positions_3d_path,
    subset,
)
from common.interruption import Interrupted, Interruption
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.report import format_report, latex_row
from common.run_log import LOG_NAME, RunLog, start_wandb
from common.settings import (
    checkpoint_contents,
    restore,
    settle_architecture,
    settle_recipe,
    stored_recipe,
)
from common.training import (
    TrainStep,
    build_optimizer,
    resolve_precision,
    set_learning_rate,
)
from common.video import VIDEO_SUFFIXES
from common.visualization import (
    render_prediction,
    save_prediction_strip,
)

BEST, LAST, CURVES = "best_epoch.bin", "last_epoch.bin", "training_curves.png"


def main() -> None:
    """Do what the command line asks for."""
    arguments = parse_arguments()
    world = start_world(arguments.gpu)
    try:
        if arguments.render:
            render_checkpoint(arguments, world)
        elif arguments.evaluate:
            evaluate_checkpoint(arguments, world)
        else:
            train(arguments, world)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError("out of memory; choose a smaller --batch-size") from error
        raise
    finally:
        world.finish()


def train(arguments: argparse.Namespace, world: World) -> None:
    """Train from the beginning, or go on from a checkpoint."""
    path = checkpoint_to_resume(arguments, world)
    checkpoint = load_checkpoint(path) if path else None
    settle_recipe(arguments, checkpoint, path)
    config = settle_architecture(arguments, checkpoint, path)
    train_set, test_set = load_training_data(arguments)
    precision = resolve_precision(arguments.precision, world.device)

    torch.manual_seed(arguments.seed)
    model = PoseFormerV2(config).to(world.device)
    optimizer = build_optimizer(model, arguments.learning_rate)
    state = TrainingState()
    if checkpoint:
        restore(model, optimizer, state, checkpoint, path, world)
    elif world.is_main:
        prepare_folder(arguments.checkpoint, arguments.overwrite)
    windows = WindowGenerator(
        [sequence.keypoints for sequence in train_set],
        [sequence.poses for sequence in train_set],
        config.number_of_frames,
        device=world.device,
        augment=not arguments.no_data_augmentation,
        stride=arguments.stride,
    )
    noise_std = arguments.std * pixels_to_normalized(train_set[0].subject, train_set[0].camera)
    train_step = TrainStep(
        world.wrap(model), optimizer, windows, precision=precision, noise_std=noise_std
    )
    average_pose = torch.from_numpy(mean_pose(train_set))
    log = start_log(arguments, config, state) if world.is_main else None
    if world.is_main:
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{parameters:,} parameters, {len(windows):,} training samples, "
            f"{number_of_frames(test_set):,} validation frames, {world.device}, {precision}"
        )
        if state.epoch >= arguments.epochs:
            print(f"{state.epoch} epochs are done; a higher --epochs goes on")

    def save(name: str) -> None:
        if world.is_main:
            contents = checkpoint_contents(model, optimizer, state, arguments, average_pose)
            save_checkpoint(arguments.checkpoint / name, contents)

    with Interruption(world) as interruption:
        try:
            for epoch in range(state.epoch + 1, arguments.epochs + 1):
                began = time.perf_counter()
                lr = arguments.learning_rate * arguments.lr_decay ** (epoch - 1)
                set_learning_rate(optimizer, lr)
                samples_per_s = train_epoch(
                    train_step,
                    state,
                    seed=arguments.seed,
                    batch_size=arguments.batch_size,
                    world=world,
                    interruption=interruption,
                )
                train_mpjpe = state.mean_loss_mm
                valid_mpjpe = None
                if test_set:
                    with interruption.immediately():
                        sums = evaluate(model, test_set, world, precision, all_metrics=False)
                        valid_mpjpe = sums.mpjpe_mm()
                is_best = state.finish_epoch(valid_mpjpe)
                if log:
                    record = {
                        "epoch": epoch,
                        "lr": lr,
                        "train_mpjpe_mm": train_mpjpe,
                        "valid_mpjpe_mm": valid_mpjpe,
                        "samples_per_s": samples_per_s,
                        "seconds": time.perf_counter() - began,
                    }
                    log.add_epoch(record)
                    print_epoch(record, arguments.epochs, is_best)
                    if arguments.export_training_curves:
                        from common.run_log import save_training_curves

                        save_training_curves(log.path, arguments.checkpoint / CURVES)
                # After the log: a line without its checkpoint is dropped when the run is resumed.
                save(LAST)
                if is_best:
                    save(BEST)
                if arguments.checkpoint_frequency and epoch % arguments.checkpoint_frequency == 0:
                    save(f"epoch_{epoch}.bin")
        except Interrupted as reason:
            save(LAST)
            if log:
                log.close(exit_code=reason.exit_status)
                print(how_to_resume(state), file=sys.stderr)
            raise SystemExit(reason.exit_status) from None
    if log:
        log.finish([p for p in (arguments.checkpoint / n for n in (BEST, LAST)) if p.is_file()])


def checkpoint_to_resume(arguments: argparse.Namespace, world: World) -> Path | None:
    """Return the checkpoint that --resume names; after a restart by torchrun, the last one."""
    if world.restarts and (arguments.checkpoint / LAST).is_file():
        return arguments.checkpoint / LAST
    if arguments.resume:
        return find_checkpoint(arguments.resume, arguments.checkpoint)
    return None


def load_training_data(
    arguments: argparse.Namespace,
) -> tuple[list[Sequence2d3d], list[Sequence2d3d]]:
    """Return the training and, unless --no-eval, the validation sequences."""
    train_subjects = split_names(arguments.subjects_train)
    test_subjects = [] if arguments.no_eval else split_names(arguments.subjects_test)
    sequences = load_data(arguments, list(dict.fromkeys(train_subjects + test_subjects)))
    train_set = [s for s in sequences if s.subject in train_subjects]
    test_set = [s for s in sequences if s.subject in test_subjects]
    train_set = subset(train_set, arguments.subset, arguments.seed)
    return train_set, add_noise(test_set, arguments.std, arguments.seed)


def load_data(arguments: argparse.Namespace, subjects: list[str]) -> list[Sequence2d3d]:
    """Return the sequences of these subjects, as the data flags choose them."""
    data_dir, dataset = arguments.data_dir, arguments.dataset
    sequences = load_sequences(
        positions_3d_path(data_dir, dataset),
        [keypoints_path(data_dir, dataset, n) for n in estimator_names(arguments.keypoints)],
        subjects,
        None if arguments.actions == "*" else split_names(arguments.actions),
    )
    return downsample(sequences, arguments.downsample)


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


def start_log(
    arguments: argparse.Namespace, config: PoseFormerConfig, state: TrainingState
) -> RunLog:
    """Open log.jsonl and the Weights & Biases run, whose id is kept in the state."""
    settings = {k: v if isinstance(v, int | float) else str(v) for k, v in vars(arguments).items()}
    wandb_run = start_wandb(
        arguments.wandb_mode,
        project=arguments.wandb_project,
        name=arguments.wandb_name,
        run_id=arguments.wandb_id or state.wandb_id,
        config=settings | asdict(config),
    )
    if wandb_run is not None:
        state.wandb_id = wandb_run.id
    return RunLog(arguments.checkpoint, state.epoch, wandb_run)


def evaluate_checkpoint(arguments: argparse.Namespace, world: World) -> None:
    """Measure a checkpoint on the test subjects and print the report."""
    if arguments.report:
        check_output(arguments.report, (".json",))
    model, path, checkpoint = load_model(arguments, world)
    sequences = load_data(arguments, split_names(arguments.subjects_test))
    sequences = add_noise(sequences, arguments.std, arguments.seed)
    precision = resolve_precision(arguments.precision, world.device)
    began = time.perf_counter()
    sums = evaluate(model, sequences, world, precision)
    seconds = time.perf_counter() - began
    if not world.is_main:
        return
    report = sums.report()
    report |= {
        "checkpoint": str(path),
        "keypoints": arguments.keypoints,
        "precision": precision,
        "frames": number_of_frames(sequences),
        "seconds": seconds,
        "frames_per_s": number_of_frames(sequences) / seconds,
        "mean_pose_mpjpe_mm": mean_pose_mpjpe_mm(checkpoint, sequences),
    }
    if report["mean_pose_mpjpe_mm"] is not None:
        print(f"MPJPE of the training data's mean pose: {report['mean_pose_mpjpe_mm']:.2f} mm")
    if arguments.latex:
        print(latex_row(report, arguments.keypoints))
    print(format_report(report, by_subject=arguments.by_subject))
    if arguments.report:
        with atomic_output(arguments.report) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def render_checkpoint(arguments: argparse.Namespace, world: World) -> None:
    """Draw a checkpoint's prediction of one sequence, and export it if asked to."""
    check_render_outputs(arguments)
    model, path, _ = load_model(arguments, world)
    sequence = chosen_sequence(arguments)
    view = load_cameras()[sequence.subject][sequence.camera]
    name = f"{sequence.subject}_{sequence.action}_{view.id}"
    output = arguments.viz_output or Path(f"{name.replace(' ', '_')}.mp4")
    chosen = chosen_frames(arguments, len(sequence.poses))
    frames = [frame * arguments.downsample for frame in chosen]
    precision = resolve_precision(arguments.precision, world.device)
    poses = predict(model, [sequence.keypoints], device=world.device, precision=precision)[0]

    def in_world_m(poses: np.ndarray) -> np.ndarray:
        in_camera = (poses + sequence.root[:, None])[chosen]
        return camera_to_world(in_camera, view.orientation, view.translation_m)

    predicted, truth = in_world_m(poses), in_world_m(sequence.poses)
    coordinates = np.split(sequence.keypoints[chosen], sequence.keypoints.shape[-1] // 2, axis=-1)
    pixels = [image_coordinates(c, view.width, view.height) for c in coordinates]
    look = {"azimuth": view.azimuth, "image_size": (view.width, view.height)}
    if arguments.viz_export:
        place = "world, with the hip at its true place"
        export_poses(arguments.viz_export, predicted, place, FPS, frames)
        print(f"wrote {arguments.viz_export}")
    if output.suffix.lower() == ".png":
        save_prediction_strip(output, pixels[0], predicted, truth, frame_numbers=frames, **look)
    else:
        render_prediction(
            output,
            dict(zip(estimator_names(arguments.keypoints), pixels)),
            predicted,
            None if arguments.viz_no_ground_truth else truth,
            title=f"{sequence.subject} {sequence.action}, camera {view.id}",
            fps=FPS / arguments.downsample / arguments.viz_downsample,
            size=arguments.viz_size,
            bitrate_kbit=arguments.viz_bitrate,
            frame_numbers=frames,
            video=arguments.viz_video,
            **look,
        )
    print(f"wrote {output} ({len(frames)} frames of {path.name}'s prediction)")


def check_render_outputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, before the work is done.

    Raises:
        InputError: if an ending or a folder is wrong, or a flag of videos is given for a strip.
    """
    if arguments.viz_output:
        check_output(arguments.viz_output, (*VIDEO_SUFFIXES, ".png"))
        if arguments.viz_output.suffix.lower() == ".png":
            refuse_flags(arguments, VIDEO_FLAGS, f"is for videos, not for {arguments.viz_output}")
    if arguments.viz_export:
        check_output(arguments.viz_export, POSE_SUFFIXES)


def chosen_sequence(arguments: argparse.Namespace) -> Sequence2d3d:
    """Return the sequence that --viz-subject, --viz-action and --viz-camera name.

    Raises:
        InputError: if there is none; the message says what there is.
    """
    camera = camera_index(arguments.viz_camera)
    arguments.actions = arguments.viz_action
    takes = load_data(arguments, [arguments.viz_subject])
    takes = [take for take in takes if take.camera == camera]
    # "Walking" alone is a take's whole name in some subjects' data, beside "Walking 1".
    return min(takes, key=lambda take: take.action != canonical_action(arguments.viz_action))


def chosen_frames(arguments: argparse.Namespace, length: int) -> range:
    """Return the frames that --viz-skip, --viz-downsample and --viz-limit leave.

    Raises:
        InputError: if none is left.
    """
    frames = range(arguments.viz_skip, length, arguments.viz_downsample)[: arguments.viz_limit]
    if not frames:
        raise InputError(
            f"--viz-skip {arguments.viz_skip}: the sequence has {length} frames, so none is left"
        )
    return frames


def load_model(
    arguments: argparse.Namespace, world: World
) -> tuple[PoseFormerV2, Path, dict[str, Any]]:
    """Return the model of --evaluate on the device, its file, and what that file holds."""
    path = find_checkpoint(arguments.evaluate, arguments.checkpoint)
    checkpoint = load_checkpoint(path)
    # Noise, frame rate and test subjects are the evaluation's own; the estimator is the training's
    # unless another is given.
    if arguments.keypoints is None:
        arguments.keypoints = stored_recipe(checkpoint).get("keypoints")
    fill_defaults(arguments, RECIPE_DEFAULTS)
    model = PoseFormerV2(settle_architecture(arguments, checkpoint, path))
    load_into(model, model_state(checkpoint), path)
    return model.to(world.device).eval(), path, checkpoint


def number_of_frames(sequences: list[Sequence2d3d]) -> int:
    """Return how many frames the sequences have together."""
    return sum(len(sequence.poses) for sequence in sequences)


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


if __name__ == "__main__":
    run(main)
