"""Draw estimators' 2D keypoints over the true ones, beside the true 3D pose, as mp4 or gif.

python data/visualize.py --subject S1 --action Walking --camera 55011271
python data/visualize.py --dir-2d data_2d_h36m_vitpose.npz data_2d_h36m_pct.npz --errors
"""

import argparse
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import CAMERA_IDS, camera_index, camera_to_world, load_cameras
from common.drawing.figures import COLORS, INK, paper_figure, save_figure
from common.drawing.films import Film, choose_frames, render_film
from common.files import console
from common.files.console import DATA_DIR, ArgumentParser, InputError, positive_int
from common.files.npz import read_positions_2d, read_positions_3d
from common.files.output import check_output
from common.files.video import VIDEO_SUFFIXES, parse_size
from common.h36m_dataset import FPS, SUBJECTS, canonical_action, select_actions
from common.skeleton import JOINT_NAMES, JOINTS_32_TO_17

DEBUG_FRAMES = 200
ESTIMATORS = {"vitpose": "ViTPose", "pct": "PCT", "moganet": "MogaNet", "transpose": "TransPose"}
ESTIMATORS["gt"] = "Ground truth"


def main() -> None:
    """Read the files, draw the video and, with --errors, the errors' picture."""
    args = parse_arguments()
    camera = camera_index(args.camera)
    name = (args.subject, canonical_action(args.action), CAMERA_IDS[camera])
    output = args.output or Path("_".join(name).replace(" ", "_") + ".mp4")
    check_output(output, VIDEO_SUFFIXES)  # before the files are read, which takes longer
    film = load_film(args, camera, "{} · {} · camera {}".format(*name))
    if args.errors:
        errors_output = output.with_name(f"{output.stem}_errors.png")
        save_errors(errors_output, film)
        print(f"wrote {errors_output}")
    render_film(output, film, size=args.size)
    print(f"wrote {output} ({len(film.frame_numbers)} frames)")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    file, there = {"type": Path, "metavar": "FILE"}, "looked for here, then in --data-dir"
    vitpose, truth_2d = Path("data_2d_h36m_vitpose.npz"), Path("data_2d_h36m_gt.npz")
    add("--dir-2d", nargs="+", default=[vitpose], help=f"estimators' npz files, {there}", **file)
    add("--dir-2d-gt", default=truth_2d, help=f"the true keypoints, {there}", **file)
    add("--dir-3d", default=Path("data_3d_h36m.npz"), help=f"the true poses, {there}", **file)
    add("--data-dir", type=Path, default=DATA_DIR, help="where npz files are looked for")
    add("--subject", choices=SUBJECTS, default="S1", help="whose sequence")
    add("--action", default="Walking", help='the sequence\'s name, such as "Sitting 1"')
    add("--camera", default="55011271", help=f"{', '.join(CAMERA_IDS)}, or 0 to 3")
    output = ".mp4 or .gif (default: SUBJECT_ACTION_CAMERA.mp4 in the working directory)"
    add("--output", help=output, **file)
    errors = "also draw the 2D error over time and by joint, beside the output as ..._errors.png"
    add("--errors", action="store_true", help=errors)
    add("--skip", type=console.non_negative_int, default=0, help="leave out so many frames")
    add("--limit", type=positive_int, help="draw at most this many frames")
    few = {"action": "store_const", "const": DEBUG_FRAMES, "dest": "limit"}
    add("--debug", **few, help=f"the same as --limit {DEBUG_FRAMES}")
    frame_rate = console.Check(float, lambda x: 0 < x <= 1000, "a frame rate above 0, to 1000")
    add("--fps", type=frame_rate, default=FPS, help="frames a second, when shown")
    size = "of the video in pixels (default: 1700x400 for three panels)"
    add("--size", type=parse_size, metavar="WIDTHxHEIGHT", help=size)
    return parser.parse_args()


