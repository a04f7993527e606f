"""Every reader of foreign files, with the valid files from which its cases are made.

A new reader joins by one more `Reader` in `all_readers`: what reads a path, valid files, and a
strategy that draws cases; `mutations` has the parts of most strategies.
"""

import copy
import io
import json
import pickle
import pickletools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import custom_files
import numpy as np
import torch
from hypothesis import strategies as st
from raw_trees import npy_bytes, person, random_keypoints, world_poses, write_cdf

from common.checkpoint import (
    load_checkpoint,
)
from common.npz_io import (
    KEYPOINTS_METADATA,
    read_custom_2d,
    read_npz,
    read_positions_2d,
    read_positions_3d,
)
from common.people import read_people
from common.run_log import read_log
from common.tracks import follow
from data.prepare_2d_estimation import convert_file
from data.prepare_data_h36m import read_world_positions
from fuzz.engine import Case, Reader
from fuzz.mutations import (
    HOSTILE,
    changed_archives,
    changed_bytes,
    changed_pickles,
    changed_values,
    changed_words,
    flipped_bits,
    members_of,
    nested,
    pickled_or_nothing,
    zipped,
)

SUBJECTS = ("S1", "S11")
ACTIONS = ("Walking", "Sitting 1")


def all_readers() -> list[Reader]:
    """Return the readers that take part in the campaign."""
    return [
        poses_reader("npz of 2D", "positions_2d", read_positions_2d, poses_2d()),
        poses_reader("npz of 3D", "positions_3d", read_positions_3d, poses_3d()),
        numbers_reader(),
        detections_reader(),
        cdf_reader(),
        checkpoint_reader("checkpoint", True),
        checkpoint_reader("legacy checkpoint", False),
        log_reader(),
        own_footage_reader(),
        keypoints_json_reader(),
    ]


def one_of(**strategies: st.SearchStrategy) -> st.SearchStrategy[Case]:
    """Draw a case from one of several strategies of bytes, or of (bytes, original)."""

    def named(how: str) -> Callable[[Any], Case]:
        def case(drawn: Any) -> Case:
            content, original = drawn if isinstance(drawn, tuple) else (drawn, None)
            return Case(content, how.replace("_", " "), original)

        return case

    return st.one_of([strategy.map(named(how)) for how, strategy in strategies.items()])


# npz and npy


def poses_2d() -> list[dict]:
    """Return what `data_2d_h36m_<name>.npz` holds, without and with confidence."""
    return [
        {s: {a: [random_keypoints(3, c, i) for i in range(4)] for a in ACTIONS} for s in SUBJECTS}
        for c in (2, 3)
    ]


def poses_3d() -> list[dict]:
    """Return what `data_3d_h36m.npz` holds, in world and in camera coordinates."""
    world = {s: {a: world_poses(3) / 1000 for a in ACTIONS} for s in SUBJECTS}
    per_camera = {s: {a: [world_poses(3, i) for i in range(4)] for a in ACTIONS} for s in SUBJECTS}
    return [world, per_camera]


def object_npy(value: Any, protocol: int = 4) -> bytes:
    """Return an npy file of one object, as `np.savez` writes a dict."""
    array = np.empty((), dtype=object)
    array[()] = value
    return npy_bytes(pickled_or_nothing(array, protocol))


def saved(save: Callable, *arguments: Any, **named: Any) -> bytes:
    """Return what NumPy saves."""
    file = io.BytesIO()
    save(file, *arguments, **named)
    return file.getvalue()


