"""Sequences in time and in the room: resampling, smoothing, upright, on the floor; measures.

Everything works on arrays whose first axis is time, without a network and without truth.
"""

import numpy as np

from common.camera import quaternion_rotate
from common.skeleton import BONES, JOINT_NAMES, ROOT

DEFAULT_CUTOFF_HZ = 6.0
# Heights of the floor under the feet change no faster than this.
_FLOOR_CUTOFF_HZ = 4.0
# Who moves through the room and has no foot within this of the floor, for a moment, jumps.
_JUMP_M, _LONGEST_JUMP_S = 0.12, 0.8
# A person stands where trunk and legs are within this of each other and of the picture's vertical,
# and is to be seen standing in this share of the frames.
_MAX_TILT, _MAX_BEND, _MIN_STANDING = 45.0, 30.0, 0.1
# Rotates a level camera's coordinates (x right, y down, z forward) to x right, y forward, z up.
LEVEL_CAMERA = np.array([np.sqrt(0.5), -np.sqrt(0.5), 0, 0])
_THORAX = JOINT_NAMES.index("Thorax")
_FEET = [JOINT_NAMES.index("RFoot"), JOINT_NAMES.index("LFoot")]


def resample(
    values: np.ndarray, fps: float, to_fps: float, frames: int | None = None
) -> np.ndarray:
    """Return the frames that a recording has at another rate, by Catmull and Rom's spline (1974).

    Takes values (old frames, ...), at `fps` frames a second; returns (frames, ...), in their
    precision, frame k at k / `to_fps` seconds, by default all until the recording's end; the last
    one is held where the recording ends before it.
    """
    if fps == to_fps:
        return values
    if frames is None:
        frames = int(np.ceil((len(values) - 1) * to_fps / fps - 1e-6)) + 1
    return at_times(values, np.arange(len(values)) / fps, np.arange(frames) / to_fps)


