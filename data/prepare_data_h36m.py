"""Human3.6M's CDF files to data_3d_h36m.npz and data_2d_h36m_gt.npz.

The 3D file holds the 32 joints in metres, the 2D file the 17 joints that move on their own, in
pixels, projected through the full distortion model of each of the four cameras.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import project, world_to_camera
from common.console import DATA_DIR, ArgumentParser, InputError, progress, run, warn
from common.files import atomic_output
from common.h36m_dataset import (
    ACTIONS,
    CORRUPT_SEQUENCE,
    SUBJECTS,
    TAKES_PER_ACTION,
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    canonical_action,
    load_cameras,
    parse_subjects,
    wrong_takes,
)
from common.npz_io import (
    Positions2d,
    Positions3d,
    npz_path,
    write_positions_2d,
    write_positions_3d,
)
from common.skeleton import JOINTS_32_TO_17, NUM_JOINTS_32

FILES_PER_SUBJECT = TAKES_PER_ACTION * len(ACTIONS)
# Frames of the complete dataset, counted over the four cameras, S11 Directions left out.
PUBLISHED_FRAMES = {TRAIN_SUBJECTS: 1_559_752, TEST_SUBJECTS: 543_344}
POSITIONS_FOLDER = Path("MyPoseFeatures") / "D3_Positions"
VARIABLE = "Pose"


def main() -> None:
    """Find the files, read and project them, write both outputs."""
    arguments = parse_arguments()
    cdf_dir = find_cdf_dir(arguments.cdf_dir, arguments.data_dir)
    files = list_sequences(cdf_dir, arguments.subjects)
    print(f"reading {sum(map(len, files.values()))} files of {cdf_dir}")
    positions_3d, positions_2d = convert(files, arguments.per_camera)
    write_both(
        npz_path(arguments.data_dir, arguments.output_filename_3d),
        positions_3d,
        npz_path(arguments.data_dir, arguments.output_filename_2d),
        positions_2d,
    )
    report_counts(positions_2d)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--cdf-dir",
        type=Path,
        default=Path("cdf_files"),
        metavar="DIR",
        help="folder that holds S1/MyPoseFeatures/D3_Positions/*.cdf and so on; looked for in the "
        "working directory, in --data-dir and in its preprocess folder",
    )
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="where the npz files go")
    add(
        "--output-filename-3d",
        default="data_3d_h36m.npz",
        metavar="FILE",
        help="3D output, in --data-dir unless the path is absolute",
    )
    add(
        "--output-filename-2d",
        default="data_2d_h36m_gt.npz",
        metavar="FILE",
        help="2D output, in --data-dir unless the path is absolute",
    )
    add(
        "--per-camera",
        action="store_true",
        help="store 3D in the coordinates of each of the four cameras, not in the world's",
    )
    add(
        "--subjects",
        type=parse_subjects,
        default=",".join(SUBJECTS),
        metavar="S1,S5,…",
        help="which subjects, for a partial download",
    )
    return parser.parse_args()


def find_cdf_dir(cdf_dir: Path, data_dir: Path) -> Path:
    """Return the folder of the CDF files, from the working directory or from the data folder.

    Raises:
        InputError: if there is none; the message says where it was looked for.
    """
    candidates = [base / cdf_dir for base in (Path.cwd(), data_dir, data_dir / "preprocess")]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    tried = ", ".join(dict.fromkeys(str(c) for c in candidates))
    raise InputError(
        f"{cdf_dir}: no such folder (looked for {tried}); "
        "extract Human3.6M's Poses_D3_Positions_<SUBJECT>.tgz into one and give it as --cdf-dir"
    )


def list_sequences(cdf_dir: Path, subjects: tuple[str, ...]) -> dict[str, dict[str, Path]]:
    """List the CDF files, after checking that there are two takes of each action.

    Args:
        cdf_dir: folder that holds `<SUBJECT>/MyPoseFeatures/D3_Positions/*.cdf`.
        subjects: which subjects.

    Returns:
        {subject: {canonical action: path}}, without the corrupt S11 Directions.

    Raises:
        InputError: if subjects or files are missing or surplus; all of them are named.
    """
    files, problems = {}, []
    for subject in subjects:
        folder = cdf_dir / subject / POSITIONS_FOLDER
        if not folder.is_dir():
            problems.append(f"{subject} is missing (no folder {folder})")
            continue
        paths = [p for p in sorted(folder.glob("*.cdf")) if not p.name.startswith(("_ALL", "."))]
        if len(paths) != FILES_PER_SUBJECT:
            problems.append(f"{subject} has {len(paths)} files instead of {FILES_PER_SUBJECT}")
        problems += [f"{subject} has {wrong}" for wrong in wrong_takes(p.stem for p in paths)]
        files[subject] = {canonical_action(path.stem): path for path in paths}
    if problems:
        raise InputError(
            f"{cdf_dir}: {'; '.join(problems)}. Each subject has {FILES_PER_SUBJECT} files, "
            "two of each action: extract its archive again, or choose others with --subjects"
        )
    if CORRUPT_SEQUENCE[0] in files:
        del files[CORRUPT_SEQUENCE[0]][CORRUPT_SEQUENCE[1]]
        print(f"left out {' '.join(CORRUPT_SEQUENCE)}: its video is corrupt")
    return files


def convert(files: dict[str, dict[str, Path]], per_camera: bool) -> tuple[Positions3d, Positions2d]:
    """Read every file and project it.

    Returns:
        Positions in metres, in world coordinates or, `per_camera`, in each camera's; and their
        projections in pixels; in the form of the npz files.
    """
    positions_3d: Positions3d = {subject: {} for subject in files}
    positions_2d: Positions2d = {subject: {} for subject in files}
    sequences = [(s, action, path) for s, paths in files.items() for action, path in paths.items()]
    for subject, action, path in progress(sequences, desc="sequences", unit="file"):
        world_m = read_world_positions(path)
        in_cameras_m = [
            world_to_camera(world_m, camera.orientation, camera.translation_m)
            for camera in load_cameras()[subject]
        ]
        positions_2d[subject][action] = project_views(path, in_cameras_m, subject)
        positions_3d[subject][action] = (
            [view.astype(np.float32) for view in in_cameras_m]
            if per_camera
            else world_m.astype(np.float32)
        )
    return positions_3d, positions_2d


def read_world_positions(path: Path) -> np.ndarray:
    """Read one CDF file of Human3.6M.

    Args:
        path: a CDF file whose variable `Pose` is (1, frames, 96) or (frames, 96), mm, world.

    Returns:
        (frames, 32, 3), float64, metres, world coordinates.

    Raises:
        InputError: if the file is damaged, has no such variable, or holds NaN or infinity.
    """
    values = read_cdf_variable(path, VARIABLE)
    pose = values[0] if values.ndim == 3 and len(values) == 1 else values
    if pose.ndim != 2 or len(pose) == 0 or pose.shape[1] != NUM_JOINTS_32 * 3:
        raise InputError(
            f"{path}: {VARIABLE} is {values.shape}, expected (1, frames, 96) or (frames, 96)"
        )
    if pose.dtype.kind != "f":
        raise InputError(f"{path}: {VARIABLE} is {pose.dtype}, expected float32 or float64")
    with np.errstate(over="ignore"):
        finite = np.isfinite(pose.astype(np.float32)).all(axis=1)
    if not finite.all():
        frame = np.flatnonzero(~finite)[0]
        raise InputError(f"{path}: holds NaN or infinite coordinates, first in frame {frame}")
    return pose.reshape(-1, NUM_JOINTS_32, 3).astype(np.float64) / 1000


def read_cdf_variable(path: Path, variable: str) -> np.ndarray:
    """Return a variable of a CDF file.

    Raises:
        InputError: if the file is damaged or has no such variable.
    """
    import cdflib

    try:
        cdf = cdflib.CDF(path)
        info = cdf.cdf_info()
        names = info.rVariables + info.zVariables
        values = cdf.varget(variable) if variable in names else None
    except Exception as error:  # on a damaged file cdflib raises whatever it stumbles over
        raise InputError(
            f"{path}: damaged or not a CDF file ({error}); extract it again"
        ) from error
    if values is None:
        raise InputError(f"{path}: no variable {variable}; it holds {', '.join(names) or 'none'}")
    return np.asarray(values)


def project_views(path: Path, in_cameras_m: list[np.ndarray], subject: str) -> list[np.ndarray]:
    """Project the 17 joints of one sequence into the four cameras.

    Args:
        path: the sequence's file, for messages.
        in_cameras_m: four arrays (frames, 32, 3), camera coordinates, metres.
        subject: whose cameras.

    Returns:
        Four arrays (frames, 17, 2), float32, pixels.
    """
    views = []
    for camera, positions in zip(load_cameras()[subject], in_cameras_m):
        joints = positions[:, JOINTS_32_TO_17]
        if (joints[..., 2] <= 0).any():
            warn(f"{path}: joints behind camera {camera.id}; are these world coordinates in mm?")
        views.append(project(joints, camera.intrinsics).astype(np.float32))
    return views


def write_both(
    path_3d: Path, positions_3d: Positions3d, path_2d: Path, positions_2d: Positions2d
) -> None:
    """Write 3D and 2D; both are complete before either replaces an earlier file.

    Raises:
        InputError: if both would go to the same file.
    """
    if path_3d == path_2d:
        raise InputError(f"{path_3d}: 3D and 2D cannot go to one file; choose two names")
    with atomic_output(path_2d) as temporary_2d, atomic_output(path_3d) as temporary_3d:
        write_positions_3d(temporary_3d, positions_3d)
        write_positions_2d(temporary_2d, positions_2d)
    for path in (path_3d, path_2d):
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


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
    run(main)