def poses_reader(name: str, member: str, read: Callable, values: list[dict]) -> Reader:
    """Return a reader of npz files that hold a pickled dict of poses."""
    valid = [saved(np.savez, **{member: value, "metadata": KEYPOINTS_METADATA}) for value in values]
    valid += [saved(np.savez_compressed, **{member: values[0]})]
    pickles = [
        pickle.dumps(np.array(value, dtype=object), protocol)
        for value in values
        for protocol in (2, 4)
    ]
    objects = [object_npy(value) for value in values]
    cases = one_of(
        bits=flipped_bits(valid),
        bytes=changed_bytes(valid),
        archive=changed_archives(valid),
        member=changed_bytes(objects).map(lambda npy: zipped([(f"{member}.npy", npy)])),
        values=changed_values(values).map(lambda v: zipped([(f"{member}.npy", object_npy(v))])),
        pickle=changed_pickles(pickles).map(
            lambda pickled: zipped([(f"{member}.npy", npy_bytes(pickled))])
        ),
    )
    return Reader(name, read, ".npz", cases, valid)


@st.composite
def npy_headers(draw: Any) -> bytes:
    """Draw an npy file whose header says anything."""
    descr = draw(
        st.sampled_from(("<f4", ">f8", "|O", "|S5", "<U3", "|V8", "<f3", "f4,O", "<M8[D]"))
    )
    sizes = draw(st.lists(st.sampled_from((0, 1, 3, 17, -1, 1 << 31, 1 << 62, 10**30)), max_size=4))
    shape = draw(
        st.sampled_from((str(tuple(sizes)), "(" * 3000, "3", "(1, (2,))", "(" + "1," * 3000))
    )
    order = draw(st.sampled_from(("True", "False", "1", "None")))
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    version = draw(st.sampled_from((b"\1\0", b"\2\0", b"\3\0", b"\4\0", b"\0\0")))
    length = draw(st.sampled_from((len(header), len(header), 0, 1 << 15, 1)))
    announced = length.to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + announced + header + draw(st.binary(max_size=200))


def numbers_reader() -> Reader:
    """Return the reader of npz files of plain arrays."""
    arrays = {"a": random_keypoints(4), "b": np.arange(3), "c": np.array("text"), "d": np.ones(())}
    valid = [saved(np.savez, **arrays), saved(np.savez_compressed, **arrays)]
    cases = one_of(
        bits=flipped_bits(valid),
        bytes=changed_bytes(valid),
        archive=changed_archives(valid),
        header=npy_headers().map(lambda npy: zipped([("a.npy", npy)])),
    )
    return Reader("npz of arrays", read_npz, ".npz", cases, valid)


def detections_reader() -> Reader:
    """Return the reader of estimators' npy files, in their three forms."""
    poses = random_keypoints(4)
    people = [person(frame, 0.5, poses[frame]) for frame in range(4)]
    by_frame = {0: None, 1: poses[:1], 2: poses[1:2]}
    listed = [{"frame": 0, "bbox": [0.0] * 5, "keypoints": poses[0].tolist()}]
    as_objects = np.fromiter(people, dtype=object)
    valid = [
        *(
            saved(np.save, array)
            for array in (poses, poses.astype(">f8"), np.asfortranarray(poses))
        ),
        *(saved(np.save, value, allow_pickle=True) for value in (as_objects, by_frame)),
        object_npy(people, protocol=2),
        object_npy(listed),
    ]
    pickles = [
        pickle.dumps(array, protocol)
        for array in (as_objects, np.array(by_frame, dtype=object))
        for protocol in (0, 2, 4, 5)
    ]
    cases = one_of(
        bytes=changed_bytes(valid),
        header=npy_headers(),
        values=changed_values([people, by_frame, listed]).map(object_npy),
        pickle=st.builds(npy_bytes, changed_pickles(pickles), st.sampled_from(((), (4,), (1,)))),
    )
    return Reader("npy", lambda p: convert_file(p, None, False), ".npy", cases, valid)


# CDF


def cdf_reader() -> Reader:
    """Return the reader of Human3.6M's CDF files."""
    pose = world_poses(3).reshape(3, 96)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.cdf"
        valid = []
        for values, options in (
            (pose, {}),
            (np.float64(pose), {"by_record": True, "data_type": 45}),
        ):
            write_cdf(path, values, **options)
            valid.append(path.read_bytes())
    cases = one_of(
        bytes=changed_bytes(valid, most=3),
        words=changed_words(valid, step=4),
        single_bytes=changed_words(valid, step=1, after=8),
    )
    return Reader("CDF", read_world_positions, ".cdf", cases, valid)


