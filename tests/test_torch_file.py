import io
import re
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from common.console import InputError
from common.safe_load import read_torch_file

FORMATS = {"zip": True, "legacy": False}
both_formats = pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def save(path, content, zip_format=True):
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return path


def assert_same(ours, theirs):
    """Compare nested containers; tensors by dtype, shape, strides and every byte."""
    if isinstance(theirs, torch.Tensor):
        assert type(ours) is torch.Tensor
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.stride() == theirs.stride()
        ours, theirs = (t.detach().contiguous().flatten().view(torch.uint8) for t in (ours, theirs))
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            assert_same(a, b)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


def valid_contents():
    """Return what torch.save writes in its many forms."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    numbers = {str(dtype): (base * 50).abs().to(dtype) for dtype in DTYPES}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    return {
        "dtypes": numbers,
        "views of one storage": [base, base[2:4], base[:, 3], base.T, base[::2, 1::3], base[5, 7]],
        "nothing": [torch.empty(0), torch.empty(3, 0, 2), base[:0], torch.tensor(7.5)],
        "a parameter": torch.nn.Parameter(torch.rand(3)),
        "a state dict": model.state_dict(),
        "a training": {"optimizer": optimizer.state_dict(), "epoch": 3, "loss": 1e-300, "id": None},
        "plain": [True, -(2**40), "ü", (1, (2, [3])), OrderedDict(b=1, a=2), torch.Size([1, 2])],
    }


@both_formats
@pytest.mark.parametrize("name", valid_contents())
def test_reads_what_torch_load_reads(tmp_path, name, zip_format):
    path = save(tmp_path / "a.bin", valid_contents()[name], zip_format)
    assert_same(read_torch_file(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn])
def test_reads_dtypes_that_have_no_storage_of_their_own(tmp_path, dtype):
    path = save(tmp_path / "a.bin", torch.arange(6, dtype=torch.float32).to(dtype).view(2, 3))
    assert_same(read_torch_file(path), torch.load(path, weights_only=True))


@both_formats
def test_tensors_of_one_storage_still_share_it(tmp_path, zip_format):
    base = torch.zeros(4)
    whole, part = read_torch_file(save(tmp_path / "a.bin", [base, base[1:3]], zip_format))
    part[0] = 5
    assert whole.tolist() == [0, 5, 0, 0]


@both_formats
def test_numpys_objects_become_plain_or_nothing(tmp_path, zip_format):
    content = [np.random.RandomState(3), np.float64(1.5), np.int64(-4), np.arange(3)]
    random_state, *numbers, array = read_torch_file(save(tmp_path / "a.bin", content, zip_format))
    assert type(random_state) is Ignored
    assert list(map(type, numbers)) == [float, int]
    assert numbers == [1.5, -4]
    np.testing.assert_array_equal(array, np.arange(3))


# Archives that contradict themselves


def rewritten(path, change):
    """Write a zip archive again, as torch.save's, with `change` applied to {name: bytes}."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_every_flipped_bit_of_the_directory_is_found_or_harmless(tmp_path):
    weights = {"a": torch.rand(40), "b": torch.rand(40), "c": torch.rand(40)}
    path = save(tmp_path / "a.bin", weights)
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    accepted = 0
    for position in range(directory, len(content)):
        for bit in range(0, 8, 1 + position % 3):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert_same(read_torch_file(path), weights)
                accepted += 1
            except InputError as error:
                assert str(path) in str(error)
    assert accepted < (len(content) - directory) * 3


def test_two_members_that_were_exchanged_in_the_directory_are_found(tmp_path):
    weights = {"a": torch.ones(40), "b": torch.zeros(40)}
    path = save(tmp_path / "a.bin", weights)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    directory = content[start:].replace(b"data/0", b"data/?").replace(b"data/1", b"data/0")
    path.write_bytes(content[:start] + directory.replace(b"data/?", b"data/1"))
    with pytest.raises(InputError, match="the directory contradicts the member"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"a/data/0": m["a/data/0"][:-1]}), "has 39 bytes, not 10 numbers"),
        (lambda m: m.pop("a/data/0"), "damaged"),
        (lambda m: m.update({"a/byteorder": b"big"}), "big-endian"),
        (lambda m: m.update({"a/constants.pkl": b"N."}), "TorchScript"),
        (lambda m: m.update({"b/data.pkl": b"N."}), "another program"),
        (lambda m: m.pop("a/data.pkl"), "another program"),
        (lambda m: m.update({"a/data.pkl": m["a/data.pkl"].replace(b"K\n", b"K\x0b")}), "damaged"),
    ],
)
def test_an_archive_of_other_members_is_refused(tmp_path, change, message):
    path = rewritten(save(tmp_path / "a.bin", {"w": torch.rand(10)}), change)
    with pytest.raises(InputError, match=message):
        read_torch_file(path)


def with_tensor(offset, size, stride):
    """Return data.pkl of one tensor of ten numbers, with any place and shape."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\ntQ"
        + b"".join(map(as_pickle, (offset, size, stride))) + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


def as_pickle(value):
    if isinstance(value, tuple):
        return b"(" + b"".join(map(as_pickle, value)) + b"t"
    return b"\x8a\x08" + struct.pack("<q", value)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (10,), (1,)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2,), (10,)),
        (0, (1 << 59, 1 << 59), (1, 1)),
        (0, (11,), (0,)),
        (0, (6, 5), (1, 1)),
        (0, (1,) * 65, (1,) * 65),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, offset, size, stride):
    path = save(tmp_path / "a.bin", torch.arange(10.0))
    good, bad = (
        rewritten(path, lambda m, d=data: m.update({"a/data.pkl": d})).read_bytes()
        for data in (with_tensor(2, (2, 3), (4, 1)), with_tensor(offset, size, stride))
    )
    path.write_bytes(good)
    assert read_torch_file(path).tolist() == [[2, 3, 4], [6, 7, 8]]
    path.write_bytes(bad)
    with pytest.raises(InputError, match=r"larger than its storage|shape of a tensor is damaged"):
        read_torch_file(path)


def test_a_legacy_file_that_announces_more_than_it_holds_is_refused(tmp_path):
    path = save(tmp_path / "a.bin", torch.arange(10.0), zip_format=False)
    content = path.read_bytes()
    assert content.count(b"K\n") >= 1
    path.write_bytes(content.replace(b"K\n", b"J\xff\xff\xff\x7f", 1))
    with pytest.raises(InputError, match="larger than the file"):
        read_torch_file(path)
    for changed in (content + b"\0", content[:-1]):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"after its end|truncated"):
            read_torch_file(path)


def test_a_member_that_inflates_beyond_measure_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", bytes(1 << 27))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="would inflate from"):
        read_torch_file(path)
    # The same, but the archive announces a few bytes only.
    lying = re.sub(struct.pack("<I", 1 << 27), struct.pack("<I", 10), buffer.getvalue())
    path.write_bytes(lying)
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(path)
