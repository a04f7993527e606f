"""Simulated 2D pose estimators: what they find in the cameras' pictures, with which errors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from common.camera import Camera, project, world_to_camera
from common.h36m_dataset import FPS

# The rows of a body's joints that are COCO's keypoints.
COCO_JOINTS = (32, 33, 34, 35, 36, 17, 25, 18, 26, 19, 27, 6, 1, 7, 2, 8, 3)
_COCO_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
_LIMBS = (slice(5, 11), slice(11, 17))  # arms, legs
# Eyes are easy to find; wrists, hips and ankles are hard.
_DIFFICULTY = np.repeat([0.5, 0.7, 0.9, 1.0, 1.3, 1.15, 1.0, 1.15], [3, *[2] * 7])
# What hides joints behind it: spheres at, or half-way between, two joints, with radii in metres.
_OCCLUDERS = (
    *((0, 0, 0.14), (0, 12, 0.14), (12, 12, 0.15), (12, 13, 0.16), (14, 15, 0.09)),
    *((6, 7, 0.08), (7, 7, 0.06), (7, 8, 0.06), (1, 2, 0.08), (2, 2, 0.06), (2, 3, 0.06)),
)
HEIGHT_M = 1.6  # of a person in the picture, of which errors are shares
# All estimators find the same pictures ambiguous: the share of the variance that they share.
_COMMON_SHARE = 0.35
_ERROR_AUTOCORRELATION = 0.85


class Estimator(NamedTuple):
    """A simulated 2D pose estimator; rates are per frame."""

    name: str  # of its folder, after "h36m_"
    error: float  # of a visible keypoint: standard deviation as a share of the person's height
    hidden: float  # how many times larger the error of a hidden keypoint is
    jump: float  # rate at which a keypoint jumps
    swap: float  # rate at which left and right are swapped
    missing: float  # rate at which a gap without any detection begins
    confidence_scale: float = 1.0  # 1 for probabilities; PCT writes logits
    one_person: bool = False  # writes {frame: (1, 17, 3) or None} instead of a list of people


ESTIMATORS = (
    Estimator("vitpose", 0.0062, 3.0, 0.0006, 0.0008, 0.0015),
    Estimator("pct", 0.0073, 3.2, 0.0008, 0.0010, 0.0020, confidence_scale=9.5),
    Estimator("moganet", 0.0080, 3.4, 0.0010, 0.0015, 0.0025),
    Estimator("transpose", 0.0102, 4.2, 0.0030, 0.0040, 0.0050, one_person=True),
)


def look(
    random: Generator, joints: np.ndarray, cameras: Sequence[Camera]
) -> dict[str, list[np.ndarray]]:
    """Return what each estimator finds, one array for each camera, as its authors publish it.

    `joints` are (frames, 37, 3) in the world, metres.
    """
    in_camera = [world_to_camera(joints, c.orientation, c.translation_m) for c in cameras]
    truth = [project(p[:, COCO_JOINTS], c.intrinsics) for p, c in zip(in_camera, cameras)]
    truth, in_camera = np.stack(truth), np.stack(in_camera)
    focal = np.array([camera.intrinsics[1] for camera in cameras])[:, None, None, None]
    size = HEIGHT_M * focal / in_camera[:, :, :1, 2:]
    hidden = hidden_by_body(in_camera)
    common, *noises = correlated_noise(random, (1 + len(ESTIMATORS), *truth.shape))
    found = {}
    for estimator, own in zip(ESTIMATORS, noises):
        noise = np.sqrt(_COMMON_SHARE) * common + np.sqrt(1 - _COMMON_SHARE) * own
        bias = np.random.default_rng(ESTIMATORS.index(estimator)).uniform(-0.6, 0.6, (17, 2))
        poses = estimate_keypoints(random, estimator, truth, size, hidden, noise, bias)
        found[estimator.name] = _as_published(random, estimator, poses)
    return found


def hidden_by_body(in_camera: np.ndarray) -> np.ndarray:
    """Return how far keypoints are hidden, (..., 17), given joints (..., 37, 3), metres.

    A keypoint is hidden where a sphere of trunk, head or legs crosses its line of sight.
    """
    keypoints = in_camera[..., COCO_JOINTS, :]
    distance = np.linalg.norm(keypoints, axis=-1)
    hidden = np.zeros(distance.shape)
    for first, second, radius in _OCCLUDERS:
        centre = (in_camera[..., first, :] + in_camera[..., second, :]) / 2
        along = (keypoints @ centre[..., None])[..., 0] / distance
        miss = np.sqrt(np.maximum(np.sum(centre**2, axis=-1)[..., None] - along**2, 0))
        covered = np.clip((radius - miss) / 0.04 + 0.5, 0, 1)
        hidden = np.maximum(hidden, covered * np.clip((distance - along - 0.06) / 0.06, 0, 1))
    return hidden


def correlated_noise(random: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise (sources, cameras, frames, 17, 2) of unit variance, AR(1) over the frames."""
    noise = random.standard_normal(shape)
    noise[:, :, 1:] *= np.sqrt(1 - _ERROR_AUTOCORRELATION**2)
    for frame in range(1, shape[2]):
        noise[:, :, frame] += _ERROR_AUTOCORRELATION * noise[:, :, frame - 1]
    return noise


