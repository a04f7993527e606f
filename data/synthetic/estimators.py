"""Simulated 2D pose estimators: what they find in a camera's pictures, with which errors."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.h36m_cameras import CAMERA_IDS, Camera, load_cameras
from data.synthetic.kinematics import Motion
from data.synthetic.scene import Clip, view

# Rows of (joints, face) of a `Motion` that are COCO's keypoints, in COCO's order.
_COCO_JOINTS = (32, 33, 34, 35, 36, 17, 25, 18, 26, 19, 27, 6, 1, 7, 2, 8, 3)
_COCO_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
_COCO_ARMS, _COCO_LEGS = slice(5, 11), slice(11, 17)
# Eyes are easy to find; wrists, hips and ankles are hard.
_DIFFICULTY = np.repeat([0.5, 0.7, 0.9, 1.0, 1.3, 1.15, 1.0, 1.15], [3, *[2] * 7])
# What hides joints behind it: spheres at, or half-way between, two joints, with radii in metres.
_OCCLUDERS = (
    *((0, 0, 0.14), (0, 12, 0.14), (12, 12, 0.15), (12, 13, 0.16), (14, 15, 0.09)),
    *((6, 7, 0.08), (7, 7, 0.06), (7, 8, 0.06), (1, 2, 0.08), (2, 2, 0.06), (2, 3, 0.06)),
)
# All estimators find the same pictures ambiguous: the share of the variance that they share.
_COMMON_SHARE = 0.35
_ERROR_AUTOCORRELATION = 0.85

Person = tuple[np.ndarray, np.ndarray]  # bbox (5,) and keypoints (17, 3), float32, pixels


class Estimator(NamedTuple):
    """A simulated 2D pose estimator; rates are per frame."""

    name: str  # of its folder, after "h36m_"
    stream: int  # number of its own random stream
    error: float  # of a visible keypoint: standard deviation as a share of the person's height
    hidden: float  # how many times larger the error of a hidden keypoint is
    jump: float  # rate at which a keypoint jumps
    swap: float  # rate at which left and right are swapped
    missing: float  # rate at which a gap without any detection begins
    confidence_scale: float = 1.0  # 1 for probabilities; PCT writes logits
    one_person: bool = False  # writes {frame: (1, 17, 3) or None} instead of a list of people


ESTIMATORS = (
    Estimator("vitpose", 1, 0.0068, 3.0, 0.0006, 0.0008, 0.0015),
    Estimator("pct", 2, 0.0080, 3.2, 0.0008, 0.0010, 0.0020, confidence_scale=9.5),
    Estimator("moganet", 3, 0.0088, 3.4, 0.0010, 0.0015, 0.0025),
    Estimator("transpose", 4, 0.0112, 4.2, 0.0030, 0.0040, 0.0050, one_person=True),
)


class View(NamedTuple):
    """What one camera sees."""

    keypoints: np.ndarray  # (frames, 17, 2), pixels, where COCO's keypoints are in truth
    hidden: np.ndarray  # (frames, 17), how far each is hidden behind the body, 0 to 1
    size: np.ndarray  # (frames,), height of the person, pixels


def write_estimates(folder: Path, clip: Clip, motion: Motion) -> None:
    """Let all estimators look at a motion through all cameras; write what each finds."""
    views = [_see(motion, camera) for camera in load_cameras()[clip.subject]]
    frames = len(motion.joints)
    common = [_correlated_noise(clip.generator(5 + i), frames) for i in range(len(views))]
    for estimator in ESTIMATORS:
        rng = clip.generator(estimator.stream)
        path = folder / f"h36m_{estimator.name}" / clip.subject
        path.mkdir(parents=True, exist_ok=True)
        for i, camera in enumerate(CAMERA_IDS):
            # The first camera's videos are a frame longer than the motion capture.
            people = _estimate(rng, estimator, views[i], common[i])[: clip.frames + (i == 0)]
            output = path / f"{clip.name}_{camera}_pose_sequence.npy"
            np.save(output, _as_published(people, estimator), allow_pickle=True)


def _as_published(people: list[list[Person]], estimator: Estimator) -> np.ndarray:
    """Return each frame's people in the format in which this estimator's output is published."""
    if estimator.one_person:
        poses = [found[0][1][None] if found else None for found in people]
        return np.array(dict(enumerate(poses)), dtype=object)
    entries = [
        {"frame": frame, "bbox": box, "keypoints": keypoints}
        for frame, found in enumerate(people)
        for box, keypoints in found
    ]
    return np.fromiter(entries, dtype=object, count=len(entries))


def _see(motion: Motion, camera: Camera) -> View:
    """Project COCO's keypoints and find which of them the body hides."""
    pixels, in_camera = view(np.concatenate([motion.joints, motion.face], axis=1), camera)
    size = 1.6 * camera.intrinsics[1] / in_camera[:, 0, 2]
    return View(pixels[:, _COCO_JOINTS], _hidden_by_body(in_camera), size)


def _hidden_by_body(in_camera: np.ndarray) -> np.ndarray:
    """Return how far each keypoint is hidden, (frames, 17), given joints and face in metres.

    It is hidden where a sphere of trunk, head or legs crosses its line of sight.
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


def _correlated_noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return noise (frames, 17, 2) of unit variance, each frame like the one before: AR(1)."""
    noise = rng.standard_normal((frames, 17, 2))
    noise[1:] *= np.sqrt(1 - _ERROR_AUTOCORRELATION**2)
    for frame in range(1, frames):
        noise[frame] += _ERROR_AUTOCORRELATION * noise[frame - 1]
    return noise


