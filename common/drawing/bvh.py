"""Poses as BVH: a skeleton with bones of constant length, and the rotations that move it.

Axes: y is up; in the rest pose, a T-pose, the person looks along z, and x points to their left.
Unit: metres, so that a person is 1.7 units tall (a unit of Blender is a metre).
"""

import warnings
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from common.motion import unit
from common.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS, ROOT, SAFE_NAMES

_CHILDREN = [[c for c, parent in enumerate(PARENTS) if parent == j] for j in range(NUM_JOINTS)]
_UP, _DOWN, _LEFT, _RIGHT, _FORWARD = np.array(
    [(0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1)], dtype=np.float64
)
# Where the bone that ends at a joint points in the rest pose; the directions of the bones that
# leave the hip and the thorax are measured instead.
_REST_DIRECTIONS = {
    **dict.fromkeys(("RKnee", "RFoot", "LKnee", "LFoot"), _DOWN),
    **dict.fromkeys(("Spine", "Thorax", "Neck/Nose", "Head"), _UP),
    **dict.fromkeys(("LHip", "LShoulder", "LElbow", "LWrist"), _LEFT),
    **dict.fromkeys(("RHip", "RShoulder", "RElbow", "RWrist"), _RIGHT),
}
# The last bones of the limbs (hand, foot, top of the head) are not among the joints: 10 cm.
_END_SITES_M = {
    name: 0.1 * (_FORWARD if "Foot" in name else _REST_DIRECTIONS[name])
    for name in ("RFoot", "LFoot", "Head", "LWrist", "RWrist")
}
_MAX_TWIST_DEG_S = 90.0
_AXES = "XYZ"
# The axes of each joint's three angles, the outermost first. The middle angle is the twist of the
# limb, which stays far from the 90 degrees at which such angles become ambiguous; of the hip, it is
# the forward bend.
_ARM_ORDERS = dict.fromkeys(("Shoulder", "Elbow", "Wrist"), "ZXY")
_ORDERS = ["YXZ", *(_ARM_ORDERS.get(name[1:], "ZYX") for name in JOINT_NAMES[1:])]


