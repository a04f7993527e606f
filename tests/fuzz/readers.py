"""Every reader of strangers' files, with the valid files from which its cases are made.

A new reader joins by one more `Reader` in `all_readers`.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from raw_trees import npy_bytes, person, random_keypoints, world_poses

from common.files import npz
from common.files.safe_load import read_npz, read_torch_file
from data.prepare_2d_estimation import convert_file
from fuzz.engine import Reader
from fuzz.mutations import (
    HOSTILE,
    changed_archive,
    changed_bytes,
    changed_pickle,
    changed_value,
    members_of,
    pickled_or_nothing,
    zipped,
)

ACTIONS = ("Walking", "Sitting 1")


def all_readers() -> list[Reader]:
    """Return the readers that take part in the campaign."""
    video = {"w": 640, "h": 480, "fps": 25.0, "person": 1, "first_frame": 0}
    metadata = {"layout_name": "h36m", "num_joints": 17, "video_metadata": {"dance": video}}
    views = [random_keypoints(3, 2, i) for i in range(4)]
    footage = {"positions_2d": {"dance": {"custom": views[:1]}}, "metadata": metadata}
    return [
        npz_reader("npz of 2D", npz.read_positions_2d, {"positions_2d": of_subjects(views)}),
        npz_reader(
            "npz of 3D", npz.read_positions_3d, {"positions_3d": of_subjects(world_poses(3))}
        ),
        npz_reader("npz of own footage", npz.read_custom_2d, footage),
        npz_reader("npz of arrays", read_npz, {"a": random_keypoints(4), "b": np.array("text")}),
        detections_reader(),
        checkpoint_reader("checkpoint", is_zip=True),
        checkpoint_reader("legacy checkpoint", is_zip=False),
    ]


def of_subjects(poses: Any) -> dict:
    """Return {subject: {action: poses}}."""
    return {subject: dict.fromkeys(ACTIONS, poses) for subject in ("S1", "S11")}


def saved(save: Callable, *arguments: Any, **named: Any) -> bytes:
    """Return what NumPy saves."""
    file = io.BytesIO()
    save(file, *arguments, **named)
    return file.getvalue()


def object_npy(value: Any, protocol: int = 4) -> bytes:
    """Return an npy file of one object, as `np.savez` writes a dict."""
    array = np.empty((), dtype=object)
    array[()] = value
    return npy_bytes(pickled_or_nothing(array, protocol))


def npz_reader(name: str, read: Callable, arrays: dict[str, Any]) -> Reader:
    """Return a reader of npz files of arrays and of pickled objects."""
    valid = [saved(np.savez, **arrays), saved(np.savez_compressed, **arrays)]
    npys = members_of(valid[0])
    first_name, first = next(iter(arrays.items()))
    member = f"{first_name}.npy"

    def with_member(npy: bytes) -> bytes:
        return zipped(list((npys | {member: npy}).items()))

    def with_values(random: Random) -> bytes:
        changed = changed_value(random, arrays)
        changed = changed if isinstance(changed, dict) else {"a": changed}
        return zipped([(f"{key}.npy", object_npy(value)) for key, value in changed.items()])

    pickles = [pickle.dumps(np.array(first, dtype=object), p) for p in (2, 4, 5)]
    changes = [
        lambda random: changed_bytes(random, valid),
        lambda random: changed_archive(random, valid),
        lambda random: with_member(changed_bytes(random, list(npys.values()))),
        lambda random: with_member(npy_bytes(changed_pickle(random, random.choice(pickles)))),
        lambda random: with_member(npy_header(random)),
        with_values,
    ]
    return Reader(name, read, ".npz", valid, changes, is_protected=True)


def npy_header(random: Random) -> bytes:
    """Return an npy file whose header says anything."""
    descr = random.choice(("<f4", ">f8", "|O", "|S5", "<U3", "|V8", "<f3", "f4,O", "<M8[D]"))
    sizes = [random.choice((0, 1, 3, 17, -1, 1 << 31, 10**30)) for _ in range(random.randrange(5))]
    shape = random.choice((str(tuple(sizes)), "(" * 3000, "3", "(1, (2,))", "(" + "1," * 3000))
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    version = random.choice((b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
    length = random.choice((len(header), len(header), 0, 1 << 15))
    announced = length.to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + announced + header + random.randbytes(200)


def detections_reader() -> Reader:
    """Return the reader of estimators' npy files, in their three forms."""
    poses = random_keypoints(4)
    people = [person(frame, 0.5, poses[frame]) for frame in range(4)]
    by_frame = {0: None, 1: poses[:1], 2: poses[1:2]}
    listed = [{"frame": 0, "bbox": [0.0] * 5, "keypoints": poses[0].tolist()}]
    as_objects = np.fromiter(people, dtype=object)
    valid = [
        *(saved(np.save, array) for array in (poses, poses.astype(">f8"))),
        *(saved(np.save, value, allow_pickle=True) for value in (as_objects, by_frame)),
        *(object_npy(people, protocol=2), object_npy(listed)),
    ]
    pickles = [pickle.dumps(as_objects, protocol) for protocol in (0, 2, 4, 5)]
    changes = [
        lambda random: changed_bytes(random, valid),
        npy_header,
        lambda random: object_npy(changed_value(random, random.choice((people, by_frame, listed)))),
        lambda random: npy_bytes(changed_pickle(random, random.choice(pickles)), (4,)),
    ]
    return Reader("npy", lambda path: convert_file(path, None, False), ".npy", valid, changes)


