"""Pickles, npy and npz files that a hostile or damaged source gives; each was a finding."""

import collections
import io
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from raw_trees import npy_bytes, random_keypoints

from common.console import InputError
from common.npz_io import read_npy, read_npz, read_positions_2d, read_positions_3d
from common.people import read_people
from common.safe_pickle import _READERS, MAX_DEPTH, PickleReader
from common.stand_ins import UnsafePickleError
from common.torch_file import read_torch_file

ARRAY_OF_OBJECTS = pickle.dumps(np.array(None, dtype=object), protocol=2)


def load(pickled):
    return PickleReader(pickled).load()


def as_member(value):
    """Return value, alone in an object array, as np.savez stores it."""
    array = np.empty((), dtype=object)
    array[()] = value
    return npy_bytes(pickle.dumps(array, protocol=4))


def write_npz(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def write_2d(path, positions):
    return write_npz(path, {"positions_2d": as_member(positions)})


def in_checkpoint(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    return path


# What pickle writes is read


VALUES = [
    *(None, True, False, 0, 255, 256, -1, 65536, 2**31, -(2**63), 2**80, 1.5, -0.0, 1e300),
    *("", "text", "ü\n'\\\"", "x" * 300, b"", b"bytes\0\n", b"y" * 300, bytearray(b"z")),
    *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [[1, [2]], 3], {}, {1: "a", "b": [2]}),
    *({1, 2}, frozenset((1, 2)), collections.OrderedDict(a=1, b=[2]), list(range(3000))),
    *([np.float64(2.5)] * 2, np.arange(6, dtype=">i2").reshape(2, 3)),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_reads_what_pickle_reads(value, protocol):
    if isinstance(value, set | frozenset | bytearray) and protocol < 4 + isinstance(
        value, bytearray
    ):
        pytest.skip("pickled through a global that is not admitted")
    if isinstance(value, bytes) and protocol < 3 and not value:
        pytest.skip("pickled through a global that is not admitted")
    pickled = pickle.dumps(value, protocol=protocol)
    expected = pickle.loads(pickled)
    read = load(pickled)
    assert type(read) is type(expected)
    np.testing.assert_equal(read, expected)


def test_every_opcode_is_known_or_refused_on_purpose():
    of_classes = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
    out_of_band = {"NEXT_BUFFER", "READONLY_BUFFER"}
    written_out = {"STOP", "MEMOIZE", "BINGET", "BININT1"}
    known = {op.name for op in pickletools.opcodes if ord(op.code) in _READERS} | written_out
    assert {op.name for op in pickletools.opcodes} - known == of_classes | out_of_band


# Depth


NESTED = {
    "one-tuples": b"K\x00" + b"\x85" * 200_000 + b".",
    "lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "dicts": b"}K\x00" * 200_000 + b"K\x00" + b"s" * 200_000 + b".",
    "one-tuples as a key": b"}K\x00" + b"\x85" * 200_000 + b"K\x00s.",
    "arrays of objects": b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
            b"(K\x01(K\x01tcnumpy\ndtype\n(X\x02\x00\x00\x00O8I00\nI01\ntRI00\n]"
        ]
        * 3000
        + [b"K\x00"]
        + [b"atb"] * 3000
        + [b"."]
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_nested_pickle_is_one_error_in_every_file(tmp_path, name):
    """Read with pickle, 200,000 one-tuples in a key end the process with a segmentation fault."""
    pickled = b"\x80\x02" + NESTED[name]
    npy = tmp_path / "a.npy"
    npy.write_bytes(npy_bytes(pickled))
    npz = write_npz(tmp_path / "a.npz", {"positions_2d": npy.read_bytes()})
    zipped = in_checkpoint(tmp_path / "a.bin", pickled)
    for read, path in [(read_npy, npy), (read_npz, npz), (read_torch_file, zipped)]:
        with pytest.raises(InputError, match=r"deeper|as a key|array of objects|damaged"):
            read(path)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 5, MAX_DEPTH + 5])
def test_the_depth_is_bounded_where_it_says(depth):
    value = []
    for level in range(depth):
        value = [(value,), {"a": value}, [value]][level % 3]
    if depth > MAX_DEPTH:
        with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH}"):
            load(pickle.dumps(value))
    else:
        assert load(pickle.dumps(value)) == value


