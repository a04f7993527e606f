"""How valid files become strange ones: their bytes, their pickles, their values, their members."""

import copy
import io
import os
import pickle
import pickletools
import warnings
import zipfile
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np

INTEGERS = (0, 1, 7, 17, 127, 255, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 64) - 1)


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


# Bytes


def changed_bytes(random: Random, contents: list[bytes], most: int = 6) -> bytes:
    """Flip, set, remove, insert or repeat bytes of a file, cut it off, or mix it with another."""
    content = bytearray(random.choice(contents))
    for _ in range(random.randint(1, most)):
        place = random.randrange(len(content) + 1)
        end = place + random.choice((1, 1, 2, 4, 8, 64, 1024))
        change = random.choice(("flip", "set", "remove", "insert", "repeat", "mix"))
        if change == "flip" and place < len(content):
            content[place] ^= 1 << random.randrange(8)
        elif change == "set":
            size = random.choice((1, 2, 4, 8))
            number = random.choice(INTEGERS) % (1 << 8 * size)
            content[place : place + size] = number.to_bytes(size, random.choice(("little", "big")))
        elif change == "remove":
            del content[place:end]
        elif change == "insert":
            content[place:place] = random.randbytes(random.randint(1, 16))
        elif change == "repeat":
            content[place:place] = content[place:end]
        else:
            content[place:end] = random.choice(contents)[place:end]
    if random.random() < 0.1:
        del content[random.randrange(len(content) + 1) :]
    return bytes(content)


# Pickles

_SNIPPETS = [
    *(bytes([code]) for code in range(256)),
    *(b"K\x00" + b"\x85" * count for count in (10, 1000, 20_000)),
    *(code * count for code in (b"]", b"}", b"(", b")", b"\x8f") for count in (3, 5000)),
    *(b"]" * count + b"a" * (count - 1) for count in (10, 5000)),
    *(b"]q\x00h\x00a", b"}q\x00K\x01h\x00s", b"I" + b"9" * 5000 + b"\n"),
    *(b"cposix\nsystem\n", b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R", b"cnumpy\ndtype\n"),
    b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R",
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00C\x01b\x87R",
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R",
    b"ccollections\nOrderedDict\n)R",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ",
]


def changed_pickle(random: Random, pickled: bytes) -> bytes:
    """Remove, repeat, exchange or damage opcodes of a pickle, or insert foreign ones."""
    starts = [position for _, _, position in pickletools.genops(pickled)]
    pieces = [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)])]
    for _ in range(random.randint(1, 5)):
        place, other = random.randrange(len(pieces)), random.randrange(len(pieces))
        change = random.choice(("remove", "repeat", "exchange", "damage", "insert"))
        if change == "remove" and len(pieces) > 5:
            del pieces[place : place + random.randint(1, 4)]
        elif change == "repeat":
            pieces.insert(place, pieces[other])
        elif change == "exchange":
            pieces[place], pieces[other] = pieces[other], pieces[place]
        elif change == "damage":
            pieces[place] = changed_bytes(random, [pieces[place]], most=1)
        else:
            pieces.insert(place, random.choice(_SNIPPETS))
    return b"".join(pieces)


# Values


def nested(depth: int, kind: type = list) -> Any:
    """Return containers of one item each, `depth` deep."""
    item: Any = 1
    for _ in range(depth):
        item = kind([item])
    return item


_KNOT: list = []
_KNOT.append(_KNOT)
HOSTILE = [
    *(None, True, -1, 0, 1, 2**31, 2**80, -(2**200), 1.5, 3j, 1e308, float("inf"), float("nan")),
    *("", "x" * 5000, "\u202e\x1b[2J", "S1", "Walking", "a\nb", b"", b"S1", (), (1, 2), [], {}),
    *(set(), {(1, 2): 3}, Fraction(1, 3), [[1, 2], [3]], dict.fromkeys(range(2000))),
    *(_KNOT, nested(300), nested(90, tuple), np.dtype("f4"), np.float64(1.5)),
    *(
        np.ones(shape, dtype)
        for shape in ((), (0,), (4,), (5,), (17, 2), (3, 17, 2), (3, 32, 3), (0, 17, 2))
        for dtype in ("f4", ">f4", "f2", "i8", "?", "c8", "S3", "U2", "O")
    ),
    *(np.full((3, 17, 2), np.nan, np.float32), np.full((3, 17, 3), 1e39), np.str_("S1")),
    np.zeros(3, dtype=[("a", "f4"), ("b", "O")]),
    np.array(["2020-01-01"], dtype="M8[D]"),
    *(np.random.RandomState(0), Calls(os.system, "true"), Calls(eval, "1"), Calls(os.getpid)),
]


def changed_value(random: Random, value: Any, hostile: list = HOSTILE) -> Any:
    """Replace, wrap or remove some parts of nested lists and dicts, or rename keys."""
    root = [copy.deepcopy(value)]
    for _ in range(random.randint(1, 3)):
        container, key = root, 0
        for _ in range(random.randint(0, 6)):
            inner = container[key]
            if not isinstance(inner, list | dict) or not inner:
                break
            key = random.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            container = inner
        change = random.choice(("replace", "replace", "wrap", "remove", "rename"))
        if change == "replace":
            container[key] = random.choice(hostile)
        elif change == "wrap":
            item = container[key]
            container[key] = random.choice(([item], (item,), {"a": item}, [item] * 4, {0: item}))
        elif change == "remove" and container is not root:
            del container[key]
        elif isinstance(container, dict):
            new_key = random.choice((None, 0, 2.5, b"S1", "", "x" * 500, 2**80))
            container[new_key] = container.pop(key)
    return root[0]


def pickled_or_nothing(value: Any, protocol: int) -> bytes:
    """Pickle a drawn value; some cannot be."""
    try:
        return pickle.dumps(value, protocol)
    except (RecursionError, TypeError, AttributeError, pickle.PicklingError):
        return b"N."


# Archives


def members_of(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive; names may come twice."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def changed_archive(random: Random, contents: list[bytes]) -> bytes:
    """Remove, exchange, rename, cut off, repeat or damage members of a zip archive."""
    members = list(members_of(random.choice(contents)).items())
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(members))
        name, content = members[place]
        members[place] = random.choice(
            (
                (name, random.choice(members)[1]),
                (random.choice(members)[0] + random.choice(("", "x", "/x", "/")), content),
                (name, content[: random.randrange(len(content) + 1)]),
                (name, content + bytes(random.choice((1, 8, 1 << 20)))),
                (name, changed_bytes(random, [content or b"."], most=2)),
            )
        )
        if random.random() < 0.2:
            members.append((name + random.choice(("", "x")), content))
        if random.random() < 0.2 and len(members) > 1:
            del members[random.randrange(len(members))]
    compression = random.choice((0, 0, 8, 8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return zipped(members, compression)
