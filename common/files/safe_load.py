"""Reading the files of strangers, npy, npz and checkpoints, without running code from them.

A pickle names the functions that build its objects. Here a name is looked up in a short table of
stand-ins, which build arrays of numbers, text and objects and nothing else; any other name is
refused. NumPy's own `dtype` is not in the table: its `__setstate__` believes forged flags, after
which NumPy would take bytes of the file for pointers.
"""

import contextlib
import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from common.files.console import InputError

MAX_DEPTH = 100  # of containers within containers; published checkpoints nest to 8
# Poses deflate to a third. A member that inflates to more than these two is meant to fill memory.
MAX_DEFLATION = 20
ALWAYS_ALLOWED_BYTES = 1 << 24
IS_FOLDER = 1 << 4  # of a zip member's external attributes

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, np.generic)


def read_npy(path: Path | str) -> Any:
    """Read the array of an npy file, or the object in one.

    Raises:
        InputError: if the file is missing, damaged, or holds anything but arrays and containers.
    """
    with _readable(path) as path, path.open("rb") as file:
        return _read_array(file)


def read_pickle(path: Path | str) -> Any:
    """Read what `pickle.dump` wrote, without a header around it; raises what `read_npy` does."""
    with _readable(path) as path, path.open("rb") as file:
        return _plain(_Unpickler(file, encoding="latin1").load())


def read_npz(path: Path | str) -> dict[str, Any]:
    """Read {name: what `read_npy` gives} from an npz file; raises what `read_npy` does."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        _check_members(archive)
        files = ((name, io.BytesIO(archive.read(name))) for name in archive.namelist())
        return {name.removesuffix(".npy"): _read_array(file) for name, file in files}


def read_torch_file(path: Path | str) -> Any:
    """Read what `torch.save` wrote, in its zip format or in the older one, on the CPU.

    Returns:
        Nested dicts, lists and tuples of dense tensors, plain Python types and NumPy arrays.
        NumPy's scalars become plain numbers, and its random states None.

    Raises:
        InputError: if the file is missing, damaged, unsafe or of another format.
    """
    import torch

    with _readable(path, "checkpoint of tensors and plain types"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about strange files
        with Path(path).open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
        if is_zip:  # PyTorch does not compare checksums
            with zipfile.ZipFile(path) as archive:
                _check_members(archive)
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of its member {damaged} is wrong")
        stand_ins = [(stand_in, name) for name, stand_in in _TORCH_STAND_INS.items()]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return _plain(content, _plain_torch_object)


@contextlib.contextmanager
def _readable(
    path: Path | str, expected: str = "file of arrays and plain containers"
) -> Iterator[Path]:
    """Turn whatever a missing, foreign or damaged file gives into an `InputError`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        yield path
    except MemoryError as error:
        raise InputError(f"{path}: damaged, or too large for this machine's memory") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # such as a file of another user
            raise
        if unsafe := re.search(r"GLOBAL (\S+)", str(error)):  # as PyTorch says it, too
            raise InputError(
                f"{path}: refused, because it holds {unsafe[1][:200]}, which could run code; "
                f"expected a {expected}"
            ) from error
        # PyTorch goes on with how to switch its own safety off.
        reason = re.split(" In PyTorch| Re-running", " ".join(str(error).split()))[0]
        reason = reason[:200] or type(error).__name__
        raise InputError(
            f"{path}: damaged, truncated or no {expected} ({reason}); download or create it again"
        ) from error


def _check_members(archive: zipfile.ZipFile) -> None:
    """Refuse members that inflate too much, and a damaged directory where nothing else shows it.

    In the place of a folder PyTorch reads noise; a comment may hide the entries behind it.
    """
    for member in archive.infolist():
        name, packed, size = member.filename[:80], member.compress_size, member.file_size
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the member {name} is neither stored nor deflated; save it again")
        if member.is_dir() or member.external_attr & IS_FOLDER or member.comment:
            raise ValueError(f"the directory contradicts the member {name}")
        if size > max(ALWAYS_ALLOWED_BYTES, MAX_DEFLATION * packed):
            raise ValueError(f"the member {name} would inflate from {packed:,} to {size:,} bytes")


def _read_array(file: BinaryIO) -> Any:
    """Read the npy format (NEP 1); of an array of one object, return the object."""
    is_version_1 = np.lib.format.read_magic(file) == (1, 0)  # of all pickled objects
    if is_version_1 and np.lib.format.read_array_header_1_0(file)[2].hasobject:
        array = _plain(_Unpickler(file, encoding="latin1").load())
        if not isinstance(array, np.ndarray):
            raise ValueError("its pickle is no array")
        return array.item() if array.ndim == 0 else array
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


