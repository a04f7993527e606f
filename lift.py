"""Estimate 3D poses from 2D keypoints with a trained network; write a film, a picture, pose files.

Your own video, once data/detect_2d.py and data/prepare_2d_custom.py have found its keypoints:
  python lift.py --checkpoint best_epoch.bin -k dance --output dance.mp4 --export dance.bvh
A sequence of Human3.6M, drawn beside its true poses:
  python lift.py --checkpoint best_epoch.bin --subject S9 --action Walking --output walking.mp4
The network as a Python function, also frame by frame: common/footage/lifting.py.
"""

import os

# Threads that wait for each other sleep soon, as in run_poseformer.py; read by PyTorch's import.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from common import h36m_dataset
from common.camera import Camera, camera_index, load_cameras
from common.drawing.films import Film, choose_frames, render_film, save_strip
from common.drawing.pose_files import POSE_SUFFIXES, export_poses
from common.files import console
from common.files.console import InputError, positive_int
from common.files.output import check_distinct, check_output
from common.files.video import VIDEO_SUFFIXES, parse_size
from common.footage.sequences import (
    UPS,
    Footage,
    footage_of_dataset,
    lift_footage,
    load_own_footage,
    place_in_world,
)
from common.h36m_dataset import FPS, keypoints_path
from common.lifters import LIFTERS
from common.motion import DEFAULT_CUTOFF_HZ
from common.training.checkpoint import Checkpoint, find_checkpoint
from common.training.device import PRECISIONS, choose_device, keep_freed_memory, resolve_precision

OWN_FOOTAGE = "custom"  # the dataset of data/prepare_2d_custom.py, which has no true 3D
DEFAULT_SEQUENCE = {"subject": "S9", "action": "Walking", "camera": "55011271"}
# Flags that only one kind of footage, or of output, has a use for.
DATASET_FLAGS = (*DEFAULT_SEQUENCE, "no_ground_truth")
FOOTAGE_FLAGS = ("sequences", "no_resample", "up", "as_camera")
VIDEO_FLAGS = ("size", "bitrate", "video")
USAGE = """
  own footage: lift.py --checkpoint FILE --keypoints NAME [--video FILE] [--output FILE] ...
  the dataset: lift.py --checkpoint FILE --action NAME [--subject S] [--output FILE] ..."""


def main() -> None:
    """Load, lift, print what can be measured without truth, draw and export."""
    args = parse_arguments()
    keep_freed_memory()
    device = choose_device(args.gpu)
    precision = resolve_precision(args.precision, device)
    path = find_checkpoint(args.checkpoint, console.CHECKPOINT_DIR)
    checkpoint = Checkpoint.load(path, args.number_of_frames, args.model)
    own = args.dataset == OWN_FOOTAGE
    footages = own_footage(args, checkpoint) if own else [chosen_sequence(args, checkpoint)]
    outputs = [output_paths(args, f, several=len(footages) > 1) for f in footages]
    check_distinct(chain(*outputs), [args.video] if args.video else [])
    which = args.skip, args.downsample, args.limit
    chosen = [choose_frames(len(footage.inputs), *which) for footage in footages]
    model = checkpoint.build_model(device)
    how = {"causal": args.causal, "device": device, "precision": precision}
    how |= {"resample": not args.no_resample, "smooth_hz": args.smooth}
    try:
        for footage, paths, frames in zip(footages, outputs, chosen):
            write(args, footage, lift_footage(footage, model, **how), frames, paths)
    except torch.OutOfMemoryError as error:
        raise InputError("the GPU's memory is full; choose another one, or -g cpu") from error


def own_footage(args: argparse.Namespace, checkpoint: Checkpoint) -> list[Footage]:
    """Return the sequences of `data_2d_custom_<keypoints>.npz`, or those that are named."""
    if not args.keypoints:
        raise InputError(
            "nothing to lift: name your footage's keypoints with -k, or a sequence of the dataset "
            "with --subject, --action or --camera"
        )
    try:
        path = keypoints_path(args.data_dir, OWN_FOOTAGE, args.keypoints)
    except InputError as error:
        raise InputError(f"{error}; for a sequence of the dataset add --action") from error
    checkpoint.check_channels(2, confidences=0)
    return load_own_footage(path, args.sequences and console.split_names(args.sequences))


