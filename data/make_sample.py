"""Write a licence-free stand-in for Human3.6M's raw files, from a seed, without any download.

An articulated body performs Human3.6M's 15 actions, twice for each of the seven subjects, in front
of the dataset's own four cameras. Four simulated 2D estimators watch. Written are, in the formats
of the originals:

    <data-dir>/preprocess/cdf_files/<SUBJECT>/MyPoseFeatures/D3_Positions/<ACTION>.cdf
    <data-dir>/preprocess/h36m_<ESTIMATOR>/<SUBJECT>/<ACTION>_<CAMERA>_pose_sequence.npy

Figures that come from these files say nothing about people, and must not be published as such.
"""

import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import project, world_to_camera
from common.console import (
    DATA_DIR,
    ArgumentParser,
    InputError,
    leave_signals_to_parent,
    non_negative_int,
    positive_int,
    progress,
    run,
)
from common.h36m_dataset import (
    ACTIONS,
    CAMERA_IDS,
    SUBJECTS,
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    Camera,
    action_class,
    is_corrupt,
    load_cameras,
    parse_subjects,
)
from data.synthetic.actions import Arena, perform
from data.synthetic.body import Body, Motion, make_body

# The numbers that the two files of an action carry; None where the name has no number.
_USUAL_NUMBERS = (None, 1)
_NUMBERS = MappingProxyType(
    {
        "S1": {"Eating": (None, 2), "Sitting": (1, 2), "SittingDown": (None, 2)},
        "S5": {
            "Directions": (1, 2),
            "Discussion": (2, 3),
            "Greeting": (1, 2),
            "Photo": (None, 2),
            "Waiting": (1, 2),
        },
        "S6": {"Eating": (1, 2), "Posing": (None, 2), "Sitting": (1, 2), "Waiting": (None, 3)},
        "S7": {"Phoning": (None, 2), "Waiting": (1, 2), "Walking": (1, 2)},
        "S8": {"WalkTogether": (1, 2)},
        "S9": {"Discussion": (1, 2)},
        "S11": {
            "Discussion": (1, 2),
            "Greeting": (None, 2),
            "Phoning": (2, 3),
            "Smoking": (None, 2),
        },
    }
)
_S1_SPELLING = MappingProxyType({"Photo": "TakingPhoto", "WalkDog": "WalkingDog"})

# Frames of Human3.6M counted over its four cameras, without the corrupt sequence.
TRAIN_FRAMES, TEST_FRAMES = 1_559_752, 543_344
_CORRUPT_SEQUENCE_FRAMES = 1_612

_MANIFEST = "made_by_make_sample.txt"
_EDGE_PX = 3

# Rows of (joints, face) of a `Motion` that are COCO's keypoints, in COCO's order.
_COCO_JOINTS = (32, 33, 34, 35, 36, 17, 25, 18, 26, 19, 27, 6, 1, 7, 2, 8, 3)
_COCO_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
_COCO_ARMS, _COCO_LEGS = slice(5, 11), slice(11, 17)
# Eyes are easy to place, wrists, hips and ankles are not.
_DIFFICULTY = np.array([0.5] * 3 + [0.7] * 2 + [0.9] * 2 + [1.0] * 2 + [1.3] * 2)
_DIFFICULTY = np.concatenate([_DIFFICULTY, [1.15] * 2 + [1.0] * 2 + [1.15] * 2])
# What hides joints behind it: spheres at, or half-way between, two joints, with radii in metres.
_OCCLUDERS = (
    *((0, 0, 0.14), (0, 12, 0.14), (12, 12, 0.15), (12, 13, 0.16), (14, 15, 0.09)),
    *((6, 7, 0.08), (7, 7, 0.06), (7, 8, 0.06), (1, 2, 0.08), (2, 2, 0.06), (2, 3, 0.06)),
)


