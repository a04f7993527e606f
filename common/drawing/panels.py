"""What a picture of a pose consists of: strokes, and panels in 2D and in 3D that move them.

A panel has a `title`, `limits` (what must be visible), and `strokes`, which `update(frame)`
overwrites in place, in one array that is drawn in one call. `decorate(axes)` draws once what does
not move; `reading(frame)` is a figure of the frame to write beside it, or "".

Poses of several people are one array (frames, 17 people, …), NaN in the frames where one is not
there: what has a NaN is not painted.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from common.drawing.figures import COLORS, FAINT_INK, PAPER
from common.motion import gaussian_filter
from common.skeleton import BONES, NUM_JOINTS, ROOT, SIDES

SIDE_COLORS = {"left": COLORS[0], "middle": COLORS[-1], "right": COLORS[1]}
FRAME = "#C9C9C9"
_OUTSIDE, _FLOOR, _GRID, _SHADOW = "#F3F3F1", "#F3F1EC", "#D9D5CC", "#DCD8D0"
# How much of its colour is left to the truth that lies under an estimate.
TRUTH_STRENGTH = 0.35
# Widths of strokes in points.
_BONE, _HALO, _TRUTH, _JOINT, _SHADOW_BONE, _GRID_LINE = 2.2, 4.2, 5.2, 4.4, 3.0, 0.8

_ELEVATION = 15.0  # degrees above the horizon, as in this field's other drawings
_VIEW_DISTANCE_M = 7.0
_TARGET_HEIGHT_M = 0.9
_FLOOR_RADIUS_M, _FLOOR_CELL_M = 1.0, 0.5

# (left, right, bottom, top) of what must be visible; in a picture, bottom > top.
Limits = tuple[float, float, float, float]


class Strokes:
    """Straight strokes with round ends, in groups: widths in points, colours (strokes, 4), RGBA.

    Groups are in the order of painting. `strokes["bones"]` is a view of one group's start and end
    points, (strokes, 2, 2), to be overwritten for each frame; `slices` tells where a group is.
    """

    def __init__(self, **groups: tuple[float | np.ndarray, np.ndarray]) -> None:
        ends = np.cumsum([len(colors) for _, colors in groups.values()]).tolist()
        self.slices = dict(zip(groups, map(slice, [0, *ends], ends)))
        self.segments = np.zeros((ends[-1], 2, 2))
        self.colors = np.concatenate([colors for _, colors in groups.values()])
        self.widths = np.concatenate([np.broadcast_to(w, len(c)) for w, c in groups.values()])

    def __getitem__(self, group: str) -> np.ndarray:
        return self.segments[self.slices[group]]


def bones_of(points: int) -> np.ndarray:
    """Return (16 people, 2): the joints, child and parent, of the bones of 17 points a person."""
    return np.concatenate([np.add(BONES, first) for first in range(0, points, NUM_JOINTS)])


def joint_colors(points: int, strength: float = 1.0) -> np.ndarray:
    """Return (points, 4): the colours of one person's sides, or each one's own of several.

    They are mixed with white below strength 1.
    """
    names = [SIDE_COLORS[side] for side in SIDES]
    if points > NUM_JOINTS:
        names = np.repeat(list(islice(cycle(COLORS), points // NUM_JOINTS)), NUM_JOINTS)
    return 1 - strength * (1 - _rgba(names)) if strength < 1 else _rgba(names)


def _rgba(colors: Sequence[str]) -> np.ndarray:
    from matplotlib.colors import to_rgba_array

    return to_rgba_array(colors)


def _dots(points: np.ndarray, limits: Limits) -> np.ndarray:
    """Return (points, 2, 2): strokes so short that their round ends make a dot."""
    # A stroke of no length at all would not be painted.
    length = 1e-5 * (limits[1] - limits[0])
    return np.stack([points, points + np.array([length, 0])], axis=1)


class Panel:
    """Poses (frames, points, 2 or 3), over the paler true ones where these are given."""

    _reading, _unit = "", 1  # what is written of the mean distance, once it is multiplied

    def __init__(
        self, title: str, poses: np.ndarray, limits: Limits, truth: np.ndarray | None
    ) -> None:
        self.title, self.limits = title, limits
        self._poses, self._truth = poses, truth
        points = poses.shape[1]
        self._colors, self._bones = joint_colors(points), bones_of(points)
        self._bone_colors, self._truth_group = self._colors[self._bones[:, 0]], {}
        if truth is not None:
            pale = joint_colors(points, TRUTH_STRENGTH)[self._bones[:, 0]]
            self._truth_group = {"truth": (_TRUTH, pale)}

    def reading(self, frame: int) -> str:
        """Return the frame's mean distance from the truth."""
        if self._truth is None:
            return ""
        errors = np.linalg.norm(self._poses[frame] - self._truth[frame], axis=-1)
        return self._reading.format(self._unit * errors.mean())