def chosen_sequence(args: argparse.Namespace, checkpoint: Checkpoint) -> Footage:
    """Return the dataset's sequence that --subject, --action and --camera name."""
    chosen = {name: getattr(args, name) or default for name, default in DEFAULT_SEQUENCE.items()}
    trained_on = checkpoint.recipe.get("keypoints", "vitpose")
    estimators = h36m_dataset.estimator_names(args.keypoints or trained_on)
    camera, action = camera_index(chosen["camera"]), chosen["action"]
    path_3d = h36m_dataset.positions_3d_path(args.data_dir, args.dataset)
    paths_2d = [keypoints_path(args.data_dir, args.dataset, name) for name in estimators]
    takes = h36m_dataset.load_sequences(path_3d, paths_2d, [chosen["subject"]], [action])
    takes = [take for take in takes if take.camera == camera]
    # "Walking" alone is a take's whole name in some subjects' data, beside "Walking 1".
    take = min(takes, key=lambda take: take.action != h36m_dataset.canonical_action(action))
    checkpoint.check_channels(take.keypoints.shape[-1], take.confidences)
    return footage_of_dataset(take, estimators)


def output_paths(args: argparse.Namespace, footage: Footage, several: bool) -> list[Path]:
    """Return the files of one sequence; where there are several, their names end in its name."""
    named = args.export + ([args.output] if args.output else [])
    if not named:
        return [Path(footage.name + ("_3d.mp4" if args.dataset == OWN_FOOTAGE else ".mp4"))]
    return [p.with_stem(f"{p.stem}_{footage.name}") if several else p for p in named]