@dataclass(frozen=True)
class Estimator:
    """A simulated 2D pose estimator.

    Attributes:
        name: of its folder, after "h36m_".
        stream: number of its own stream of chance.
        error: standard deviation of a visible keypoint's error, as a fraction of the person's
            height in the image.
        hidden: how many times larger the error of a hidden keypoint is.
        jump, swap: how often a keypoint jumps and limbs are swapped, per frame.
        missing: how often a gap without any detection begins, per frame.
        confidence_scale: 1 for probabilities; PCT writes logits.
        one_person: whether it writes {frame: (1, 17, 3) or None} instead of a list of people.
    """

    name: str
    stream: int
    error: float
    hidden: float
    jump: float
    swap: float
    missing: float
    confidence_scale: float = 1.0
    one_person: bool = False


ESTIMATORS = (
    Estimator("vitpose", 1, 0.0068, 3.0, 0.0006, 0.0008, 0.0015),
    Estimator("pct", 2, 0.0080, 3.2, 0.0008, 0.0010, 0.0020, confidence_scale=9.5),
    Estimator("moganet", 3, 0.0088, 3.4, 0.0010, 0.0015, 0.0025),
    Estimator("transpose", 4, 0.0112, 4.2, 0.0030, 0.0040, 0.0050, one_person=True),
)
# Estimators err alike where a picture is ambiguous: the share of the variance that is common.
_COMMON_SHARE = 0.35
_MEMORY_OF_ERROR = 0.85


def main() -> None:
    """Write the sample and say what was written."""
    args = parse_arguments()
    preprocess = args.data_dir / "preprocess"
    folders = ["cdf_files", *(f"h36m_{estimator.name}" for estimator in ESTIMATORS)]
    check_replaceable(preprocess, folders)
    clips = list(plan_clips(args.subjects, None if args.full else args.frames))
    preprocess.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=preprocess, prefix=".sample-") as temporary:
        frames = write_clips(Path(temporary), clips, args.seed)
        install(Path(temporary), preprocess, folders)
    print(
        f"{preprocess}: wrote {len(clips)} sequences of {len(args.subjects)} subjects, "
        f"{frames:,} frames at 50 Hz, as CDF and as seen by {len(ESTIMATORS)} estimators in "
        f"{len(CAMERA_IDS)} cameras"
    )


def parse_arguments() -> Namespace:
    """Return the parsed flags."""
    parser = ArgumentParser(description="Write a licence-free stand-in for Human3.6M's raw files.")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=DATA_DIR / "sample",
        help="the files go into preprocess/ in this folder; an earlier sample is replaced",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--frames", type=positive_int, default=100, help="length of each sequence")
    size.add_argument("--full", action="store_true", help="lengths as in Human3.6M, 527k frames")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="same seed, same sample")
    parser.add_argument(
        "--subjects",
        type=parse_subjects,
        default=",".join(SUBJECTS),
        metavar="S1,S5,…",
        help="which subjects",
    )
    return parser.parse_args()


# --- which files, and how long ------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One sequence to be made: a subject, a file's name and number among the 30, and its length."""

    subject: str
    name: str
    number: int
    frames: int


def file_names(subject: str) -> list[str]:
    """Return the names of a subject's 30 files as Human3.6M spells them: "TakingPhoto 1"."""
    names = []
    for action in ACTIONS:
        spelled = _S1_SPELLING.get(action, action) if subject == "S1" else action
        for number in _NUMBERS[subject].get(action, _USUAL_NUMBERS):
            names.append(spelled if number is None else f"{spelled} {number}")
    return names


def plan_clips(subjects: Sequence[str], frames: int | None) -> Iterator[Clip]:
    """Yield the clips of these subjects, of `frames` frames or, for None, of the full length."""
    for subject in subjects:
        for number, name in enumerate(file_names(subject)):
            length = full_lengths()[subject, name] if frames is None else frames
            yield Clip(subject, name, number, length)


