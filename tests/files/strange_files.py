"""Readers of strangers' files, and how valid files of theirs become strange ones.

A new reader joins by one more `Reader` in `READERS`.
"""

import copy
import io
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from raw_trees import Calls, npy_bytes, person, random_keypoints, world_poses

from common.files import npz
from common.files.safe_load import read_npz, read_torch_file
from data.prepare_2d_estimation import convert_file


class Reader(NamedTuple):
    """A reader that takes part; it may raise `InputError` and nothing else."""

    name: str
    read: Callable
    suffix: str  # of its files
    valid: list[bytes]  # files that it must read
    changes: list[Callable[[Random], bytes]]  # each draws a strange file
    is_protected: bool = False  # by checksums, which show every flipped bit


# Bytes, pickles, values and members that become others --------------------------------------------

INTEGERS = (0, 1, 17, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 64) - 1)


def changed_bytes(random, contents, most=6):
    """Flip, overwrite, remove or repeat bytes of a file, mix it with another, or cut it off."""
    content = bytearray(random.choice(contents))
    for _ in range(random.randint(1, most)):
        place = random.randrange(len(content) + 1)
        end = place + random.choice((1, 1, 2, 4, 8, 64, 1024))
        part, number = content[place:end], random.choice(INTEGERS).to_bytes(8, "little")
        content[place:end] = random.choice(
            (
                bytes(byte ^ 1 << random.randrange(8) for byte in part[:2]) + part[2:],
                random.choice((number, number[::-1], number[:4], number[:2])),
                *(b"", part * 2, random.randbytes(8), random.choice(contents)[place:end]),
            )
        )
    return bytes(content[: random.randrange(len(content) + 1) if random.random() < 0.1 else None])


OPCODES = [
    *(bytes([code]) for code in range(256)),
    *(b"]" * count + b"a" * (count - 1) for count in (10, 5000)),
    *(
        b"K\x00" + b"\x85" * 20_000,
        b"]q\x00h\x00a",
        b"}q\x00K\x01h\x00s",
        b"I" + b"9" * 5000 + b"\n",
    ),
    *(b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R", b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R"),
    *(b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R", b"ccollections\nOrderedDict\n)R"),
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00C\x01b\x87R",
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ",
]


def changed_pickle(random, pickled):
    """Remove, repeat, exchange or damage opcodes of a pickle, or insert foreign ones."""
    starts = [position for _, _, position in pickletools.genops(pickled)]
    pieces = [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)])]
    for _ in range(random.randint(1, 5)):
        place, other = random.randrange(len(pieces)), random.randrange(len(pieces))
        damaged = changed_bytes(random, [pieces[place]], most=1)
        pieces[place : place + 1] = random.choice(
            (
                *([], [pieces[place], pieces[other]], [damaged]),
                [random.choice(OPCODES), pieces[place]],
            )
        ) or [b""]
    return b"".join(pieces)


def nested(depth, kind=list):
    """Return containers of one item each, `depth` deep."""
    item: Any = 1
    for _ in range(depth):
        item = kind([item])
    return item


KNOT: list = []
KNOT.append(KNOT)
HOSTILE = [
    *(None, True, -1, 0, 2**31, 2**80, 1.5, 3j, 1e308, float("inf"), float("nan"), "", "x" * 5000),
    *("\u202e\x1b[2J", "S1", "a\nb", b"", b"S1", (), (1, 2), [], {}, set(), {(1, 2): 3}),
    *([[1, 2], [3]], dict.fromkeys(range(2000)), KNOT, nested(300), nested(90, tuple)),
    *(np.dtype("f4"), np.float64(1.5), np.str_("S1"), np.full((3, 17, 2), np.nan, np.float32)),
    *(
        np.ones(shape, dtype)
        for shape in ((), (0,), (5,), (3, 17, 2), (3, 32, 3), (0, 17, 2))
        for dtype in ("f4", ">f4", "i8", "?", "c8", "S3", "U2", "O")
    ),
    *(np.zeros(3, dtype=[("a", "f4"), ("b", "O")]), np.array(["2020-01-01"], dtype="M8[D]")),
    *(np.random.RandomState(0), Calls(os.system, "true"), Calls(eval, "1"), Calls(os.getpid)),
]
TENSORS = [
    *(torch.zeros(1).expand(1 << 40), torch.zeros(3, device="meta"), torch.eye(3).to_sparse()),
    *(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4).T, torch.zeros(0, 5), torch.float32),
]


def changed_value(random, value, hostile=HOSTILE):
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
        item, change = container[key], random.choice(("replace", "wrap", "remove", "rename"))
        if change == "wrap":
            container[key] = random.choice(([item], (item,), {"a": item}, [item] * 4, {0: item}))
        elif change == "remove" and container is not root:
            del container[key]
        elif change == "rename" and isinstance(container, dict):
            container[random.choice((None, 0, 2.5, b"S1", "", "x" * 500, 2**80))] = item
            del container[key]
        else:
            container[key] = random.choice(hostile)
    return root[0]


