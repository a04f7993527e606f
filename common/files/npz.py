"""The schema of the 2D and 3D files: reading them with its checks, and writing them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.files.console import InputError, listing, shown, warn
from common.files.output import atomic_output
from common.files.safe_load import read_npz
from common.skeleton import coco_to_h36m

NUM_CAMERAS = 4
FPS_RANGE = (0.1, 1000)  # frames a second
_VIDEO_RANGES = (
    ("w", "width", 1, 99_999),
    ("h", "height", 1, 99_999),
    ("fps", "frame rate", *FPS_RANGE),
    ("first_frame", "first frame", 0, 100_000_000),
)
KEYPOINTS_METADATA = {
    "num_joints": 17,
    "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
}

COCO_SYMMETRY = [list(range(1, 17, 2)), list(range(2, 17, 2))]

# {subject: {action: [four arrays (frames, 17, 2 or 3), float32, pixels]}}
Positions2d = dict[str, dict[str, list[np.ndarray]]]
# {subject: {action: (frames, 32, 3), float32, metres, world}}, or with a list of four arrays in
# camera coordinates in the place of the array
Positions3d = dict[str, dict[str, Any]]


def write_npz(path: Path | str, **arrays: Any) -> None:
    """Write arrays, or dicts of arrays, to an npz file, atomically.

    Other repositories read them by `np.load(path, allow_pickle=True)`, a dict through `.item()`.
    """
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def npz_path(data_dir: Path, filename: str) -> Path:
    """Return where an output goes: in `data_dir` unless absolute, always with suffix npz.

    Raises:
        InputError: if `filename` names no file.
    """
    if Path(filename).name in ("", ".."):
        raise InputError(f"output '{filename}': give the name of a file, such as data.npz")
    path = data_dir / filename
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def read_positions_2d(path: Path | str) -> Positions2d:
    """Read `data_2d_h36m_<name>.npz`.

    Returns:
        {subject: {action: [four arrays (frames, 17, 2 or 3)]}}, float32, pixels, cameras in the
        order 54138969, 55011271, 58860488, 60457274; the third channel is the confidence. Of a
        file whose metadata says COCO's keypoints, they are converted, and a warning says so.

    Raises:
        InputError: if the file is missing, damaged, unsafe, or not of this form; if its metadata
            says another layout, or pairs of joints that are not the layout's.
    """
    arrays = read_npz(path)
    is_coco = _is_coco(path, arrays.get("metadata"))
    channels = set()

    def check(where: str, cameras: Any) -> list[np.ndarray]:
        views = _check_cameras(where, cameras, 17, (2, 3))
        channels.update(view.shape[-1] for view in views)
        return list(map(coco_to_h36m, views)) if is_coco else views

    positions = _map_actions(path, _member(path, arrays, "positions_2d"), check)
    if is_coco:
        warn(f"{path}: COCO's keypoints, as its metadata says; converted to Human3.6M's joints")
    if len(channels) > 1:
        raise InputError(f"{path}: some arrays have a confidence channel and others have none")
    return positions


def read_positions_3d(path: Path | str) -> Positions3d:
    """Read `data_3d_h36m.npz`.

    Returns:
        {subject: {action: (frames, 32, 3)}}, float32, metres, world coordinates; in a file that
        was written with `--per-camera`, a list of four such arrays in camera coordinates.

    Raises:
        InputError: if the file is missing, damaged, unsafe, or not of this form.
    """

    def check(where: str, value: Any) -> np.ndarray | list[np.ndarray]:
        is_list = isinstance(value, list | tuple)
        return (_check_cameras if is_list else _check_array)(where, value, 32, (3,))

    return _map_actions(path, _member(path, read_npz(path), "positions_3d"), check)


def write_positions_2d(path: Path | str, positions: Positions2d) -> None:
    """Write `data_2d_h36m_<name>.npz`, with the field's metadata, atomically."""
    write_npz(path, positions_2d=positions, metadata=KEYPOINTS_METADATA)


def write_positions_3d(path: Path | str, positions: Positions3d) -> None:
    """Write `data_3d_h36m.npz` atomically."""
    write_npz(path, positions_3d=positions)


