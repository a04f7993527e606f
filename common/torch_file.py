"""Reading what `torch.save` wrote, without running code from it and without `torch.load`.

Two formats: a zip archive with `data.pkl`, and `data/<key>` for the numbers of each storage; and
the older one, one pickle after another with the storages' numbers behind them. The pickles are
read by `common.safe_pickle`, the archive by `common.archive`, which compares its checksums.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.archive import read_members, readable
from common.safe_pickle import PickleReader
from common.stand_ins import STAND_INS, Function, Ignored, UnsafePickleError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_TENSOR_DIMS = 64

# By the names of PyTorch's classes, without the "Storage" at their end.
_STORAGES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16},
    **{"Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8},
    **{"ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
}
_UNTYPED_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
# A published checkpoint's `random_state`, of NumPy before and since 1.17; it is not used.
_RANDOM_STATES = (
    *("__RandomState_ctor", "_pickle.__randomstate_ctor", "_pickle.__bit_generator_ctor"),
    *("_mt19937.MT19937", "bit_generator.SeedSequence"),
    "bit_generator.__pyx_unpickle_SeedSequence",
)


class Storage(NamedTuple):
    """The numbers (numel,) that tensors are views of, in the storage's dtype."""

    numbers: Tensor


def read_torch_file(path: Path | str) -> Any:
    """Read a file that `torch.save` wrote, before or since 1.6, without running code from it.

    Returns:
        Nested dicts, lists and tuples of dense CPU tensors, plain Python types and NumPy arrays;
        NumPy's numbers are plain ones, and `stand_ins.Ignored` stands for a random state. No
        tensor has more numbers than its storage.

    Raises:
        InputError: if the file is missing, damaged, unsafe or of another format.
    """
    path = Path(path)
    with readable(path, "checkpoint of tensors and plain types"):
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        return _read_zip(path) if is_zip else _read_legacy(path.read_bytes())


def _read_zip(path: Path) -> Any:
    members = dict(read_members(path))
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in members):
        raise ValueError("no archive of torch.save's, but of another program or of TorchScript")
    prefix = pickles[0].removesuffix("data.pkl")
    if members.get(prefix + "byteorder", b"little") != b"little":
        raise ValueError("it was written on a big-endian machine; save it again on another")
    buffers: dict[str, bytearray] = {}

    def load_storage(dtype: torch.dtype, key: str, numel: int) -> Storage:
        if key not in buffers:
            buffers[key] = bytearray(members.pop(f"{prefix}data/{key}"))
        if len(buffers[key]) != numel * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(buffers[key])} bytes, not {numel} numbers")
        return Storage(_numbers(buffers[key], dtype))

    return _reader(members[pickles[0]], 0, load_storage).load()


def _read_legacy(content: bytes) -> Any:
    buffers: dict[str, bytearray] = {}
    sizes: dict[str, int] = {}

    def load_storage(dtype: torch.dtype, key: str, numel: int) -> Storage:
        size = numel * dtype.itemsize
        if sizes.setdefault(key, numel) != numel:
            raise ValueError(f"storage {key} has two sizes")
        if key not in buffers:
            if size + sum(map(len, buffers.values())) > len(content):
                raise ValueError(f"storage {key} is larger than the file")
            buffers[key] = bytearray(size)
        return Storage(_numbers(buffers[key], dtype))

    reader = _reader(content, 0, load_storage)
    beginning = [reader.load(), reader.load()]
    if list(map(type, beginning)) != [int, int] or beginning != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
        raise ValueError("it does not begin as a file of torch.save's")
    system = reader.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine; save it again on another")
    result = reader.load()
    keys = reader.load()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(buffers):
        raise ValueError("its storages are not those that its tensors need")
    position = reader.position
    for key in map(str, keys):
        start, end = position + 8, position + 8 + len(buffers[key])
        if int.from_bytes(content[position:start], "little") != sizes[key] or end > len(content):
            raise ValueError(f"storage {key} is truncated")
        buffers[key][:] = content[start:end]
        position = end
    if position != len(content):
        raise ValueError("it goes on after its end")
    return result


def _reader(
    data: bytes, position: int, load_storage: Callable[[torch.dtype, str, int], Storage]
) -> PickleReader:
    def persistent_load(persistent_id: Any) -> Storage:
        kind, dtype, key, _device, numel, *view = persistent_id
        if kind != "storage" or type(dtype) is not torch.dtype or type(key) is not str:
            raise ValueError("it refers to what is no storage")
        if type(numel) is not int or numel < 0:
            raise ValueError("the size of a storage is no number")
        storage = load_storage(dtype, key, numel)
        if view and view[0] is not None:  # of PyTorch before 0.4: a part of a storage
            _key, offset, size = view[0]
            return Storage(storage.numbers.narrow(0, offset, size))
        return storage

    return PickleReader(data, position, _TORCH_STAND_INS, persistent_load, (Tensor, Ignored))


def _numbers(buffer: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """Return a view of a storage, after checking that it lies within it."""
    numbers = storage.numbers
    whole = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 60 for n in whole):
        raise ValueError("the shape of a tensor is damaged")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if numel else 0
    if len(size) > MAX_TENSOR_DIMS or numel > len(numbers) or (numel and last >= len(numbers)):
        raise UnsafePickleError("a tensor that is larger than its storage")
    if numel == 0:
        return torch.empty_strided(size, stride, dtype=numbers.dtype)
    return numbers.as_strided(size, stride, offset)


def _tensor_of_dtype(
    storage: Storage, offset: int, size: tuple, stride: tuple, _grad: Any, _hooks: Any, dtype: Any
) -> Tensor:
    if type(dtype) is not torch.dtype:
        raise ValueError("the dtype of a tensor is damaged")
    return _tensor(Storage(storage.numbers.view(dtype)), offset, size, stride)


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise ValueError("a parameter is no tensor")
    return tensor


def _size(sizes: Any) -> tuple[int, ...]:
    if type(sizes) is not tuple or not all(type(n) is int for n in sizes):
        raise ValueError("the size of a tensor is damaged")
    return sizes


def _plain_scalar(*arguments: Any) -> Any:
    return STAND_INS["numpy._core.multiarray.scalar"].call(*arguments).item()


_TORCH_STAND_INS: dict[str, Any] = {
    **STAND_INS,
    "numpy.core.multiarray.scalar": Function(_plain_scalar),
    "numpy._core.multiarray.scalar": Function(_plain_scalar),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_tensor),
    "torch._utils._rebuild_tensor_v3": Function(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "torch.Size": Function(_size),
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    **{f"torch.{name}": getattr(torch, name) for name in _UNTYPED_DTYPES},
    **{f"numpy.random.{name}": Function(Ignored) for name in _RANDOM_STATES},
}
