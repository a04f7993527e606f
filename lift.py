"""Estimate 3D poses from 2D keypoints with a trained network; write a film, a picture, pose files.

Your own video, alone or with the keypoints that another program found in it:
  python lift.py dance.mp4 --export dance.bvh
  python lift.py dance.mp4 --keypoints results.json --checkpoint best_epoch.bin --output dance.html
What data/prepare_2d_custom.py made of it, data_2d_custom_dance.npz:
  python lift.py --checkpoint best_epoch.bin -k dance --output dance_3d.mp4
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
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import torch

from common import h36m_dataset
from common.camera import Camera, camera_index, load_cameras
from common.drawing.films import Film, choose_frames, render_film, save_strip, together
from common.drawing.pose_files import POSE_SUFFIXES, export_poses
from common.drawing.viewer import write_viewer
from common.files import console
from common.files.console import InputError, positive_int
from common.files.npz import FPS_RANGE
from common.files.output import check_distinct, check_output
from common.files.video import VIDEO_SUFFIXES, parse_picture_size, parse_size
from common.footage.detection import INSTALL
from common.footage.one_command import prepare_recording
from common.footage.sequences import (
    UPS,
    Footage,
    footage_of_dataset,
    lift_footage,
    load_own_footage,
    place_together,
    through_the_room,
)
from common.footage.trajectory import DEFAULT_FOV_DEG, focal_length_px
from common.h36m_dataset import FPS, keypoints_path
from common.lifters import LIFTERS
from common.motion import DEFAULT_CUTOFF_HZ
from common.training.checkpoint import Checkpoint, find_checkpoint
from common.training.device import PRECISIONS, choose_device, keep_freed_memory, resolve_precision

OWN_FOOTAGE = "custom"  # the dataset of data/prepare_2d_custom.py, which has no true 3D
FOOTAGE_CHECKPOINT = "footage.bin"  # in checkpoint/; `make footage-checkpoint` makes it
DEFAULT_SEQUENCE = {"subject": "S9", "action": "Walking", "camera": "55011271"}
# Flags that only one kind of footage, or of output, has a use for.
DATASET_FLAGS = (*DEFAULT_SEQUENCE, "no_ground_truth")
FOOTAGE_FLAGS = ("recording", "sequences", "person", "fps", "no_resample", "up", "as_camera")
FOOTAGE_FLAGS += ("focal", "fov", "in_place")
FILM_FLAGS = ("size", "bitrate", "video")
VIEWER_SUFFIX = ".html"
USAGE = """
  a video:     lift.py VIDEO [--keypoints FILE] [--checkpoint FILE] [--output FILE] ...
  own footage: lift.py --keypoints FILE|NAME [--checkpoint FILE] [--video FILE] [--output FILE] ...
  the dataset: lift.py --action NAME [--subject S] [--checkpoint FILE] [--output FILE] ..."""


def main() -> None:
    """Load, lift, print what can be measured without truth, draw and export."""
    args = parse_arguments()
    keep_freed_memory()
    device = choose_device(args.gpu)
    precision = resolve_precision(args.precision, device)
    checkpoint = load_checkpoint(args)
    own = args.dataset == OWN_FOOTAGE
    footages = own_footage(args, checkpoint) if own else [chosen_sequence(args, checkpoint)]
    if args.focal or args.fov:
        focals = [args.focal or focal_length_px(f.size, args.fov) for f in footages]
        footages = [replace(f, focal_px=px) for f, px in zip(footages, focals)]
    videos = [list(people) for _, people in groupby(footages, key=lambda f: f.video)]
    chosen = [choose(args, people) for people in videos]
    footages = [footage for people, _ in chosen for footage in people]
    exports = {f.name: named(args.export, f.name, len(footages) > 1) for f in footages}
    films = [film_paths(args, people, len(videos) > 1) for people, _ in chosen]
    check_distinct(chain(*exports.values(), *films), args.inputs)
    model = checkpoint.build_model(device)
    how = {"causal": args.causal, "device": device, "precision": precision}
    how |= {"resample": not args.no_resample, "smooth_hz": args.smooth}
    drawn = []
    try:
        poses = {footage.name: lift_footage(footage, model, **how) for footage in footages}
    except torch.OutOfMemoryError as error:
        raise InputError("the GPU's memory is full; choose another one, or -g cpu") from error
    for (people, numbers), paths in zip(chosen, films):
        placed = place(args, people, [poses[footage.name] for footage in people])
        drawn += write(args, people, placed, numbers, exports, paths)
    if is_viewer(args.output):
        write_viewer(args.output, drawn, footages[0].fps, args.video, footages[0].even_times)
        print(f"wrote {args.output} ({len(drawn)} sequence{'s' * (len(drawn) > 1)})")


def load_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Load the checkpoint that is named, or the repository's own."""
    if args.checkpoint:
        path = find_checkpoint(args.checkpoint)
        return Checkpoint.load(path, args.number_of_frames, args.model)
    try:
        return Checkpoint.load(console.CHECKPOINT_DIR / FOOTAGE_CHECKPOINT, model=args.model)
    except InputError as error:
        again = "bring it back with: git checkout checkpoint/; or make it: make footage-checkpoint"
        raise InputError(f"{error}; {again}") from error