def _estimate(
    rng: np.random.Generator, estimator: Estimator, view: View, common: np.ndarray
) -> list[list[Person]]:
    """Return the people that an estimator finds in each frame of a view.

    `common`, (frames, 17, 2), of unit variance, is the part that all estimators' errors share.
    """
    frames = len(view.keypoints)
    keypoints, confidence = _estimate_keypoints(rng, estimator, view, common)
    score = 0.99 - 0.05 * view.hidden.mean(axis=1) - 0.03 * rng.random(frames)
    people = [[person] for person in _detections(estimator, keypoints, confidence, score)]
    if not estimator.one_person:
        _add_second_person(rng, estimator, people, keypoints)
    missing, _ = _episodes(rng, (frames,), estimator.missing, 6)
    # A list of people does not tell how long the video is unless its last frame has somebody.
    missing[-2:] = False
    return [[] if gone else found for gone, found in zip(missing, people)]


def _estimate_keypoints(
    rng: np.random.Generator, estimator: Estimator, view: View, common: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the estimator sees the keypoints, (frames, 17, 2), and its confidences.

    The error has a bias for each keypoint, wanders from frame to frame, grows with the person's
    size in the image and where a keypoint is hidden; now and then a keypoint jumps, or left and
    right are swapped. The confidence falls as the error grows, but not reliably.
    """
    frames = len(view.keypoints)
    scale = estimator.error * _DIFFICULTY * (1 + (estimator.hidden - 1) * view.hidden)
    own = _correlated_noise(rng, frames)
    error = np.sqrt(_COMMON_SHARE) * common + np.sqrt(1 - _COMMON_SHARE) * own
    bias = 0.5 * np.clip(rng.standard_normal((17, 2)), -2, 2)
    jitter = 0.25 * rng.standard_normal((frames, 17, 2))
    error = (error + bias + jitter) * scale[..., None]

    # Jumps are held for a few frames, displacements as a share of the size.
    rate = estimator.jump * (1 + 4 * view.hidden)
    jumping, since = _episodes(rng, rate.shape, rate, 4)
    where = rng.uniform(-0.3, 0.3, error.shape)
    error += np.where(jumping[..., None], np.take_along_axis(where, since[..., None], axis=0), 0)
    keypoints = view.keypoints + view.size[:, None, None] * error

    swapped = keypoints[:, _COCO_MIRROR]
    arms_and_legs, _ = _episodes(rng, (frames, 2), estimator.swap, 8)
    for now, limbs in zip(arms_and_legs.T, (_COCO_ARMS, _COCO_LEGS)):
        keypoints[now, limbs] = swapped[now, limbs]

    relative = np.linalg.norm(keypoints - view.keypoints, axis=-1) / view.size[:, None]
    confidence = 0.96 - 0.22 * view.hidden - 0.45 * np.tanh(relative / 0.08)
    confidence += 0.035 * rng.standard_normal((frames, 17))
    return keypoints, np.clip(confidence, 0.05, 0.99)


def _episodes(
    rng: np.random.Generator, shape: tuple[int, ...], rate: np.ndarray | float, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return when something happens that begins at random and lasts 1 to `longest` frames.

    The results are a mask and the frame in which the last episode began, both of `shape`, with time
    as the first dimension.
    """
    begins = rng.random(shape) < rate
    frame = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    since = np.maximum.accumulate(np.where(begins, frame, -1), axis=0)
    lasting = rng.integers(1, longest + 1, shape)
    length = np.take_along_axis(lasting, np.maximum(since, 0), axis=0)
    return (since >= 0) & (frame - since < length), np.maximum(since, 0)


def _detections(
    estimator: Estimator, keypoints: np.ndarray, confidence: np.ndarray, score: np.ndarray
) -> list[Person]:
    """Return one person for each frame."""
    boxes = [keypoints.min(axis=1) - 20, keypoints.max(axis=1) + 20, score[:, None]]
    poses = [keypoints, estimator.confidence_scale * confidence[..., None]]
    return list(zip(*(np.concatenate(x, axis=-1).astype(np.float32) for x in (boxes, poses))))


def _add_second_person(
    rng: np.random.Generator,
    estimator: Estimator,
    people: list[list[Person]],
    keypoints: np.ndarray,
) -> None:
    """Add a second person to some frames, at the edge of the picture, with a lower score.

    It has the subject's pose, further away; what matters is that a reader has to choose.
    """
    present, _ = _episodes(rng, (len(people),), 0.006, 20)
    frames = np.flatnonzero(present)
    side = rng.choice([120, 880])
    centre = keypoints[frames].mean(axis=1, keepdims=True)
    poses = (keypoints[frames] - centre) * rng.uniform(0.5, 0.8) + [side, 470]
    poses = poses + 4 * rng.standard_normal(poses.shape)
    confidence = np.clip(0.6 + 0.15 * rng.standard_normal(poses.shape[:2]), 0.05, 0.9)
    score = rng.uniform(0.2, 0.6, len(frames))
    for frame, second in zip(frames, _detections(estimator, poses, confidence, score)):
        people[frame].insert(rng.integers(2), second)
