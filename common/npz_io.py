"""The schema of the 2D and 3D files, and reading npz and npy without running code from them."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.console import InputError
from common.files import atomic_output
from common.safe_pickle import DAMAGED_FILE_ERRORS, RestrictedUnpickler, UnsafePickleError

NUM_CAMERAS = 4
KEYPOINTS_METADATA = {
    "num_joints": 17,
    "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
}

# {subject: {action: [four arrays (frames, 17, 2 or 3), float32, pixels]}}
Positions2d = dict[str, dict[str, list[np.ndarray]]]
# {subject: {action: (frames, 32, 3), float32, metres, world}}, or with a list of four arrays in
# camera coordinates in the place of the array
Positions3d = dict[str, dict[str, Any]]


def read_npy(path: Path | str) -> Any:
    """Read an npy file without running code from it.

    Args:
        path: an npy file of numbers, or of pickled arrays and plain containers.

    Returns:
        The array; an object array of no dimensions gives the object in it.

    Raises:
        InputError: if the file is missing, damaged, or holds anything but arrays and containers.
    """
    path = Path(path)
    with _readable(path), path.open("rb") as file:
        return _read_array(file)


def read_npz(path: Path | str) -> dict[str, Any]:
    """Read every array of an npz file without running code from it.

    Args:
        path: an npz file.

    Returns:
        {name: array}; where an array of no dimensions holds an object, the object.

    Raises:
        InputError: if the file is missing, damaged, or holds anything but arrays and containers.
    """
    path = Path(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in archive.namelist():
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = _read_array(member)
        return arrays


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever a missing, foreign or damaged file raises into an `InputError`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; download or create it again")
    try:
        yield
    except UnsafePickleError as error:
        raise InputError(
            f"{path}: refused, because it holds {error}, which could run code; "
            "only arrays and plain containers are read"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: damaged, or too large for this machine's memory") from error
    except (*DAMAGED_FILE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: damaged or in another format ({reason}); download or create it again"
        ) from error


def _read_array(file: BinaryIO) -> Any:
    """Read one array in npy format, unpickling objects with the restricted reader."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(file)
    if dtype.hasobject:
        return _unpickle_array(file, shape)
    count = int(np.prod(shape, dtype=np.int64))
    data = _read_exactly(file, count * dtype.itemsize)
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")


def _unpickle_array(file: BinaryIO, shape: tuple[int, ...]) -> Any:
    array = RestrictedUnpickler(file, encoding="latin1").load()
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError("the pickled array does not have the shape that the header promises")
    return array.item() if array.shape == () else array


def _read_exactly(file: BinaryIO, size: int) -> bytearray:
    """Read `size` bytes; a header that promises more than the file holds must not fill memory."""
    data = bytearray()
    while len(data) < size:
        chunk = file.read(min(size - len(data), 1 << 24))
        if not chunk:
            raise ValueError(f"truncated: {len(data)} of {size} bytes")
        data += chunk
    return data


def write_npz(path: Path | str, **arrays: Any) -> None:
    """Write arrays, or dicts of arrays, to an npz file, atomically.

    Args:
        path: the npz file; an earlier one is replaced.
        **arrays: what `np.load(path, allow_pickle=True)` gives back; a dict through `.item()`.
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

    Args:
        path: the npz file.

    Returns:
        {subject: {action: [four arrays (frames, 17, 2 or 3)]}}, float32, pixels, cameras in the
        order 54138969, 55011271, 58860488, 60457274; the third channel is the confidence.

    Raises:
        InputError: if the file is missing, damaged, unsafe, or not of this form.
    """
    positions = _map_actions(path, _read_member(path, "positions_2d"), _check_cameras_2d)
    channels = {
        array.shape[-1]
        for actions in positions.values()
        for cameras in actions.values()
        for array in cameras
    }
    if len(channels) > 1:
        raise InputError(f"{path}: some arrays have a confidence channel and others have none")
    return positions


def read_positions_3d(path: Path | str) -> Positions3d:
    """Read `data_3d_h36m.npz`.

    Args:
        path: the npz file.

    Returns:
        {subject: {action: (frames, 32, 3)}}, float32, metres, world coordinates; in a file that
        was written with `--per-camera`, a list of four such arrays in camera coordinates.

    Raises:
        InputError: if the file is missing, damaged, unsafe, or not of this form.
    """
    return _map_actions(path, _read_member(path, "positions_3d"), _check_positions_3d)


def write_positions_2d(path: Path | str, positions: Positions2d) -> None:
    """Write `data_2d_h36m_<name>.npz`, with the field's metadata, atomically.

    Args:
        path: the npz file.
        positions: {subject: {action: [four arrays (frames, 17, 2 or 3)]}}, float32, pixels.
    """
    write_npz(path, positions_2d=positions, metadata=KEYPOINTS_METADATA)


def write_positions_3d(path: Path | str, positions: Positions3d) -> None:
    """Write `data_3d_h36m.npz` atomically.

    Args:
        path: the npz file.
        positions: {subject: {action: (frames, 32, 3)}}, float32, metres.
    """
    write_npz(path, positions_3d=positions)


def _map_actions(path: Path | str, positions: Any, check: Callable[[str, Any], Any]) -> dict:
    """Return {subject: {action: check(where, value)}}, or say why `positions` is no such dict."""
    if not isinstance(positions, dict) or not positions:
        raise InputError(f"{path}: expected a dict of subjects")
    checked = {}
    for subject, actions in positions.items():
        if not isinstance(actions, dict) or not actions:
            raise InputError(f"{path}: {subject} is not a dict of actions")
        checked[subject] = {
            action: check(f"{path}: {subject}, {action}", value)
            for action, value in actions.items()
        }
    return checked


def _read_member(path: Path | str, member: str) -> Any:
    arrays = read_npz(path)
    if member not in arrays:
        raise InputError(f"{path}: holds {sorted(arrays)}, but no array '{member}'")
    return arrays[member]


def _check_cameras_2d(where: str, cameras: Any) -> list[np.ndarray]:
    if not isinstance(cameras, list | tuple | np.ndarray) or len(cameras) != NUM_CAMERAS:
        raise InputError(f"{where}: expected a list of {NUM_CAMERAS} cameras' arrays")
    return [_check_array(f"{where}, camera {i}", a, 17, (2, 3)) for i, a in enumerate(cameras)]


def _check_positions_3d(where: str, value: Any) -> np.ndarray | list[np.ndarray]:
    if not isinstance(value, list | tuple):
        return _check_array(where, value, 32, (3,))
    if len(value) != NUM_CAMERAS:
        raise InputError(f"{where}: expected a list of {NUM_CAMERAS} cameras' arrays")
    return [_check_array(f"{where}, camera {i}", a, 32, (3,)) for i, a in enumerate(value)]


def _check_array(where: str, array: Any, joints: int, channels: tuple[int, ...]) -> np.ndarray:
    """Return `array` as float32 (frames, joints, channels), or say what is wrong with it."""
    array = np.asarray(array)
    shape = f"(frames, {joints}, {' or '.join(map(str, channels))})"
    if array.ndim != 3 or array.shape[1] != joints or array.shape[2] not in channels:
        raise InputError(f"{where}: expected an array {shape}, got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where}: expected numbers, got {array.dtype}")
    if len(array) == 0:
        raise InputError(f"{where}: has no frames")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{where}: holds NaN or infinite coordinates")
    return array
