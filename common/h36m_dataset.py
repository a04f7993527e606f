"""Human3.6M: subjects, splits, actions, cameras, and its sequences ready for a network.

This is the only place where pixels become normalised coordinates and poses become root-relative.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.camera import (
    CAMERA_IDS,
    follow_person,
    load_cameras,
    normalize_screen_coordinates,
    world_to_camera,
)
from common.files.confidences import read_estimates
from common.files.console import InputError, split_names
from common.files.npz import read_positions_3d
from common.skeleton import JOINTS_32_TO_17, ROOT

TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
SUBJECTS = TRAIN_SUBJECTS + TEST_SUBJECTS

# In the order of the literature's tables, with the abbreviations of their header.
ACTION_ABBREVIATIONS = {
    "Directions": "Dire.",
    "Discussion": "Disc.",
    "Eating": "Eat",
    "Greeting": "Greet",
    "Phoning": "Phone",
    "Photo": "Photo",
    "Posing": "Pose",
    "Purchases": "Purch.",
    "Sitting": "Sit",
    "SittingDown": "SitD.",
    "Smoking": "Smoke",
    "Waiting": "Wait",
    "WalkDog": "WalkD.",
    "Walking": "Walk",
    "WalkTogether": "WalkT.",
}
ACTIONS = tuple(ACTION_ABBREVIATIONS)
RENAMED_ACTIONS = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}

# Every subject performs every action twice: 30 sequences.
TAKES_PER_ACTION = 2
# The video of this sequence is corrupt; the field leaves it out.
CORRUPT_SEQUENCE = ("S11", "Directions")

FPS = 50


def action_class(action: str) -> str:
    """Return which of the 15 actions a sequence's name belongs to: "Sitting 1" is "Sitting"."""
    return canonical_action(action).split(" ")[0]


def canonical_action(name: str) -> str:
    """Return the field's name of a sequence: "TakingPhoto 1" is "Photo 1"."""
    action, *number = name.split(" ")
    return " ".join([RENAMED_ACTIONS.get(action, action), *number])


def is_corrupt(subject: str, action: str) -> bool:
    """Tell whether this is the sequence that the field leaves out, S11 "Directions"."""
    return (subject, canonical_action(action)) == CORRUPT_SEQUENCE


def wrong_takes(sequences: Iterable[str]) -> list[str]:
    """Return a phrase for each of one subject's sequence names that is wrong, or that lacks.

    There are to be two takes of each of the 15 actions, S11's corrupt one among them.
    """
    names = Counter(map(canonical_action, sequences))
    takes = Counter(map(action_class, names))
    return (
        [f"{name} under two names" for name, count in names.items() if count > 1]
        + [f"unknown action {name}" for name in names if action_class(name) not in ACTIONS]
        + [
            f"{takes[action]} of {TAKES_PER_ACTION} takes of {action}"
            for action in ACTIONS
            if takes[action] != TAKES_PER_ACTION
        ]
    )


def list_raw_files(
    folder: Path, subjects: Sequence[str], list_subject: Callable[[str], tuple[Any, list[str]]]
) -> dict[str, Any]:
    """Return {subject: its files} of a folder; `list_subject` gives those and a phrase a problem.

    Raises:
        InputError: naming all problems of all subjects.
    """
    files, problems = {}, []
    for subject in subjects:
        files[subject], found = list_subject(subject)
        problems += [f"{subject} {problem}" for problem in found]
    if problems:
        raise InputError(
            f"{folder}: {'; '.join(problems)}. Complete the folder (extract the archive again), "
            "or choose with --subjects"
        )
    if CORRUPT_SEQUENCE[0] in subjects:
        print(f"left out {' '.join(CORRUPT_SEQUENCE)}: its video is corrupt")
    return files


def parse_subjects(text: str) -> tuple[str, ...]:
    """Return the subjects named in "S1,S5", in the order of `SUBJECTS`.

    Raises:
        InputError: if one of them is none of the seven, or none is named.
    """
    names = set(split_names(text))
    unknown = sorted(names - set(SUBJECTS))
    if unknown or not names:
        raise InputError(f"no subject '{', '.join(unknown)}'; there are: {', '.join(SUBJECTS)}")
    return tuple(subject for subject in SUBJECTS if subject in names)


SUBJECTS_FLAG = {
    "type": parse_subjects,
    "default": ",".join(SUBJECTS),
    "metavar": "S1,S5,…",
    "help": "which subjects, for a partial download",
}