@cache
def full_lengths() -> MappingProxyType:
    """Return {(subject, file name): frames}, plausible, with sums as in Human3.6M.

    The training subjects' lengths add up to a quarter of `TRAIN_FRAMES`, the test subjects' to a
    quarter of `TEST_FRAMES`, since those are counted over four cameras and without the sequence
    that the field leaves out.
    """
    lengths = {}
    rng = np.random.default_rng(36)
    for subjects, total in ((TRAIN_SUBJECTS, TRAIN_FRAMES), (TEST_SUBJECTS, TEST_FRAMES)):
        files = [(s, name) for s in subjects for name in file_names(s) if not is_corrupt(s, name)]
        weights = rng.uniform(0.45, 1.55, len(files))
        lengths.update(zip(files, _shares(weights, total // len(CAMERA_IDS))))
    corrupt = next((s, n) for s in SUBJECTS for n in file_names(s) if is_corrupt(s, n))
    lengths[corrupt] = _CORRUPT_SEQUENCE_FRAMES
    return MappingProxyType(lengths)


def _shares(weights: np.ndarray, total: int) -> list[int]:
    """Divide `total` in proportion to the weights, to whole numbers that add up to it."""
    ends = np.round(np.cumsum(weights) / weights.sum() * total).astype(int)
    return np.diff(ends, prepend=0).tolist()


# --- making and writing one sequence ------------------------------------------------------------


def write_clips(folder: Path, clips: Sequence[Clip], seed: int) -> int:
    """Make and write all clips, one process per core; return the number of frames."""
    write = partial(write_clip, folder, seed)
    # The longest first, so that no core waits for another at the end.
    ordered = sorted(clips, key=lambda clip: -clip.frames)
    with ProcessPoolExecutor(os.cpu_count(), initializer=leave_signals_to_parent) as pool:
        try:
            finished = pool.map(write, ordered)
            for _ in progress(finished, total=len(clips), desc="sample", unit="file"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sum(clip.frames for clip in clips)


def write_clip(folder: Path, seed: int, clip: Clip) -> None:
    """Make one sequence and write its CDF and its estimators' files.

    Raises:
        OSError: naming a file or the folder, such as when the disk is full.
    """
    try:
        _write_clip(folder, seed, clip)
    except OSError as error:  # a write does not tell where it failed
        raise OSError(error.errno, error.strerror, error.filename or str(folder.parent)) from error


def _write_clip(folder: Path, seed: int, clip: Clip) -> None:
    motion = make_motion(clip, seed)
    positions_mm = (1000 * motion.joints[: clip.frames]).astype(np.float32)
    path = folder / "cdf_files" / clip.subject / "MyPoseFeatures" / "D3_Positions"
    write_cdf(path / f"{clip.name}.cdf", positions_mm)
    views = [see(motion, camera) for camera in load_cameras()[clip.subject]]
    common = [
        correlated_noise(_generator(seed, clip, 5 + camera), len(motion.joints))
        for camera in range(len(CAMERA_IDS))
    ]
    for estimator in ESTIMATORS:
        rng = _generator(seed, clip, estimator.stream)
        for camera, view in enumerate(views):
            # The first camera's videos are a frame longer than the motion capture.
            frames = clip.frames + (camera == 0)
            people = estimate(rng, estimator, view, common[camera])[:frames]
            name = f"{clip.name}_{CAMERA_IDS[camera]}_pose_sequence.npy"
            write_detections(
                folder / f"h36m_{estimator.name}" / clip.subject / name, people, estimator
            )


def _generator(seed: int, clip: Clip, stream: int) -> np.random.Generator:
    """Return a source of chance of this clip alone: no file depends on which others are made."""
    key = (SUBJECTS.index(clip.subject), clip.number, stream)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_motion(clip: Clip, seed: int) -> Motion:
    """Let the clip's subject perform its action in the view of all four cameras.

    Returns:
        One frame more than the clip has.
    """
    body = subjects_body(clip.subject, seed)
    arena = find_arena(clip.subject)
    for _ in range(12):
        rng = _generator(seed, clip, 0)
        motion = perform(action_class(clip.name), body, arena, clip.frames + 1, rng)
        if all(inside_picture(motion, camera) for camera in load_cameras()[clip.subject]):
            return motion
        arena = arena.shrunk(0.85)
    raise RuntimeError(f"{clip}: seed {seed} gives no motion that all cameras see")


def subjects_body(subject: str, seed: int) -> Body:
    """Return this subject's `Body`; no two subjects are of the same height."""
    statures = np.random.default_rng(seed).permutation(np.linspace(1.60, 1.86, len(SUBJECTS)))
    index = SUBJECTS.index(subject)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    return make_body(rng, statures[index])


@cache
def find_arena(subject: str) -> Arena:
    """Return an ellipse on the floor in which a person is inside all four pictures.

    Its shape is that of the places where a stout column of points is seen by all cameras.
    """
    grid = np.arange(-3, 3, 0.1)
    places = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    seen = places[_column_is_seen(places, subject)]
    centre = seen.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(seen.T))
    # A uniformly filled ellipse has a variance of a quarter of its semi-axis squared.
    arena = Arena(centre, directions * 2 * np.sqrt(variances))
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    while not _column_is_seen(arena.place(rim), subject).all():
        arena = arena.shrunk(0.97)
    return arena


def _column_is_seen(places: np.ndarray, subject: str) -> np.ndarray:
    """Tell for floor places (n, 2) whether feet, outstretched hands and raised hands are seen."""
    angles = np.arange(8) * np.pi / 4
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
    column = [radius * circle + [0, 0, z] for radius, z in ((0.35, 0), (0.75, 1.4), (0.3, 2.0))]
    ground = np.pad(places, ((0, 0), (0, 1)))
    points = ground[:, None] + np.concatenate(column)
    seen = [_inside(*_project(points, camera), camera) for camera in load_cameras()[subject]]
    return np.all(seen, axis=(0, 2))


def _project(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., 2) pixels and (..., 3) camera coordinates of world points (..., 3)."""
    in_camera = world_to_camera(points, camera.orientation, camera.translation_m)
    return project(in_camera, camera.intrinsics), in_camera


def _inside(pixels: np.ndarray, in_camera: np.ndarray, camera: Camera) -> np.ndarray:
    limits = np.array([camera.width, camera.height]) - _EDGE_PX
    inside = (pixels > _EDGE_PX) & (pixels < limits)
    return inside.all(axis=-1) & (in_camera[..., 2] > 1)


def inside_picture(motion: Motion, camera: Camera) -> bool:
    """Tell whether all joints are inside the picture in all frames."""
    return bool(_inside(*_project(motion.joints, camera), camera).all())


def write_cdf(path: Path, positions_mm: np.ndarray) -> None:
    """Write (frames, 32, 3) as Human3.6M does: variable Pose, (1, frames, 96), float32."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    pose = positions_mm.reshape(1, -1, 96)
    description = {
        "Variable": "Pose",
        "Data_Type": CDF.CDF_FLOAT,
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(pose.shape[1:]),
        "Compress": 6,
    }
    with CDF(path) as file:
        file.write_var(description, var_data=pose)


# --- the estimators -----------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What there is to be seen in one camera.

    Attributes:
        keypoints: (frames, 17, 2), pixels, where COCO's keypoints really are.
        hidden: (frames, 17), how far each is hidden behind the body, 0 to 1.
        size: (frames,), height of the person, pixels.
    """

    keypoints: np.ndarray
    hidden: np.ndarray
    size: np.ndarray


def see(motion: Motion, camera: Camera) -> View:
    """Project COCO's keypoints and find which of them the body hides."""
    points = np.concatenate([motion.joints, motion.face], axis=1)
    pixels, in_camera = _project(points, camera)
    keypoints = pixels[:, _COCO_JOINTS]
    height = in_camera[:, 0, 2]
    size = 1.6 * camera.intrinsics[1] / height
    return View(keypoints, hidden_by_body(in_camera), size)


def hidden_by_body(in_camera: np.ndarray) -> np.ndarray:
    """Return how far each keypoint is hidden, (frames, 17), 0 to 1.

    A keypoint is hidden where its line of sight passes through one of the spheres that make up
    trunk, head and legs, and the sphere is nearer to the camera.

    Args:
        in_camera: (frames, 37, 3), joints and face in camera coordinates, metres.
    """
    keypoints = in_camera[:, _COCO_JOINTS]
    squared = np.sum(keypoints**2, axis=-1)
    distance = np.sqrt(squared)
    hidden = np.zeros(keypoints.shape[:2])
    for first, second, radius in _OCCLUDERS:
        centre = (in_camera[:, None, first] + in_camera[:, None, second]) / 2
        dot = np.sum(keypoints * centre, axis=-1)
        miss = np.sqrt(np.maximum(np.sum(centre**2, axis=-1) - dot**2 / squared, 0))
        nearer = distance - dot / distance
        covered = np.clip((radius - miss) / 0.04 + 0.5, 0, 1)
        hidden = np.maximum(hidden, covered * np.clip((nearer - 0.06) / 0.06, 0, 1))
    return hidden


def correlated_noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return noise (frames, 17, 2) of unit variance, each frame like the one before: AR(1)."""
    noise = rng.standard_normal((frames, 17, 2))
    noise[1:] *= np.sqrt(1 - _MEMORY_OF_ERROR**2)
    for frame in range(1, frames):
        noise[frame] += _MEMORY_OF_ERROR * noise[frame - 1]
    return noise


def estimate(
    rng: np.random.Generator, estimator: Estimator, view: View, common: np.ndarray
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Let an estimator look at a view.

    Args:
        rng: its source of chance.
        estimator: which one.
        view: of `frames` frames.
        common: (frames, 17, 2), unit variance, what all estimators' errors share.

    Returns:
        For each frame its people: (bbox (5,), keypoints (17, 3)), float32, pixels.
    """
    frames = len(view.keypoints)
    keypoints, confidence = estimate_keypoints(rng, estimator, view, common)
    score = 0.99 - 0.05 * view.hidden.mean(axis=1) - 0.03 * rng.random(frames)
    people = [[person] for person in _detections(estimator, keypoints, confidence, score)]
    if not estimator.one_person:
        _add_strangers(rng, estimator, people, keypoints)
    missing = _episodes(rng, (frames,), estimator.missing, 6)[0]
    # A list of people does not tell how long the video is unless its last frame has somebody.
    missing[-2:] = False
    for frame in np.flatnonzero(missing):
        people[frame] = []
    return people


def estimate_keypoints(
    rng: np.random.Generator, estimator: Estimator, view: View, common: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the estimator sees the keypoints, (frames, 17, 2) pixels, and (frames, 17).

    The error has a bias for each keypoint, wanders from frame to frame, grows with the person's
    size in the image and where a keypoint is hidden; now and then a keypoint jumps, or left and
    right are swapped. The confidence falls as the error grows, but not reliably.
    """
    frames = len(view.keypoints)
    scale = estimator.error * _DIFFICULTY * (1 + (estimator.hidden - 1) * view.hidden)
    own = correlated_noise(rng, frames)
    error = np.sqrt(_COMMON_SHARE) * common + np.sqrt(1 - _COMMON_SHARE) * own
    bias = 0.5 * np.clip(rng.standard_normal((17, 2)), -2, 2)
    jitter = 0.25 * rng.standard_normal((frames, 17, 2))
    error = (error + bias + jitter) * scale[..., None] + _jumps(rng, estimator, view)
    keypoints = view.keypoints + view.size[:, None, None] * error
    keypoints = _swap_sides(rng, estimator, keypoints)
    relative = np.linalg.norm(keypoints - view.keypoints, axis=-1) / view.size[:, None]
    confidence = 0.96 - 0.22 * view.hidden - 0.45 * np.tanh(relative / 0.08)
    confidence += 0.035 * rng.standard_normal((frames, 17))
    return keypoints, np.clip(confidence, 0.05, 0.99)


def _jumps(rng: np.random.Generator, estimator: Estimator, view: View) -> np.ndarray:
    """Return displacements (frames, 17, 2), as a fraction of size: zero but for a few frames."""
    rate = estimator.jump * (1 + 4 * view.hidden)
    jumping, since = _episodes(rng, rate.shape, rate, 4)
    where = rng.uniform(-0.3, 0.3, (*rate.shape, 2))
    held = np.take_along_axis(where, since[..., None], axis=0)
    return np.where(jumping[..., None], held, 0)


def _swap_sides(
    rng: np.random.Generator, estimator: Estimator, keypoints: np.ndarray
) -> np.ndarray:
    """Take left arms for right ones, or legs, in some frames."""
    swapped = keypoints[:, _COCO_MIRROR]
    arms, legs = _episodes(rng, (len(keypoints), 2), estimator.swap, 8)[0].T
    keypoints = keypoints.copy()
    keypoints[arms, _COCO_ARMS] = swapped[arms, _COCO_ARMS]
    keypoints[legs, _COCO_LEGS] = swapped[legs, _COCO_LEGS]
    return keypoints


def _episodes(
    rng: np.random.Generator, shape: tuple[int, ...], rate: Any, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return in which frames something goes on that begins at random and lasts 1 to `longest`.

    Returns:
        A mask, and the frame in which the episode, or the last one before, began; of `shape`, the
        first dimension being time.
    """
    begins = rng.random(shape) < rate
    frame = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    since = np.maximum.accumulate(np.where(begins, frame, -1), axis=0)
    lasting = rng.integers(1, longest + 1, shape)
    length = np.take_along_axis(lasting, np.maximum(since, 0), axis=0)
    return (since >= 0) & (frame - since < length), np.maximum(since, 0)


def _detections(
    estimator: Estimator, keypoints: np.ndarray, confidence: np.ndarray, score: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (bbox (5,), keypoints (17, 3)) in float32, for each frame."""
    boxes = np.concatenate(
        [keypoints.min(axis=1) - 20, keypoints.max(axis=1) + 20, score[:, None]], axis=1
    )
    scaled = estimator.confidence_scale * confidence[..., None]
    poses = np.concatenate([keypoints, scaled], axis=-1)
    return list(zip(boxes.astype(np.float32), poses.astype(np.float32)))


def _add_strangers(
    rng: np.random.Generator,
    estimator: Estimator,
    people: list[list[tuple[np.ndarray, np.ndarray]]],
    keypoints: np.ndarray,
) -> None:
    """Let somebody else be found in some frames, at the edge, with a less certain box.

    A stranger stands as the subject does, further away; what matters is that one has to choose.
    """
    present = _episodes(rng, (len(people),), 0.006, 20)[0]
    frames = np.flatnonzero(present)
    side = rng.choice([120, 880])
    centre = keypoints[frames].mean(axis=1, keepdims=True)
    poses = (keypoints[frames] - centre) * rng.uniform(0.5, 0.8) + [side, 470]
    poses = poses + 4 * rng.standard_normal(poses.shape)
    confidence = np.clip(0.6 + 0.15 * rng.standard_normal(poses.shape[:2]), 0.05, 0.9)
    score = rng.uniform(0.2, 0.6, len(frames))
    for frame, stranger in zip(frames, _detections(estimator, poses, confidence, score)):
        people[frame].insert(rng.integers(2), stranger)


def write_detections(
    path: Path, people: list[list[tuple[np.ndarray, np.ndarray]]], estimator: Estimator
) -> None:
    """Write one camera's detections in the format in which this estimator's output is published."""
    if estimator.one_person:
        detections = np.array(
            {frame: found[0][1][None] if found else None for frame, found in enumerate(people)},
            dtype=object,
        )
    else:
        entries = [
            {"frame": frame, "bbox": box, "keypoints": keypoints}
            for frame, found in enumerate(people)
            for box, keypoints in found
        ]
        detections = np.empty(len(entries), dtype=object)
        detections[:] = entries
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, detections, allow_pickle=True)


# --- never overwriting what somebody else made --------------------------------------------------


def check_replaceable(preprocess: Path, folders: Sequence[str]) -> None:
    """Refuse to replace folders that hold anything but an earlier sample.

    Raises:
        InputError: naming the folder.
    """
    for name in folders:
        folder = preprocess / name
        if folder.exists() and not _is_sample(folder):
            raise InputError(
                f"{folder}: holds files that are not an earlier sample, and they would be lost; "
                "move them away or choose another --data-dir"
            )


def _is_sample(folder: Path) -> bool:
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return folder.is_dir() and not any(folder.iterdir())
    made = set(manifest.read_text().splitlines())
    return set(_list_files(folder)) <= made


def _list_files(folder: Path) -> list[str]:
    """Return "size path" of every file in a folder but the manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return sorted(f"{path.stat().st_size} {path.relative_to(folder)}" for path in files)


def install(temporary: Path, preprocess: Path, folders: Sequence[str]) -> None:
    """Move finished folders into their place, with a list of what was made."""
    for name in folders:
        (temporary / name / _MANIFEST).write_text("\n".join(_list_files(temporary / name)) + "\n")
        if (preprocess / name).exists():
            shutil.rmtree(preprocess / name)
        (temporary / name).rename(preprocess / name)


if __name__ == "__main__":
    run(main)
