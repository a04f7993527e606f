"""The CDF reader: cdflib, which is another implementation, says what is in a file."""

import contextlib
import itertools
import struct
import tracemalloc

import cdflib
import numpy as np
import pytest
from cdflib.cdfwrite import CDF
from raw_trees import CDF_DOUBLE, CDF_REAL4, world_poses, write_cdf

from data.prepare_data_h36m import read_variable

POSE = world_poses(3).reshape(3, 96)


def write(path, values, spec=(), **variable):
    description = {
        "Variable": "Pose",
        "Data_Type": CDF_REAL4,
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(values.shape[1:]),
        "Compress": 0,
    }
    cdf = CDF(path, cdf_spec={"Majority": "row_major", "Encoding": 6} | dict(spec))
    cdf.write_var(description | {"Variable": "Other"}, var_data=values * 2)
    cdf.write_var(description | variable, var_data=values)
    cdf.close()
    return path


def assert_agrees(path):
    expected = np.asarray(cdflib.CDF(path).varget("Pose"))
    read = read_variable(path, "Pose")
    assert read.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, expected)
    return read


@pytest.mark.parametrize("majority", ["row_major", "column_major"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (3, 2, 2, 3), (2000, 7)])
@pytest.mark.parametrize("compress", [0, 6])
def test_every_shape_is_read(tmp_path, shape, majority, compress):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = write(tmp_path / "a.cdf", values, {"Majority": majority}, Compress=compress)
    read = assert_agrees(path)
    if majority == "row_major":  # cdflib writes columns as they lie, and reads them as columns
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("encoding", [1, 4, 6])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(1, "i1"), (2, "i2"), (4, "i4"), (8, "i8"), (12, "u2"), (22, "f8"), (45, "f8")],
)
def test_every_type_in_both_byte_orders_is_read(tmp_path, code, dtype, encoding):
    values = np.arange(6, dtype=dtype).reshape(2, 3)
    assert_agrees(write(tmp_path / "a.cdf", values, {"Encoding": encoding}, Data_Type=code))


@pytest.mark.parametrize(
    ("spec", "variable"),
    [
        ({"Compressed": 6}, {}),
        ({"Checksum": True}, {}),
        ({}, {"Rec_Vary": False, "Dim_Sizes": [3, 96]}),
        ({"rDim_sizes": [96]}, {"Var_Type": "rVariable", "Dim_Vary": [True]}),
    ],
)
def test_compressed_files_checksums_and_other_variables_are_read(tmp_path, spec, variable):
    np.testing.assert_array_equal(
        assert_agrees(write(tmp_path / "a.cdf", POSE, spec, **variable)), POSE
    )


def in_version_2_6(values):
    """Return a CDF file of version 2.6, whose places are 4 bytes and names 64."""
    size = struct.Struct(">ii")  # of a record, and its kind
    cdr, gdr, vdr, vxr, vvr = 8, 308, 500, 800, 900
    records = {
        cdr: (1, struct.pack(">9i", gdr, 2, 7, 6, 3, 0, 0, 0, 0) + bytes(256)),
        gdr: (2, struct.pack(">4i5ii3i", 0, vdr, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)),
        vdr: (8, struct.pack(">14i64s4i", 0, 44, len(values) - 1, vxr, vxr, 1, 0, 0, 0, 0, 1, 0, 0,
                             0, b"Pose", 1, values.shape[1], -1, 0)),
        vxr: (6, struct.pack(">6i", 0, 1, 1, 0, len(values) - 1, vvr)),
        vvr: (7, values.astype("<f4").tobytes()),
    }  # fmt: skip
    content = bytearray(vvr + size.size + values.size * 4)
    content[:8] = bytes.fromhex("cdf260020000ffff")
    for place, (kind, body) in records.items():
        content[place : place + 8 + len(body)] = size.pack(8 + len(body), kind) + body
    return bytes(content)


def test_version_2_6_is_read(tmp_path):
    path = tmp_path / "a.cdf"
    path.write_bytes(in_version_2_6(POSE))
    np.testing.assert_array_equal(assert_agrees(path), POSE)


def test_a_variable_that_is_missing_lists_the_others(tmp_path):
    with pytest.raises(KeyError, match=r"\['Other', 'Pose'\]"):
        read_variable(write(tmp_path / "a.cdf", POSE), "pose2")


def variants(tmp_path):
    write_cdf(tmp_path / "dataset.cdf", POSE)  # in the dataset's own form
    write_cdf(
        tmp_path / "double.cdf", POSE.astype(np.float64), data_type=CDF_DOUBLE, by_record=True
    )
    write(tmp_path / "whole.cdf", POSE, {"Compressed": 6})
    write(tmp_path / "checksum.cdf", POSE, {"Checksum": True})
    (tmp_path / "2.6.cdf").write_bytes(in_version_2_6(POSE))
    return sorted(tmp_path.glob("*.cdf"))


def test_a_damaged_byte_costs_neither_memory_nor_a_traceback(tmp_path):
    """With cdflib, one such byte took 12 s and 3.8 GB before the error."""
    random = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for original in variants(tmp_path):
        content = original.read_bytes()
        header = range(8, min(len(content), 1300), 3)
        tracemalloc.start()
        for position, value in itertools.product(header, (0x7F, 0xFF, random.integers(256))):
            damaged = bytearray(content)
            damaged[position] = value
            path.write_bytes(damaged)
            with contextlib.suppress(ValueError, KeyError):
                read_variable(path, "Pose")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["dataset", "whole", "checksum"])
def test_damaged_numbers_are_found_by_their_checksum(tmp_path, name):
    variants(tmp_path)
    content = (tmp_path / f"{name}.cdf").read_bytes()
    middle = (
        content.index(POSE.tobytes()[:64])
        if name == "checksum"
        else content.index(b"\x1f\x8b") + 40
    )
    damaged = bytearray(content)
    damaged[middle] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checksum|decompress|compressed here|check"):
        read_variable(tmp_path / "damaged", "Pose")


def test_a_circle_of_records_ends(tmp_path):
    content = bytearray(in_version_2_6(POSE))
    for place, target in ((508, 500), (808, 800), (828, 800)):
        circular = content.copy()
        circular[place : place + 4] = struct.pack(">i", target)
        (tmp_path / "a.cdf").write_bytes(circular)
        with pytest.raises(ValueError, match="circular"):
            read_variable(tmp_path / "a.cdf", "Pose")
