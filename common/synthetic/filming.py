"""Synthetic people before any camera, found by any estimator: what a lifter of footage learns from.

Rays are (…, 2), x / z and y / z in a camera's coordinates (x right, y down, z forward).
"""

from typing import Any

import numpy as np
from numpy.random import Generator

from common.camera import follow_person
from common.footage.missing import interpolated
from common.generators import WindowGenerator, pack
from common.h36m_dataset import Sequence2d3d
from common.skeleton import JOINTS_32_TO_17, ROOT, coco_to_h36m
from common.synthetic.estimators import (
    COCO_JOINTS,
    HEIGHT_M,
    Estimator,
    correlated_noise,
    estimate_keypoints,
    hidden_by_body,
)
from common.synthetic.people import make_person

CLIP_FRAMES = 60
VALIDATION_SEED = 999_999
# Cameras look down by some degrees, more often than up; held by hand, they roll.
_PITCH_DEG, _PITCHES_DEG, _ROLL_DEG = (8, 16), (-30, 70), 8
_FOV_DEG = (35, 85)  # across the picture's longer side
_SHARE = (0.12, 1.0)  # of the longer side that a person takes up
_OFF_CENTRE = 0.5  # of the way from the middle of the picture to its edge
_DISTANCES_M = (1.8, 25)
# Points that are lost for a while, on average; clips in which the legs are never seen.
_GAPS, _LONGEST_GAP, _CUT_OFF = 0.7, 20, 0.12
_LEGS = (([13, 14], [11, 12]), ([15, 16], [13, 14]))  # knees on the hips, ankles on the knees
# Errors as shares of a person's height; the wrong focal length of those who guess it.
_ERROR, _CLEAN, _KNOWN_FOCAL, _FOCAL_ERROR = 0.008, 0.1, 0.4, 0.2


def film(random: Generator, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what an estimator finds of a person in some camera, and where the joints are.

    Args:
        random: chooses camera, estimator and errors.
        joints: (frames, 37, 3) of `make_person`.

    Returns:
        Rays (frames, 17, 2) of Human3.6M's joints, made of COCO's, with the camera's focal length
        as its owner knows or guesses it; and the joints (frames, 17, 3), metres, relative to the
        hip, in the camera's coordinates.
    """
    fov, share = (np.exp(random.uniform(*np.log(limits))) for limits in (_FOV_DEG, _SHARE))
    focal = 1 / np.tan(np.radians(fov) / 2)
    distance = np.clip(HEIGHT_M * focal / (2 * share), *_DISTANCES_M)
    half = (9 / 16, 1) if random.random() < 0.4 else (1, 9 / 16)  # portrait, landscape
    middle = random.uniform(-_OFF_CENTRE, _OFF_CENTRE, 2) * half / focal
    pitch = np.radians(np.clip(random.normal(*_PITCH_DEG), *_PITCHES_DEG))
    roll = np.radians(_ROLL_DEG) * random.standard_normal()
    (sp, sr), (cp, cr) = np.sin([pitch, roll]), np.cos([pitch, roll])
    # Rows: the axes of a camera that looks along y, and down by the pitch; then it rolls.
    level = np.array([[1, 0, 0], [0, -sp, -cp], [0, cp, -sp]])
    rolled = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ level
    hip = joints[:, ROOT].mean(axis=0)
    seen = (joints - hip) @ rolled.T + distance * np.append(middle, 1)
    seen[..., 2] = seen[..., 2].clip(0.3)

    truth = seen[:, COCO_JOINTS, :2] / seen[:, COCO_JOINTS, 2:]
    size = HEIGHT_M / seen[:, ROOT, 2, None, None]
    error = _ERROR * np.exp(0.6 * random.standard_normal())
    error *= 0.1 if random.random() < _CLEAN else 1
    estimator = Estimator("any", error, random.uniform(2, 4), jump=0.0008, swap=0.0005, missing=0)
    found = estimate_keypoints(
        random,
        estimator,
        truth[None],
        size[None],
        hidden_by_body(seen)[None],
        correlated_noise(random, (1, 1, *truth.shape))[0],
        0.6 * random.standard_normal((17, 2)),
    )
    keypoints = found[0, ..., :2].astype(np.float64)
    _lose(random, keypoints)
    if random.random() >= _KNOWN_FOCAL:
        keypoints *= np.exp(_FOCAL_ERROR * random.standard_normal())
    poses = seen[:, JOINTS_32_TO_17] - seen[:, ROOT, None]
    return coco_to_h36m(keypoints), poses


def _lose(random: Generator, keypoints: np.ndarray) -> None:
    """Lose points of COCO's (frames, 17, 2) and fill them as `tracks.fill_gaps` does, in place."""
    frames = np.arange(len(keypoints))
    for point in random.integers(5, 17, random.poisson(_GAPS)):
        first, length = random.integers(1, len(frames)), random.integers(2, _LONGEST_GAP)
        keypoints[first : first + length, point] = np.nan
        keypoints[:, [point]] = interpolated(keypoints[:, [point]], frames, frames)
    if random.random() < _CUT_OFF:  # the picture ends above the ankles, or above the knees
        for lost, parent in _LEGS[random.integers(2) :]:
            keypoints[:, lost] = keypoints[:, parent]


def film_people(random: Generator, clips: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a network's inputs and targets for that many clips of new people.

    They are (`CLIP_FRAMES`, 17, 2) and (`CLIP_FRAMES`, 17, 3), metres, float32, as the camera of
    `follow_person` sees them.
    """
    inputs, targets = [], []
    for _ in range(clips):
        rays, poses = film(random, make_person(random, CLIP_FRAMES))
        rays, turns = follow_person(rays)
        inputs.append(rays.astype(np.float32))
        targets.append((poses @ np.swapaxes(turns, -1, -2)).astype(np.float32))
    return inputs, targets


def filmed_sequences(seed: int, clips: int = 100) -> list[Sequence2d3d]:
    """Return clips of people, whose figures in a report are those of one action."""
    filmed = zip(*film_people(np.random.default_rng(seed), clips))
    root = np.zeros((CLIP_FRAMES, 3), np.float32)
    return [Sequence2d3d("S9", "Posing", 0, *both, root) for both in filmed]


class FilmedWindows(WindowGenerator):
    """A `WindowGenerator` of synthetic people, who are new in each epoch.

    They follow from (seed, epoch) alone. `options` are of `WindowGenerator`.
    """

    def __init__(self, clips: int, number_of_frames: int, **options: Any) -> None:
        self._clips = clips
        nobody = [np.zeros((CLIP_FRAMES, 17, n), np.float32) for n in (2, 3)]
        super().__init__(*([n] * clips for n in nobody), number_of_frames, **options)

    def start_epoch(self, seed: int, epoch: int) -> Any:
        """Film the epoch's people; return its permutation of all samples."""
        random = np.random.default_rng([seed, epoch])
        inputs, targets = film_people(random, self._clips)
        # In place: a captured CUDA graph reads them from where they are.
        self._keypoints.copy_(pack(inputs, self.device))
        self._poses.copy_(pack(targets, self.device))
        return super().start_epoch(seed, epoch)
