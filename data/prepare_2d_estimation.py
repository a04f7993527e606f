"""A 2D estimator's raw output to data_2d_h36m_<detector>.npz.

Any estimator's: its files are recognised by their content. One person a frame is kept, frames
without a detection are filled, and the keypoints become Human3.6M's joints.
"""

import argparse
import os
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import CAMERA_IDS
from common.files import console
from common.files.console import DATA_DIR, InputError, listing, progress, warn
from common.files.npz import Positions2d, read_positions_3d, write_positions_2d
from common.files.output import find_folder
from common.footage.layouts import LAYOUTS, POINT_PARENTS, to_h36m
from common.footage.people import best_of_each_frame, read_people
from common.footage.tracks import Piece, Track, fill_gaps, hold_gaps
from common.h36m_dataset import (
    CORRUPT_SEQUENCE,
    SUBJECTS_FLAG,
    canonical_action,
    is_corrupt,
    list_raw_files,
    wrong_takes,
)

FILE_SUFFIX = "_pose_sequence.npy"
# "Directions 1_54138969_pose_sequence.npy", "Directions 1.54138969.mp4.json", "Eating 54138969"
_NAME = re.compile(rf"(.+?)[._ -]+({'|'.join(CAMERA_IDS)})(?:[._ -].*)?")
_SUFFIXES = (".npy", ".npz", ".json", ".csv")
# More processes than these wait for the disk.
MAX_PROCESSES = 8
Lengths = dict[str, dict[str, int]]  # {subject: {action: frames}}


class RawFile(NamedTuple):
    """Where one camera's view of one sequence comes from."""

    subject: str
    action: str
    camera: str
    path: Path


def main() -> None:
    """Find the files, read and convert them, check them against 3D, write."""
    arguments = parse_arguments()
    path_3d = arguments.data_dir / "data_3d_h36m.npz"
    lengths_3d = read_lengths_3d(path_3d)
    folder = find_detections(arguments.detections_dir, arguments.data_dir, arguments.detector)
    listed = list_raw_files(folder, arguments.subjects, partial(list_subject, folder, lengths_3d))
    files = [file for of_subject in listed.values() for file in of_subject]
    print(f"reading {len(files)} files of {folder}")
    sequences = convert(files, arguments.layout, arguments.keep_conf)
    check_lengths(files, sequences, lengths_3d, path_3d)
    report_gaps(files, sequences, arguments.max_gap)
    positions: Positions2d = {}
    for file, sequence in zip(files, sequences):  # ordered by subject, action and camera
        views = positions.setdefault(file.subject, {}).setdefault(file.action, [])
        views.append(sequence.keypoints)
    suffix = "_w_conf" if arguments.keep_conf else ""
    output = arguments.data_dir / f"data_2d_h36m_{arguments.detector}{suffix}.npz"
    write_positions_2d(output, positions)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = console.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--detector", required=True, metavar="NAME", help="any name: vitpose, pct, your own")
    add("--keep-conf", action="store_true", help="keep the confidences; the file ends in _w_conf")
    data_dir = "where the npz file goes; a data_3d_h36m.npz in it is compared with"
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help=data_dir)
    folder = "folder of S1/<ACTION>_<CAMERA>_pose_sequence.npy and so on, or of files named as "
    folder += "the videos, S1/<ACTION>.<CAMERA>.json, or of a folder a camera; without this flag, "
    folder += "preprocess/h36m_NAME or h36m_NAME in --data-dir"
    add("--detections-dir", type=Path, metavar="DIR", help=folder)
    layout = "what the keypoints are (default: by their number, coco for 17); h36m for an "
    layout += "estimator trained on Human3.6M's joints"
    add("--layout", choices=LAYOUTS, help=layout)
    gap = "warn of a file in which more frames than these, in succession, have no detection"
    add("--max-gap", type=console.non_negative_int, default=20, metavar="FRAMES", help=gap)
    add("--subjects", **SUBJECTS_FLAG)
    return parser.parse_args()


def find_detections(given: Path | None, data_dir: Path, detector: str) -> Path:
    """Return the folder of the raw files; the error tells where it was looked for."""
    if not detector or Path(detector).name != detector:
        raise InputError(f"--detector '{detector}': a name, not a path; see --detections-dir")
    advice = f"put the raw files of {detector} there, or name their folder with --detections-dir"
    parents = [Path()] if given else [data_dir / "preprocess", data_dir]
    return find_folder(given or f"h36m_{detector}", parents, advice)