def read_custom_2d(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Read `data_2d_custom_<name>.npz`, or VideoPose3D's own, whose keypoints are COCO's.

    Returns:
        {sequence: (frames, 17, 2 or 3)}, float32, pixels, then confidence; {sequence: {"w", "h":
        the picture's size in pixels, "fps" where it is known, and, where prepare_2d_custom.py wrote
        the file, "person" and "first_frame"}}.

    Raises:
        InputError: if the file is missing, damaged, unsafe, or not of this form.
    """
    arrays = read_npz(path)
    if not {"positions_2d", "metadata"} <= arrays.keys():
        raise InputError(f"{path}: holds {listing(arrays)}, but no 'positions_2d' and 'metadata'")
    content = arrays["metadata"] if isinstance(arrays["metadata"], dict) else {}
    videos = content.get("video_metadata")
    layout = str(content.get("layout_name"))
    if layout not in ("h36m", "coco") or not isinstance(videos, dict):
        raise InputError(
            f"{path}: its metadata does not tell of joints in Human3.6M's or COCO's layout and of "
            "videos; data/prepare_2d_custom.py writes such files"
        )

    def check(where: str, cameras: Any) -> np.ndarray:
        if not _is_list_of(1, cameras):
            raise InputError(f"{where}: expected a list of one camera's array")
        keypoints = _check_array(where, cameras[0], 17, (2, 3))
        return coco_to_h36m(keypoints) if layout == "coco" else keypoints  # as VideoPose3D's own

    positions, metadata = {}, {}
    for video, actions in _map_actions(path, arrays["positions_2d"], check).items():
        info = videos.get(video)
        if not isinstance(info, dict) or not {"w", "h"} <= info.keys():
            raise InputError(f"{path}: its metadata does not tell the size of {video}")
        for key, what, low, high in _VIDEO_RANGES:
            if key in info and not _is_between(info[key], low, high):
                told = f"{path}: the {what} of {video} is {shown(info[key])}"
                raise InputError(f"{told}, not a number from {low} to {high}")
        for action, keypoints in actions.items():
            name = video if len(actions) == 1 else f"{video} {action}"
            positions[name], metadata[name] = keypoints, info
    return positions, metadata


def _is_between(value: Any, low: float, high: float) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    return is_number and not isinstance(value, bool) and bool(low <= value <= high)


def write_custom_2d(
    path: Path | str,
    positions: dict[str, dict[str, list[np.ndarray]]],
    video_metadata: dict[str, dict[str, Any]],
) -> None:
    """Write `data_2d_custom_<name>.npz`, in the form that VideoPose3D introduced, atomically.

    Positions are {sequence: {"custom": [one array (frames, 17, 2 or 3)]}}, float32, pixels; the
    metadata is {sequence: {"w", "h", "fps", …}}: pixels, and frames a second.
    """
    metadata = {"layout_name": "h36m", **KEYPOINTS_METADATA, "video_metadata": video_metadata}
    write_npz(path, positions_2d=positions, metadata=metadata)


def _map_actions(path: Path | str, positions: Any, check: Callable[[str, Any], Any]) -> dict:
    """Return {subject: {action: check(where, value)}}, or say why `positions` is no such dict."""
    if not isinstance(positions, dict) or not positions:
        raise InputError(f"{path}: expected a dict of subjects")
    for subject, actions in positions.items():
        if not isinstance(actions, dict) or not actions:
            raise InputError(f"{path}: {shown(subject)} is not a dict of actions")
        if not all(isinstance(name, str) for name in (subject, *actions)):
            raise InputError(f"{path}: {shown(subject)} or an action of it has no text as its name")
    return {
        subject: {a: check(f"{path}: {subject}, {a}", value) for a, value in actions.items()}
        for subject, actions in positions.items()
    }


def _is_coco(path: Path | str, metadata: Any) -> bool:
    """Tell whether a 2D file's keypoints are COCO's, not Human3.6M's, by what it says of them.

    Raises:
        InputError: if they are neither, or the metadata contradicts itself.
    """
    said = metadata if isinstance(metadata, dict) else {}
    layout = str(said.get("layout_name", "h36m")).lower()
    joints = said.get("num_joints", 17)
    if layout not in ("h36m", "coco") or not _is_between(joints, 17, 17):
        raise InputError(
            f"{path}: its metadata says layout {shown(layout)}, {shown(joints)} joints; expected "
            "h36m or coco with 17. Convert the keypoints to Human3.6M's joints"
        )
    is_coco = layout == "coco"
    expected = COCO_SYMMETRY if is_coco else KEYPOINTS_METADATA["keypoints_symmetry"]
    if _pairs(said.get("keypoints_symmetry", expected)) != _pairs(expected):
        raise InputError(
            f"{path}: its metadata says layout {layout} and left and right joints "
            f"{shown(said['keypoints_symmetry'])}, but those of {layout} are {expected}; correct "
            "the metadata (layout_name 'coco' for COCO's keypoints), or exchange the joints"
        )
    return is_coco


def _pairs(symmetry: Any) -> set[tuple[int, int]]:
    """Return the pairs (left, right) of [left joints, right joints]; none where it is not so."""
    try:
        left, right = symmetry
        return {(int(a), int(b)) for a, b in zip(left, right, strict=True)}
    except (TypeError, ValueError, OverflowError):
        return set()


def _member(path: Path | str, arrays: dict[str, Any], member: str) -> Any:
    if member not in arrays:
        raise InputError(f"{path}: holds {listing(sorted(arrays))}, but no array '{member}'")
    return arrays[member]


def _is_list_of(length: int, value: Any) -> bool:
    is_list = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
    return is_list and len(value) == length


def _check_cameras(
    where: str, cameras: Any, joints: int, channels: tuple[int, ...]
) -> list[np.ndarray]:
    if not _is_list_of(NUM_CAMERAS, cameras):
        raise InputError(f"{where}: expected a list of {NUM_CAMERAS} cameras' arrays")
    each = enumerate(cameras)
    return [_check_array(f"{where}, camera {i}", array, joints, channels) for i, array in each]


def _check_array(where: str, array: Any, joints: int, channels: tuple[int, ...]) -> np.ndarray:
    """Return `array` as float32 (frames, joints, channels), or say what is wrong with it."""
    shape = f"(frames, {joints}, {' or '.join(map(str, channels))})"
    expected = f"{where}: expected numbers {shape}"
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{expected}, got lists that differ in length") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{expected}, got {array.dtype} {array.shape}")
    if array.ndim != 3 or array.shape[1] != joints or array.shape[2] not in channels:
        raise InputError(f"{where}: expected an array {shape}, got {array.shape}")
    if len(array) == 0:
        raise InputError(f"{where}: has no frames")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{where}: holds NaN or infinite coordinates")
    return array
