"""What a pickle may name: stand-ins for NumPy's functions, which build arrays that are checked.

No object of NumPy's is within a pickle's reach: its `dtype.__setstate__` believes forged flags,
after which bytes of the file would be taken for pointers.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class UnsafePickleError(ValueError):
    """A pickle asks for something other than arrays and containers; the message is its name."""


class Function(NamedTuple):
    """Stands for a function or a class that a pickle may call, in whose place `call` is called."""

    call: Callable


class Dtype:
    """What a pickle says of an array's dtype; one of numbers, text or objects is admitted."""

    def __init__(self, name: str, _align: Any = False, _copy: Any = False) -> None:
        self.dtype = plain_dtype(name)

    def set_state(self, state: tuple) -> None:
        """Take the byte order from the pickled state."""
        _version, byte_order, subdtype, names, fields, *_ = state
        if any(part is not None for part in (subdtype, names, fields)):
            raise ValueError("it holds arrays of a structured dtype")
        self.dtype = self.dtype.newbyteorder(byte_order)


class UnfinishedArray:
    """An array whose dtype, shape and data the pickle has not told yet.

    `places` are those at which the pickle's memo holds it.
    """

    def __init__(self, _kind: Any, _shape: Any, _typecode: Any) -> None:
        self.places: list[int] = []

    def finish(self, state: tuple) -> np.ndarray:
        """Return the array, from NumPy's (version, shape, dtype, is Fortran, data)."""
        _version, shape, dtype, is_fortran, data = state
        if dtype.dtype == object:
            if type(data) is not list or any(holds_objects(item) for item in data):
                raise ValueError("an array of objects holds another one")
            array = np.fromiter(data, dtype=object, count=len(data))
        else:
            array = _array(dtype, data)
        return array.reshape(_checked_shape(shape), order="F" if is_fortran else "C")


class Ignored:
    """Stands for an object that is of no use here, such as a random state; holds nothing."""

    def __init__(self, *_: Any) -> None:
        pass


def plain_dtype(name: str) -> np.dtype:
    """Return the dtype that NumPy calls `name`, such as "f4" or "<f4".

    Raises:
        ValueError: if it is none of numbers, text or objects.
    """
    sizes = r"b1|[iu][1248]|f2|f4|f8|f16|c8|c16|c32|[SU]\d{1,6}|O8?"
    if not re.fullmatch(f"[<>|=]?({sizes})", name):
        raise ValueError(f"it holds arrays of dtype {name[:40]}")
    return np.dtype(name)


def _array(dtype: Dtype, data: Any) -> np.ndarray:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"the data of an array is of type {type(data).__name__}")
    return np.frombuffer(data, dtype=dtype.dtype).copy()


def _array_of_protocol_5(data: Any, dtype: Dtype, shape: tuple, order: str) -> np.ndarray:
    return _array(dtype, data).reshape(_checked_shape(shape), order=order)


def _scalar(dtype: Dtype, data: Any) -> np.generic:
    (value,) = _array(dtype, data)
    return value


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape of an array is no tuple of sizes")
    return shape


def holds_objects(value: Any) -> bool:
    """Tell whether this is an array of Python objects."""
    return type(value) is np.ndarray and value.dtype == object


def _encode(text: str, encoding: str) -> bytes:
    """Rebuild bytes that Python 2, or protocol 2, wrote as text."""
    if encoding != "latin1":
        raise UnsafePickleError(f"_codecs.encode to {encoding[:40]}")
    return text.encode(encoding)


STAND_INS: dict[str, Function] = {
    "numpy.ndarray": Function(UnfinishedArray),
    "numpy.dtype": Function(Dtype),
    "collections.OrderedDict": Function(lambda: OrderedDict()),
    "_codecs.encode": Function(_encode),
}
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and of NumPy 2
    STAND_INS[f"{_core}.multiarray._reconstruct"] = Function(UnfinishedArray)
    STAND_INS[f"{_core}.multiarray.scalar"] = Function(_scalar)
    STAND_INS[f"{_core}.numeric._frombuffer"] = Function(_array_of_protocol_5)