def estimate_keypoints(
    random: Generator,
    estimator: Estimator,
    truth: np.ndarray,
    size: np.ndarray,
    hidden: np.ndarray,
    noise: np.ndarray,
    own_bias: np.ndarray,
) -> np.ndarray:
    """Return where an estimator sees the keypoints, in pixels, and its confidences.

    The error has a bias for each keypoint, the estimator's own and one of each video, wanders from
    frame to frame, grows with the person's size in the picture, with a keypoint's speed and where
    it is hidden; now and then a keypoint jumps, or left and right are swapped. The confidence falls
    as the error grows, but not reliably.

    `truth` (cameras, frames, 17, 2) and the person's `size`, its height, (cameras, frames, 1, 1),
    are in pixels; `hidden` (cameras, frames, 17) says how far the body hides a keypoint, 0 to 1;
    `noise` is of unit variance, of which `own_bias` (17, 2) is a share too. Returns (cameras,
    frames, 17, 3), float32.
    """
    shape = truth.shape
    speed = np.gradient(truth / size, axis=1) * FPS  # heights a second
    scale = estimator.error * _DIFFICULTY * (1 + (estimator.hidden - 1) * hidden)
    scale *= 1 + 0.6 * np.tanh(np.linalg.norm(speed, axis=-1))
    bias = own_bias + 0.4 * random.standard_normal((shape[0], 1, *shape[2:])).clip(-2, 2)
    error = (noise + bias + 0.25 * random.standard_normal(shape)) * scale[..., None]

    jumps = episodes(random, shape[:3], estimator.jump * (1 + 4 * hidden), 4)
    jump = random.uniform(-0.3, 0.3, (shape[0], 1, *shape[2:]))  # in heights of the person
    error += np.where(jumps[..., None], jump, 0)
    keypoints = truth + size * error

    swapped = keypoints[:, :, _COCO_MIRROR]
    swaps = episodes(random, (*shape[:2], len(_LIMBS)), estimator.swap, 8)
    for limbs, now in zip(_LIMBS, np.moveaxis(swaps, -1, 0)):
        keypoints[now, limbs] = swapped[now, limbs]

    relative = np.linalg.norm((keypoints - truth) / size, axis=-1)
    confidence = 0.96 - 0.22 * hidden - 0.45 * np.tanh(relative / 0.08)
    confidence += 0.035 * random.standard_normal(shape[:3])
    scaled = estimator.confidence_scale * confidence.clip(0.05, 0.99)
    return np.concatenate([keypoints, scaled[..., None]], axis=-1).astype(np.float32)


def _as_published(random: Generator, estimator: Estimator, poses: np.ndarray) -> list[np.ndarray]:
    """Return poses (cameras, frames, 17, 3) as an estimator's authors publish them, by camera."""
    found = ~episodes(random, poses.shape[:2], estimator.missing, 6)
    # A list of people does not tell how long the video is unless its last frame has somebody.
    found[:, -2:] = True
    # The first camera's videos are a frame longer than the motion capture.
    found = [found[0], *found[1:, :-1]]
    if not estimator.one_person:
        return _list_people(random, poses, found)
    videos = [
        {frame: pose[None] if there else None for frame, (pose, there) in enumerate(video)}
        for video in map(zip, poses, found)
    ]
    return [np.array(video, dtype=object) for video in videos]


def _list_people(random: Generator, poses: np.ndarray, found: list[np.ndarray]) -> list[np.ndarray]:
    """Return the people in the frames of each camera where somebody is `found`, with their boxes.

    In some frames there is somebody else: smaller, in the same pose, at the edge of the picture,
    with a lower score. A reader has to choose.
    """
    shape, other = poses.shape[:2], poses.copy()
    other[..., :2] -= poses[..., :2].mean(axis=2, keepdims=True)
    other[..., :2] *= random.uniform(0.5, 0.8)
    other[..., :2] += [random.choice([120, 880]), 470]
    poses = np.stack([poses, other])
    score = np.stack([random.uniform(0.9, 0.99, shape), random.uniform(0.2, 0.6, shape)])
    low, high = poses[..., :2].min(axis=-2) - 20, poses[..., :2].max(axis=-2) + 20
    boxes = np.concatenate([low, high, score[..., None]], axis=-1).astype(np.float32)
    # Who is listed, in this order: the subject, 0, and sometimes the other one.
    orders = episodes(random, shape, 0.006, 20) * random.integers(1, 3, shape)
    videos = []
    for i, frames in enumerate(map(np.flatnonzero, found)):
        people = [
            {"frame": t, "bbox": boxes[who, i, t], "keypoints": poses[who, i, t]}
            for t in frames.tolist()
            for who in ((0,), (0, 1), (1, 0))[orders[i, t]]
        ]
        videos.append(np.fromiter(people, dtype=object, count=len(people)))
    return videos


def episodes(
    random: Generator, shape: tuple[int, ...], rate: np.ndarray | float, longest: int
) -> np.ndarray:
    """Return a mask of `shape`, time second: something begins at random, lasts 1 to `longest`."""
    lasting = np.where(random.random(shape) < rate, random.integers(1, longest + 1, shape), 0)
    frame = np.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    return frame < np.maximum.accumulate(frame + lasting, axis=1)
