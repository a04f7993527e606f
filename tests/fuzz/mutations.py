"""How valid files become strange ones: their bytes, their pickles, their values, their fields."""

import copy
import io
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

INTEGERS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 17, 32, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 1 << 16, 1 << 20),
    *((1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1),
    *(1 << 63, (1 << 64) - 1),
)
SURPLUS = (1, 8, 8, 8, 1 << 20, 1 << 27)
indices = st.integers(0, (1 << 30) - 1)


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


# Bytes


@st.composite
def changed_bytes(draw: Any, contents: list[bytes], most: int = 8) -> bytes:
    """Draw a file with some bytes flipped, set, removed, inserted, repeated or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, most))):
        place = draw(indices) % (len(content) + 1)
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 64, 1024)))
        change = draw(st.integers(0, 6))
        if change <= 1 and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == 2:
            content[place : place + length] = integer_bytes(draw)
        elif change == 3:
            del content[place : place + length]
        elif change == 4:
            content[place:place] = draw(st.binary(max_size=16))
        elif change == 5:
            content[place:place] = content[place : place + length]
        else:
            other = draw(st.sampled_from(contents))
            start = draw(indices) % (len(other) + 1)
            content[place : place + length] = other[start : start + length]
    if draw(st.integers(0, 9)) == 0:
        del content[draw(indices) % (len(content) + 1) :]
    return bytes(content)


@st.composite
def flipped_bits(draw: Any, contents: list[bytes], most: int = 3) -> tuple[bytes, bytes]:
    """Draw a file with few bits flipped, and the file as it was."""
    original = draw(st.sampled_from(contents))
    content = bytearray(original)
    for _ in range(draw(st.integers(1, most))):
        content[draw(indices) % len(content)] ^= 1 << draw(st.integers(0, 7))
    return bytes(content), original


@st.composite
def changed_words(draw: Any, contents: list[bytes], step: int, after: int = 0) -> bytes:
    """Draw a file in which some integers, at multiples of `step` bytes, have other values."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        place = after + draw(indices) % ((len(content) - after) // step) * step
        new = integer_bytes(draw)
        content[place : place + len(new)] = new
    return bytes(content)


def integer_bytes(draw: Any) -> bytes:
    """Draw an integer at the edge of something, in 1 to 8 bytes of either order."""
    value, size = draw(st.sampled_from(INTEGERS)), draw(st.sampled_from((1, 2, 4, 8)))
    order = draw(st.sampled_from(("little", "big")))
    return (value % (1 << 8 * size)).to_bytes(size, order)


# Pickles

_OPCODE_SNIPPETS = [
    *(bytes([code]) for code in range(256)),
    *(b"K\x00" + b"\x85" * count for count in (10, 1000, 20_000)),
    *(code * count for code in (b"]", b"}", b"(", b")", b"\x8f") for count in (3, 5000)),
    *(b"]" * count + b"a" * (count - 1) for count in (10, 5000)),
    *(b"}K\x00" * 500 + b"N" + b"s" * 500, b"]q\x00h\x00a", b"}q\x00K\x01h\x00s"),
    *(bytes([op]) + struct.pack("<I", n) for op in b"rjXBT\x8b" for n in (9, 1 << 30)),
    *(bytes([op]) + struct.pack("<Q", 1 << n) for op in b"\x8e\x8d\x96\x95" for n in (3, 62)),
    *(op + b"9" * 400 + b"\n" for op in (b"I", b"L", b"F", b"g", b"p", b"V")),
    *(b"cposix\nsystem\n", b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R", b"cnumpy\ndtype\n"),
    b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R",
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00C\x01b\x87R",
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R",
    b"ccollections\nOrderedDict\n)R",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ",
]  # fmt: skip


def opcodes_of(pickled: bytes) -> list[bytes]:
    """Split a pickle at its opcodes."""
    starts = [position for _, _, position in pickletools.genops(pickled)]
    return [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)])]


