import collections
import datetime
import errno
import io
import multiprocessing
import os
import pickle
import resource
import struct
import tempfile
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from raw_trees import npy_bytes, random_keypoints, untouched, world_poses

from common import files
from common.console import InputError
from common.files import atomic_output
from common.npz_io import (
    npz_path,
    read_npy,
    read_npz,
    read_positions_2d,
    read_positions_3d,
    write_positions_2d,
    write_positions_3d,
)

POSITIONS_2D = {"S1": {"Sitting 1": [random_keypoints(3, 2, seed=i) for i in range(4)]}}
POSITIONS_3D = {"S1": {"Sitting 1": world_poses(3) / 1000}}


def assert_equal(left, right):
    """Compare nested containers of arrays, types and dtypes included."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right):
            assert_equal(a, b)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        for a, b in zip(left.flat, right.flat):
            assert_equal(a, b) if left.dtype == object else np.testing.assert_equal(a, b)
    else:
        np.testing.assert_equal(left, right)


def in_object_array(content, protocol):
    array = np.empty((), dtype=object)
    array[()] = content
    return npy_bytes(pickle.dumps(array, protocol=protocol))


# ---- what is written is read, by this reader and by NumPy's ----


def test_2d_is_read_by_plain_numpy(tmp_path):
    write_positions_2d(tmp_path / "a.npz", POSITIONS_2D)
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        assert_equal(arrays["positions_2d"].item(), POSITIONS_2D)
        assert arrays["metadata"].item() == {
            "num_joints": 17,
            "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
        }
    assert_equal(read_positions_2d(tmp_path / "a.npz"), POSITIONS_2D)


def test_3d_is_read_by_plain_numpy(tmp_path):
    per_camera = {"S1": {"Sitting 1": [world_poses(3, i) / 1000 for i in range(4)]}}
    for positions in (POSITIONS_3D, per_camera):
        write_positions_3d(tmp_path / "a.npz", positions)
        with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
            assert_equal(arrays["positions_3d"].item(), positions)
        assert_equal(read_positions_3d(tmp_path / "a.npz"), positions)


CONTENTS = [
    {"S1": {"Walking": [np.ones((2, 17, 2), np.float32), np.zeros((3, 17, 3))]}},
    {"big endian": np.arange(5, dtype=">f4"), "small": np.arange(5, dtype="<i2")},
    {"fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "0-d": np.array(3.5)},
    {"bool": np.array([True, False]), "text": np.array(["a", "bcd"]), "bytes": np.array([b"ab"])},
    {1: None, 2: np.arange(3), "nested": [(1, 2.5, "x"), [b"bytes", True]]},
    {"scalar": np.float32(0.25), "integer": np.int64(-3), "big scalar": np.dtype(">i4").type(7)},
    {"objects": np.array([{"a": np.ones(2)}, None, [1, 2]], dtype=object)},
    collections.OrderedDict(a=np.zeros(3), b=2),
    [np.ones((17, 3), np.float32)] * 3,
]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_arrays_and_containers_of_every_protocol_are_read(tmp_path, content, protocol):
    (tmp_path / "a.npy").write_bytes(in_object_array(content, protocol))
    assert_equal(read_npy(tmp_path / "a.npy"), content)


@pytest.mark.parametrize("protocol", [4, 5])
def test_empty_arrays_and_sets_are_read(tmp_path, protocol):
    content = [np.zeros((0, 17, 2), np.float32), {1, 2}, frozenset("ab")]
    (tmp_path / "a.npy").write_bytes(in_object_array(content, protocol))
    assert_equal(read_npy(tmp_path / "a.npy"), content)
    np.save(tmp_path / "b.npy", content[0])
    assert_equal(read_npy(tmp_path / "b.npy"), content[0])


def test_an_object_array_of_arrays_keeps_them_whole(tmp_path):
    array = np.empty(3, dtype=object)
    array[:] = [np.array([1, 2]), np.array([[3.0]]), [4, 5]]
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    read = read_npy(tmp_path / "a.npy")
    assert read.shape == (3,)
    for a, b in zip(read, array):
        assert_equal(a, b)


def test_arrays_that_were_read_can_be_edited(tmp_path):
    np.save(tmp_path / "a.npy", {"large": np.zeros(9999), "small": np.zeros(2)}, allow_pickle=True)
    for array in read_npy(tmp_path / "a.npy").values():
        array[0] = 1
    np.save(tmp_path / "b.npy", np.zeros((4, 17, 2)))
    read_npy(tmp_path / "b.npy")[0] = 1


def test_containers_that_hold_each_other_are_read_once(tmp_path):
    shared = [np.ones(2)]
    content = {"first": shared, "second": shared}
    content["itself"] = content
    (tmp_path / "a.npy").write_bytes(in_object_array(content, 4))
    read = read_npy(tmp_path / "a.npy")
    assert read["first"] is read["second"]
    assert read["itself"] is read
    deep = ()
    for _ in range(100):  # 2 ** 100 paths lead to the bottom
        deep = (deep, deep)
    (tmp_path / "a.npy").write_bytes(in_object_array([deep], 4))
    read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_files_of_numpy_1_and_of_numpy_2_are_read(tmp_path, core):
    content = {"S1": [np.arange(6, dtype=np.float32), np.float64(2.5)]}
    pickled = in_object_array(content, 2)
    (other,) = {"numpy.core", "numpy._core"} - {core}
    # Protocol 2 names modules in lines, so that they can be exchanged without a length.
    renamed = pickled.replace(f"c{other}.".encode(), f"c{core}.".encode())
    assert f"c{core}.multiarray\n_reconstruct\n".encode() in renamed
    assert f"c{core}.multiarray\nscalar\n".encode() in renamed
    (tmp_path / "a.npy").write_bytes(renamed)
    assert_equal(read_npy(tmp_path / "a.npy"), content)


def test_a_file_of_python_2_is_read(tmp_path):
    """Its strings are bytes without an encoding (SHORT_BINSTRING, BINSTRING)."""

    def string(data):
        return b"T" + struct.pack("<i", len(data)) + data

    data = np.array([1.5, -2.25, 1e9], dtype="<f8").tobytes()
    dtype = (
        b"cnumpy\ndtype\n(" + string(b"f8") + b"K\x00K\x01tR(K\x03" + string(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + string(b"b")
        + b"tR(K\x01(K\x03t" + dtype + b"I00\n" + string(data) + b"tb"
    )  # fmt: skip
    outer_dtype = b"cnumpy\ndtype\n(" + string(b"O8") + b"K\x00K\x01tR"
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + string(b"b")
        + b"tR(K\x01(t" + outer_dtype + b"I00\n](}(" + string(b"S1") + array + b"uetb."
    )  # fmt: skip
    (tmp_path / "a.npy").write_bytes(npy_bytes(pickled))
    assert np.load(tmp_path / "a.npy", allow_pickle=True, encoding="latin1").item()["S1"][2] == 1e9
    assert_equal(read_npy(tmp_path / "a.npy"), {"S1": np.array([1.5, -2.25, 1e9])})


# ---- a stranger's pickle runs nothing ----


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def malicious_calls(target):
    """Return {a function's name: what calls it}, each of which would create the file `target`."""
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "system": Calls(os.system, f"touch '{target}'"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(target), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "__import__": Calls(__import__, "os"),
        "PosixPath": Path(target),
        "date": datetime.date(2024, 1, 1),
        "save": Calls(np.save, str(target), 1),
        "Fraction": Fraction(1, 2),
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", malicious_calls(""))
def test_a_pickle_that_calls_anything_is_refused_by_name(tmp_path, name, protocol):
    target = tmp_path / "ran"
    path = tmp_path / "a.npy"
    path.write_bytes(in_object_array([malicious_calls(target)[name]], protocol))
    with pytest.raises(InputError, match=rf"a\.npy: refused, because it holds [\w.]+\.{name},"):
        read_npy(path)
    assert not target.exists()


def test_the_malicious_files_would_run_in_an_ordinary_reader(tmp_path):
    target = tmp_path / "ran"
    path = tmp_path / "a.npy"
    path.write_bytes(in_object_array([malicious_calls(target)["system"]], 4))
    np.load(path, allow_pickle=True)
    assert target.exists()


def test_a_malicious_member_of_an_npz_is_refused(tmp_path):
    target = tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        bad = in_object_array(malicious_calls(target)["system"], 4)
        archive.writestr("positions_2d.npy", bad)
    for read in (read_npz, read_positions_2d, read_positions_3d):
        with pytest.raises(InputError, match=r"a\.npz: refused, .*[a-z]+\.system"):
            read(tmp_path / "a.npz")
    assert not target.exists()


def global_(module, name):
    return f"c{module}\n{name}\n".encode()


FORGED = {
    # NumPy's inner functions, which are admitted under no other name
    "numpy.f2py": global_("numpy.f2py", "compile"),
    "numpy.testing": global_("numpy.testing._private.utils", "runstring"),
    "numpy._core.multiarray.fromfile": global_("numpy._core.multiarray", "fromfile"),
    "numpy.core.multiarray.frombuffer": global_("numpy.core.multiarray", "frombuffer"),
    "torch._utils": global_("torch._utils", "_rebuild_tensor_v2"),
    "torch.storage": global_("torch.storage", "_load_from_bytes"),
    "copyreg._reconstructor": global_("copyreg", "_reconstructor"),
    "numpy.dtype.newbyteorder": global_("numpy", "dtype.newbyteorder"),
    "collections.namedtuple": global_("collections", "namedtuple"),
    "collections.OrderedDict.fromkeys": global_("collections", "OrderedDict.fromkeys"),
    "_codecs.encode to rot13": global_("_codecs", "encode") + b"(Vx\nVrot13\ntR",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_global_is_refused_by_name(tmp_path, name):
    (tmp_path / "a.npy").write_bytes(npy_bytes(b"\x80\x04" + FORGED[name] + b"."))
    with pytest.raises(InputError, match="refused, because it holds " + name.replace(".", r"\.")):
        read_npy(tmp_path / "a.npy")


POINTER = b"C\x08" + b"\x41" * 8  # bytes of the file that would be taken for an object's address
# A dtype of objects whose flags say that it holds none: NumPy's own dtype believes it.
FORGED_DTYPE = (
    global_("numpy", "dtype") + b"(X\x02\x00\x00\x00O8I00\nI01\ntR"
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
RECONSTRUCT = (
    global_("numpy.core.multiarray", "_reconstruct")
    + b"("
    + global_("numpy", "ndarray")
    + b"(K\x00tC\x01btR"
)
MEMORY_CORRUPTION = {
    "array": RECONSTRUCT + b"(K\x01(K\x01t" + FORGED_DTYPE + b"I00\n" + POINTER + b"tb",
    "scalar": global_("numpy.core.multiarray", "scalar") + b"(" + FORGED_DTYPE + POINTER + b"tR",
    "buffer": global_("numpy", "ndarray") + b"((K\x01t" + FORGED_DTYPE + POINTER + b"tR",
    "frombuffer": global_("numpy._core.numeric", "_frombuffer")
    + b"(" + POINTER + FORGED_DTYPE + b"(K\x01tX\x01\x00\x00\x00CtR",
    "larger than its data": RECONSTRUCT + b"(K\x01(J\xff\xff\xff\x7ft"
    + FORGED_DTYPE.replace(b"O8", b"f8") + b"I00\n" + POINTER + b"tb",
    "forged item size": RECONSTRUCT + b"(K\x01(K\x01t"
    + global_("numpy", "dtype") + b"(X\x02\x00\x00\x00f4I00\nI01\ntR"
    b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\x7fJ\xff\xff\xff\xffK\x00tb" b"I00\n"
    + POINTER + b"tb",
    "structure": RECONSTRUCT + b"(K\x01(K\x01t"
    + global_("numpy", "dtype") + b"(X\x02\x00\x00\x00V8I00\nI01\ntR"
    b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}X\x01\x00\x00\x00a("
    + global_("numpy", "dtype") + b"(X\x02\x00\x00\x00O8I00\nI01\ntRK\x00tsK\x08K\x01K\x00tb"
    b"I00\n" + POINTER + b"tb",
    "a dtype by itself": FORGED_DTYPE,
    "an array without content": RECONSTRUCT,
    "a stand-in as a key": b"}" + RECONSTRUCT + b"K\x01s",
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY_CORRUPTION)
def test_forged_arrays_are_refused_before_they_exist(tmp_path, name):
    """With NumPy's own functions some of these end the process with a segmentation fault."""
    pickled = b"\x80\x04](" + MEMORY_CORRUPTION[name] + b"e."
    (tmp_path / "a.npy").write_bytes(npy_bytes(pickled))
    with pytest.raises(InputError, match=r"a\.npy: "):
        read_npy(tmp_path / "a.npy")


# ---- damaged files ----


def damaged_files(tmp_path):
    write_positions_2d(tmp_path / "whole.npz", POSITIONS_2D)
    np.save(tmp_path / "whole.npy", random_keypoints(4))
    people = [{"frame": i, "keypoints": random_keypoints(1)[0]} for i in range(4)]
    np.save(tmp_path / "people.npy", np.array(people, dtype=object), allow_pickle=True)
    return [(tmp_path / "whole.npz", read_npz)] + [
        (tmp_path / name, read_npy) for name in ("whole.npy", "people.npy")
    ]


def test_a_file_truncated_anywhere_is_one_error(tmp_path):
    for path, read in damaged_files(tmp_path):
        whole = path.read_bytes()
        cut = path.with_stem("cut")
        for size in [*range(0, min(len(whole), 400), 7), *range(400, len(whole), 97)]:
            cut.write_bytes(whole[:size])
            with pytest.raises(InputError, match=r"cut.*(empty|damaged)"):
                read(cut)


def test_flipped_bytes_are_read_or_one_error(tmp_path):
    random = np.random.default_rng(0)
    for path, read in damaged_files(tmp_path)[:2]:  # in a pickle, a length of gigabytes may appear
        whole = path.read_bytes()
        changed = path.with_stem("changed")
        for _ in range(300):
            data = bytearray(whole)
            data[random.integers(min(len(data), 300))] ^= 1 << random.integers(8)
            changed.write_bytes(data)
            try:
                read(changed)
            except InputError as error:
                assert str(changed) in str(error)


@pytest.mark.parametrize("read", [read_npy, read_npz, read_positions_2d, read_positions_3d])
def test_what_is_no_such_file_is_one_error(tmp_path, read):
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "folder.npz").mkdir()
    for name in ("empty", "text", "folder", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.npz: "):
            read(tmp_path / f"{name}.npz")


def test_a_header_that_promises_more_than_the_memory_is_one_error(tmp_path):
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(80))
    with pytest.raises(InputError, match=r"a\.npy: damaged.*80 of"):
        read_npy(tmp_path / "a.npy")


# ---- the schema ----


def change_2d(**changes):
    return {"S1": {"Sitting 1": [changes.get(f"camera_{i}", a) for i, a in enumerate(
        POSITIONS_2D["S1"]["Sitting 1"])]}}  # fmt: skip


BAD_2D = {
    "expected a dict of subjects": [1, 2],
    "S1 is not a dict of actions": {"S1": [1]},
    "expected a list of 4 cameras": {"S1": {"Walking": [np.zeros((2, 17, 2))] * 3}},
    r"camera 2: expected an array \(frames, 17, 2 or 3\)": change_2d(camera_2=np.zeros((2, 16, 2))),
    "camera 1: holds NaN or infinite": change_2d(camera_1=np.full((2, 17, 2), np.nan)),
    "camera 2: holds NaN or infinite": change_2d(camera_2=np.full((2, 17, 2), 1e39)),
    "camera 3: has no frames": change_2d(camera_3=np.zeros((0, 17, 2))),
    "expected numbers": change_2d(camera_0=np.full((2, 17, 2), "a")),
    "some arrays have a confidence": change_2d(camera_0=np.zeros((3, 17, 3))),
}


@pytest.mark.parametrize("message", BAD_2D)
def test_2d_of_another_form_is_refused(tmp_path, message):
    write_positions_2d(tmp_path / "a.npz", BAD_2D[message])
    with pytest.raises(InputError, match=rf"a\.npz.*{message}"):
        read_positions_2d(tmp_path / "a.npz")


BAD_3D = {
    r"expected an array \(frames, 32, 3\), got \(3, 17, 3\)": np.zeros((3, 17, 3)),
    "expected a list of 4 cameras": [np.zeros((3, 32, 3))] * 2,
    "NaN or infinite": np.full((3, 32, 3), np.inf),
}


@pytest.mark.parametrize("message", BAD_3D)
def test_3d_of_another_form_is_refused(tmp_path, message):
    write_positions_3d(tmp_path / "a.npz", {"S1": {"Walking": BAD_3D[message]}})
    with pytest.raises(InputError, match=rf"a\.npz: S1, Walking.*{message}"):
        read_positions_3d(tmp_path / "a.npz")


def test_a_file_without_the_array_says_what_it_holds(tmp_path):
    write_positions_2d(tmp_path / "a.npz", POSITIONS_2D)
    with pytest.raises(InputError, match=r"metadata.*positions_2d.*no array 'positions_3d'"):
        read_positions_3d(tmp_path / "a.npz")


# ---- writing ----


def in_child(function, *arguments):
    """Run a function in a process of its own, which it may limit; return its result."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def write_with_limit(path, size):
    """Write beyond the size that the system allows; return the error, as text."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        write_positions_3d(path, {"S1": {"Walking": np.zeros((999, 32, 3), np.float32)}})
    except OSError as error:
        return error.errno, str(error.filename)


@pytest.mark.parametrize("size", [0, 100, 5000, 200_000, 383_000])
def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, size):
    """The limit strikes in the header, in the array, and at the archive's end."""
    path = tmp_path / "a.npz"
    write_positions_3d(path, POSITIONS_3D)
    with untouched(tmp_path):
        assert in_child(write_with_limit, path, size) == (errno.EFBIG, str(path))


@pytest.mark.parametrize("function", ["fsync", "write"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch, function):
    path = tmp_path / "a.npz"
    write_positions_2d(path, POSITIONS_2D)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if function == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(np, "savez", full)
    with untouched(tmp_path), pytest.raises(OSError, match="No space") as caught:
        write_positions_2d(path, POSITIONS_2D)
    assert caught.value.filename == str(path)


def write_as_nobody(path):
    """Write without the rights of root, whom a folder's permissions do not bind."""
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        write_positions_2d(path, POSITIONS_2D)
    except OSError as error:
        return error.errno, str(error.filename)


def test_a_read_only_folder_leaves_the_earlier_file():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        write_positions_2d(folder / "a.npz", POSITIONS_2D)
        folder.chmod(0o555)
        with untouched(folder):
            result = in_child(write_as_nobody, folder / "a.npz")
        folder.chmod(0o755)
    assert result == (errno.EACCES, str(folder / "a.npz"))


def test_whatever_fails_within_leaves_the_earlier_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"earlier")
    with untouched(tmp_path), pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with atomic_output(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            assert temporary.suffix == ".bin"
            raise KeyboardInterrupt


def test_a_success_replaces_the_file_and_creates_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"first", b"second"):
        with atomic_output(path) as temporary:
            temporary.write_bytes(content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    mask = files._umask()
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_an_output_goes_to_the_data_folder_unless_absolute(tmp_path):
    assert npz_path(tmp_path, "a") == tmp_path / "a.npz"
    assert npz_path(tmp_path, "a.npz") == tmp_path / "a.npz"
    assert npz_path(tmp_path, "a.b") == tmp_path / "a.b.npz"
    assert npz_path(Path("elsewhere"), str(tmp_path / "a.npz")) == tmp_path / "a.npz"
    for nothing in ("", ".", "..", "a/.."):
        with pytest.raises(InputError, match="give the name of a file"):
            npz_path(tmp_path, nothing)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="this is a folder"), atomic_output(tmp_path):
        raise AssertionError("must not be entered")
