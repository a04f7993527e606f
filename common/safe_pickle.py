"""The one restricted reader of pickles: arrays and plain containers, and nothing that runs code."""

import pickle
import re
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np

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
