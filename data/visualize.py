"""Draw estimators' 2D keypoints over the true ones, beside the true 3D pose, as mp4 or gif.

python data/visualize.py --subject S1 --action Walking --camera 55011271
python data/visualize.py --dir-2d data_2d_h36m_vitpose.npz data_2d_h36m_pct.npz --errors
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import camera_to_world
from common.console import (
    DATA_DIR,
    ArgumentParser,
    InputError,
    non_negative_int,
    number,
    positive_int,
    run,
    warn,
)
from common.curves import save_errors
from common.files import check_output
from common.h36m_dataset import (
    CAMERA_IDS,
    FPS,
    Camera,
    camera_index,
    canonical_action,
    load_cameras,
)
from common.npz_io import read_positions_2d, read_positions_3d
from common.skeleton import JOINTS_32_TO_17
from common.video import VIDEO_SUFFIXES, parse_size
from common.visualization import render_estimates

DEBUG_FRAMES = 200
ESTIMATORS = {
    "vitpose": "ViTPose",
    "pct": "PCT",
    "moganet": "MogaNet",
    "transpose": "TransPose",
    "gt": "Ground truth",
}


@dataclass(frozen=True, eq=False)
class Footage:
    """What is drawn of one sequence in one camera, all of it of the same length.

    Attributes:
        camera: as this subject was filmed.
        estimates_px: {estimator: (frames, 17, 2)}, pixels.
        truth_px: (frames, 17, 2), pixels.
        poses_m: (frames, 17, 3), metres, world.
        frame_numbers: which frames of the sequence these are.
    """

    camera: Camera
    estimates_px: dict[str, np.ndarray]
    truth_px: np.ndarray
    poses_m: np.ndarray
    frame_numbers: range

    def errors_px(self) -> dict[str, np.ndarray]:
        """Return {estimator: (frames, 17)}, the distance from the true keypoints in pixels."""
        return {
            name: np.linalg.norm(keypoints - self.truth_px, axis=-1)
            for name, keypoints in self.estimates_px.items()
        }


def main() -> None:
    """Read the files, draw the video and, with --errors, the errors' picture."""
    args = parse_arguments()
    camera = camera_index(args.camera)
    name = (args.subject, canonical_action(args.action), CAMERA_IDS[camera])
    output = args.output or Path("_".join(name).replace(" ", "_") + ".mp4")
    check_output(output, VIDEO_SUFFIXES)  # before the files are read, which takes longer
    footage = load_footage(args, camera)
    title = "{} · {} · camera {}".format(*name)
    if args.errors:
        errors_output = output.with_name(f"{output.stem}_errors.png")
        save_errors(errors_output, footage.errors_px(), title, footage.frame_numbers)
        print(f"wrote {errors_output}")
    start = time.perf_counter()
    render_estimates(
        output,
        footage.estimates_px,
        footage.truth_px,
        footage.poses_m,
        azimuth=footage.camera.azimuth,
        image_size=(footage.camera.width, footage.camera.height),
        title=title,
        fps=args.fps,
        size=args.size,
        frame_numbers=footage.frame_numbers,
    )
    frames = len(footage.frame_numbers)
    rate = frames / (time.perf_counter() - start)
    print(f"wrote {output} ({frames} frames, {rate:.0f} frames a second)")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dir-2d",
        type=Path,
        nargs="+",
        default=[Path("data_2d_h36m_vitpose.npz")],
        metavar="FILE",
        help="estimators' npz files, one panel each; looked for in the working directory, then "
        "in --data-dir, as the next two",
    )
    add(
        "--dir-2d-gt",
        type=Path,
        default=Path("data_2d_h36m_gt.npz"),
        metavar="FILE",
        help="npz file of the true keypoints",
    )
    add(
        "--dir-3d",
        type=Path,
        default=Path("data_3d_h36m.npz"),
        metavar="FILE",
        help="npz file of the true poses",
    )
    add("--data-dir", type=Path, default=DATA_DIR, help="where npz files are looked for")
    add("--subject", default="S1", help="whose sequence")
    add("--action", default="Walking", help='the sequence\'s name, such as "Sitting 1"')
    add("--camera", default="55011271", help=f"{', '.join(CAMERA_IDS)}, or 0 to 3")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help=".mp4 or .gif (default: SUBJECT_ACTION_CAMERA.mp4 in the working directory)",
    )
    add(
        "--errors",
        action="store_true",
        help="also draw the 2D error over time and by joint, beside the output as ..._errors.png",
    )
    add(
        "--skip",
        type=non_negative_int,
        default=0,
        help="leave out this many frames at the beginning",
    )
    add("--limit", type=positive_int, help="draw at most this many frames")
    add("--debug", action="store_true", help=f"draw at most {DEBUG_FRAMES} frames")
    frame_rate = number(float, lambda x: 0 < x <= 1000, "a frame rate above 0, to 1000")
    add("--fps", type=frame_rate, default=FPS, help="frames a second, when shown")
    add(
        "--size",
        type=parse_size,
        metavar="WIDTHxHEIGHT",
        help="of the video in pixels (default: 1700x400 for three panels)",
    )
    return parser.parse_args()