def read_lengths_3d(path: Path) -> Lengths:
    """Return the lengths of the 3D file's sequences, none where there is no such file."""
    positions = read_positions_3d(path) if path.exists() else {}
    return {
        subject: {name: len(p[0] if isinstance(p, list) else p) for name, p in actions.items()}
        for subject, actions in positions.items()
    }


def list_subject(
    folder: Path, lengths_3d: Lengths, subject: str
) -> tuple[list[RawFile], list[str]]:
    """List one subject's raw files, and return a phrase for each action or camera that is wrong.

    A subject must have the sequences of `lengths_3d`; one that is not in it, two takes of each of
    the 15 actions. Every sequence must have the four cameras.
    """
    entries = named_files(folder, subject)
    if not entries and not (folder / subject).is_dir():
        refuse_other_files(folder, named_files(folder))
        return [], ["is missing"]
    files, problems = [], []
    for name, path in entries:
        if sequence := _NAME.fullmatch(name):
            action, camera = sequence[1].replace("_", " "), sequence[2]
        elif name.endswith(FILE_SUFFIX):
            action, _, camera = name.removesuffix(FILE_SUFFIX).rpartition("_")
            problems.append(f"has an unknown camera {camera}: {name}")
        else:
            continue
        if not is_corrupt(subject, action):
            files.append(RawFile(subject, canonical_action(action), camera, path))
    if not files:
        refuse_other_files(folder / subject, entries)
    views = Counter((file.action, file.camera) for file in files)
    problems += [f"has {' '.join(view)} twice" for view, count in views.items() if count > 1]
    actions = sorted({file.action for file in files})
    for action in actions:
        missing = [camera for camera in CAMERA_IDS if (action, camera) not in views]
        if missing:
            problems.append(f"{action} lacks camera {', '.join(missing)}")
    if subject in lengths_3d:
        missing = lengths_3d[subject].keys() - actions
        problems += [f"lacks {', '.join(sorted(missing))}, which 3D has"] if missing else []
    else:
        left_out = [action for corrupt, action in [CORRUPT_SEQUENCE] if corrupt == subject]
        problems += [f"has {wrong}" for wrong in wrong_takes([*actions, *left_out])]
    return sorted(files), problems


def named_files(folder: Path, subject: str = "") -> list[tuple[str, Path]]:
    """Return what may be an estimator's output in a folder, or of a subject, each with its name.

    A subject's files are in a folder of its name, or their names begin with it. In a folder that is
    named as a camera, the camera follows the name; any other folder is the output of one video, of
    a file for each frame. Hidden files and `_ALL…` are left out.
    """
    if subject and not (folder / subject).is_dir():
        of_subject = re.compile(rf"{subject}[._ -](.*)", re.DOTALL)
        found = ((of_subject.fullmatch(name), path) for name, path in named_files(folder))
        return [(name[1], path) for name, path in found if name]
    found = []
    for path in sorted((folder / subject).glob("[!._]*")):
        if path.is_dir() and path.name in CAMERA_IDS:
            inner = sorted(path.glob("[!._]*"))
            found += [(f"{p.name if p.is_dir() else p.stem}_{path.name}", p) for p in inner]
        elif path.is_dir() or path.suffix in _SUFFIXES:
            found.append((path.name, path))
    return [(name.removeprefix(f"{subject}_") if subject else name, path) for name, path in found]


def refuse_other_files(folder: Path, entries: list[tuple[str, Path]]) -> None:
    """Say what is in a folder and what is expected, where there are files of which none fits."""
    if names := [name for name, path in entries if path.is_file()]:
        raise InputError(
            f"{folder}: found {len(names)} files, such as {listing(names[:2])}; none is named "
            f"<SUBJECT>/<ACTION>_<CAMERA>{FILE_SUFFIX}, <SUBJECT>/<ACTION>.<CAMERA>.npy or .json, "
            f"or <SUBJECT>/<CAMERA>/<ACTION>.npy; the cameras are {', '.join(CAMERA_IDS)}"
        )