def own_footage(args: argparse.Namespace, checkpoint: Checkpoint) -> list[Footage]:
    """Return the sequences of a video, or of `data_2d_custom_<keypoints>.npz`; or those named."""
    checkpoint.check_channels(2, confidences=0)
    which = [args.sequences and console.split_names(args.sequences)]
    which += [args.person and console.split_names(args.person)]
    if args.recording or args.keypoints_file:
        path = prepare_recording(
            args.video,
            keypoints=args.keypoints_file,
            estimator=args.estimator,
            size=args.picture_size,
            fps=args.fps,
            data_dir=args.data_dir,
        )
        return load_own_footage(path, *which)
    if not args.keypoints:
        raise InputError(
            "nothing to lift: give a video, or name your footage's keypoints with -k, or a "
            "sequence of the dataset with --subject, --action or --camera"
        )
    try:
        path = keypoints_path(args.data_dir, OWN_FOOTAGE, args.keypoints)
    except InputError as error:
        raise InputError(f"{error}; for a sequence of the dataset add --action") from error
    return load_own_footage(path, *which)


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


def choose(args: argparse.Namespace, people: Sequence[Footage]) -> tuple[list[Footage], np.ndarray]:
    """Return who of a video's people is in the frames that are drawn, and these frames' numbers."""
    first = min(footage.first_frame for footage in people)
    end = max(footage.first_frame + len(footage.inputs) for footage in people)
    numbers = first + np.array(choose_frames(end - first, args.skip, args.downsample, args.limit))
    there = [footage for footage in people if len(footage.rows(numbers))]
    if not there:
        raise InputError(f"--skip {args.skip}: nobody is in the frames that are left")
    return there, numbers


def named(paths: Sequence[Path], name: str, several: bool) -> list[Path]:
    """Return the paths, with a name at their ends if there are several of that kind."""
    return [p.with_stem(f"{p.stem}_{name}") if several else p for p in paths]


def film_paths(args: argparse.Namespace, people: Sequence[Footage], several: bool) -> list[Path]:
    """Return the file of a video's film or picture, if there is to be one."""
    name = people[0].name if len(people) == 1 else people[0].video
    if args.film:
        return [Path(name + ("_3d.mp4" if args.dataset == OWN_FOOTAGE else ".mp4"))]
    return named([args.output] if args.output and not is_viewer(args.output) else [], name, several)


def place(
    args: argparse.Namespace, people: Sequence[Footage], poses_m: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], float, str]:
    """Return what `place_together` says of the poses of a video's people."""
    if args.dataset == OWN_FOOTAGE and not args.in_place:
        poses_m = [through_the_room(p, footage) for p, footage in zip(poses_m, people)]
    return place_together(poses_m, people, args.up, args.as_camera)


def write(
    args: argparse.Namespace,
    people: Sequence[Footage],
    placed: tuple[list[np.ndarray], float, str],
    numbers: np.ndarray,
    exports: dict[str, list[Path]],
    paths: list[Path],
) -> list[Film]:
    """Export the poses of each of a video's people, as `place` gives them, and draw all of them.

    `numbers` are those of the frames, `exports` {a sequence's name: its pose files}, `paths` what
    shows all people together.

    Returns:
        A film of each.
    """
    films, (placed_m, azimuth, frame_of_reference) = [], placed
    for footage, poses_m in zip(people, placed_m):
        film = Film(
            footage.title,
            footage.keypoints_px,
            footage.size,
            azimuth,
            frame_numbers=footage.first_frame + np.arange(len(poses_m)),
            fps=footage.fps / args.downsample,
            predicted_m=poses_m,
            truth_m=None if args.no_ground_truth else footage.truth_m,
            people=[footage.person],
        ).at(footage.rows(numbers))
        films.append(film)
        for path in exports[footage.name]:
            where = film.predicted_m, frame_of_reference
            export_poses(path, *where, footage.fps, film.frame_numbers)
            print(f"wrote {path} ({len(film.frame_numbers)} frames)")
    scene = films[0] if len(films) == 1 else together(films, people[0].video, numbers)
    for path in paths:
        if path.suffix.lower() == ".png":
            save_strip(path, scene)
        else:
            look = {"size": args.size, "bitrate_kbit": args.bitrate, "video": args.video}
            # The numbers of own footage's frames count the video's own frames, whatever its rate.
            look["recorded_fps"] = None if args.dataset == OWN_FOOTAGE else people[0].fps
            look["even_fps"] = people[0].fps if people[0].even_times else None
            render_film(path, scene, **look)
        print(f"wrote {path} ({len(scene.frame_numbers)} frames)")
    return films