# Announced sizes


ANNOUNCED = {
    "memo index": b"K\x00r\xff\xff\xff\x7f0K\x01.",
    "memo index in text": b"K\x00p300000000\n0K\x01.",
    "bytes": b"B\xff\xff\xff\x7fabc.",
    "8-byte length": b"\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
    "text": b"X\xff\xff\xff\x7fabc.",
    "integer": b"\x8b\xff\xff\xff\x7f\x01.",
    "frame": b"\x95" + struct.pack("<Q", 1 << 62) + b"K\x01.",
}


@pytest.mark.parametrize("name", ANNOUNCED)
def test_an_announced_size_costs_no_memory(name):
    tracemalloc.start()
    try:
        assert load(b"\x80\x04" + ANNOUNCED[name]) == 1
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("text", [b"I" + b"9" * 400, b"L" + b"9" * 400 + b"L", b"F" + b"1" * 400])
def test_a_number_of_400_digits_is_one_error(text):
    with pytest.raises(ValueError, match="too many digits"):
        load(text + b"\n.")


def test_more_containers_than_any_file_needs_are_one_error(monkeypatch):
    monkeypatch.setattr("common.safe_pickle.MAX_CONTAINERS", 100)
    assert load(b"(" + b"]" * 99 + b"t.") == ([],) * 99
    with pytest.raises(ValueError, match="more than 100 containers"):
        load(b"(" + b"]" * 101 + b"t.")


def test_a_header_of_brackets_or_of_many_digits_is_one_error(tmp_path):
    for shape in ("(" * 5000, "9" * 900 + ",", "0, " + "9" * 18 + ", " + "9" * 18, "-1,", "1 2"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".encode()
        content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: damaged"):
            read_npy(tmp_path / "a.npy")


def test_a_member_that_inflates_beyond_measure_is_one_error(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(1 << 24, np.float64))
    path = write_npz(tmp_path / "a.npz", {"a": content.getvalue()}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="would inflate from"):
        read_npz(path)


def test_arrays_that_deflate_well_are_still_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((1000, 17, 2)), b=random_keypoints(50))
    read = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(read["a"], np.zeros((1000, 17, 2)))
    np.testing.assert_array_equal(read["b"], random_keypoints(50))


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_one_error(tmp_path, compression):
    path = write_npz(tmp_path / "a.npz", {"a": as_member([1])}, compression)
    with pytest.raises(InputError, match="neither stored nor deflated"):
        read_npz(path)


def test_a_directory_that_leaves_a_member_out_is_one_error(tmp_path):
    """A flipped bit in the length of an entry's comment hides the entries behind it."""
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), b=np.arange(4), c=np.arange(5))
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 33] ^= 1
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a.npy", "b.npy"]
    with pytest.raises(InputError, match="leaves members out"):
        read_npz(path)


# Values of other types than a file of poses has


def holding_itself():
    knot = []
    knot.append(knot)
    return knot


def lists_of_ten(depth=9):
    value = 1
    for _ in range(depth):
        value = [value] * 10
    return value


RAGGED = [[1, 2], [3]]
CAMERA = random_keypoints(3, 2)
BAD_2D = {
    "a list that holds itself as the cameras": {"S1": {"A": holding_itself()}},
    "four cameras that hold themselves": {"S1": {"A": [holding_itself()] * 4}},
    "lists of ten, nine deep": {"S1": {"A": [lists_of_ten()] * 4}},
    "ragged lists": {"S1": {"A": [RAGGED] * 4}},
    "a number as the cameras": {"S1": {"A": np.array(3.0)}},
    "an array without dimensions as a camera": {"S1": {"A": [np.array(3.0)] * 4}},
    "an array of objects as a camera": {"S1": {"A": [np.array([RAGGED, None], object)] * 4}},
    "a number as a subject": {1: {"A": [CAMERA] * 4}},
    "bytes as a subject": {b"S1": {"A": [CAMERA] * 4}},
    "None as a subject": {None: {"A": [CAMERA] * 4}},
    "a number as an action": {"S1": {2.5: [CAMERA] * 4}},
    "bytes as an action": {"S1": {b"A": [CAMERA] * 4}},
    "None as an action": {"S1": {None: [CAMERA] * 4}},
    "a long action": {"S1": {"A" * 10_000: [CAMERA] * 4}},
    "an action of two lines": {"S1": {"A\nB": [CAMERA] * 4}},
    "subjects of two types": {"S1": {"A": [CAMERA] * 4}, 2: {"A": [CAMERA] * 4}},
    "integers beyond 64 bits": {"S1": {"A": [[[[2**80] * 2] * 17] * 2] * 4}},
    "a list in the place of all": lists_of_ten(),
}


