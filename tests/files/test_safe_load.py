"""Files of strangers: what NumPy and PyTorch write is read, no code runs, damage is one line."""

import datetime
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_trees import Calls, npy_bytes, random_keypoints

from common.files.console import InputError
from common.files.safe_load import MAX_DEPTH, read_npy, read_npz, read_torch_file

both_formats = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def in_object_array(content, protocol):
    """Return an npy file of one object, as np.savez writes a dict."""
    array = np.empty((), dtype=object)
    array[()] = content
    return npy_bytes(pickle.dumps(array, protocol=protocol))


def save(path, content, is_zip=True):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def write_npz(path, npy, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("positions_2d.npy", npy)
    return path


def checkpoint_of(path, pickled, is_zip):
    """Write a checkpoint, in either format, around a pickle that may be anything."""
    save(path, None, is_zip)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        (name,) = (name for name in members if name.endswith("/data.pkl"))
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in (members | {name: pickled}).items():
                archive.writestr(other, content)
    else:  # behind three pickles of the format's own
        path.write_bytes(path.read_bytes().replace(b"\x80\x02N.", pickled))
    return path


def assert_same(ours, theirs):
    """Compare nested containers; arrays and tensors by dtype, shape and every byte."""
    if isinstance(theirs, torch.Tensor):
        assert type(ours) is torch.Tensor
        assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert_same(list(ours.values()), list(theirs.values()))
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list | tuple)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(theirs, np.ndarray):
        assert (type(ours), ours.dtype, ours.shape) == (np.ndarray, theirs.dtype, theirs.shape)
        assert_same(ours.tolist(), theirs.tolist())
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


# What NumPy writes