def members_of(content):
    """Return the members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members, compression=zipfile.ZIP_STORED):
    """Return a zip archive; names may come twice."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def changed_archive(random, contents):
    """Remove, exchange, rename, cut off, repeat or damage members of a zip archive."""
    members = list(members_of(random.choice(contents)).items())
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(members))
        (name, content), (other_name, other) = members[place], random.choice(members)
        members[place : place + 1] = random.choice(
            (
                *([(name, other)], [(other_name + random.choice(("", "x", "/")), content)]),
                [(name, changed_bytes(random, [content, other]))],
                [(name, content + bytes(1 << 20)), (name, content)],
                [members[place - 1]],
            )
        )
    return zipped(members, random.choice((0, 8, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))


# Readers ------------------------------------------------------------------------------------------


def saved(save, *arguments, **named):
    """Return what NumPy or PyTorch saves."""
    file = io.BytesIO()
    save(*arguments, file, **named) if save is torch.save else save(file, *arguments, **named)
    return file.getvalue()


def object_npy(value, protocol=4):
    """Return an npy file of one object, as `np.savez` writes a dict."""
    array = np.empty((), dtype=object)
    array[()] = value
    try:
        return npy_bytes(pickle.dumps(array, protocol))
    except (RecursionError, TypeError, AttributeError, pickle.PicklingError):
        return npy_bytes(b"N.")


def npz_reader(name, read, **arrays):
    """Return a reader of npz files of arrays and of pickled objects."""
    valid = [saved(np.savez, **arrays), saved(np.savez_compressed, **arrays)]
    npys = members_of(valid[0])
    first = next(iter(arrays))
    pickles = [pickle.dumps(np.array(arrays[first], dtype=object), p) for p in (2, 4, 5)]

    def with_member(npy):
        return zipped((npys | {f"{first}.npy": npy}).items())

    def with_values(random):
        changed = changed_value(random, arrays)
        changed = changed if isinstance(changed, dict) else {"a": changed}
        return zipped([(f"{key}.npy", object_npy(value)) for key, value in changed.items()])

    changes = [
        lambda random: changed_bytes(random, valid),
        lambda random: changed_archive(random, valid),
        lambda random: with_member(changed_bytes(random, list(npys.values()))),
        lambda random: with_member(npy_bytes(changed_pickle(random, random.choice(pickles)))),
        with_values,
    ]
    return Reader(name, read, ".npz", valid, changes, is_protected=True)


def detections_reader():
    """Return the reader of estimators' npy files, in their three forms."""
    poses = random_keypoints(4)
    people = [person(frame, 0.5, poses[frame]) for frame in range(4)]
    by_frame = {0: None, 1: poses[:1], 2: poses[1:2]}
    as_objects = np.fromiter(people, dtype=object)
    valid = [
        *(saved(np.save, array) for array in (poses, poses.astype(">f8"))),
        *(saved(np.save, value, allow_pickle=True) for value in (as_objects, by_frame)),
        object_npy(people, protocol=2),
    ]
    pickles = [pickle.dumps(as_objects, protocol) for protocol in (0, 2, 4, 5)]
    changes = [
        lambda random: changed_bytes(random, valid),
        lambda random: object_npy(changed_value(random, random.choice((people, by_frame)))),
        lambda random: npy_bytes(changed_pickle(random, random.choice(pickles)), (4,)),
    ]
    return Reader("npy", lambda path: convert_file(path, None, False), ".npy", valid, changes)


def checkpoint_reader(name, is_zip):
    """Return the reader of checkpoints, in PyTorch's zip format or in the older one."""
    weights = {"a.weight": torch.linspace(-1, 1, 12).view(4, 3), "a.bias": torch.zeros(4)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    ours = {"epoch": 3, "model_pos": weights, "config": {"depth": 4}, "optimizer": optimizer}
    published = {"epoch": 137, "min_loss": np.float64(45.25), "wandb_id": "6mr5twid"}
    published |= {"random_state": np.random.RandomState(0), "model_pos": weights}

    def torch_saved(value):
        try:
            return saved(torch.save, value, _use_new_zipfile_serialization=is_zip)
        except Exception:  # some drawn values cannot be saved
            return b"\x80\x02N."

    def with_pickle(random):
        members = members_of(valid[1])
        members["archive/data.pkl"] = changed_pickle(random, members["archive/data.pkl"])
        return zipped(members.items())

    def with_values(random):
        hostile = HOSTILE + TENSORS
        return torch_saved(changed_value(random, random.choice((ours, published)), hostile))

    valid = [torch_saved(value) for value in (ours, published)]
    changes = [lambda random: changed_bytes(random, valid), with_values]
    changes += [with_pickle, lambda random: changed_archive(random, valid)] if is_zip else []
    return Reader(name, read_torch_file, ".bin", valid, changes, is_protected=is_zip)


def of_subjects(poses):
    return {subject: dict.fromkeys(("Walking", "Sitting 1"), poses) for subject in ("S1", "S11")}


VIEWS = [random_keypoints(3, 2, i) for i in range(4)]
VIDEO = {"w": 640, "h": 480, "fps": 25.0, "person": 1, "first_frame": 0}
METADATA = {"layout_name": "h36m", "num_joints": 17, "video_metadata": {"dance": VIDEO}}
FOOTAGE = {"positions_2d": {"dance": {"custom": VIEWS[:1]}}, "metadata": METADATA}
READERS = [
    npz_reader("npz of 2D", npz.read_positions_2d, positions_2d=of_subjects(VIEWS)),
    npz_reader("npz of 3D", npz.read_positions_3d, positions_3d=of_subjects(world_poses(3))),
    npz_reader("npz of own footage", npz.read_custom_2d, **FOOTAGE),
    npz_reader("npz of arrays", read_npz, a=random_keypoints(4), b=np.array("text")),
    detections_reader(),
    checkpoint_reader("checkpoint", is_zip=True),
    checkpoint_reader("legacy checkpoint", is_zip=False),
]
