"""Human3.6M's CDF files to data_3d_h36m.npz and data_2d_h36m_gt.npz.

The 3D file holds the 32 joints in metres, the 2D file the 17 joints that move on their own, in
pixels, projected through the full distortion model of each of the four cameras.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import load_cameras, project, world_to_camera
from common.files import console, npz
from common.files.console import DATA_DIR, InputError, progress
from common.files.npz import Positions2d, Positions3d
from common.files.output import atomic_output, find_folder
from common.h36m_dataset import (
    SUBJECTS_FLAG,
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    canonical_action,
    is_corrupt,
    list_raw_files,
    wrong_takes,
)
from common.skeleton import JOINTS_32_TO_17, NUM_JOINTS_32

# Frames of the complete dataset, counted over the four cameras, S11 Directions left out.
PUBLISHED_FRAMES = {TRAIN_SUBJECTS: 1_559_752, TEST_SUBJECTS: 543_344}
POSITIONS_FOLDER = Path("MyPoseFeatures") / "D3_Positions"


def main() -> None:
    """Find the files, read and project them, write both outputs."""
    arguments = parse_arguments()
    data_dir = arguments.data_dir
    path_3d, path_2d = (data_dir / f"data_{name}.npz" for name in ("3d_h36m", "2d_h36m_gt"))
    advice = "extract Human3.6M's Poses_D3_Positions_<SUBJECT>.tgz into one, and give it as "
    parents = [Path.cwd(), data_dir, data_dir / "preprocess"]
    cdf_dir = find_folder(arguments.cdf_dir, parents, f"{advice}--cdf-dir")
    files = list_raw_files(cdf_dir, arguments.subjects, partial(list_subject, cdf_dir))
    print(f"reading {sum(map(len, files.values()))} files of {cdf_dir}")
    positions_3d, positions_2d = convert(files, arguments.per_camera)
    # Both are complete before either replaces an earlier file.
    with atomic_output(path_2d) as temporary_2d, atomic_output(path_3d) as temporary_3d:
        npz.write_positions_3d(temporary_3d, positions_3d)
        npz.write_positions_2d(temporary_2d, positions_2d)
    for path in (path_3d, path_2d):
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    report_counts(positions_2d)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = console.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    text = "folder that holds S1/MyPoseFeatures/D3_Positions/*.cdf and so on; looked for in the "
    text += "working directory, in --data-dir and in its preprocess folder"
    add("--cdf-dir", type=Path, default=Path("cdf_files"), metavar="DIR", help=text)
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="where the npz files go")
    text = "store 3D in the coordinates of each of the four cameras, not in the world's"
    add("--per-camera", action="store_true", help=text)
    add("--subjects", **SUBJECTS_FLAG)
    return parser.parse_args()


def list_subject(cdf_dir: Path, subject: str) -> tuple[dict[str, Path], list[str]]:
    """Return one subject's files, {canonical action: path}, and a phrase for each problem.

    The corrupt S11 Directions is left out.
    """
    folder = cdf_dir / subject / POSITIONS_FOLDER
    if not folder.is_dir():
        return {}, [f"is missing (no folder {folder})"]
    paths = [p for p in sorted(folder.glob("*.cdf")) if not p.name.startswith(("_ALL", "."))]
    problems = [f"has {wrong}" for wrong in wrong_takes(path.stem for path in paths)]
    files = {canonical_action(path.stem): path for path in paths}
    return {a: path for a, path in files.items() if not is_corrupt(subject, a)}, problems


def convert(files: dict[str, dict[str, Path]], per_camera: bool) -> tuple[Positions3d, Positions2d]:
    """Read every file and project it: positions in metres, and in pixels, as in the npz files.

    The metres are in world coordinates or, `per_camera`, in each camera's.
    """
    positions_3d: Positions3d = {subject: {} for subject in files}
    positions_2d: Positions2d = {subject: {} for subject in files}
    sequences = [(s, action, path) for s, paths in files.items() for action, path in paths.items()]
    for subject, action, path in progress(sequences, desc="sequences", unit="file"):
        world_m = read_world_positions(path)
        poses, views = [], []
        for camera in load_cameras()[subject]:
            in_camera_m = world_to_camera(world_m, camera.orientation, camera.translation_m)
            joints_m = in_camera_m[:, JOINTS_32_TO_17]
            if (joints_m[..., 2] <= 0).any():
                behind = f"joints behind camera {camera.id}"
                console.warn(f"{path}: {behind}; are these world coordinates in mm?")
            poses.append(in_camera_m.astype(np.float32))
            views.append(project(joints_m, camera.intrinsics).astype(np.float32))
        positions_2d[subject][action] = views
        positions_3d[subject][action] = poses if per_camera else world_m.astype(np.float32)
    return positions_3d, positions_2d


def read_world_positions(path: Path) -> np.ndarray:
    """Read the variable `Pose`, (1, frames, 96) or (frames, 96), mm, world, of a CDF file.

    Returns:
        (frames, 32, 3), float64, metres, world coordinates.
    """
    import cdflib

    try:
        cdf = cdflib.CDF(path, validate=True)
        names = cdf.cdf_info().rVariables + cdf.cdf_info().zVariables
        values = cdf.varget("Pose") if "Pose" in names else None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        told = f"{path}: damaged or not a CDF file ({reason}); extract it again"
        raise InputError(told) from error
    if values is None:
        held = console.listing(names) or "none, so it may be truncated"
        raise InputError(f"{path}: no variable Pose; it holds {held}")
    pose = values[0] if values.ndim == 3 and len(values) == 1 else values
    if pose.ndim != 2 or len(pose) == 0 or pose.shape[1] != NUM_JOINTS_32 * 3:
        told = f"{path}: Pose is {values.shape}"
        raise InputError(f"{told}, expected (1, frames, 96) or (frames, 96)")
    finite = np.isfinite(pose).all(axis=1)
    if not finite.all():
        first = f"first in frame {finite.argmin()}"
        raise InputError(f"{path}: holds NaN or infinite coordinates, {first}")
    return pose.reshape(-1, NUM_JOINTS_32, 3).astype(np.float64) / 1000


def report_counts(positions_2d: Positions2d) -> None:
    """Print sequences and frames beside those of the complete dataset."""
    for subjects, published in PUBLISHED_FRAMES.items():
        present = [subject for subject in subjects if subject in positions_2d]
        sequences = [views for subject in present for views in positions_2d[subject].values()]
        frames = sum(len(view) for views in sequences for view in views)
        if present:
            print(
                f"{', '.join(present)}: {len(sequences)} sequences, {frames:,} frames over four "
                f"cameras (Human3.6M's {', '.join(subjects)}: {published:,})"
            )


if __name__ == "__main__":
    console.run_script(main)