def is_viewer(output: Path | None) -> bool:
    """Tell whether the output is a page that can be turned, not a film or a picture."""
    return output is not None and output.suffix.lower() == VIEWER_SUFFIX


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `dataset` is "custom" where no sequence of a dataset is named."""
    args = make_parser().parse_args()
    args.export = args.export or []
    if args.dataset is None:
        names_sequence = any(getattr(args, name) for name in DEFAULT_SEQUENCE)
        args.dataset = "h36m" if names_sequence else OWN_FOOTAGE
    own = args.dataset == OWN_FOOTAGE
    args.keypoints_file = keypoints_file(args) if own else None
    if own:
        _refuse(args, DATASET_FLAGS, "is for a sequence of the dataset, not for own footage")
    else:
        _refuse(args, FOOTAGE_FLAGS, "is for own footage, not for a sequence of the dataset")
    if args.output:
        check_output(args.output, (*VIDEO_SUFFIXES, ".png", VIEWER_SUFFIX))
    for path in args.export:
        check_output(path, POSE_SUFFIXES)
    is_raw = bool(args.recording or args.keypoints_file)
    args.film = not args.output and (is_raw or not args.export)
    suffix = args.output.suffix.lower() if args.output else ".mp4" if args.film else None
    if args.recording and args.video:
        raise InputError(f"two videos: {args.recording} and --video {args.video}; give one")
    if args.fps and not is_raw:
        raise InputError("--fps is for VIDEO, or for --keypoints with another program's file")
    # Another program's keypoints without the video need the size of the picture, not of a film.
    args.picture_size = None
    if args.keypoints_file and args.size and not (args.recording or args.video):
        args.picture_size, args.size = parse_picture_size(args.size), None
    args.size = args.size and parse_size(args.size)
    if suffix not in VIDEO_SUFFIXES:
        unused = FILM_FLAGS[: 2 if suffix == VIEWER_SUFFIX else 3]
        _refuse(args, unused, "is for videos; add --output with a name in .mp4 or .gif")
    args.video = args.video or args.recording
    named = [path for path in (args.output, *args.export) if path]
    args.inputs = [Path(path) for path in (args.video, args.keypoints) if path]
    check_distinct(named, args.inputs)
    if suffix == ".gif" and args.bitrate:
        raise InputError(f"--bitrate is for mp4, not for {args.output}")
    return args


def keypoints_file(args: argparse.Namespace) -> Path | None:
    """Return what --keypoints names if that is another program's file or folder, else None."""
    path = Path(args.keypoints or "")
    own = args.data_dir / f"data_2d_{OWN_FOOTAGE}_{args.keypoints}.npz"
    if path.is_file() or (args.keypoints and path.is_dir() and not own.is_file()):
        return path
    if (args.recording or path.suffix) and args.keypoints and not own.is_file():
        raise InputError(f"{path}: no such file of keypoints, and no {own}")
    return None


