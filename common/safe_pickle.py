"""The one reader of pickles: numbers, text, arrays and plain containers; it cannot run code.

It interprets the pickle's opcodes itself (documented in Python's `pickletools`) instead of handing
them to `pickle`, whose unpickler calls functions by name, believes announced sizes and nests
without a limit. Here a global is one of a short list of stand-ins, and nothing else is callable.
"""

import codecs
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from common.stand_ins import (
    STAND_INS,
    Dtype,
    Function,
    Ignored,
    UnfinishedArray,
    UnsafePickleError,
    holds_objects,
)

MAX_DEPTH = 200  # published checkpoints nest to 8
MAX_CONTAINERS = 2_000_000  # an hour of one person a frame, at 50 Hz
MAX_INTEGER_BYTES = 64
MAX_DIGITS = 100
MEMOIZE, BINGET, BININT1, STOP = b"\x94hK."

_SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray))
_KEYS = _SCALARS - {bytearray}
_DICTS = (dict, OrderedDict)
_DAMAGES = (
    *(LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError),
    struct.error,
)
_CONTAINERS = frozenset((*_DICTS, list, tuple, set, frozenset, np.ndarray))


class PickleReader:
    """Reads one pickle after another from bytes.

    Nothing recurses; sizes are bounded by the bytes that are there, integers, nesting and the
    number of containers by the constants above.

    Args:
        data: the bytes, of pickle protocols 0 to 5.
        position: where the first pickle starts; afterwards, where the last one ended.
        stand_ins: {"module.name": what stands for it}.
        persistent_load: what makes an object of a persistent id; None if there must be none.
        admitted: types of the stand-ins' that may be in the result.
    """

    def __init__(
        self,
        data: bytes,
        position: int = 0,
        stand_ins: Mapping[str, Any] = STAND_INS,
        persistent_load: Callable[[Any], Any] | None = None,
        admitted: Iterable[type] = (),
    ) -> None:
        self.data = data
        self.position = position
        self._stand_ins = stand_ins
        self._persistent_load = persistent_load
        self._admitted = _SCALARS.union(admitted)

    def load(self) -> Any:
        """Return the next object.

        Raises:
            UnsafePickleError: naming the first thing that is not admitted.
            ValueError: if the pickle is damaged, or larger or deeper than the bounds.
        """
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._depths: dict[int, int] = {}  # by id, of the containers that are alive
        self._num_containers = 0
        try:
            result = self._run(self.data, self._stack, self._memo)
        except UnsafePickleError:
            raise
        except _DAMAGES as error:
            raise ValueError(f"its pickle is damaged: {error or type(error).__name__}") from error
        self._check(result)
        return result

    def _run(self, data: bytes, stack: list, memo: dict[int, Any]) -> Any:
        while True:
            opcode = data[self.position]
            self.position += 1
            # The three most frequent opcodes of estimators' files are written out for speed.
            if opcode == MEMOIZE:
                self._put(len(memo))
            elif opcode == BINGET:
                stack.append(memo[data[self.position]])
                self.position += 1
            elif opcode == BININT1:
                stack.append(data[self.position])
                self.position += 1
            elif opcode == STOP:
                return stack.pop()
            else:
                _READERS[opcode](self)

    def _check(self, value: Any) -> None:
        """Refuse a result that holds stand-ins: an unfinished array, a dtype, a function."""
        pending, seen = [value], set()
        while pending:
            value = pending.pop()
            kind = type(value)
            if kind in self._admitted or id(value) in seen or isinstance(value, np.generic):
                continue
            seen.add(id(value))
            if kind in _DICTS:
                pending.extend(value.values())
            elif kind is list or kind is tuple:
                pending.extend(value)
            elif holds_objects(value):
                pending.extend(value.flat)
            elif kind not in _CONTAINERS:
                raise UnsafePickleError(f"a {kind.__name__}")

    # Reading the bytes

    def _take(self, size: int) -> bytes:
        start, end = self.position, self.position + size
        if end > len(self.data):
            raise ValueError(f"{size} bytes are announced, {len(self.data) - start} are left")
        self.position = end
        return self.data[start:end]

    def _number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self.data, self.position)
        self.position += form.size
        return value

    def _line(self) -> bytes:
        return self._take(self.data.index(b"\n", self.position) + 1 - self.position)[:-1]

    def _small_line(self) -> bytes:
        line = self._line()
        if len(line) > MAX_DIGITS:
            raise ValueError("a number has too many digits")
        return line

    def _integer(self, size: int) -> int:
        if size > MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {size} bytes")
        return int.from_bytes(self._take(size), "little", signed=True)

    def _text_integer(self) -> int | bool:
        line = self._small_line()
        return line == b"01" if line in (b"00", b"01") else int(line)

    # Building the objects

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_to_mark(self) -> list:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_last(self, count: int) -> list:
        items = self._stack[-count:]
        if len(items) < count:
            raise ValueError("its stack is empty")
        del self._stack[-count:]
        return items

    def _add(self, container: Any, items: Iterable, depth: int = 1) -> None:
        """Note how deep a container nests, now that it holds `items` too.

        Containers that hold it already are not followed: such chains come of the memo, and of
        containers that hold themselves.
        """
        for item in items:
            if type(item) in _CONTAINERS:
                depth = max(depth, self._depths[id(item)] + 1)
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} containers")
        self._depths[id(container)] = depth

    def _push_new(self, container: Any, items: Iterable = ()) -> None:
        self._num_containers += 1
        if self._num_containers > MAX_CONTAINERS:
            raise ValueError(f"it holds more than {MAX_CONTAINERS} containers")
        self._add(container, items)
        self._stack.append(container)

    def _push_tuple(self, items: list) -> None:
        self._push_new(tuple(items), items)

    def _push_dict(self, items: list) -> None:
        self._push_new({})
        self._set_items(items)

    def _append(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        self._add(target, items, self._depths[id(target)])
        target.extend(items)

    def _set_items(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) not in _DICTS:
            raise ValueError("it sets items of what is no dict")
        keys, values = items[::2], items[1::2]
        if len(keys) > len(values):
            raise ValueError("a key has no value")
        self._add(target, values, self._depths[id(target)])
        target.update(zip(map(_checked_key, keys), values))

    def _add_items(self, items: list) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise ValueError("it adds to what is no set")
        target.update(map(_checked_key, items))

    def _put(self, place: int) -> None:
        value = self._stack[-1]
        self._memo[place] = value
        if type(value) is UnfinishedArray:
            value.places.append(place)

    def _global(self, module: Any, name: Any) -> Any:
        full_name = f"{module}.{name}" if type(module) is type(name) is str else "no name"
        if full_name not in self._stand_ins:
            raise UnsafePickleError(full_name[:200])
        return self._stand_ins[full_name]

    def _call(self, function: Any, arguments: Any) -> None:
        if type(function) is not Function or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        result = function.call(*arguments)
        if type(result) in _CONTAINERS:
            self._push_new(result)
        else:
            self._push(result)

    def _build(self) -> None:
        """Give the object on the stack its pickled state."""
        target, state = self._pop_last(2)
        if type(target) is UnfinishedArray:
            array = target.finish(state)
            self._push_new(array, array.flat if array.dtype == object else ())
            for place in target.places:
                self._memo[place] = array
            return
        if type(target) is Dtype:
            target.set_state(state)
        elif type(target) not in (OrderedDict, Ignored):  # whose attributes are of no use
            raise ValueError(f"it gives a {type(target).__name__} a state")
        self._push(target)

    def _persistent(self, persistent_id: Any) -> None:
        if self._persistent_load is None:
            raise ValueError("it refers to objects outside of the file")
        self._push(self._persistent_load(persistent_id))


def _checked_key(key: Any) -> Any:
    """Return a key that can be hashed without recursion."""
    if type(key) not in _KEYS and not isinstance(key, np.generic):
        raise UnsafePickleError(f"a {type(key).__name__} as a key")
    return key


def _text(line: bytes) -> str:
    text = line.decode("raw-unicode-escape")
    text.encode()  # a lone surrogate could not be printed
    return text


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("a text has no quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


_INT4, _SIZE1, _SIZE2, _SIZE4, _SIZE8, _FLOAT = map(
    struct.Struct, ("<i", "<B", "<H", "<I", "<Q", ">d")
)
_R = PickleReader
_OPCODES: dict[bytes, Callable[[PickleReader], Any]] = {
    b"\x80": lambda r: r._number(_SIZE1),  # PROTO
    b"\x95": lambda r: r._number(_SIZE8),  # FRAME
    b"(": lambda r: r._marks.append(len(r._stack)),
    b"0": lambda r: r._stack.pop(),
    b"1": _R._pop_to_mark,
    b"2": lambda r: r._push(r._stack[-1]),
    # Numbers
    b"N": lambda r: r._push(None),
    b"\x88": lambda r: r._push(True),
    b"\x89": lambda r: r._push(False),
    b"M": lambda r: r._push(r._number(_SIZE2)),
    b"J": lambda r: r._push(r._number(_INT4)),
    b"\x8a": lambda r: r._push(r._integer(r._number(_SIZE1))),
    b"\x8b": lambda r: r._push(r._integer(r._number(_SIZE4))),
    b"I": lambda r: r._push(r._text_integer()),
    b"L": lambda r: r._push(int(r._small_line().removesuffix(b"L"))),
    b"G": lambda r: r._push(r._number(_FLOAT)),
    b"F": lambda r: r._push(float(r._small_line())),
    # Text and bytes
    b"\x8c": lambda r: r._push(r._take(r._number(_SIZE1)).decode()),
    b"X": lambda r: r._push(r._take(r._number(_SIZE4)).decode()),
    b"\x8d": lambda r: r._push(r._take(r._number(_SIZE8)).decode()),
    b"V": lambda r: r._push(_text(r._line())),
    b"U": lambda r: r._push(r._take(r._number(_SIZE1)).decode("latin1")),
    b"T": lambda r: r._push(r._take(r._number(_SIZE4)).decode("latin1")),
    b"S": lambda r: r._push(_quoted(r._line())),
    b"C": lambda r: r._push(r._take(r._number(_SIZE1))),
    b"B": lambda r: r._push(r._take(r._number(_SIZE4))),
    b"\x8e": lambda r: r._push(r._take(r._number(_SIZE8))),
    b"\x96": lambda r: r._push(bytearray(r._take(r._number(_SIZE8)))),
    # Containers
    b")": lambda r: r._push_tuple([]),
    b"t": lambda r: r._push_tuple(r._pop_to_mark()),
    b"\x85": lambda r: r._push_tuple(r._pop_last(1)),
    b"\x86": lambda r: r._push_tuple(r._pop_last(2)),
    b"\x87": lambda r: r._push_tuple(r._pop_last(3)),
    b"]": lambda r: r._push_new([]),
    b"l": lambda r: r._push_new(items := r._pop_to_mark(), items),
    b"a": lambda r: r._append(r._pop_last(1)),
    b"e": lambda r: r._append(r._pop_to_mark()),
    b"}": lambda r: r._push_new({}),
    b"d": lambda r: r._push_dict(r._pop_to_mark()),
    b"s": lambda r: r._set_items(r._pop_last(2)),
    b"u": lambda r: r._set_items(r._pop_to_mark()),
    b"\x8f": lambda r: r._push_new(set()),
    b"\x90": lambda r: r._add_items(r._pop_to_mark()),
    b"\x91": lambda r: r._push_new(frozenset(map(_checked_key, r._pop_to_mark()))),
    # The memo
    b"g": lambda r: r._push(r._memo[int(r._small_line())]),
    b"j": lambda r: r._push(r._memo[r._number(_SIZE4)]),
    b"p": lambda r: r._put(int(r._small_line())),
    b"q": lambda r: r._put(r._number(_SIZE1)),
    b"r": lambda r: r._put(r._number(_SIZE4)),
    # Globals, calls and states
    b"c": lambda r: r._push(r._global(r._line().decode(), r._line().decode())),
    b"\x93": lambda r: r._push(r._global(*r._pop_last(2))),
    b"R": lambda r: r._call(*r._pop_last(2)),
    b"\x81": lambda r: r._call(*r._pop_last(2)),
    b"b": _R._build,
    b"Q": lambda r: r._persistent(r._stack.pop()),
}
_READERS = {ord(opcode): reader for opcode, reader in _OPCODES.items()}