@st.composite
def changed_pickles(draw: Any, pickles: list[bytes]) -> bytes:
    """Draw a pickle whose opcodes are removed, repeated, exchanged or joined by foreign ones."""
    pieces = opcodes_of(draw(st.sampled_from(pickles)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(indices) % (len(pieces) + 1)
        other = draw(indices) % len(pieces)
        change = draw(st.integers(0, 4))
        if change == 0 and len(pieces) > 1:
            del pieces[place : place + draw(st.integers(1, 4))]
        elif change == 1:
            pieces.insert(place, pieces[other])
        elif change == 2 and place < len(pieces):
            pieces[place], pieces[other] = pieces[other], pieces[place]
        elif change == 3 and place < len(pieces):
            piece = bytearray(pieces[place])
            piece[draw(indices) % len(piece)] = draw(st.integers(0, 255))
            pieces[place] = bytes(piece)
        else:
            pieces.insert(place, draw(st.sampled_from(_OPCODE_SNIPPETS)))
        pieces = pieces or [b"."]
    return b"".join(pieces)


# Values


def holding_itself() -> list:
    """Return a list whose only item is the list."""
    knot: list = []
    knot.append(knot)
    return knot


def nested(item: Any, depth: int, width: int = 1, kind: type = list) -> Any:
    """Return `item` within containers of `width` items each, `depth` deep."""
    for _ in range(depth):
        item = kind([item] * width)
    return item


def _circular_dict() -> dict:
    circle: dict = {}
    circle["S1"] = circle
    return circle


HOSTILE = [
    *(lambda v=v: v for v in (None, True, -1, 0, 1, 2**31, 2**63, 2**80, -(2**200), 1.5, 3j)),
    *(lambda v=v: v for v in (float("inf"), float("nan"), 1e308, "", "x" * 5000, "\u202e\x1b[2J")),
    *(lambda v=v: v for v in ("S1", "Walking", b"", b"S1", (), (1, 2), "a\nb", Fraction(1, 3))),
    *(list, dict, set, OrderedDict, holding_itself, _circular_dict, object),
    lambda: nested(1, 9, 10),
    lambda: nested(1, 150, 2),
    lambda: nested(1, 300),
    lambda: nested(1, 190, kind=tuple),
    lambda: nested(holding_itself(), 3, 4),
    lambda: [[1, 2], [3]],
    lambda: [holding_itself()] * 4,
    lambda: dict.fromkeys(range(2000)),
    lambda: {"a" * 1_000_000: dict.fromkeys(range(3000))},
    lambda: {(1, 2): 3},
    *(
        lambda s=s, d=d: np.ones(s, d)
        for s in ((), (0,), (1,), (4,), (5,), (17, 2), (3, 17, 2), (3, 32, 3), (0, 17, 2))
        for d in ("f4", "f8", "f2", ">f4", "i8", "u1", "?", "c8", "S3", "U2", "O")
    ),
    lambda: np.full((3, 17, 2), np.nan, np.float32),
    lambda: np.full((3, 17, 3), 1e39),
    lambda: np.broadcast_to(np.float32(1), (400, 17, 2)),
    lambda: np.array([np.ones(2), None, [1, {2: 3}]], dtype=object),
    lambda: np.zeros(3, dtype=[("a", "f4"), ("b", "O")]),
    lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    *(lambda v=v: v for v in (np.float64(1.5), np.int8(-3), np.str_("S1"), np.bytes_(b"x"))),
    lambda: np.dtype("f4"),
    lambda: np.random.RandomState(0),
    lambda: Calls(os.system, "true"),
    lambda: Calls(eval, "1"),
    lambda: Calls(os.getpid),
]


@st.composite
def changed_values(draw: Any, values: list[Any], hostile: list = HOSTILE) -> Any:
    """Draw a nested value with some parts replaced, wrapped, exchanged, removed or resized."""
    value = [copy.deepcopy(draw(st.sampled_from(values)))]
    for _ in range(draw(st.integers(1, 3))):
        container, key = _place(draw, value)
        change = draw(st.integers(0, 7))
        item = container[key]
        if change <= 2:
            container[key] = draw(st.sampled_from(hostile))()
        elif change == 3:
            container[key] = draw(
                st.sampled_from(([item], (item,), {"a": item}, [item] * 4, {0: item}))
            )
        elif change == 4:
            other, other_key = _place(draw, value)
            container[key], other[other_key] = other[other_key], item
        elif change == 5 and container is not value:
            del container[key]
        elif change == 6 and isinstance(container, dict):
            new_key = draw(st.sampled_from((None, 0, -1, 2.5, b"S1", "", "x" * 500, 2**80, True)))
            container[new_key] = container.pop(key)
        elif isinstance(item, np.ndarray) and item.ndim and item.size:
            container[key] = _resized(draw, item)
    return value[0]


def _place(draw: Any, value: list) -> tuple[Any, Any]:
    """Walk down to a container and a key of it."""
    container, key = value, 0
    for _ in range(draw(st.integers(0, 6))):
        inner = container[key]
        if not isinstance(inner, list | dict) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        container, key = inner, keys[draw(indices) % len(keys)]
    return container, key


def _resized(draw: Any, array: np.ndarray) -> np.ndarray:
    change = draw(st.integers(0, 5))
    axis = draw(indices) % array.ndim
    return [
        lambda: np.delete(array, 0, axis),
        lambda: np.repeat(array, 3, axis),
        lambda: array[None],
        lambda: array[0],
        lambda: np.asfortranarray(array),
        lambda: array.astype(draw(st.sampled_from(("f2", ">f8", "i4", "?", "U3", "O", "c8")))),
    ][change]()


def pickled_or_nothing(value: Any, protocol: int) -> bytes:
    """Pickle a drawn value; some cannot be."""
    try:
        return pickle.dumps(value, protocol)
    except (RecursionError, TypeError, AttributeError, pickle.PicklingError, OverflowError):
        return b"N."


# Archives


def members_of(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive; names may come twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that comes twice
                archive.writestr(info, content)
    return file.getvalue()


@st.composite
def changed_archives(draw: Any, contents: list[bytes]) -> bytes:
    """Draw a zip archive of other members, or one whose headers lie."""
    members = list(members_of(draw(st.sampled_from(contents))).items())
    compression = draw(st.sampled_from((0, 0, 0, 8, 8, 12, 14)))
    for _ in range(draw(st.integers(0, 3))):
        place, other = draw(indices) % len(members), draw(indices) % len(members)
        name, content = members[place]
        change = draw(st.integers(0, 6))
        if change == 0 and len(members) > 1:
            del members[place]
        elif change == 1:
            members[place] = (name, members[other][1])
        elif change == 2:
            members[place] = (members[other][0] + draw(st.sampled_from(("", "x", "/x"))), content)
        elif change == 3:
            members[place] = (name, content[: draw(indices) % (len(content) + 1)])
        elif change == 4:
            members[place] = (
                name,
                content + bytes(draw(st.sampled_from((1, 8, 8, 1 << 20, 1 << 27)))),
            )
        elif change == 5:
            members.append((draw(st.text(max_size=8)) or "a", content))
        else:
            members[place] = (name, draw(changed_bytes([content or b"."], most=2)))
        compression = zipfile.ZIP_DEFLATED if len(members[place - 1][1]) > 1 << 24 else compression
    try:
        archive = bytearray(zipped(members, compression))
    except (ValueError, UnicodeError):
        return b"PK\x03\x04"
    signatures = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"]
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        headers = _all_places(archive, draw(st.sampled_from(signatures)))
        place = headers[draw(indices) % len(headers)] + 4 + draw(st.integers(0, 42))
        new = integer_bytes(draw)[:4]
        archive[place : place + len(new)] = new
    return bytes(archive)


def _all_places(content: bytes, signature: bytes) -> list[int]:
    places, place = [], content.find(signature)
    while place >= 0:
        places.append(place)
        place = content.find(signature, place + 1)
    return places or [0]