def fit_skeleton(poses_m: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a skeleton whose bones keep their length to poses (frames, 17, 3), metres, y up.

    A bone is as long as its median over the frames. From the hip outwards, each bone points from
    where its parent has come to lie to the given position of its joint. Where several bones leave
    a joint (hip, thorax), its rotation is the least-squares one (Kabsch, 1976). Positions do not
    show the twist of a single bone: it is that of the shortest turn from the rest pose. Where this
    would spin, as with a bone opposite to its rest direction, it follows at 90 degrees a second.

    Returns (17, 3), each joint seen from its parent in the rest pose, metres; (frames, 17, 3, 3),
    the rotations of a joint's children relative to its parent; (frames, 17, 3), where these and the
    hip's path put the joints, metres.
    """
    poses = poses_m.astype(np.float64)
    offsets = _rest_offsets(poses)
    world = np.tile(np.eye(3), (len(poses), NUM_JOINTS, 1, 1))
    rotations, placed = world.copy(), poses.copy()
    for joint, children in enumerate(_CHILDREN):  # parents come before their children
        inherited = np.eye(3) if joint == ROOT else world[:, PARENTS[joint]]
        aims = (poses[:, children] - placed[:, joint, None]) @ inherited
        if len(children) > 1:
            rotations[:, joint] = _least_squares_rotations(offsets[children], aims)
        elif children:
            rotations[:, joint] = _turn_bone(offsets[children[0]], aims[:, 0], fps)
        world[:, joint] = inherited @ rotations[:, joint]
        turned = np.einsum("fij,cj->fci", world[:, joint], offsets[children])
        placed[:, children] = placed[:, joint, None] + turned
    return offsets, rotations, placed


def _rest_offsets(poses: np.ndarray) -> np.ndarray:
    """Return (17, 3): the rest pose, every bone of its median length."""
    bones = poses - poses[:, np.maximum(PARENTS, 0)]
    directions = np.array([_REST_DIRECTIONS.get(name, np.zeros(3)) for name in JOINT_NAMES])
    for right, left, up in (("RHip", "LHip", "Spine"), ("RShoulder", "LShoulder", "Neck/Nose")):
        joints = [JOINT_NAMES.index(name) for name in (right, left, up)]
        # How the three bones lie in axes that turn with the person.
        vectors = bones[:, joints]
        x = unit(vectors[:, 1] - vectors[:, 0])
        z = unit(np.cross(x, vectors[:, 2]))
        axes = np.stack([x, np.cross(z, x), z], axis=-1)
        directions[joints] = unit(np.median(vectors @ axes, axis=0))
    return directions * np.median(np.linalg.norm(bones, axis=-1), axis=0)[:, None]


def _least_squares_rotations(offsets: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """Return (frames, 3, 3): what turns offsets (n, 3) as near as possible to (frames, n, 3)."""
    u, _, vt = np.linalg.svd(np.swapaxes(aims, 1, 2) @ offsets)
    u[..., 2] *= np.linalg.det(u @ vt)[:, None]  # a rotation, never a reflection
    return u @ vt


def _turn_bone(offset: np.ndarray, aims: np.ndarray, fps: float) -> np.ndarray:
    """Return (frames, 3, 3): what turns offset (3,) towards (frames, 3), without sudden twist."""
    start, ends = unit(offset), unit(aims)
    ends[~ends.any(axis=-1)] = start
    shortest = _arcs(start, ends)
    # By how much the shortest turn twists the bone from one frame to the next.
    carried = _arcs(ends[:-1], ends[1:]) @ shortest[:-1]
    twist = shortest[1:] @ np.swapaxes(carried, 1, 2)
    axis = np.stack([twist[:, k - 2, k - 1] - twist[:, k - 1, k - 2] for k in range(3)], axis=-1)
    sine = -np.sum(axis * ends[1:], axis=-1)
    angles = np.arctan2(sine, np.trace(twist, axis1=1, axis2=2) - 1)
    largest, lag, lags = np.radians(_MAX_TWIST_DEG_S) / fps, 0.0, [0.0]
    for angle in angles.tolist():
        lag = (lag - angle + np.pi) % (2 * np.pi) - np.pi
        lag -= min(max(lag, -largest), largest)
        lags.append(lag)
    return Rotation.from_rotvec(ends * np.array(lags)[:, None]).as_matrix() @ shortest


def _arcs(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return (..., 3, 3): the shortest turn from one unit vector to another."""
    starts, ends = np.broadcast_arrays(starts, ends)
    axis, cosine = np.cross(starts, ends), np.sum(starts * ends, axis=-1)
    opposite = cosine < -1 + 1e-12
    # Half a turn about whatever is at right angles.
    across = np.cross(starts, np.eye(3)[np.argmin(np.abs(starts), axis=-1)])
    angle = np.arctan2(np.linalg.norm(axis, axis=-1), cosine)
    axis = unit(np.where(opposite[..., None], across, axis))
    return Rotation.from_rotvec(axis * angle[..., None]).as_matrix()


def write_bvh(path: Path, poses_m: np.ndarray, fps: float) -> None:
    """Write poses (frames, 17, 3), metres, y up, as BVH, not atomically."""
    offsets_m, rotations, positions_m = fit_skeleton(poses_m, fps)
    by_joint = zip(rotations.swapaxes(0, 1), _ORDERS)
    with warnings.catch_warnings():  # of the outer angles where they have one axis
        warnings.simplefilter("ignore")
        turns = [Rotation.from_matrix(joint).as_euler(order) for joint, order in by_joint]
    angles = np.stack(turns, axis=1)
    degrees = np.degrees(_continuous(angles)).reshape(len(angles), -1)
    rows = np.concatenate([positions_m[:, ROOT], degrees], axis=-1)
    with path.open("w") as file:
        file.write("HIERARCHY\n" + _hierarchy(ROOT, offsets_m))
        file.write(f"MOTION\nFrames: {len(rows)}\nFrame Time: {1 / fps:.9f}\n")
        np.savetxt(file, rows, fmt="%.6f")


def _hierarchy(joint: int, offsets_m: np.ndarray, indent: str = "") -> str:
    """Return the text of a joint and of all that hang on it, in the order of `JOINT_NAMES`."""
    name, inner = JOINT_NAMES[joint], indent + "\t"
    kind, moves = ("ROOT", _AXES) if joint == ROOT else ("JOINT", "")
    channels = [f"{axis}position" for axis in moves]
    channels += [f"{axis}rotation" for axis in _ORDERS[joint]]
    offset = "OFFSET {:.6f} {:.6f} {:.6f}\n"
    text = f"{indent}{kind} {SAFE_NAMES[joint]}\n{indent}{{\n"
    text += inner + offset.format(*offsets_m[joint])
    text += f"{inner}CHANNELS {len(channels)} {' '.join(channels)}\n"
    if name in _END_SITES_M:
        end = offset.format(*_END_SITES_M[name])
        text += f"{inner}End Site\n{inner}{{\n{inner}\t{end}{inner}}}\n"
    for child in _CHILDREN[joint]:
        text += _hierarchy(child, offsets_m, inner)
    return f"{text}{indent}}}\n"


def _continuous(angles: np.ndarray) -> np.ndarray:
    """Return (frames, joints, 3): of all angles of the same rotations, those that jump least."""
    other = angles * (1, -1, 1) + np.pi
    path, joints = angles.copy(), np.arange(angles.shape[1])
    for frame in range(1, len(path)):
        before = path[frame - 1]
        same = np.stack([angles[frame], other[frame]])
        same += 2 * np.pi * np.round((before - same) / (2 * np.pi))
        best = np.abs(same - before).sum(axis=-1).argmin(axis=0)
        path[frame] = same[best, joints]
    return path
