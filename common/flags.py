"""The flags of `run_poseformer.py`: their names, kinds and defaults."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.architecture import ARCHITECTURE
from common.console import (
    CHECKPOINT_DIR,
    DATA_DIR,
    ArgumentParser,
    Kind,
    non_negative_int,
    positive_int,
)
from common.device import PRECISIONS
from common.footage import UPS
from common.h36m_dataset import FPS, SUBJECTS, parse_subjects
from common.model_poseformer import PoseFormerConfig
from common.motion import DEFAULT_CUTOFF_HZ
from common.recipe import INITS, OPTIMIZERS, RECIPES, SCHEDULES, Recipe
from common.video import parse_size

KINDS = ARCHITECTURE | {f.name: f.metadata["kind"] for f in fields(Recipe)}
NETWORK_FLAGS = tuple(n for n in ARCHITECTURE if "drop" not in n and "chans" not in n)

OWN_FOOTAGE = "custom"  # the dataset of data/prepare_2d_custom.py, which has no true 3D
DEFAULT_CAMERA = "55011271"


def make_parser() -> ArgumentParser:
    """Return the parser; what a checkpoint may answer has no default there."""
    parser = ArgumentParser(
        description="Train PoseFormerV2 on one 2D estimator's keypoints, resume, evaluate, render."
    )
    _add_data_flags(parser)
    _add_model_flags(parser)
    _add_training_flags(parser)
    _add_run_flags(parser)
    _add_evaluation_flags(parser)
    _add_render_flags(parser)
    _add_footage_flags(parser)
    return parser


def _adder(group: Any, defaults: Any) -> Callable[..., None]:
    """Return a function that adds a flag which a checkpoint may answer: its default, its kind."""

    def add(*names: str, help: str, **settings: Any) -> None:
        name = names[-1].removeprefix("--").replace("-", "_")
        default = getattr(defaults, name)
        told = f"{default:g}" if isinstance(default, float) else default
        if default is not False:
            help += f" (default: {told})"
        if not settings.keys() & {"action", "choices", "type"}:
            settings["type"] = KINDS[name]
        group.add_argument(*names, help=help, default=None, **settings)

    return add


def _add_data_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    add, keep = group.add_argument, _adder(group, Recipe())
    add("-d", "--dataset", default="h36m", metavar="NAME", help="read data_3d_NAME.npz")
    add(
        "-k",
        "--keypoints",
        metavar="NAME",
        help="2D estimator: vitpose, gt, merge_average, any npz's name, ending in _w_conf "
        "to give the network confidences too; a+b+c concatenates, and concatenate is"
        " vitpose+pct+moganet (default: the checkpoint's, else vitpose)",
    )
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    among = f"among {', '.join(SUBJECTS)}"
    subjects = {"type": _subjects, "metavar": "S1,S5,…"}
    keep("-str", "--subjects-train", **subjects, help=f"training subjects, {among}")
    keep("-ste", "--subjects-test", **subjects, help=f"test subjects, {among}")
    keep(
        "-a",
        "--actions",
        metavar="A,B",
        help="exact action names, * for all; 'Sitting' takes both of its takes, 'Sitting 1' that "
        "one",
    )
    rate = "keep every N-th frame of the 50 Hz, in training and evaluation"
    keep("--downsample", metavar="N", help=rate)
    part = "train on this part of each sequence, chosen by the seed"
    keep("--subset", metavar="PART", help=part)
    keep(
        "-std",
        "--std",
        metavar="PX",
        help="add Gaussian noise of this standard deviation to the 2D of training and "
        "evaluation, in pixels",
    )


def _add_model_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model", "with --resume and --evaluate the checkpoint says, and a contradiction is an error"
    )
    keep = _adder(group, PoseFormerConfig())
    keep("-frame", "--number-of-frames", metavar="F", help="receptive field, odd")
    kept = "central frames that enter as they are"
    keep("-frame-kept", "--number-of-kept-frames", metavar="f", help=kept)
    kept = "lowest DCT coefficients that stand for the whole window"
    keep("-coeff-kept", "--number-of-kept-coeffs", metavar="n", help=kept)
    keep("--depth", help="blocks of each kind")
    keep("--embed-dim-ratio", metavar="D", help="channels a joint")


def _add_training_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "training", "with --resume, all but --no-eval comes from the checkpoint"
    )
    add, keep = group.add_argument, _adder(group, Recipe())
    named = "what the flags below are where they are not given; their help shows 'default'"
    keep("--recipe", choices=tuple(RECIPES), help=named)
    in_all = "in all; the learning rate falls over them"
    keep("-e", "--epochs", metavar="N", help=in_all)
    size = "windows a step, over all processes"
    keep("-b", "--batch-size", metavar="N", help=size)
    keep("-lr", "--learning-rate", metavar="LR", help="the highest")
    falls = "how the learning rate falls: to zero, or published: by --lr-decay after each epoch"
    keep("--schedule", choices=SCHEDULES, help=falls)
    rises = "steps over which the learning rate rises at first, or, below 1, part of an epoch"
    keep("--warmup", metavar="N", help=rises)
    decay = "the published schedule multiplies the learning rate by it after each epoch"
    keep("-lrd", "--lr-decay", metavar="FACTOR", help=decay)
    moved = "of the blocks' matrices; all other weights are moved by AdamW"
    keep("--optimizer", choices=OPTIMIZERS, help=moved)
    averages = "how long AdamW averages the squares of gradients: 1 / (1 - BETA) steps"
    keep("--beta2", metavar="BETA", help=averages)
    first = "what a new network answers: noise, as published, or the training data's mean pose"
    keep("--init", choices=INITS, help=first)
    keep("-drop", "--dropout", metavar="P", help="dropout")
    keep("--drop-path", metavar="P", help="drop path of the last block")
    stride = "frames from one training window to the next"
    keep("-s", "--stride", metavar="N", help=stride)
    turned = "turn each training window's motion by up to this angle, and project it again"
    keep("--turn", metavar="DEGREES", help=turned)
    resized = "resize the body of each training window by up to this part"
    keep("--resize", metavar="PART", help=resized)
    exchanged = (
        "probability that a training window's legs move as in another window, and that an arm does"
    )
    keep("--exchange-limbs", metavar="P", help=exchanged)
    plain = "train on the windows as they are: neither mirrored nor turned, resized, exchanged"
    keep("-no-da", "--no-data-augmentation", action="store_true", help=plain)
    add("--no-eval", action="store_true", help="do not validate after each epoch")
    keep("--seed", help="of weights and shuffling")
    precision = "of matrix products; auto is bf16 where the processor has it"
    keep("--precision", choices=PRECISIONS, help=precision)


def _add_run_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("-g", "--gpu", default="0", metavar="N", help="which GPU; cpu for none")
    tf32 = "let a GPU round fp32 to 11 bits in products (2D by about half a pixel), faster"
    add("--tf32", action="store_true", help=tf32)
    add("--no-compile", action="store_true", help="on a GPU, train without torch.compile")
    add("--no-cuda-graph", action="store_true", help="on a GPU, train without CUDA graphs")
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
    camera = f"id of the camera, or 0 to 3 (default: {DEFAULT_CAMERA})"
    add("--viz-camera", metavar="ID", help=camera)
    add(
        "--viz-output",
        type=Path,
        metavar="FILE",
        help=".mp4 or .gif; .png for a strip of some frames (default: "
        "<subject>_<action>_<camera>.mp4 in the working directory)",
    )
    add(
        "--viz-export",
        type=Path,
        metavar="FILE",
        help="write the poses: .npy, .npz, .json, .csv, .trc or .bvh",
    )
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


def _add_footage_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group(
        "own footage",
        f"with -d {OWN_FOOTAGE} -k NAME --evaluate FILE, for data/prepare_2d_custom.py's files; "
        "-a chooses sequences",
    ).add_argument
    add("--causal", action="store_true", help="use past frames only")
    add(
        "--no-resample",
        action="store_true",
        help=f"treat the frames as {FPS} a second, the rate of the training",
    )
    add(
        "--smooth",
        type=Kind(float, lambda hz: 0.1 <= hz <= 1000, "a number from 0.1 to 1000"),
        nargs="?",
        const=DEFAULT_CUTOFF_HZ,
        metavar="HZ",
        help=f"take out motion faster than this, without a delay ({DEFAULT_CUTOFF_HZ:g} Hz if no "
        "number follows)",
    )
    add(
        "--up",
        choices=UPS,
        help="what is up: level as the picture, auto by the person's trunk and feet; --viz-camera "
        "and --viz-subject: as in that camera (default: auto)",
    )


def _subjects(text: str) -> str:
    """Check and sort "S5,S1"; it stays text, as it is kept in checkpoints."""
    return ",".join(parse_subjects(text))