def checkpoint_reader(name: str, is_zip: bool) -> Reader:
    """Return the reader of checkpoints, in PyTorch's zip format or in the older one."""
    weights = {"a.weight": torch.linspace(-1, 1, 12).view(4, 3), "a.bias": torch.zeros(4)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    ours = {"epoch": 3, "model_pos": weights, "config": {"depth": 4}, "optimizer": optimizer}
    published = {
        **{"epoch": 137, "lr": 1e-4, "min_loss": np.float64(45.25), "wandb_id": "6mr5twid"},
        **{"random_state": np.random.RandomState(0), "optimizer": optimizer},
        "model_pos": {f"module.{key}": weight for key, weight in weights.items()},
    }

    def torch_saved(value: Any) -> bytes:
        file = io.BytesIO()
        try:
            torch.save(value, file, _use_new_zipfile_serialization=is_zip)
        except Exception:  # some drawn values cannot be saved
            return b"\x80\x02N."
        return file.getvalue()

    def with_pickle(random: Random) -> bytes:
        if is_zip:
            members = members_of(valid[1])
            members["archive/data.pkl"] = changed_pickle(random, members["archive/data.pkl"])
            return zipped(list(members.items()))
        file, ends = io.BytesIO(valid[1]), [0]
        for _ in range(5):  # pickles, behind which the numbers follow
            list(pickletools.genops(file))
            ends.append(file.tell())
        which = random.choice((0, 2, 3, 3, 3, 4))
        start, end = ends[which], ends[which + 1]
        return valid[1][:start] + changed_pickle(random, valid[1][start:end]) + valid[1][end:]

    tensors = [
        *(torch.zeros(1).expand(1 << 40), torch.zeros(3, device="meta"), torch.eye(3).to_sparse()),
        *(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4).T, torch.zeros(0, 5)),
        *(torch.nn.Parameter(torch.ones(2)), torch.Size([1, 2]), torch.float32),
    ]
    valid = [torch_saved(value) for value in (ours, published)]
    changes = [
        lambda random: changed_bytes(random, valid),
        lambda random: torch_saved(
            changed_value(random, random.choice((ours, published)), HOSTILE + tensors)
        ),
        with_pickle,
    ]
    changes += [lambda random: changed_archive(random, valid)] if is_zip else []
    return Reader(name, read_torch_file, ".bin", valid, changes, is_protected=is_zip)