class _Unpickler(pickle._Unpickler):
    """The unpickler that is written in Python, without access to any module.

    It calls objects of its stack, where nothing but stand-ins can be called.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Callable:
        """Return the stand-in of a name."""
        full_name = f"{module}.{name}"
        if full_name not in _STAND_INS:
            raise pickle.UnpicklingError(f"GLOBAL {full_name}")
        return _STAND_INS[full_name]

    def _build(self) -> None:
        if type(self.stack[-2]) not in (_Array, _Dtype):  # nothing else takes a state
            raise ValueError(f"it gives a {type(self.stack[-2]).__name__} a state")
        self.load_build()

    dispatch[pickle.BUILD[0]] = _build


class _Dtype:
    """Stands for a dtype of numbers, text or objects."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in "biufcSUO":
            raise ValueError(f"it holds arrays of dtype {name}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _version, byte_order, *_ = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Stands for an array until `_plain` puts the array in its place."""

    def __init__(self, *_: Any) -> None:
        self.array = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, data = state
        if dtype.dtype == object:
            flat = np.fromiter(data, dtype=object, count=len(data))
        else:
            flat = _numbers(data, dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _RandomState:
    """Stands for an object that is not used, such as a random state of NumPy's."""

    def __init__(self, *_: Any) -> None:
        pass

    __setstate__ = __init__


def _numbers(data: bytes | bytearray | str, dtype: _Dtype) -> np.ndarray:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    return np.frombuffer(data, dtype.dtype).copy()


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    (value,) = _numbers(data, dtype)
    return value


_STAND_INS: dict[str, Callable] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "collections.OrderedDict": dict,
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes of protocol 2
}
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and of NumPy 2
    _STAND_INS[f"{_core}.multiarray._reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric._frombuffer"] = (  # of protocol 5
        lambda data, dtype, shape, order: _numbers(data, dtype).reshape(shape, order=order)
    )
_RANDOM_STATES = (  # of NumPy before and since 1.17
    *("__RandomState_ctor", "_pickle.__randomstate_ctor", "_pickle.__bit_generator_ctor"),
    *("_mt19937.MT19937", "bit_generator.SeedSequence"),
    "bit_generator.__pyx_unpickle_SeedSequence",
)
_TORCH_STAND_INS = {
    **_STAND_INS,
    **{name: lambda *a: _scalar(*a).item() for name, s in _STAND_INS.items() if s is _scalar},
    **{f"numpy.random.{name}": _RandomState for name in _RANDOM_STATES},
    "argparse.Namespace": _RandomState,  # the flags of people's own scripts, not used either
}


def _refuse(value: Any) -> None:
    raise ValueError(f"it holds a {type(value).__name__}")


def _plain_torch_object(value: Any) -> Any:
    """Return a dense tensor, or what stands for another object of a checkpoint."""
    import torch

    if type(value) in (torch.Tensor, torch.nn.Parameter):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError("it holds a tensor that is not dense")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("it holds a tensor that is larger than its storage")
        return torch.Tensor.detach(value)
    if type(value) is torch.Size:
        return tuple(value)
    return None if type(value) is _RandomState else _refuse(value)


def _plain(value: Any, convert_other: Callable[[Any], Any] = _refuse, depth: int = 0) -> Any:
    """Return nested containers with the arrays in the place of their stand-ins.

    `convert_other` returns what to put in the place of an object that is no plain type, `depth` is
    how many containers hold the value. A ValueError says that they are too many.
    """
    kind = type(value)
    if isinstance(value, _SCALARS) or kind is np.ndarray:
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} containers")

    def inner(items: Any) -> Iterator[Any]:
        return (_plain(item, convert_other, depth + 1) for item in items)

    if kind in (dict, OrderedDict):
        if not all(isinstance(key, _SCALARS) for key in dict.keys(value)):
            raise ValueError("it holds a dict whose keys are no plain types")
        return dict(zip(dict.keys(value), inner(dict.values(value))))
    if kind in (list, tuple, set, frozenset):
        return kind(inner(value))
    if kind is not _Array:
        return convert_other(value)
    array = value.array
    if array.dtype == object:
        return np.fromiter(inner(array.flat), object, array.size).reshape(array.shape)
    return array