@dataclass(frozen=True, eq=False)
class Sequence2d3d:
    """What one camera saw of one sequence, ready for a network.

    Attributes:
        subject: "S1" and so on.
        action: the sequence's canonical name, such as "Sitting 1".
        camera: index of the camera in `CAMERA_IDS`.
        keypoints: (frames, 17, 2 × estimators + confidences), float32: normalised screen
            coordinates of each estimator, then the confidences.
        poses: (frames, 17, 3), float32, metres, camera coordinates, relative to the hip, which
            is zero.
        root: (frames, 3), float32, metres, the hip in camera coordinates.
        confidences: how many of the keypoints' channels, the last ones, are confidences.
    """

    subject: str
    action: str
    camera: int
    keypoints: np.ndarray
    poses: np.ndarray
    root: np.ndarray
    confidences: int = 0


def estimator_names(keypoints: str) -> list[str]:
    """Return the estimators that a value of --keypoints stands for, in their order."""
    if keypoints == "concatenate":
        return ["vitpose", "pct", "moganet"]
    return keypoints.split("+")


def keypoints_path(data_dir: Path, dataset: str, name: str) -> Path:
    """Return the path of an estimator's npz file.

    Raises:
        InputError: if there is none; the message says which names there are.
    """
    path = data_dir / f"data_2d_{dataset}_{name}.npz"
    if not path.is_file():
        names = keypoints_names(data_dir, dataset)
        there_are = f"there are: {', '.join(names)}" if names else "there are none"
        raise InputError(
            f"{path}: no such file; of keypoints in {data_dir}, {there_are} "
            f"(data/prepare_2d_{'custom' if dataset == 'custom' else 'estimation'}.py makes them)"
        )
    return path


def keypoints_names(data_dir: Path, dataset: str) -> list[str]:
    """Return the names of the 2D npz files that there are, sorted."""
    prefix = f"data_2d_{dataset}_"
    return sorted(p.stem.removeprefix(prefix) for p in data_dir.glob(f"{prefix}*.npz"))


def positions_3d_path(data_dir: Path, dataset: str) -> Path:
    """Return the path of the 3D npz file.

    Raises:
        InputError: if there is none.
    """
    path = data_dir / f"data_3d_{dataset}.npz"
    if not path.is_file():
        raise InputError(f"{path}: no such file (data/prepare_data_h36m.py makes it)")
    return path


def load_sequences(
    path_3d: Path,
    paths_2d: Sequence[Path],
    subjects: Sequence[str],
    actions: Sequence[str] | None = None,
) -> list[Sequence2d3d]:
    """Load and align 2D with 3D: one sequence for each subject, action and camera.

    2D that goes on after the end of 3D, as estimators' files do by a frame or two, is cut.

    Args:
        path_3d: `data_3d_<dataset>.npz`, in world or in camera coordinates.
        paths_2d: one `data_2d_<dataset>_<name>.npz` for each estimator; their coordinates are
            concatenated along the last axis, and behind them the confidences of those whose name
            ends in `_w_conf`. Confidences that are logits are scaled as in `merge.py`.
        subjects: which subjects, in this order.
        actions: as `select_actions` takes them.

    Raises:
        InputError: if a file lacks a subject or an action that another has, no sequence is left,
            2D is shorter than 3D, or confidences are missing.
    """
    positions_3d = read_positions_3d(path_3d)
    positions_2d = [read_estimates(path) for path in paths_2d]
    for path, positions in [(path_3d, positions_3d), *zip(paths_2d, positions_2d)]:
        if missing := [s for s in subjects if s not in positions]:
            raise InputError(
                f"{path}: lacks {', '.join(missing)}; it holds {', '.join(sorted(positions))}"
            )
        for subject in subjects:  # figures would not be comparable
            if lacking := sorted(positions_3d[subject].keys() - positions[subject].keys()):
                raise InputError(
                    f"{path}: {subject} lacks {', '.join(lacking)}, which {path_3d.name} has"
                )
    sequences = []
    for subject in subjects:
        for action in select_actions(path_3d, positions_3d[subject], actions):
            poses = cameras_poses(positions_3d[subject][action], subject)
            for camera in range(len(CAMERA_IDS)):
                pixels = [positions[subject][action][camera] for positions in positions_2d]
                for path, view in zip(paths_2d, pixels):
                    if len(view) < len(poses[camera]):
                        raise InputError(
                            f"{path}: {subject} {action}, camera {CAMERA_IDS[camera]}: "
                            f"{len(view)} frames of 2D, but {len(poses[camera])} of 3D"
                        )
                sequences.append(_sequence(subject, action, camera, pixels, poses[camera]))
    return sequences


