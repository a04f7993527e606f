"""One sequence: a subject who performs an action where all four cameras see it."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from common.camera import project, world_to_camera
from common.h36m_cameras import Camera, load_cameras
from common.h36m_dataset import SUBJECTS, action_class
from data.synthetic.actions import perform
from data.synthetic.actor import Arena
from data.synthetic.body import Body, make_body
from data.synthetic.kinematics import Motion

_EDGE_PX = 3


@dataclass(frozen=True)
class Clip:
    """A sequence to be made."""

    seed: int
    subject: str
    name: str  # of the file, without its ending
    number: int  # among the subject's 30
    frames: int

    def generator(self, stream: int) -> np.random.Generator:
        """Return a random generator of this clip alone, whichever other clips are made."""
        key = (SUBJECTS.index(self.subject), self.number, stream)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def make_motion(clip: Clip) -> Motion:
    """Let the clip's subject perform its action; the motion is one frame longer than the clip.

    Raises:
        RuntimeError: if the seed gives no motion that all four cameras see.
    """
    body, arena = subjects_body(clip.subject, clip.seed), find_arena(clip.subject)
    action, cameras = action_class(clip.name), load_cameras()[clip.subject]
    for _ in range(12):
        motion = perform(action, body, arena, clip.frames + 1, clip.generator(0))
        if all(_is_seen(motion.joints, camera).all() for camera in cameras):
            return motion
        arena = arena.scaled(0.85)
    raise RuntimeError(f"{clip}: no motion that all cameras see")


def subjects_body(subject: str, seed: int) -> Body:
    """Return this subject's `Body`; no two subjects are of the same height."""
    statures = np.random.default_rng(seed).permutation(np.linspace(1.60, 1.86, len(SUBJECTS)))
    index = SUBJECTS.index(subject)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    return make_body(rng, statures[index])


@cache
def find_arena(subject: str) -> Arena:
    """Return an ellipse on the floor in which a person is inside all four pictures.

    Its shape is that of the places where a wide column of points is seen by all cameras.
    """
    grid = np.arange(-3, 3, 0.1)
    places = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    seen = places[_column_is_seen(places, subject)]
    variances, directions = np.linalg.eigh(np.cov(seen.T))
    # A uniformly filled ellipse has a variance of a quarter of its semi-axis squared.
    arena = Arena(seen.mean(axis=0), directions * 2 * np.sqrt(variances))
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    while not _column_is_seen(arena.place(rim), subject).all():
        arena = arena.scaled(0.97)
    return arena


def _column_is_seen(places: np.ndarray, subject: str) -> np.ndarray:
    """Return for floor places (n, 2) whether feet, outstretched hands and raised hands are seen."""
    angles = np.arange(8) * np.pi / 4
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
    column = [radius * circle + [0, 0, z] for radius, z in ((0.35, 0), (0.75, 1.4), (0.3, 2.0))]
    ground = np.pad(places, ((0, 0), (0, 1)))
    points = ground[:, None] + np.concatenate(column)
    seen = [_is_seen(points, camera) for camera in load_cameras()[subject]]
    return np.all(seen, axis=(0, 2))


def view(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., 2) pixels and (..., 3) camera coordinates of world points (..., 3)."""
    in_camera = world_to_camera(points, camera.orientation, camera.translation_m)
    return project(in_camera, camera.intrinsics), in_camera


def _is_seen(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Return for world points (..., 3) whether they are inside the camera's picture."""
    pixels, in_camera = view(points, camera)
    limits = np.array([camera.width, camera.height]) - _EDGE_PX
    inside = (pixels > _EDGE_PX) & (pixels < limits)
    return inside.all(axis=-1) & (in_camera[..., 2] > 1)