# Checkpoints


def checkpoints() -> list[dict]:
    """Return what checkpoints hold: of this project, and as published."""
    numbers = torch.linspace(-1, 1, 24)  # the same in every process, for the seed's sake
    weights = {"a.weight": numbers[:12].view(4, 3), "a.bias": torch.zeros(4), "b": numbers.clone()}
    moments = {"step": torch.tensor(3.0), "exp_avg": numbers[12:].view(4, 3).clone()}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    ours = {"epoch": 3, "model_pos": weights, "config": {"depth": 4}, "optimizer": optimizer}
    published = {
        "epoch": 137,
        "lr": 1e-4,
        "random_state": np.random.RandomState(0),
        "optimizer": optimizer,
        "model_pos": {f"module.{name}": weight for name, weight in weights.items()},
        "min_loss": np.float64(45.25),
        "wandb_id": "6mr5twid",
    }
    return [ours, published]


HOSTILE_TENSORS = [
    lambda: torch.zeros(1).expand(1 << 40),
    lambda: torch.zeros(3, device="meta"),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.zeros(3, dtype=torch.int64),
    lambda: torch.zeros(3, 4).T,
    lambda: torch.zeros(0, 5),
    lambda: torch.full((2, 2), float("nan"), dtype=torch.bfloat16),
    lambda: torch.nn.Parameter(torch.ones(2)),
    lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    lambda: torch.nn.Linear(2, 2),
    lambda: torch.Size([1, 2]),
    lambda: torch.float32,
    lambda: torch.device("cpu"),
]


def torch_saved(value: Any, as_zip: bool) -> bytes:
    """Return what torch.save writes; some drawn values cannot be saved."""
    file = io.BytesIO()
    try:
        torch.save(value, file, _use_new_zipfile_serialization=as_zip)
    except Exception:
        return b"\x80\x02N."
    return file.getvalue()


def checkpoint_reader(name: str, as_zip: bool) -> Reader:
    """Return the reader of checkpoints, in PyTorch's zip format or in the older one."""
    values = checkpoints()
    valid = [torch_saved(value, as_zip) for value in values]
    values_cases = changed_values(values, HOSTILE + HOSTILE_TENSORS)
    strategies = {
        "bytes": changed_bytes(valid),
        "values": values_cases.map(lambda value: torch_saved(value, as_zip)),
    }
    if as_zip:
        archives = [members_of(content) for content in valid]
        pickles = [archive["archive/data.pkl"] for archive in archives]
        strategies |= {
            "bits": flipped_bits(valid),
            "archive": changed_archives(valid),
            "pickle": changed_pickles(pickles).map(
                lambda pickled: zipped(list((archives[0] | {"archive/data.pkl": pickled}).items()))
            ),
        }
    else:
        strategies |= {"pickle": changed_legacy(valid), "words": changed_words(valid, step=1)}
    return Reader(name, load_checkpoint, ".bin", one_of(**strategies), valid)


@st.composite
def changed_legacy(draw: Any, contents: list[bytes]) -> bytes:
    """Draw a file of the older format with one of its five pickles changed."""
    rest, pickles = draw(st.sampled_from(contents)), []
    for _ in range(5):
        file = io.BytesIO(rest)
        for _ in pickletools.genops(file):  # which stops behind the pickle
            pass
        pickles.append(rest[: file.tell()])
        rest = rest[file.tell() :]
    place = draw(st.sampled_from((3, 3, 3, 4, 2, 0)))
    pickles[place] = draw(changed_pickles([pickles[place]]))
    return b"".join(pickles) + rest


# The log


def fresh(*values: Any) -> list[Callable[[], Any]]:
    """Return functions that return these values, another copy at each call."""
    return [lambda value=value: copy.deepcopy(value) for value in values]