CONTENTS = [
    {"S1": {"Walking": [np.ones((2, 17, 2), np.float32), np.zeros((0, 17, 3))]}},
    {"big endian": np.arange(5, dtype=">f4"), "small": np.arange(5, dtype="<i2")},
    {"fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "0-d": np.array(3.5)},
    {"bool": np.array([True, False]), "text": np.array(["a", "bcd"]), "bytes": np.array([b"ab"])},
    {1: None, 2: np.arange(3), "nested": [(1, 2.5, "x", 2**80), [b"bytes", True]]},
    {"scalar": np.float32(0.25), "integer": np.int64(-3), "big scalar": np.dtype(">i4").type(7)},
    {"objects": np.fromiter([{"a": np.ones(2)}, None, np.ones(3), [1, 2]], object)},
    OrderedDict(a=np.zeros(3), b=2),
    [np.ones((17, 3), np.float32)] * 3,
]


@pytest.mark.parametrize("protocol", range(3, 6))
@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_arrays_and_containers_are_read(tmp_path, content, protocol):
    (tmp_path / "a.npy").write_bytes(in_object_array(content, protocol))
    assert_same(read_npy(tmp_path / "a.npy"), content)
    np.savez_compressed(tmp_path / "a.npz", content=content, plain=np.arange(3))
    read = read_npz(tmp_path / "a.npz")
    assert_same(read["plain"], np.arange(3))
    read["plain"][0] = 1  # what was read can be edited
    if isinstance(content, dict):
        assert_same(read["content"], content)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_files_of_numpy_1_and_of_numpy_2_are_read(tmp_path, core):
    content = {"S1": [np.arange(6, dtype=np.float32), np.float64(2.5)]}
    pickled = in_object_array(content, 2)
    (other,) = {"numpy.core", "numpy._core"} - {core}
    # Protocol 2 names modules in lines, so that they can be exchanged without a length.
    renamed = pickled.replace(f"c{other}.".encode(), f"c{core}.".encode())
    assert f"c{core}.multiarray\n_reconstruct\n".encode() in renamed
    (tmp_path / "a.npy").write_bytes(renamed)
    assert_same(read_npy(tmp_path / "a.npy"), content)


def test_a_file_of_python_2_is_read(tmp_path):
    """Its strings are bytes without an encoding (SHORT_BINSTRING)."""
    content = {"S1": np.array([1.5, -2.25, 1e9])}
    pickled = in_object_array(content, 3).replace(b"C\x18", b"U\x18").replace(b"C\x01", b"U\x01")
    assert pickled.count(b"U\x18") == 1 and b"C\x18" not in pickled
    (tmp_path / "a.npy").write_bytes(pickled)
    assert_same(read_npy(tmp_path / "a.npy"), content)


# What PyTorch writes


def torch_contents():
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    return {
        "dtypes": {str(dtype): (base * 50).abs().to(dtype) for dtype in dtypes},
        "views of one storage": [base, base[2:4], base[:, 3], base.T, base[::2, 1::3], base[5, 7]],
        "nothing": [torch.empty(0), torch.empty(3, 0, 2), base[:0], torch.tensor(7.5)],
        "a parameter": torch.nn.Parameter(torch.rand(3)),
        "a state dict": model.state_dict(),
        "a training": {"optimizer": optimizer.state_dict(), "epoch": 3, "loss": 1e-300, "id": None},
        "plain": [True, -(2**40), "ü", (1, (2, [3])), OrderedDict(b=1, a=2), torch.Size([1, 2])],
    }


@both_formats
@pytest.mark.parametrize("name", torch_contents())
def test_reads_what_torch_load_reads(tmp_path, name, is_zip):
    path = save(tmp_path / "a.bin", torch_contents()[name], is_zip)
    assert_same(read_torch_file(path), torch.load(path, weights_only=True))


@both_formats
def test_numpys_objects_become_plain_or_none(tmp_path, is_zip):
    content = [np.random.RandomState(3), np.float64(1.5), np.int64(-4), np.arange(3)]
    path = save(tmp_path / "a.bin", content, is_zip)
    assert_same(read_torch_file(path), [None, 1.5, -4, np.arange(3)])


@both_formats
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("names", ["_pickle\n__randomstate_ctor", "\n__RandomState_ctor"])
def test_random_states_of_every_numpy_become_none(tmp_path, core, names, is_zip):
    state = pickle.dumps(("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0), 2)
    state = state.replace(b"cnumpy._core.", f"c{core}.".encode())[2:-1]
    module, name = names.split("\n")
    global_ = f"c{'.'.join(filter(None, ('numpy.random', module)))}\n{name}\n".encode()
    argument = b"(X\x07\x00\x00\x00MT19937t" if module else b")"
    pickled = b"\x80\x02" + global_ + argument + b"R" + state + b"b."
    assert read_torch_file(checkpoint_of(tmp_path / "a.bin", pickled, is_zip)) is None


def test_other_tensors_are_refused(tmp_path):
    tensors = (
        torch.zeros(1).expand(1 << 40),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
    )
    for tensor in (*tensors, torch.float32):
        with pytest.raises(InputError, match=r"a\.bin: damaged, truncated or no checkpoint"):
            read_torch_file(save(tmp_path / "a.bin", {"a": tensor}))


# No code runs


def calls(target):
    """Return {a function's name: what calls it}, each of which would create the file `target`."""
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "system": Calls(os.system, f"touch '{target}'"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(target), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "PosixPath": Path(target),
        "date": datetime.date(2024, 1, 1),
        "save": Calls(np.save, str(target), 1),
        "fromfile": Calls(np.fromfile, str(target)),
        "Fraction": Fraction(1, 2),
    }


def readings(folder, pickled):
    """Yield a reader and a file around a pickle, for each kind of file."""
    path = folder / "a.npy"
    path.write_bytes(npy_bytes(pickled))
    yield read_npy, path
    yield read_npz, write_npz(folder / "a.npz", path.read_bytes())
    for is_zip in (True, False):
        yield read_torch_file, checkpoint_of(folder / f"a{is_zip}.bin", pickled, is_zip)


@pytest.mark.parametrize("protocol", (0, 2, 4))
@pytest.mark.parametrize("name", calls(""))
def test_what_calls_anything_is_refused_by_name_in_every_file(tmp_path, name, protocol):
    target = tmp_path / "ran"
    pickled = pickle.dumps([calls(target)[name]], protocol)
    for read, path in readings(tmp_path, pickled):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert not target.exists()
        if protocol == 2 or read in (read_npy, read_npz):  # PyTorch reads protocol 2 alone
            assert "refused, because it holds " in str(caught.value)
            assert f"{name}, which could run code" in str(caught.value)


POINTER = b"C\x08" + b"\x41" * 8  # bytes of the file that would be taken for an object's address
# A dtype of objects whose flags say that it holds none: NumPy's own dtype believes it.
FORGED_DTYPE = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8I00\nI01\ntR"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
FORGED = {
    "array": RECONSTRUCT + b"(K\x01(K\x01t" + FORGED_DTYPE + b"I00\n" + POINTER + b"tb",
    "scalar": b"cnumpy.core.multiarray\nscalar\n(" + FORGED_DTYPE + POINTER + b"tR",
    "buffer": b"cnumpy\nndarray\n((K\x01t" + FORGED_DTYPE + POINTER + b"tR",
    "frombuffer": b"cnumpy._core.numeric\n_frombuffer\n("
    + POINTER + FORGED_DTYPE + b"(K\x01tX\x01\x00\x00\x00CtR",
    "larger than its data": RECONSTRUCT + b"(K\x01(J\xff\xff\xff\x7ft"
    + FORGED_DTYPE.replace(b"O8", b"f8") + b"I00\n" + POINTER + b"tb",
    "structure": RECONSTRUCT + b"(K\x01(K\x01t" + FORGED_DTYPE.replace(b"O8", b"V8")
    + b"I00\n" + POINTER + b"tb",
    "a state for a stand-in's class": b"cnumpy\ndtype\n(N}X\x08\x00\x00\x00__init__Nstb",
    "a state for a list": b"](N}X\x06\x00\x00\x00appendNstb",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_arrays_are_refused_before_they_exist(tmp_path, name):
    """With NumPy's own functions some of these end the process with a segmentation fault."""
    for read, path in readings(tmp_path, b"\x80\x02](" + FORGED[name] + b"e."):
        with pytest.raises(InputError, match=path.name):
            read(path)
    (tmp_path / "valid.npy").write_bytes(in_object_array(CONTENTS[0], 4))
    assert_same(read_npy(tmp_path / "valid.npy"), CONTENTS[0])  # no stand-in was changed


# Damage


def test_deep_containers_are_one_error(tmp_path):
    knot = []
    knot.append(knot)
    for pickled in (b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".", pickle.dumps(knot, 2)):
        for read, path in readings(tmp_path, pickled):
            with pytest.raises(InputError, match=f"nests deeper than {MAX_DEPTH}"):
                read(path)


def valid_files(folder):
    """Return {path: its reader} of one file of each kind."""
    poses = {"S1": {"Walking": [random_keypoints(3, 2, seed=i) for i in range(4)]}}
    weights = {"a": torch.rand(40), "b": torch.rand(40)}
    np.savez(folder / "a.npz", positions_2d=poses, metadata={"num_joints": 17})
    np.save(folder / "plain.npy", random_keypoints(4))
    np.save(folder / "people.npy", np.array([poses, poses], dtype=object), allow_pickle=True)
    return {
        folder / "a.npz": read_npz,
        folder / "plain.npy": read_npy,
        folder / "people.npy": read_npy,
        save(folder / "zip.bin", weights): read_torch_file,
        save(folder / "legacy.bin", weights, is_zip=False): read_torch_file,
    }


def test_a_file_truncated_anywhere_is_one_error(tmp_path):
    for path, read in valid_files(tmp_path).items():
        whole = path.read_bytes()
        for size in [*range(0, min(len(whole), 300), 17), *range(300, len(whole), 97)]:
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match=rf"{path.name}: (damaged|refused)"):
                read(path)


@pytest.mark.parametrize("read", [read_npy, read_npz, read_torch_file])
def test_what_is_no_such_file_is_one_error(tmp_path, read):
    (tmp_path / "empty.x").write_bytes(b"")
    (tmp_path / "text.x").write_text("no array")
    (tmp_path / "folder.x").mkdir()
    with zipfile.ZipFile(tmp_path / "other.x", "w") as archive:
        archive.writestr("a.txt", "text")
    for name in ("empty", "text", "folder", "other", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.x: (no such file|damaged)"):
            read(tmp_path / f"{name}.x")


def test_a_member_that_inflates_beyond_measure_is_one_error(tmp_path):
    npy = io.BytesIO()
    np.save(npy, np.zeros(17 << 17))
    write_npz(tmp_path / "a.npz", npy.getvalue(), zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", bytes(17 << 20))
    for read, name in ((read_npz, "a.npz"), (read_torch_file, "a.bin")):
        with pytest.raises(InputError, match="would inflate from"):
            read(tmp_path / name)
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros((1000, 17, 2)))
    assert_same(read_npz(tmp_path / "b.npz"), {"a": np.zeros((1000, 17, 2))})