def write(
    args: argparse.Namespace, footage: Footage, poses_m: np.ndarray, frames: range, paths: list
) -> None:
    """Draw and export some frames of the poses (frames, 17, 3) of a sequence to these files."""
    placed_m, azimuth, place = place_in_world(poses_m, footage, args.up, args.as_camera)
    film = Film(
        footage.title,
        footage.keypoints_px,
        footage.size,
        azimuth,
        frame_numbers=footage.first_frame + np.arange(len(poses_m)),
        fps=footage.fps / args.downsample,
        predicted_m=placed_m,
        truth_m=None if args.no_ground_truth else footage.truth_m,
    ).at(frames)
    # The numbers of own footage's frames count the video's own frames, whatever its rate.
    recorded_fps = None if args.dataset == OWN_FOOTAGE else footage.fps
    for path in paths:
        if path.suffix.lower() in POSE_SUFFIXES:
            export_poses(path, film.predicted_m, place, footage.fps, film.frame_numbers)
        elif path.suffix.lower() == ".png":
            save_strip(path, film)
        else:
            look = {"size": args.size, "bitrate_kbit": args.bitrate}
            render_film(path, film, **look, video=args.video, recorded_fps=recorded_fps)
        print(f"wrote {path} ({len(frames)} frames)")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `dataset` is "custom" where no sequence of a dataset is named."""
    args = make_parser().parse_args()
    args.export = args.export or []
    if args.dataset is None:
        names_sequence = any(getattr(args, name) for name in DEFAULT_SEQUENCE)
        args.dataset = "h36m" if names_sequence else OWN_FOOTAGE
    if args.dataset == OWN_FOOTAGE:
        _refuse(args, DATASET_FLAGS, "is for a sequence of the dataset, not for own footage")
    else:
        _refuse(args, FOOTAGE_FLAGS, "is for own footage, not for a sequence of the dataset")
    if args.output:
        check_output(args.output, (*VIDEO_SUFFIXES, ".png"))
    for path in args.export:
        check_output(path, POSE_SUFFIXES)
    suffix = args.output.suffix.lower() if args.output else None if args.export else ".mp4"
    if suffix not in VIDEO_SUFFIXES:
        _refuse(args, VIDEO_FLAGS, "is for videos; add --output with a name in .mp4 or .gif")
    if suffix == ".gif" and args.bitrate:
        raise InputError(f"--bitrate is for mp4, not for {args.output}")
    return args


def _refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    for name in names:
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} {reason}")


def make_parser() -> console.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.ArgumentParser(usage=USAGE, description=__doc__.splitlines()[0])
    file, name = {"type": Path, "metavar": "FILE"}, {"metavar": "NAME"}
    number = {"type": positive_int, "metavar": "N"}

    add = parser.add_argument_group("network").add_argument
    checkpoint = "a file of run_poseformer.py, such as best_epoch.bin, or a published checkpoint"
    add("--checkpoint", required=True, metavar="FILE", help=checkpoint)
    model = "which lifter the checkpoint is to be (default: the checkpoint says)"
    add("--model", choices=LIFTERS, help=model)
    frames = "length of its window, for a published checkpoint of other than 27 frames"
    add("-frame", "--number-of-frames", **number, help=frames)
    add("-g", "--gpu", default="0", metavar="N", help="which GPU; cpu for none")
    precision = "of matrix products; auto is bf16 where the processor has it"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)

    add = parser.add_argument_group("keypoints").add_argument
    keypoints = "own footage: the --name that data/prepare_2d_custom.py was given; dataset: the "
    keypoints += "estimator (default: the one that the checkpoint was trained on)"
    add("-k", "--keypoints", **name, help=keypoints)
    folder = "folder of the npz files"
    add("--data-dir", type=Path, default=console.DATA_DIR, metavar="DIR", help=folder)
    add("--causal", action="store_true", help="use past frames only, as a live system must")
    hz = console.Check(float, lambda hz: 0.1 <= hz <= 1000, "a number from 0.1 to 1000")
    smooth = f"remove motion faster than HZ ({DEFAULT_CUTOFF_HZ:g} if no number follows), no delay"
    add("--smooth", type=hz, nargs="?", const=DEFAULT_CUTOFF_HZ, metavar="HZ", help=smooth)

    group = parser.add_argument_group("own footage")
    group.add_argument("--sequences", metavar="A,B", help="only these of the file's sequences")
    rate = f"treat the frames as {FPS} a second, the rate of the training"
    group.add_argument("--no-resample", action="store_true", help=rate)
    add = group.add_mutually_exclusive_group().add_argument
    up = "what is up: level as in the picture, auto by the person's trunk and feet (default: auto)"
    add("--up", choices=UPS, help=up)
    like = "the camera was held as this camera of Human3.6M (of S9, if no subject is named)"
    add("--as-camera", type=parse_camera, metavar="[SUBJECT:]ID", help=like)

    needed = "at least one of -d, --subject, --action, --camera; the others have defaults"
    add = parser.add_argument_group("a sequence of the dataset", needed).add_argument
    default = {flag: f"(default: {value})" for flag, value in DEFAULT_SEQUENCE.items()}
    add("-d", "--dataset", **name, help="read data_3d_NAME.npz (default: h36m)")
    subject = f"whose sequence {default['subject']}"
    add("--subject", choices=h36m_dataset.SUBJECTS, metavar="S", help=subject)
    add("--action", **name, help=f'such as "Sitting 1" {default["action"]}')
    add("--camera", metavar="ID", help=f"id of the camera, or 0 to 3 {default['camera']}")
    add("--no-ground-truth", action="store_true", help="leave out the true pose")

    add = parser.add_argument_group("output").add_argument
    output = ".mp4 or .gif, or .png for a picture of six frames (default without --export: "
    output += "an mp4 with the sequence's name in the working directory)"
    add("--output", **file, help=output)
    export = f"write the poses: {', '.join(POSE_SUFFIXES)}; may be given several times"
    add("--export", action="append", **file, help=export)
    add("--skip", type=console.non_negative_int, default=0, metavar="N", help="leave out N frames")
    add("--downsample", default=1, **number, help="draw and export every N-th frame")
    add("--limit", **number, help="draw and export N frames at most")
    add("--size", type=parse_size, metavar="WxH", help="in pixels (default: fits the panels)")
    bitrate = "average kbit/s of an mp4 (default: constant quality)"
    add("--bitrate", type=positive_int, metavar="KBIT", help=bitrate)
    add("--video", **file, help="the recording, to be shown under the 2D keypoints")
    return parser


def parse_camera(text: str) -> Camera:
    """Return the camera that "58860488" or "S11:58860488" names."""
    subject, _, camera = text.rpartition(":")
    subject = h36m_dataset.parse_subjects(subject or DEFAULT_SEQUENCE["subject"])[0]
    return load_cameras()[subject][camera_index(camera)]


if __name__ == "__main__":
    console.run_script(main)