def _refuse(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    for name in names:
        if getattr(args, name):
            if name == "recording":
                raise InputError(f"{args.recording} {reason}")
            raise InputError(f"--{name.replace('_', '-')} {reason}")


def make_parser() -> console.ArgumentParser:
    """Return the parser of the command line."""
    parser = console.ArgumentParser(usage=USAGE, description=__doc__.splitlines()[0])
    recording = "a video of yours, in which people are found first (own footage)"
    parser.add_argument("recording", type=Path, nargs="?", metavar="VIDEO", help=recording)
    file, name = {"type": Path, "metavar": "FILE"}, {"metavar": "NAME"}
    number = {"type": positive_int, "metavar": "N"}

    add = parser.add_argument_group("network").add_argument
    checkpoint = "a file of run_poseformer.py, such as best_epoch.bin, or a published checkpoint "
    checkpoint += f"(default: checkpoint/{FOOTAGE_CHECKPOINT}, for any footage)"
    add("--checkpoint", metavar="FILE", help=checkpoint)
    model = "which lifter the checkpoint is to be (default: the checkpoint says)"
    add("--model", choices=LIFTERS, help=model)
    frames = "length of its window, for a published checkpoint of other than 27 frames"
    add("-frame", "--number-of-frames", **number, help=frames)
    add("-g", "--gpu", default="0", metavar="N", help="which GPU; cpu for none")
    precision = "of matrix products; auto: bf16, on V100 and T4 fp16, else fp32"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)

    add = parser.add_argument_group("keypoints").add_argument
    keypoints = "own footage: a file that another program wrote, or the --name that "
    keypoints += "data/prepare_2d_custom.py was given; dataset: the estimator (default: the one "
    keypoints += "that the checkpoint was trained on)"
    add("-k", "--keypoints", **name, help=keypoints)
    folder = "folder of the npz files"
    add("--data-dir", type=Path, default=console.DATA_DIR, metavar="DIR", help=folder)
    add("--causal", action="store_true", help="let the network use past frames only")
    hz = console.Check(float, lambda hz: 0.1 <= hz <= 1000, "a number from 0.1 to 1000")
    smooth = f"remove motion faster than HZ ({DEFAULT_CUTOFF_HZ:g} if no number follows), no delay"
    add("--smooth", type=hz, nargs="?", const=DEFAULT_CUTOFF_HZ, metavar="HZ", help=smooth)

    group = parser.add_argument_group("own footage")
    estimator = "finds the people in VIDEO (default: mediapipe)"
    group.add_argument("--estimator", choices=INSTALL, default="mediapipe", help=estimator)
    person = "only these people, by the numbers that are printed, 1 for the main one"
    group.add_argument("--person", metavar="N,M", help=person)
    is_rate, says = lambda x: FPS_RANGE[0] <= x <= FPS_RANGE[1], "a frame rate from {} to {}"
    fps = console.Check(float, is_rate, says.format(*FPS_RANGE))
    fps_of = "another program's keypoints without the video: frames a second"
    group.add_argument("--fps", type=fps, help=fps_of)
    group.add_argument("--sequences", metavar="A,B", help="only these of the file's sequences")
    rate = f"treat the frames as if at the training's rate, usually {FPS} a second"
    group.add_argument("--no-resample", action="store_true", help=rate)
    add = group.add_mutually_exclusive_group().add_argument
    up = "what is up: level as in the picture; person: by the trunk and the feet; auto: by these "
    add("--up", choices=UPS, help=up + "where people stand, else level (default: auto)")
    like = "the camera was held as this camera of Human3.6M (of S9, if no subject is named)"
    add("--as-camera", type=parse_camera, metavar="[SUBJECT:]ID", help=like)
    add = group.add_mutually_exclusive_group().add_argument
    focal = "the camera's focal length in pixels; it decides how far away people are"
    px = console.Check(float, lambda px: 10 <= px <= 1e6, "a number from 10 to 1000000")
    add("--focal", type=px, metavar="PX", help=focal)
    fov = "or how wide it sees across the picture's longer side, in degrees (default: "
    fov += f"{DEFAULT_FOV_DEG:g}, a phone's main camera)"
    angle = console.Check(float, lambda deg: 1 <= deg <= 170, "an angle from 1 to 170")
    add("--fov", type=angle, metavar="DEG", help=fov)
    add("--in-place", action="store_true", help="leave out the way through the room")

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
    output = ".mp4 or .gif, .png for a picture of six frames, .html for a page in which one can "
    output += "turn the poses (default without --export: an mp4 in the working directory)"
    add("--output", **file, help=output)
    export = f"write the poses: {', '.join(POSE_SUFFIXES)}; may be given several times"
    add("--export", action="append", **file, help=export)
    add("--skip", type=console.non_negative_int, default=0, metavar="N", help="leave out N frames")
    add("--downsample", default=1, **number, help="draw and export every N-th frame")
    add("--limit", **number, help="draw and export N frames at most")
    size = "of the film, in pixels (default: fits the panels); of the picture, where --keypoints "
    size += "is a FILE and no video is given"
    add("--size", metavar="WxH", help=size)
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
