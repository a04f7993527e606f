"""The flags of `run_poseformer.py`, every one of them read by somebody."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.console import (
    CHECKPOINT_DIR,
    DATA_DIR,
    ArgumentParser,
    InputError,
    non_negative_int,
    number,
    positive_int,
)
from common.h36m_dataset import SUBJECTS, TEST_SUBJECTS, TRAIN_SUBJECTS, parse_subjects
from common.video import parse_size

# Flags that the checkpoint answers when a run is resumed or evaluated, with the value that they
# have otherwise. Their parser default is None, so that a flag given by the user is told apart.
ARCHITECTURE_DEFAULTS = {
    "number_of_frames": 27,
    "number_of_kept_frames": 3,
    "number_of_kept_coeffs": 3,
    "depth": 4,
    "embed_dim_ratio": 32,
}
RECIPE_DEFAULTS = {
    "batch_size": 16,
    "learning_rate": 5e-4,
    "lr_decay": 0.99,
    "dropout": 0.0,
    "drop_path": 0.0,
    "keypoints": "vitpose",
    "subjects_train": ",".join(TRAIN_SUBJECTS),
    "subjects_test": ",".join(TEST_SUBJECTS),
    "actions": "*",
    "stride": 1,
    "subset": 1.0,
    "downsample": 1,
    "std": 0.0,
    "no_data_augmentation": False,
    "seed": 0,
    "precision": "auto",
}

# Flags without a default that one way of using the script reads, and no other.
EVALUATION_FLAGS = ("by_subject", "latex", "report")
RENDER_FLAGS = (
    "viz_output",
    "viz_export",
    "viz_limit",
    "viz_size",
    "viz_bitrate",
    "viz_no_ground_truth",
    "viz_video",
)
VIDEO_FLAGS = ("viz_size", "viz_bitrate", "viz_no_ground_truth", "viz_video")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; the values that a checkpoint may answer can be None.

    Args:
        argv: the arguments, those of the process by default.

    Raises:
        SystemExit: with status 2 and one line on standard error, for wrong usage.
        InputError: if flags contradict each other.
    """
    parser = ArgumentParser(
        description="Train PoseFormerV2 on one 2D estimator's keypoints, resume, evaluate, render."
    )
    _add_data_flags(parser)
    _add_model_flags(parser)
    _add_training_flags(parser)
    _add_run_flags(parser)
    _add_evaluation_flags(parser)
    _add_render_flags(parser)
    arguments = parser.parse_args(argv)
    _check(arguments)
    return arguments