def load_footage(args: argparse.Namespace, camera: int) -> Footage:
    """Read one camera's view of one sequence from all files, cut to the shortest.

    Raises:
        InputError: if a file is missing or damaged, lacks the subject or the action, there is no
            such camera, or no frame is left.
    """
    paths = [find_file(path, args.data_dir) for path in args.dir_2d]
    path_gt, path_3d = (find_file(p, args.data_dir) for p in (args.dir_2d_gt, args.dir_3d))
    *estimates, truth = (
        find_sequence(path, read_positions_2d(path), args.subject, args.action)[camera][..., :2]
        for path in [*paths, path_gt]
    )
    poses = find_sequence(path_3d, read_positions_3d(path_3d), args.subject, args.action)
    view = find_view(args.subject, camera)
    poses = world_poses(poses, view, camera)
    frames = choose_frames(
        args,
        {
            path.name: len(a)
            for path, a in zip([*paths, path_gt, path_3d], [*estimates, truth, poses])
        },
    )
    chosen = slice(frames.start, frames.stop)
    return Footage(
        camera=view,
        estimates_px={name: e[chosen] for name, e in zip(panel_names(paths), estimates)},
        truth_px=truth[chosen],
        poses_m=poses[chosen],
        frame_numbers=frames,
    )


def find_file(path: Path, data_dir: Path) -> Path:
    """Return `path` if there is such a file, else the one of this name in `data_dir`."""
    if path.is_file() or path.is_absolute():
        return path
    if not (data_dir / path).is_file():
        there_are = ", ".join(sorted(p.name for p in data_dir.glob("data_*.npz"))) or "no npz files"
        raise InputError(
            f"{path}: no such file, neither here nor in {data_dir}, which holds {there_are}"
        )
    return data_dir / path


def find_view(subject: str, camera: int) -> Camera:
    """Return a camera as this subject was filmed."""
    cameras = load_cameras()
    if subject not in cameras:
        raise InputError(f"no calibration for '{subject}'; there is one for {', '.join(cameras)}")
    return cameras[subject][camera]


def find_sequence(path: Path, positions: dict, subject: str, action: str) -> Any:
    """Return what a file holds of a sequence.

    Raises:
        InputError: if it lacks the subject or the action; the message says which there are.
    """
    if subject not in positions:
        raise InputError(f"{path}: no subject '{subject}'; there are: {', '.join(positions)}")
    actions = positions[subject]
    for name in (action, canonical_action(action)):
        if name in actions:
            return actions[name]
    raise InputError(
        f"{path}: {subject} has no action '{action}'; there are: {', '.join(sorted(actions))}"
    )


def world_poses(poses: np.ndarray | list[np.ndarray], view: Camera, camera: int) -> np.ndarray:
    """Return the 17 joints (frames, 17, 3) in metres in world coordinates.

    Args:
        poses: (frames, 32, 3) in world coordinates, or four such arrays in camera coordinates.
        view: the camera.
        camera: its index.
    """
    if isinstance(poses, list):
        joints = poses[camera][:, JOINTS_32_TO_17]
        return camera_to_world(joints, view.orientation, view.translation_m)
    return poses[:, JOINTS_32_TO_17]


def choose_frames(args: argparse.Namespace, lengths: dict[str, int]) -> range:
    """Return the frames that --skip, --limit and --debug leave of the shortest file.

    Raises:
        InputError: if there are none.
    """
    shortest = min(lengths.values())
    if len(set(lengths.values())) > 1:
        held = ", ".join(f"{name} {length}" for name, length in lengths.items())
        warn(f"{args.subject} {args.action}: unequal lengths, cut to {shortest} frames ({held})")
    limits = [args.limit] * (args.limit is not None) + [DEBUG_FRAMES] * args.debug
    frames = range(args.skip, min([shortest, *(args.skip + limit for limit in limits)]))
    if not frames:
        raise InputError(f"--skip {args.skip} leaves nothing of {shortest} frames")
    return frames


def panel_names(paths: list[Path]) -> list[str]:
    """Return what stands above the panels: the estimator, or the file's name where that is new."""
    keys = [path.stem.removeprefix("data_2d_h36m_").removesuffix("_w_conf") for path in paths]
    names = [ESTIMATORS.get(key, key) for key in keys]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return names


if __name__ == "__main__":
    run(main)