class ImagePanel(Panel):
    """2D keypoints in pixels in a camera's picture of `image_size`, (width, height)."""

    _reading = "mean error {:.1f} px"

    def __init__(
        self,
        title: str,
        keypoints_px: np.ndarray,
        limits: Limits,
        image_size: tuple[int, int],
        truth_px: np.ndarray | None = None,
    ) -> None:
        super().__init__(title, keypoints_px, limits, truth_px)
        self.image_size = image_size
        self.strokes = Strokes(
            **self._truth_group,
            halos=(_HALO, _rgba([PAPER] * len(self._bones))),
            bones=(_BONE, self._bone_colors),
            joints=(_JOINT, self._colors),
        )

    def decorate(self, axes: Any) -> None:
        """Draw what does not move: the picture's area, and ticks in pixels."""
        from matplotlib.patches import Rectangle

        axes.set_facecolor(_OUTSIDE)
        axes.add_patch(Rectangle((0, 0), *self.image_size, color=PAPER, lw=0, zorder=-1))
        axes.locator_params(nbins=6)
        axes.tick_params(length=2, color=FRAME, labelcolor=FAINT_INK, labelsize=6.5, pad=2)

    def update(self, frame: int) -> None:
        """Move the strokes to a frame."""
        pose = self._poses[frame]
        if self._truth is not None:
            self.strokes["truth"][:] = self._truth[frame][self._bones]
        self.strokes["halos"][:] = self.strokes["bones"][:] = pose[self._bones]
        self.strokes["joints"][:] = _dots(pose, self.limits)