def select_actions(path: Path | str, available: Any, actions: Sequence[str] | None) -> list[str]:
    """Return the names in `available` that `actions` selects; exact names, never prefixes.

    One of the 15 actions selects both of its takes, "Sitting 1" that one; None selects all.

    Raises:
        InputError: if one of `actions` selects nothing, or there is none.
    """
    if actions is None:
        return list(available)
    wanted = [canonical_action(action) for action in actions]
    if not wanted:
        raise InputError(f"no action is named; there are: {', '.join(ACTIONS)}")
    chosen = [name for name in available if {name, action_class(name)} & set(wanted)]
    for action in wanted:
        if not any(action in (name, action_class(name)) for name in chosen):
            raise InputError(
                f"{path}: no action '{action}'; there are: {', '.join(sorted(available))}"
            )
    return chosen


def cameras_poses(positions: np.ndarray | list[np.ndarray], subject: str) -> list[np.ndarray]:
    """Return the 17 joints in each camera's coordinates, four (frames, 17, 3), float64, metres.

    `positions` are (frames, 32, 3) in world coordinates, or a list of four such arrays in camera
    coordinates; metres.
    """
    if isinstance(positions, list):
        return [p[:, JOINTS_32_TO_17].astype(np.float64) for p in positions]
    world = positions[:, JOINTS_32_TO_17].astype(np.float64)
    return [
        world_to_camera(world, camera.orientation, camera.translation_m)
        for camera in load_cameras()[subject]
    ]


def _sequence(
    subject: str, action: str, camera: int, pixels: list[np.ndarray], poses: np.ndarray
) -> Sequence2d3d:
    view = load_cameras()[subject][camera]
    pixels = [p[: len(poses)] for p in pixels]
    keypoints = [normalize_screen_coordinates(p[..., :2], view.width, view.height) for p in pixels]
    confidences = [p[..., 2:] for p in pixels]
    root = poses[:, ROOT]
    return Sequence2d3d(
        *(subject, action, camera),
        np.concatenate(keypoints + confidences, axis=-1),
        poses=(poses - root[:, None]).astype(np.float32),
        root=root.astype(np.float32),
        confidences=sum(c.shape[-1] for c in confidences),
    )


def downsample(sequences: Sequence[Sequence2d3d], factor: int) -> list[Sequence2d3d]:
    """Keep every `factor`-th frame of each sequence."""
    return [_frames(sequence, slice(None, None, factor)) for sequence in sequences]


def _frames(sequence: Sequence2d3d, frames: slice) -> Sequence2d3d:
    cut = {name: getattr(sequence, name)[frames] for name in ("keypoints", "poses", "root")}
    return replace(sequence, **cut)


def subset(sequences: Sequence[Sequence2d3d], part: float, seed: int) -> list[Sequence2d3d]:
    """Keep one contiguous piece of each sequence, `part` of its frames, placed by the seed."""
    random = np.random.default_rng(seed)
    pieces = []
    for sequence in sequences:
        n = len(sequence.poses)
        length = max(1, round(n * part))
        start = int(random.integers(n - length + 1))
        pieces.append(_frames(sequence, slice(start, start + length)))
    return pieces


def as_person_seen(sequence: Sequence2d3d) -> Sequence2d3d:
    """Return a sequence of one estimator as the virtual camera of `follow_person` sees it."""
    focal, center, _ = np.split(normalized_intrinsics(sequence.subject, sequence.camera), [2, 4])
    rays, turns = follow_person((sequence.keypoints - center) / focal)
    poses = sequence.poses @ np.swapaxes(turns, -1, -2)
    return replace(sequence, keypoints=rays.astype(np.float32), poses=poses.astype(np.float32))


def pixels_to_normalized(subject: str, camera: int) -> float:
    """Return how long one pixel is in normalised screen coordinates."""
    return 2 / load_cameras()[subject][camera].width


def normalized_intrinsics(subject: str, camera: int) -> np.ndarray:
    """Return a camera's intrinsics, (9,), with which `project` gives normalised coordinates."""
    view = load_cameras()[subject][camera]
    focal, center, distortion = np.split(view.intrinsics, [2, 4])
    center = normalize_screen_coordinates(center, view.width, view.height)
    return np.concatenate([focal * 2 / view.width, center, distortion])


def camera_up(subject: str, camera: int) -> np.ndarray:
    """Return the unit vector, (3,), that points up in a camera's coordinates."""
    orientation = load_cameras()[subject][camera].orientation
    return world_to_camera(np.array([0.0, 0.0, 1.0]), orientation, np.zeros(3))


def average_pose(sequences: Sequence[Sequence2d3d]) -> np.ndarray:
    """Return the average of all poses, (17, 3), float32, metres, camera coordinates."""
    total = sum(sequence.poses.sum(axis=0, dtype=np.float64) for sequence in sequences)
    return (total / sum(len(sequence.poses) for sequence in sequences)).astype(np.float32)