def load_film(args: argparse.Namespace, camera: int, title: str) -> Film:
    """Read one camera's view of one sequence from all files, cut to the shortest."""
    files = [find_file(p, args.data_dir) for p in (*args.dir_2d, args.dir_2d_gt, args.dir_3d)]
    *files_2d, file_3d = files
    *estimates, truth = (
        find_sequence(path, read_positions_2d(path), args.subject, args.action)[camera][..., :2]
        for path in files_2d
    )
    poses = find_sequence(file_3d, read_positions_3d(file_3d), args.subject, args.action)
    view = load_cameras()[args.subject][camera]
    if isinstance(poses, list):  # one array for each camera, in its coordinates
        poses = camera_to_world(poses[camera], view.orientation, view.translation_m)
    lengths = [len(array) for array in (*estimates, truth, poses)]
    shortest, name = min(lengths), f"{args.subject} {args.action}"
    if max(lengths) > shortest:
        held = ", ".join(f"{path.name} {length}" for path, length in zip(files, lengths))
        console.warn(f"{name}: unequal lengths, cut to {shortest} frames ({held})")
    film = Film(
        title,
        dict(zip(panel_names(files_2d[:-1]), estimates)),
        (view.width, view.height),
        view.azimuth,
        frame_numbers=range(shortest),
        fps=args.fps,
        truth_m=poses[:, JOINTS_32_TO_17],
        truth_px=truth,
    )
    return film.at(choose_frames(shortest, args.skip, limit=args.limit))


def find_file(path: Path, data_dir: Path) -> Path:
    """Return `path` if there is such a file, else the one of this name in `data_dir`."""
    if path.is_file() or path.is_absolute():
        return path
    if not (data_dir / path).is_file():
        held = ", ".join(sorted(p.name for p in data_dir.glob("data_*.npz"))) or "no npz files"
        raise InputError(
            f"{path}: no such file, neither here nor in {data_dir}, which holds {held}"
        )
    return data_dir / path


def find_sequence(path: Path, positions: dict, subject: str, action: str) -> Any:
    """Return what a file holds of a sequence; "Walking" alone may mean its first take."""
    if subject not in positions:
        raise InputError(f"{path}: no subject '{subject}'; there are: {', '.join(positions)}")
    names = select_actions(f"{path}: {subject}", positions[subject], [action])
    return positions[subject][min(names, key=lambda name: name != canonical_action(action))]


def panel_names(paths: list[Path]) -> list[str]:
    """Return the panels' titles: the estimators' names, or the paths where two would be alike."""
    keys = [path.stem.removeprefix("data_2d_h36m_").removesuffix("_w_conf") for path in paths]
    names = [ESTIMATORS.get(key, key) for key in keys]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def save_errors(output: Path, film: Film) -> None:
    """Draw a PNG of the 2D errors: the mean over the joints over time, and each joint's."""
    figure, (over_time, by_joint) = paper_figure(11, 4.6, columns=(1.7, 1))
    figure.suptitle(film.title, x=0.015, ha="left", size=11, weight="bold", color=INK)
    estimates = film.keypoints_px.items()
    for index, ((name, estimate_px), color) in enumerate(zip(estimates, cycle(COLORS))):
        errors = np.linalg.norm(estimate_px - film.truth_px, axis=-1)
        style = {"color": color, "linewidth": 1.3, "label": f"{name}: {errors.mean():.1f} px"}
        over_time.plot(film.frame_numbers, errors.mean(axis=1), **style)
        offset = 0.6 * ((index + 0.5) / len(estimates) - 0.5)
        rows = np.arange(len(JOINT_NAMES)) + offset
        low, high = np.percentile(errors, (10, 90), axis=0)
        by_joint.hlines(rows, low, high, color=color, linewidth=1.6, alpha=0.45)
        by_joint.plot(errors.mean(axis=0), rows, "o", color=color, markersize=4)
    over_time.set(xlabel="frame", ylabel="mean error over the joints (px)", ylim=(0, None))
    over_time.margins(x=0.01)
    over_time.legend(frameon=False, labelcolor=INK, ncols=2)
    by_joint.set(xlabel="error (px): mean, and 10 % to 90 % of frames", xlim=(0, None))
    by_joint.set_yticks(range(len(JOINT_NAMES)), JOINT_NAMES, size=8)
    by_joint.invert_yaxis()
    save_figure(figure, output)


if __name__ == "__main__":
    console.run_script(main)
