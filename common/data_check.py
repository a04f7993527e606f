"""Does the 2D lie where the 3D is? Measured on a sample of frames before a training begins."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from common.camera import Camera, load_cameras, project
from common.files.console import InputError, warn
from common.h36m_dataset import Sequence2d3d
from common.skeleton import LEFT_JOINTS, NUM_JOINTS, RIGHT_JOINTS, coco_to_h36m

SAMPLED_FRAMES = 800  # of all sequences together, at least one of each
# Mean distances from the projected 3D, pixels. Beyond the first, another reading of the file is
# believed if it is at least twice as near; beyond the second, no estimator is so bad.
SUSPECT_PX, HOPELESS_PX = 15, 50
# Root mean square distance of the joints from the hip, metres: about 0.6 for an adult.
BODY_SIZE_M = (0.2, 1.7)
UNITS = {"millimetres": 1000, "centimetres": 100, "inches": 39.37}  # in a metre
EXCHANGED = np.arange(NUM_JOINTS)
EXCHANGED[[*LEFT_JOINTS, *RIGHT_JOINTS]] = [*RIGHT_JOINTS, *LEFT_JOINTS]


class View(NamedTuple):
    """The sampled frames of one subject in one camera."""

    subject: str
    camera: Camera
    truth: np.ndarray  # (frames, 17, 2), pixels: the 3D, projected
    estimates: np.ndarray  # (estimators, frames, 17, 2), pixels; NaN for points at (0, 0)


def check_data(
    sequences: Sequence[Sequence2d3d],
    names: Sequence[str],
    trust: bool = False,
    quiet: bool = False,
) -> None:
    """Print how far each estimator's 2D lies from the projected 3D.

    Args:
        sequences: of `load_sequences`, in every frame.
        names: of the estimators, in the order of the keypoints' channels.
        trust: whether what does not fit is a warning only.
        quiet: whether to print nothing.

    Raises:
        InputError: if 2D and 3D do not belong together; the message names the likely cause.
    """

    def object_to(problem: str) -> None:
        if not trust:
            raise InputError(f"{problem}; --trust-data goes on")
        if not quiet:
            warn(problem)

    if problem := _unit_problem(sequences):
        object_to(problem)
    views = _sample(sequences, len(names))
    for i, name in enumerate(names):
        distances = [_distance_px(view.estimates[i], view.truth) for view in views]
        zeros = np.mean([np.isnan(view.estimates[i, ..., 0]).mean() for view in views])
        if not quiet:
            print(f"{name}: {np.mean(distances):.1f} px from the projected 3D")
        if zeros and not quiet:
            warn(
                f"{name}: {zeros:.1%} of its points are at (0, 0), where nothing was found; "
                "data/prepare_2d_estimation.py fills such points"
            )
        problems = [_problem(view, i, views, d) for view, d in zip(views, distances)]
        if bad := [problem for problem in problems if problem]:
            object_to(f"{name}: {bad[0]} (so in {len(bad)} of {len(views)} views)")


def _unit_problem(sequences: Sequence[Sequence2d3d]) -> str | None:
    """Return what is wrong with the unit of the 3D, if the bodies are no people in metres."""
    squares = [np.square(s.poses[len(s.poses) // 2]).sum(axis=-1).mean() for s in sequences]
    size = float(np.sqrt(np.median(squares)))
    if BODY_SIZE_M[0] <= size <= BODY_SIZE_M[1]:
        return None
    fits = [n for n, k in UNITS.items() if BODY_SIZE_M[0] <= size / k <= BODY_SIZE_M[1]]
    told = f"the 3D is in {fits[0]}, not in metres" if fits else "the 3D is not in metres"
    return f"{told}: its joints are {size:.3g} from the hip on average, people's about 0.6"


def _sample(sequences: Sequence[Sequence2d3d], estimators: int) -> list[View]:
    """Return the views of each subject and camera, the same frames of each camera."""
    count = max(1, SAMPLED_FRAMES // len(sequences))
    parts: dict[tuple[str, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for s in sequences:
        n = len(s.poses)
        frames = ((np.arange(count) + 0.5) * n / count).astype(int) if count < n else slice(None)
        camera_poses = s.poses[frames].astype(np.float64) + s.root[frames, None]
        parts.setdefault((s.subject, s.camera), []).append((s.keypoints[frames], camera_poses))
    views = []
    for (subject, index), arrays in parts.items():
        keypoints, poses = map(np.concatenate, zip(*arrays))  # (F, 17, C), (F, 17, 3)
        camera = load_cameras()[subject][index]
        with np.errstate(all="ignore"):  # of 3D that lies in no camera's picture
            truth = project(poses, camera.intrinsics)
        pairs = [keypoints[..., 2 * i : 2 * i + 2].astype(np.float64) for i in range(estimators)]
        pixels = (np.stack(pairs) + [1, camera.height / camera.width]) * camera.width / 2
        pixels[(np.abs(pixels) < 1e-3).all(axis=-1)] = np.nan
        views.append(View(subject, camera, truth, pixels))
    return views


def _distance_px(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance of two (..., 2) in pixels, over the points that both have."""
    distances = np.linalg.norm(estimate - truth, axis=-1)
    distances = distances[np.isfinite(distances)]
    return float(distances.mean()) if distances.size else np.inf