def log_reader() -> Reader:
    """Return the reader of `log.jsonl`."""
    records = [
        {"epoch": n, "lr": 1e-3, "train_mpjpe_mm": 50.5, "valid_mpjpe_mm": None, "seconds": 9.5}
        for n in range(1, 4)
    ]
    valid = ["".join(json.dumps(record) + "\n" for record in records).encode()]
    plain = [
        *fresh(None, True, -1, 0, 2**80, 10**300, 1e308, "", "x", [], {}),
        *fresh(float("inf"), -float("inf"), float("nan"), 1.5, "1"),
        lambda: nested(1, 300),
    ]
    epochs = (b"Infinity", b"NaN", b"1e400", b'"1"', b"true", b"9" * 400, b"9" * 5000, b"[1]")
    strange = (
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"\0",
        b"[]",
        b"null",
        b"\xef\xbb\xbf{}",
    )
    lines = st.sampled_from([*(b'{"epoch":' + epoch + b"}" for epoch in epochs), *strange])
    cases = one_of(
        bytes=changed_bytes(valid),
        values=changed_values([records], plain).map(_as_lines),
        lines=st.lists(st.one_of(lines, st.just(valid[0].strip())), max_size=4).map(
            lambda drawn: b"".join(line + b"\n" for line in drawn)
        ),
    )
    return Reader("log", read_log, ".jsonl", cases, valid)


# Own footage


def own_footage_reader() -> Reader:
    """Return the reader of `data_2d_custom_<name>.npz`."""
    video = {"w": 640, "h": 480, "fps": 25.0, "person": 1, "first_frame": 0}
    metadata = KEYPOINTS_METADATA | {"layout_name": "h36m", "video_metadata": {"dance": video}}
    arrays = {"positions_2d": {"dance": {"custom": [random_keypoints(3, 2)]}}, "metadata": metadata}
    valid = [saved(np.savez, **arrays)]
    cases = one_of(
        bits=flipped_bits(valid),
        bytes=changed_bytes(valid),
        archive=changed_archives(valid),
        values=changed_values([arrays]).map(
            lambda v: saved_members(v) if isinstance(v, dict) else b""
        ),
    )
    return Reader("npz of own footage", read_custom_2d, ".npz", cases, valid)


def saved_members(members: dict) -> bytes:
    """Return an npz file with a pickled object for each name."""
    return zipped([(f"{name}.npy", object_npy(value)) for name, value in members.items()])


def keypoints_json_reader() -> Reader:
    """Return the reader of estimators' JSON, in all of its forms."""
    writers = (
        *(custom_files.mmpose, custom_files.mmpose_inferencer, custom_files.coco_results),
        *(custom_files.coco_annotations, custom_files.alphapose, custom_files.mediapipe),
    )
    keypoints = np.stack([random_keypoints(3, 2), random_keypoints(3, 2, 1)], axis=1)
    keypoints = np.concatenate([keypoints, np.full((3, 2, 17, 1), 0.9)], axis=-1, dtype=np.float64)
    valid = []
    for write in writers:
        with tempfile.TemporaryDirectory() as folder:
            valid.append(write(Path(folder), keypoints, (1000, 1000)).read_bytes())
    values = [json.loads(content) for content in valid]
    plain = [
        *fresh(None, True, -1, 0, 2**80, 1e308, "", "x", [], {}, [[]], 0.5),
        *fresh(float("inf"), float("nan")),
        lambda: nested(1, 300),
    ]
    cases = one_of(
        bytes=changed_bytes(valid),
        values=changed_values(values, plain).map(_as_json),
        strange=st.sampled_from((b"[" * 200_000, b'{"a":' * 100_000, b"[]", b"{}", b"9" * 5000)),
    )
    return Reader("JSON of keypoints", lambda p: follow(read_people(p)), ".json", cases, valid)


def _as_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        return b"[]"


def _as_lines(records: Any) -> bytes:
    records = records if isinstance(records, list) else [records]
    try:
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    except (TypeError, ValueError, RecursionError):
        return b"{}\n"