def fill_defaults(arguments: argparse.Namespace, defaults: dict[str, Any]) -> None:
    """Give every one of these flags that is still None its default."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _add_data_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("-d", "--dataset", default="h36m", metavar="NAME", help="read data_3d_NAME.npz")
    add(
        "-k",
        "--keypoints",
        metavar="NAME",
        help="2D estimator: vitpose, gt, merge_average, any npz's name; a+b+c concatenates, and "
        "concatenate is vitpose+pct+moganet (default: the checkpoint's, else vitpose)",
    )
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    subjects = f"among {', '.join(SUBJECTS)}"
    add(
        "-str",
        "--subjects-train",
        type=_subjects,
        metavar="S1,S5,…",
        help=f"training subjects, {subjects} (default: {','.join(TRAIN_SUBJECTS)})",
    )
    add(
        "-ste",
        "--subjects-test",
        type=_subjects,
        metavar="S9,…",
        help=f"test subjects, {subjects} (default: {','.join(TEST_SUBJECTS)})",
    )
    add(
        "-a",
        "--actions",
        metavar="A,B",
        help="exact action names, * for all; 'Sitting' takes both of its takes, "
        "'Sitting 1' that one (default: *)",
    )
    add(
        "--downsample",
        type=positive_int,
        metavar="N",
        help="keep every N-th frame of the 50 Hz, in training and evaluation (default: 1)",
    )
    add(
        "--subset",
        type=_fraction,
        metavar="PART",
        help="train on this part of each sequence, chosen by the seed (default: 1)",
    )
    add(
        "-std",
        "--std",
        type=_non_negative_float,
        metavar="PX",
        help="add Gaussian noise of this standard deviation to the 2D of training and "
        "evaluation, in pixels (default: 0)",
    )


def _add_model_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group(
        "model", "with --resume and --evaluate the checkpoint says, and a contradiction is an error"
    ).add_argument

    def default(name: str) -> str:
        return f"(default: {ARCHITECTURE_DEFAULTS[name]})"

    add(
        "-frame",
        "--number-of-frames",
        type=positive_int,
        metavar="F",
        help=f"receptive field, odd {default('number_of_frames')}",
    )
    add(
        "-frame-kept",
        "--number-of-kept-frames",
        type=positive_int,
        metavar="f",
        help=f"central frames that enter as they are {default('number_of_kept_frames')}",
    )
    add(
        "-coeff-kept",
        "--number-of-kept-coeffs",
        type=positive_int,
        metavar="n",
        help="lowest DCT coefficients that stand for the whole window "
        f"{default('number_of_kept_coeffs')}",
    )
    add("--depth", type=positive_int, help=f"blocks of each kind {default('depth')}")
    add(
        "--embed-dim-ratio",
        type=positive_int,
        metavar="D",
        help=f"channels a joint {default('embed_dim_ratio')}",
    )


def _add_training_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group(
        "training", "with --resume, all but --epochs and --no-eval come from the checkpoint"
    ).add_argument

    def default(name: str) -> str:
        return f"(default: {RECIPE_DEFAULTS[name]:g})"

    add("-e", "--epochs", type=non_negative_int, default=200, metavar="N", help="in all")
    add(
        "-b",
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"windows a step, over all processes {default('batch_size')}",
    )
    add(
        "-lr",
        "--learning-rate",
        type=_positive_float,
        metavar="LR",
        help=f"of the first epoch {default('learning_rate')}",
    )
    add(
        "-lrd",
        "--lr-decay",
        type=_positive_float,
        metavar="FACTOR",
        help=f"the learning rate is multiplied by it each epoch {default('lr_decay')}",
    )
    add("-drop", "--dropout", type=_rate, metavar="P", help=f"dropout {default('dropout')}")
    add(
        "--drop-path",
        type=_rate,
        metavar="P",
        help=f"drop path of the last block {default('drop_path')}",
    )
    add(
        "-s",
        "--stride",
        type=positive_int,
        metavar="N",
        help=f"frames from one training window to the next {default('stride')}",
    )
    add(
        "-no-da",
        "--no-data-augmentation",
        action="store_true",
        default=None,
        help="do not add mirrored windows in training",
    )
    add("--no-eval", action="store_true", help="do not validate after each epoch")
    add("--seed", type=non_negative_int, help=f"of weights and shuffling {default('seed')}")


def _add_run_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("-g", "--gpu", default="0", metavar="N", help="which GPU; cpu for none")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="of matrix products; auto is bf16 where the processor has it (default: auto)",
    )
    add(
        "-c",
        "--checkpoint",
        type=Path,
        default=CHECKPOINT_DIR,
        metavar="DIR",
        help="folder of best_epoch.bin, last_epoch.bin, epoch_N.bin and log.jsonl",
    )
    add(
        "-cf",
        "--checkpoint-frequency",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="also keep epoch_N.bin every N epochs; 0 for never",
    )
    add("-r", "--resume", metavar="FILE", help="go on from this checkpoint")
    add("--overwrite", action="store_true", help="replace an earlier run in the checkpoint folder")
    add(
        "--export-training-curves",
        action="store_true",
        help="draw training_curves.png into the checkpoint folder after each epoch",
    )
    add("--wandb-name", metavar="NAME", help="name of the Weights & Biases run")
    add("--wandb-id", metavar="ID", help="go on with this Weights & Biases run")
    add("--wandb-project", default="poseformerv2-h36m", metavar="NAME", help="its project")
    add(
        "--wandb-mode",
        choices=("auto", "online", "offline", "disabled"),
        default="auto",
        help="auto is online when you are logged in, else offline",
    )


def _add_evaluation_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("evaluation").add_argument
    add("--evaluate", metavar="FILE", help="evaluate this checkpoint, ours or a published one")
    add("--by-subject", action="store_true", help="also report each subject")
    add("--latex", action="store_true", help="also print the table's row in LaTeX")
    add("--report", type=Path, metavar="FILE.json", help="write all figures to this file")


def _add_render_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("render", "with --evaluate").add_argument
    add("--render", action="store_true", help="draw a prediction instead of the table")
    add("--viz-subject", default="S9", choices=SUBJECTS, metavar="S", help="whose sequence")
    add("--viz-action", default="Walking", metavar="NAME", help='such as "Sitting 1"')
    add("--viz-camera", default="55011271", metavar="ID", help="id of the camera, or 0 to 3")
    add(
        "--viz-output",
        type=Path,
        metavar="FILE",
        help=".mp4 or .gif; .png for a strip of some frames (default: "
        "<subject>_<action>_<camera>.mp4 in the working directory)",
    )
    add("--viz-export", type=Path, metavar="FILE", help="write the poses: .npy, .json or .csv")
    add("--viz-limit", type=positive_int, metavar="N", help="draw N frames at most")
    add("--viz-skip", type=non_negative_int, default=0, metavar="N", help="leave out N frames")
    add(
        "--viz-downsample",
        type=positive_int,
        default=1,
        metavar="N",
        help="draw every N-th frame",
    )
    add("--viz-size", type=parse_size, metavar="WxH", help="in pixels (default: fits the panels)")
    add(
        "--viz-bitrate",
        type=positive_int,
        metavar="KBIT",
        help="average kbit/s of an mp4 (default: constant quality)",
    )
    add("--viz-no-ground-truth", action="store_true", help="leave out the true pose")
    add("--viz-video", type=Path, metavar="FILE", help="draw its frames under the 2D")


def _check(arguments: argparse.Namespace) -> None:
    for name in ("evaluate", "resume"):
        if getattr(arguments, name) == "":
            raise InputError(f"--{name} '': give the checkpoint's file")
    if arguments.resume and arguments.evaluate:
        raise InputError("--resume and --evaluate exclude each other; give one of them")
    if arguments.resume and arguments.overwrite:
        raise InputError("--resume goes on with a run, --overwrite replaces it; give one of them")
    if arguments.render and not arguments.evaluate:
        raise InputError("--render draws a checkpoint's prediction; add --evaluate FILE")
    if not arguments.render:
        refuse_flags(arguments, RENDER_FLAGS, "goes with --render; add that, or leave it out")
    if arguments.render or not arguments.evaluate:
        refuse_flags(arguments, EVALUATION_FLAGS, "goes with --evaluate, without --render")
    if arguments.keypoints is not None and "" in arguments.keypoints.split("+"):
        raise InputError(f"--keypoints '{arguments.keypoints}': an estimator's name is missing")
    if arguments.number_of_frames is not None and arguments.number_of_frames % 2 == 0:
        raise InputError(
            f"--number-of-frames {arguments.number_of_frames}: must be odd, "
            "so that the window has a central frame"
        )


def refuse_flags(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Refuse flags that the user gave and that would not be read.

    Raises:
        InputError: naming the first of them, with `reason`.
    """
    for name in names:
        if getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} {reason}")


def estimator_names(keypoints: str) -> list[str]:
    """Return the estimators that a value of --keypoints stands for, in their order."""
    if keypoints == "concatenate":
        return ["vitpose", "pct", "moganet"]
    return keypoints.split("+")


def _subjects(text: str) -> str:
    """Check and sort "S5,S1"; it stays text, as it is kept in checkpoints."""
    return ",".join(parse_subjects(text))


_positive_float = number(float, lambda x: 0 < x < float("inf"), "a positive number")
_non_negative_float = number(float, lambda x: 0 <= x < float("inf"), "a number from 0")
_fraction = number(float, lambda x: 0 < x <= 1, "a part between 0 and 1")
_rate = number(float, lambda x: 0 <= x < 1, "a rate from 0 to below 1")