def convert(files: list[RawFile], layout: str | None, keep_conf: bool) -> list[Piece]:
    """Read every file, on all cores: unpickling is what takes the time."""
    convert_one = partial(convert_file, layout=layout, keep_conf=keep_conf)
    paths = [file.path for file in files]
    processes = min(os.cpu_count() or 1, MAX_PROCESSES)
    with ProcessPoolExecutor(processes, initializer=console.leave_signals_to_parent) as pool:
        sequences = pool.map(convert_one, paths, chunksize=8)
        return list(progress(sequences, total=len(paths), desc="sequences", unit="file"))


def convert_file(path: Path, layout: str | None, keep_conf: bool) -> Piece:
    """Read one raw file, choose a person a frame, fill gaps, convert to Human3.6M's joints.

    Returns the whole sequence, keypoints (frames, 17, 2 or 3), float32.

    Raises:
        InputError: if the file is bad, or has no confidences to keep.
    """
    people = read_people(path, layout)
    rows = best_of_each_frame(people.frames, people.scores)
    frames = people.frames[rows]
    keypoints, filled = fill_points(frames, people.keypoints[rows], people.layout)
    if keep_conf and keypoints.shape[-1] == 2:
        raise InputError(f"{path}: holds no confidences; run without --keep-conf")
    keypoints = keypoints[..., : 3 if keep_conf else 2].astype(np.float32)
    sequence = hold_gaps(frames, keypoints, people.num_frames)._replace(filled_points=filled)
    joints = to_h36m(sequence.keypoints.astype(np.float64), people.layout)
    return sequence._replace(keypoints=np.ascontiguousarray(joints, dtype=np.float32))


def fill_points(frames: np.ndarray, keypoints: np.ndarray, layout: str) -> tuple[np.ndarray, int]:
    """Fill points that were not found, as in own footage, and count them.

    Takes frames (found,), increasing, and keypoints (found, 17, 2 or 3). Not found are points that
    are NaN and those of confidence zero, unless all confidences are.
    """
    confidences = keypoints[..., 2:]
    if (confidences > 0).any():
        keypoints = np.where(confidences == 0, np.nan, keypoints)
    if not np.isnan(keypoints).any():
        return keypoints, 0
    piece = fill_gaps(Track(1, frames, keypoints, room_px=0), POINT_PARENTS[layout])
    return piece.keypoints[frames - frames[0]], piece.filled_points


def check_lengths(
    files: list[RawFile], sequences: list[Piece], lengths_3d: Lengths, path_3d: Path
) -> None:
    """Refuse 2D that ends before 3D. Where 2D goes on after it, loading cuts the surplus."""
    short = []
    for file, sequence in zip(files, sequences):
        frames = len(sequence.keypoints)
        frames_3d = lengths_3d.get(file.subject, {}).get(file.action, 0)
        if frames < frames_3d:
            short.append(f"{file.path} has {frames} frames, 3D has {frames_3d}")
    if short:
        raise InputError(
            f"2D is shorter than 3D: {'; '.join(short)}. Run the estimator on the whole video, "
            f"or make {path_3d} again if it is not of these sequences"
        )


def report_gaps(files: list[RawFile], sequences: list[Piece], max_gap: int) -> None:
    """Print what was filled, per file and in total, and warn of gaps beyond `max_gap`."""
    for file, sequence in zip(files, sequences):
        filled, gap = sequence.filled_frames, sequence.longest_gap
        if filled:
            told = f"filled {filled} of {len(sequence.keypoints)} frames, longest gap {gap}"
            print(f"{file.subject}/{file.path.name}: {told}")
        if gap > max_gap:
            warn(f"{file.path}: no detection in {gap} frames in succession")
    filled = [sequence.filled_frames for sequence in sequences]
    frames = sum(len(sequence.keypoints) for sequence in sequences)
    print(
        f"filled {sum(filled):,} of {frames:,} frames, in {np.count_nonzero(filled)} of "
        f"{len(files)} files; longest gap {max(sequence.longest_gap for sequence in sequences)}"
    )
    if points := sum(sequence.filled_points for sequence in sequences):
        warn(
            f"{points:,} points that the estimator did not find ((0, 0), NaN, or confidence 0), "
            f"{points / (17 * frames):.1%} of all, were filled from the frames around them"
        )


if __name__ == "__main__":
    console.run_script(main)