@pytest.mark.parametrize("read", [read_positions_2d, read_positions_3d])
@pytest.mark.parametrize("name", BAD_2D)
def test_poses_of_another_form_are_one_short_error(tmp_path, name, read):
    members = {"positions_2d": as_member(BAD_2D[name]), "positions_3d": as_member(BAD_2D[name])}
    path = write_npz(tmp_path / "a.npz", members)
    with pytest.raises(InputError, match=r"a\.npz: ") as error:
        read(path)
    assert len(str(error.value)) < 300 + len(str(path))


def test_lists_of_numbers_are_read_as_arrays(tmp_path):
    listed = random_keypoints(3, 2).tolist()
    read = read_positions_2d(write_2d(tmp_path / "a.npz", {"S1": {"A": [listed] * 4}}))
    np.testing.assert_array_equal(read["S1"]["A"][2], random_keypoints(3, 2))


POSE = random_keypoints(1)[0]
BOX = np.zeros(5)
BAD_DETECTIONS = {
    "frame number": [{"frame": lists_of_ten(), "bbox": BOX, "keypoints": POSE}],
    "a frame number that holds itself": [{"frame": holding_itself(), "bbox": BOX, "keypoints": 0}],
    "a large frame number": {2**500: POSE[None]},
    "a text as a frame": {"x" * 100_000: POSE[None]},
    "keypoints": [{"frame": 0, "bbox": BOX, "keypoints": lists_of_ten()}],
    "keypoints that hold themselves": [{"frame": 0, "bbox": BOX, "keypoints": holding_itself()}],
    "a box that holds itself": [{"frame": 0, "bbox": holding_itself(), "keypoints": POSE}],
    "a ragged box": [{"frame": 0, "bbox": RAGGED, "keypoints": POSE}],
    "other keys": [dict.fromkeys(range(10_000))],
    "people that hold themselves": holding_itself(),
}


@pytest.mark.parametrize("name", BAD_DETECTIONS)
def test_detections_of_another_form_are_one_short_error(tmp_path, name):
    (tmp_path / "a.npy").write_bytes(as_member(BAD_DETECTIONS[name]))
    with pytest.raises(InputError, match=r"a\.npy: ") as error:
        read_people(tmp_path / "a.npy")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


# What is refused is named in part of a line


@pytest.mark.parametrize("name", [b"x" * 100_000, b"os.system\x1b[31m", "é\u2028".encode()])
def test_the_name_of_what_is_refused_is_short_and_printable(tmp_path, name):
    (tmp_path / "a.npy").write_bytes(npy_bytes(b"\x80\x02cposix\n" + name + b"\n."))
    with pytest.raises(InputError, match=r"refused, because it holds posix\.") as error:
        read_npy(tmp_path / "a.npy")
    assert len(str(error.value)) < 400 + len(str(tmp_path))
    assert str(error.value).isprintable()


def test_a_text_that_cannot_be_printed_is_refused():
    for text in (b"V\\ud800\n.", b"X\x03\x00\x00\x00\xed\xa0\x80."):
        with pytest.raises(ValueError, match="damaged"):
            load(text)


def test_a_random_state_outside_of_a_checkpoint_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", [np.random.RandomState(0)], allow_pickle=True)
    with pytest.raises(InputError, match=r"refused, because it holds numpy\.random"):
        read_npy(tmp_path / "a.npy")


def test_tensors_outside_of_a_checkpoint_are_refused():
    with pytest.raises(UnsafePickleError, match=r"^torch\._utils\._rebuild_tensor_v2$"):
        load(pickle.dumps(torch.zeros(3), protocol=2))