class View:
    """The eye of the 3D panels: at a camera's azimuth in degrees, slightly above.

    It follows the hip of the last of all `poses_m` that will be drawn, (frames, points, 3) each,
    world: horizontally, smoothed by a Gaussian of `follow_frames`, and at one scale, so that
    nothing jumps. Several people, or one who is not there all the time, are seen by an eye that
    stands still, on a floor that is large enough for them.
    """

    def __init__(self, poses_m: Sequence[np.ndarray], azimuth: float, follow_frames: float) -> None:
        people = [p.reshape(-1, NUM_JOINTS, 3) for p in poses_m]
        people = [p[np.isfinite(p[:, ROOT, 0])] for p in people]
        # The floor is where the lowest joint of the sequence stands.
        self.floor_m = min(float(np.percentile(p[..., 2].min(axis=1), 1)) for p in people)
        # (frames, 3), the point in the world that the eye looks at.
        self.targets_m = poses_m[-1][:, ROOT].astype(np.float64)
        self.radius_m, hips = _FLOOR_RADIUS_M, people[-1][:, ROOT]
        follows = poses_m[-1].shape == people[-1].shape  # one person, who is always there
        if not follows:
            self.targets_m[:] = (hips.min(axis=0) + hips.max(axis=0)) / 2
            reach = np.linalg.norm((hips - self.targets_m[0])[:, :2], axis=-1).max()
            self.radius_m += _FLOOR_CELL_M * np.ceil(reach / _FLOOR_CELL_M)
        elif follow_frames:
            self.targets_m = gaussian_filter(self.targets_m, follow_frames, mode="edge")
        self.targets_m[:, 2] = self.floor_m + _TARGET_HEIGHT_M
        # Its rows are the eye's right, its up, and the direction towards the eye.
        a, e = np.radians([azimuth, _ELEVATION])
        towards_eye = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0])
        self._rotation = np.stack([right, np.cross(towards_eye, right), towards_eye])
        targets = self.targets_m[:, None] if follows else self.targets_m[0]
        seen = [self.project(p, targets)[0].reshape(-1, 2) for p in people]
        # In a narrow panel the floor may be cut at the sides, so that the person stays large.
        seen = np.concatenate([*seen, self.floor_disc() * (0.7, 1)])
        low, high = seen.min(axis=0), seen.max(axis=0)
        margin = 0.03 * (high - low)[1]  # of what is visible, in metres at the person's distance
        (left, bottom), (right, top) = low - margin, high + margin
        self.limits = left, right, bottom, top

    def project(self, points_m: np.ndarray, target_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points (..., 3), for an eye that looks at a target of (3,) or such a shape.

        Returns (..., 2), to the right and up, in metres at the target's distance; (...), nearness.
        """
        local = (points_m - target_m) @ self._rotation.T
        distance_m = _VIEW_DISTANCE_M * self.radius_m
        scale = distance_m / (distance_m - local[..., 2:])
        return local[..., :2] * scale, local[..., 2]

    def shadows(self, points_m: np.ndarray, target_m: np.ndarray) -> np.ndarray:
        """Return (..., 2): the points' shadows on the floor, for an eye that looks at a target."""
        return self.project(points_m * (1, 1, 0) + (0, 0, self.floor_m), target_m)[0]

    def floor_disc(self) -> np.ndarray:
        """Return (corners, 2): the outline of the round floor, which follows the eye."""
        a, target = np.linspace(0, 2 * np.pi, 120), self.targets_m[0]
        outline = self.radius_m * np.stack([np.cos(a), np.sin(a), 0 * a], axis=-1)
        return self.shadows(target + outline, target)

    def floor_grid(self, target_m: np.ndarray) -> np.ndarray:
        """Return (lines, 2, 2): lines that stand still in the world, on the floor."""
        count = int(2 * self.radius_m / _FLOOR_CELL_M)
        lines = np.full((2, count, 2, 3), self.floor_m)
        for axis, center in enumerate(target_m[:2]):
            first = np.ceil((center - self.radius_m) / _FLOOR_CELL_M) * _FLOOR_CELL_M
            offset = first - center + _FLOOR_CELL_M * np.arange(count)
            half = np.sqrt(np.maximum(self.radius_m**2 - offset**2, 0))
            lines[axis, :, :, axis] = (center + offset)[:, None]
            lines[axis, :, :, 1 - axis] = target_m[1 - axis] + np.stack([-half, half], axis=-1)
        return self.project(lines.reshape(-1, 2, 3), target_m)[0]


class WorldPanel(Panel):
    """3D poses, metres, world, on a floor; limits are in metres at the eye's target."""

    _reading, _unit = "MPJPE {:.1f} mm", 1000

    def __init__(
        self, title: str, poses_m: np.ndarray, view: View, truth_m: np.ndarray | None = None
    ) -> None:
        super().__init__(title, poses_m, view.limits, truth_m)
        self._view, count = view, len(self._bones)
        self.strokes = Strokes(
            grid=(_GRID_LINE, _rgba([_GRID] * len(view.floor_grid(view.targets_m[0])))),
            shadows=(_SHADOW_BONE, _rgba([_SHADOW] * count)),
            **self._truth_group,
            # A halo, a bone, the next halo, …: a near limb stands out from the one behind it.
            limbs=(np.tile([_HALO, _BONE], count), _rgba([PAPER] * 2 * count)),
            joints=(_JOINT, self._colors),
        )
        self._limb_colors = self.strokes.colors[self.strokes.slices["limbs"]]

    def decorate(self, axes: Any) -> None:
        """Draw what does not move: the floor's disc, and how large its cells are."""
        axes.set_facecolor(PAPER)
        axes.fill(*self._view.floor_disc().T, color=_FLOOR, lw=0, zorder=-1)
        axes.set(xticks=[], yticks=[])
        note = {"transform": axes.transAxes, "ha": "right", "size": 6.5, "color": FAINT_INK}
        axes.text(0.985, 0.025, f"grid {_FLOOR_CELL_M:g} m", **note)

    def update(self, frame: int) -> None:
        """Move the strokes to a frame, the farthest bones first."""
        view, target, pose = self._view, self._view.targets_m[frame], self._poses[frame]
        bones = self._bones
        self.strokes["grid"][:] = view.floor_grid(target)
        self.strokes["shadows"][:] = view.shadows(pose, target)[bones]
        if self._truth is not None:
            self.strokes["truth"][:] = view.project(self._truth[frame], target)[0][bones]
        points, nearness = view.project(pose, target)
        order = np.argsort(nearness[bones].sum(axis=1))
        limbs = self.strokes["limbs"].reshape(len(bones), 2, 2, 2)
        limbs[:] = points[bones[order]][:, None]
        self._limb_colors[1::2] = self._bone_colors[order]
        self.strokes["joints"][:] = _dots(points, self.limits)


def image_limits(poses_px: Iterable[np.ndarray]) -> Limits:
    """Return what must be visible of poses (frames, points, 2), pixels, with a margin, y downwards.

    A stray keypoint in a few frames does not widen the view.
    """
    extremes = [np.nanpercentile(p.reshape(-1, 2), (0.2, 99.8), axis=0) for p in poses_px]
    low, high = np.min(extremes, axis=(0, 1)), np.max(extremes, axis=(0, 1))
    margin = 0.07 * (high - low).max() + 1
    (left, top), (right, bottom) = low - margin, high + margin
    return left, right, bottom, top


def equal_scales(
    limits: Limits, aspect: float, image_size: tuple[int, int] | None = None
) -> Limits:
    """Widen limits until width / height is `aspect`: about their centre, in 3D panels.

    In a camera's picture of `image_size`, (width, height) in pixels, they are moved so that they
    show as little as possible of what lies beyond its edges.
    """
    left, right, bottom, top = limits
    half = max(right - left, aspect * abs(top - bottom)) / 2
    center, middle = (left + right) / 2, (bottom + top) / 2
    if image_size is not None:
        center = _move_inside(left, right, half, image_size[0])
        middle = _move_inside(top, bottom, half / aspect, image_size[1])
    y = np.sign(top - bottom) * half / aspect
    return center - half, center + half, middle - y, middle + y


def _move_inside(low: float, high: float, half: float, size: int) -> float:
    """Return the centre, near that of low to high, of a span that lies within 0 to `size`."""
    inside = np.clip((low + high) / 2, *sorted((half, size - half)))
    return float(np.clip(inside, high - half, low + half))