def _problem(view: View, estimator: int, views: Sequence[View], distance: float) -> str | None:
    """Return what is wrong with an estimator's 2D of one view, and the likely cause."""
    if distance <= SUSPECT_PX:
        return None
    found = f"{view.subject}, camera {view.camera.id}: its 2D lies {distance:.0f} px from the "
    found += "projected 3D"
    readings = _other_readings(view, estimator, views)
    nearest, cause = min((_distance_px(points, truth), cause) for cause, points, truth in readings)
    if nearest < min(distance / 2, HOPELESS_PX):
        return f"{found}, but {nearest:.0f} px if {cause}"
    if distance <= HOPELESS_PX:
        return None
    return (
        f"{found}, farther than any estimator's, and no other order of cameras, sides or joints "
        "and no other scale explains it: are 2D and 3D of the same sequences?"
    )


def _other_readings(
    view: View, estimator: int, views: Sequence[View]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (what would be the cause, 2D read so, the 3D to compare with)."""
    points, truth, camera = view.estimates[estimator], view.truth, view.camera
    size = np.array([camera.width, camera.height])
    for other in views:
        is_other = other.subject == view.subject and other is not view
        if is_other and other.truth.shape == truth.shape:
            cause = f"the cameras are in another order: this is what {other.camera.id} sees"
            yield cause, points, other.truth
    as_coco = coco_to_h36m(points)
    readings = {
        "left and right are exchanged": points[:, EXCHANGED],
        "the joints are COCO's (layout_name 'coco' in metadata converts them)": as_coco,
        "the coordinates are normalised already, -1 to 1": (points * camera.width + size) / 2,
        "the coordinates are parts of the picture, 0 to 1": points * size,
        "y points up": np.stack([points[..., 0], camera.height - points[..., 1]], axis=-1),
        "x and y are exchanged": points[..., ::-1],
        "the picture is mirrored": np.stack([camera.width - points[..., 0], points[..., 1]], -1),
    }
    yield from ((cause, reading, truth) for cause, reading in readings.items())
    known = np.isfinite(points) & np.isfinite(truth)
    p, t = np.where(known, points, 0), np.where(known, truth, 0)
    scale = (p * t).sum(axis=(0, 1)) / np.maximum((p * p).sum(axis=(0, 1)), 1e-9)
    if (scale > 0.01).all() and (scale < 100).all():  # else it is one of the above
        told = " × ".join(f"{x:.0f}" for x in size / scale)
        yield f"the picture had {told} pixels", points * scale, truth