def at_times(values: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return what values (frames, ...) at increasing, uneven times are at others, (wanted, ...).

    Between two frames it is the cubic whose slopes there are those of parabolas (Hermite); outside
    of all, the first or the last is held.
    """
    if len(values) < 2:
        return np.repeat(values, len(wanted), axis=0)
    flat = values.reshape(len(values), -1).astype(np.float64)
    slopes = np.gradient(flat, times, axis=0, edge_order=min(2, len(values) - 1))
    wanted = np.clip(wanted, times[0], times[-1])
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    step = np.diff(times)[before, None]
    t = (wanted - times[before])[:, None] / step
    here, after = before, before + 1
    result = (1 + 2 * t) * (1 - t) ** 2 * flat[here] + t**2 * (3 - 2 * t) * flat[after]
    result += step * t * (1 - t) * ((1 - t) * slopes[here] - t * slopes[after])
    return result.reshape(len(wanted), *values.shape[1:]).astype(values.dtype)


def even_rate(times: np.ndarray) -> float | None:
    """Return frames a second that suit frames at these times; None where they are even already.

    Times (frames,) in seconds are even if none is half a frame away from a constant rate's.
    """
    if len(times) < 3:
        return None
    numbers = np.arange(len(times))
    slope, start = np.polyfit(numbers, times, 1)
    is_even = np.abs(times - (start + slope * numbers)).max() < slope / 2
    return None if is_even else float(1 / np.median(np.diff(times)))


def lowpass(values: np.ndarray, fps: float, cutoff_hz: float = DEFAULT_CUTOFF_HZ) -> np.ndarray:
    """Take out what is faster than `cutoff_hz`, without a delay (zero phase).

    The filter is a Gaussian whose gain at the cutoff is √½: exp(-2 π² σ² f²) = √½ gives
    σ = √(ln 2) / (2 π f) seconds. Straight motion stays as it is, at the ends too.

    Takes and returns (frames, ...), in the precision of `values`.
    """
    if len(values) < 2:
        return values
    sigma = fps * np.sqrt(np.log(2)) / (2 * np.pi * cutoff_hz)
    # A point reflection at each end: what went up goes on going up.
    return gaussian_filter(values, sigma, mode="reflect", reflect_type="odd")


def gaussian_filter(values: np.ndarray, sigma: float, **ends: str) -> np.ndarray:
    """Filter (frames, ...) over time with a Gaussian of `sigma` frames; `ends` go to `np.pad`."""
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    flat = values.reshape(len(values), -1).astype(np.float64)
    padded = np.pad(flat, ((reach, reach), (0, 0)), **ends)
    columns = [np.convolve(c, kernel / kernel.sum(), mode="valid") for c in padded.T]
    return np.stack(columns, axis=-1).reshape(values.shape).astype(values.dtype)


def up_direction(poses_m: np.ndarray) -> np.ndarray:
    """Return the direction (3,) that is up, of poses (frames, 17, 3).

    It is the mean of the mean directions from hip to thorax and from between the feet to the hip.
    """
    trunk, legs = _trunk_and_legs(poses_m)
    return unit(unit(trunk.mean(axis=0)) + unit(legs.mean(axis=0)))


def roll_of_body(keypoints_px: np.ndarray) -> np.ndarray:
    """Return (frames,), radians: by how much bodies (frames, 17, 2), y down, are turned clockwise.

    It is the direction from between the feet to the thorax, 0 for upwards.
    """
    x, y = (keypoints_px[:, _THORAX] - keypoints_px[:, _FEET].mean(axis=1)).T
    return np.arctan2(x, -y)


def up_of_standing(poses_m: np.ndarray, keypoints_px: np.ndarray) -> np.ndarray | None:
    """Return `up_direction` of the frames in which a person stands; None if they are too few.

    Standing are those whose trunk and legs are straight, and upright but for a camera's tilt, in
    the poses (frames, 17, 3), camera coordinates, and in the picture (frames, 17, 2). Somebody who
    lies, sits or bends does not tell how the camera was held.
    """
    trunk, legs = _trunk_and_legs(poses_m)
    cosines = -trunk[:, 1], -legs[:, 1], np.cos(roll_of_body(keypoints_px))
    standing = np.all([cosine > np.cos(np.radians(_MAX_TILT)) for cosine in cosines], axis=0)
    standing &= (trunk * legs).sum(axis=-1) > np.cos(np.radians(_MAX_BEND))
    return up_direction(poses_m[standing]) if standing.mean() >= _MIN_STANDING else None


def _trunk_and_legs(poses_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    trunk = unit(poses_m[:, _THORAX] - poses_m[:, ROOT])
    return trunk, unit(poses_m[:, ROOT] - poses_m[:, _FEET].mean(axis=1))


def orientation_of_camera(up: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (4,) that rotates camera coordinates to a world with z up.

    The camera looks along the world's y as far as `up` lets it, (3,), of unit length, in camera
    coordinates (x right, y down, z forward): from a level camera's orientation the world is tilted
    on the shortest way.
    """
    x, y, z = quaternion_rotate(LEVEL_CAMERA, up)
    # The shortest rotation from a to b is (1 + a · b, a × b), normalised; here b = (0, 0, 1).
    tilt = np.array([1 + z, y, -x, 0])
    tilt = unit(tilt) if np.linalg.norm(tilt) > 1e-9 else np.array([0.0, 1, 0, 0])
    # Hamilton's product: the level camera's rotation, then the tilt.
    (a, *u), (b, *v) = tilt, LEVEL_CAMERA
    u, v = np.array(u), np.array(v)
    return np.array([a * b - u @ v, *(a * v + b * u + np.cross(u, v))])


def place_on_floor(poses_m: np.ndarray, fps: float, jumps: bool = False) -> np.ndarray:
    """Move each frame up or down so that its lowest joint stands on the floor, z = 0.

    A lifter tells where joints are relative to the hip, not how high the hip is: somebody who
    squats would lift the feet. The floor's height is smoothed, so that jitter of the feet does not
    shake the body. Where the hip's own height is in the poses, `jumps` keeps what is above the
    floor for a moment; otherwise jumps are lost.

    Takes and returns (frames, 17, 3), metres, z up, at `fps` frames a second.
    """
    lowest = poses_m[..., 2].min(axis=1)
    if jumps:
        reach = int(np.ceil(_LONGEST_JUMP_S * fps))
        padded = np.pad(lowest, reach, mode="edge")
        floor = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=-1)
        lowest = np.where(lowest > floor + _JUMP_M, floor, lowest)
    lowest = lowpass(lowest, fps, _FLOOR_CUTOFF_HZ)
    return poses_m - lowest[:, None, None] * np.array([0, 0, 1], dtype=poses_m.dtype)


def bone_variation_percent(poses_m: np.ndarray) -> float:
    """Return how much bones' lengths vary: standard deviation over mean, averaged over bones."""
    children, parents = np.array(BONES).T
    lengths = np.linalg.norm(poses_m[:, children] - poses_m[:, parents], axis=-1)
    return float(100 * np.mean(lengths.std(axis=0) / np.maximum(lengths.mean(axis=0), 1e-9)))


def jitter_m_s3(poses_m: np.ndarray, fps: float) -> float:
    """Return the joints' mean jerk, third differences (Flash and Hogan, 1985); 0 below 4 frames."""
    if len(poses_m) < 4:
        return 0.0
    return float(np.linalg.norm(np.diff(poses_m, 3, axis=0), axis=-1).mean() * fps**3)


def reprojection_px(poses_m: np.ndarray, keypoints_px: np.ndarray) -> float:
    """Return the mean distance of poses from the keypoints that they were made from, in pixels.

    The camera's focal length and the person's distance are not known, so each frame's pose
    (frames, 17, 3), camera coordinates, is laid over its keypoints (frames, 17, 2) by the scale and
    the shift of least squares (scaled orthographic projection).
    """
    flat = poses_m[..., :2] - poses_m[..., :2].mean(axis=1, keepdims=True)
    points = keypoints_px - keypoints_px.mean(axis=1, keepdims=True)
    scale = (flat * points).sum(axis=(1, 2)) / np.maximum((flat**2).sum(axis=(1, 2)), 1e-12)
    return float(np.linalg.norm(scale[:, None, None] * flat - points, axis=-1).mean())


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (..., 3) to length 1; a zero one stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
