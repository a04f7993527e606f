"""Reading npz and npy without running code from them, writing atomically, the files' schema.

The files of this field hold pickled dicts. `RestrictedUnpickler` rebuilds NumPy arrays and plain
Python containers and refuses everything else by name, so a file of a stranger cannot run code.
"""

import contextlib
import os
import pickle
import re
import tempfile
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.command_line import InputError

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

# What a damaged npy, npz or pickle raises; none of it is worth a traceback.
DAMAGED_FILE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    ImportError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    UnicodeError,
    tokenize.TokenError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something other than arrays and containers; the message is its name."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that rebuilds NumPy arrays and plain Python containers and nothing else.

    No object of NumPy's is within the pickle's reach: its `dtype.__setstate__` believes forged
    flags, after which bytes of the file would be taken for pointers. Stand-ins collect what the
    pickle says, and arrays are made of it, and checked, by functions that cannot go wrong so.

    Raises:
        UnsafePickleError: from `load`, naming the first global that is not admitted.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the admitted global `module.name`."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise UnsafePickleError(f"{module}.{name}") from None

    def load(self) -> Any:
        """Return the pickled object, with arrays in the place of their stand-ins."""
        return _resolve(super().load(), {})


class _PickledDtype:
    """What a pickle says of a dtype; one of numbers, strings or objects is admitted."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        _version, byte_order, subdtype, names, fields, *_ = state
        if any(part is not None for part in (subdtype, names, fields)):
            raise ValueError("it holds arrays of a structured dtype")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """What a pickle says of an array; `array` holds stand-ins where its dtype is object."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _version, shape, pickled, is_fortran, data = state
        if pickled.dtype == object:
            array = np.fromiter(data, dtype=object)
        else:
            array = np.frombuffer(_as_bytes(data), dtype=pickled.dtype).copy()
        self.array = array.reshape(shape, order="F" if is_fortran else "C")


def _dtype(name: str, _align: Any = False, _copy: Any = False) -> _PickledDtype:
    if not re.fullmatch(r"[biufcSUO]\d{1,6}", name):
        raise ValueError(f"it holds arrays of dtype {name}")
    return _PickledDtype(np.dtype(name))


def _reconstruct(kind: str, _shape: tuple, _typecode: bytes) -> _PickledArray:
    if kind != _NDARRAY:
        raise ValueError("it holds an array of an unknown kind")
    return _PickledArray()


def _frombuffer(
    buffer: bytes | bytearray, pickled: _PickledDtype, shape: tuple, order: str
) -> np.ndarray:
    """Rebuild an array of pickle protocol 5."""
    return np.frombuffer(_as_bytes(buffer), dtype=pickled.dtype).copy().reshape(shape, order=order)


def _scalar(pickled: _PickledDtype, data: bytes | str) -> np.generic:
    return np.frombuffer(_as_bytes(data), dtype=pickled.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Rebuild bytes that Python 2, or protocol 2, wrote as a string."""
    if encoding != "latin1":
        raise UnsafePickleError(f"_codecs.encode to {encoding}")
    return text.encode(encoding)


def _as_bytes(data: Any) -> bytes | bytearray:
    """Return an array's data; from Python 2 it comes as a string."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"the data of an array is of type {type(data).__name__}")
    return data


_NDARRAY = "numpy.ndarray"
_STAND_INS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and of NumPy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer

_PLAIN_TYPES = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray))


def _resolve(value: Any, done: dict[int, Any]) -> Any:
    """Return `value` with arrays in the place of their stand-ins, replaced within containers.

    Args:
        value: what the unpickler built.
        done: {id: result} of the containers that were met, which may hold one another.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES or isinstance(value, np.generic):
        return value
    if id(value) in done:
        return done[id(value)]
    if kind is _PickledArray:
        done[id(value)] = array = value.array
        if array.dtype == object:
            flat = array.ravel(order="K")  # a view, as the array is contiguous
            for i, item in enumerate(flat):
                flat[i] = _resolve(item, done)
        return array
    if kind is dict or kind is OrderedDict:
        done[id(value)] = value
        for key, item in value.items():
            _check_key(key)
            value[key] = _resolve(item, done)
        return value
    if kind is list:
        done[id(value)] = value
        value[:] = [_resolve(item, done) for item in value]
        return value
    if kind is tuple:
        done[id(value)] = result = tuple(_resolve(item, done) for item in value)
        return result
    if kind is set or kind is frozenset:
        for item in value:
            _check_key(item)
        return value
    raise UnsafePickleError(f"a {kind.__name__}")


def _check_key(key: Any) -> None:
    if type(key) not in _PLAIN_TYPES and not isinstance(key, np.generic):
        raise UnsafePickleError(f"a {type(key).__name__} as a key")


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


@contextlib.contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces `path` once the block has succeeded.

    If the block fails, the temporary file is removed and an earlier `path` stays as it was.

    Args:
        path: the output; its folder is created where it is missing.

    Yields:
        The path to write to, with the same suffix.

    Raises:
        InputError: if `path` is a folder.
        OSError: naming `path`, as on a full or read-only disk.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
    except OSError as error:  # name the output, not the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == name:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Wait until the file is on the disk: renamed before that, a power cut would leave it empty."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
