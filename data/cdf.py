"""Reading one variable of a CDF file, NASA's Common Data Format, within the bounds of the file.

Version 2.6 and later, plain or compressed with gzip, as a whole or by variable. The place and the
size of every record are checked before they are believed, so that a damaged byte costs neither
time nor memory. Records are named as in NASA's "CDF Internal Format Description".
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

VERSION_3, VERSION_2_6, PLAIN, COMPRESSED = map(
    bytes.fromhex, ("cdf30001", "cdf26002", "0000ffff", "cccc0001")
)
CDR, GDR, RVDR, VXR, VVR, ZVDR, CCR, CVVR = 1, 2, 3, 6, 7, 8, 10, 13
ROW_MAJOR, SINGLE_FILE, MD5, VARIES_BY_RECORD = 1, 2, 4 + 8, 1
BIG_ENDIAN, LITTLE_ENDIAN = (1, 2, 5, 7, 9, 11, 12, 18), (4, 6, 13, 16, 17)  # encodings
TYPES = {1: "i1", 2: "i2", 4: "i4", 8: "i8", 11: "u1", 12: "u2", 14: "u4", 21: "f4", 22: "f8"}
TYPES |= {41: "i1", 44: "f4", 45: "f8"}
MAX_BYTES = 500_000 * 96 * 4  # nearly three hours of poses at 50 Hz


def read_variable(path: Path, name: str) -> np.ndarray:
    """Read a variable of numbers, (records, *dimensions); without records if it does not vary.

    Raises:
        KeyError: if there is no such variable; its argument lists those that there are.
        ValueError: if the file is damaged, or of a form that is not read.
    """
    try:
        return _File(path.read_bytes()).read(name)
    except (struct.error, zlib.error) as error:
        raise ValueError(str(error)) from error


class _Record:
    """A record behind its size and kind, unpacked from its beginning to its end."""

    def __init__(self, content: bytes, offset_code: str) -> None:
        self.content = content
        self.offset_code = offset_code

    def take(self, form: str) -> tuple:
        """Unpack the next integers (i), places in the file (o) and names (256s and so on)."""
        form = ">" + form.replace("o", self.offset_code)
        values = struct.unpack_from(form, self.content)
        self.content = self.content[struct.calcsize(form) :]
        return values


class _Variable(NamedTuple):
    """What a variable's descriptor says; `records` is None where it does not vary by record."""

    dtype: np.dtype
    records: int | None
    dims: tuple[int, ...]
    index: int


class _File:
    """The records of one file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        if content[:4] not in (VERSION_3, VERSION_2_6):
            raise ValueError("not a CDF file of version 2.6 or later")
        is_new = content[:4] == VERSION_3
        self.offset_code, self.name_code = ("q", "256s") if is_new else ("i", "64s")
        if content[4:8] == COMPRESSED:
            record = self._record(8, CCR)
            _, size, _ = record.take("ooi")
            self.content = content[:4] + PLAIN + _inflate(record.content, size)
        elif content[4:8] != PLAIN:
            raise ValueError("neither a plain nor a compressed CDF file")
        header = self._record(8, CDR)
        self.descriptor, _, _, encoding, self.flags = header.take("oiiii")
        if encoding not in BIG_ENDIAN + LITTLE_ENDIAN or not self.flags & SINGLE_FILE:
            raise ValueError(f"its encoding {encoding} is not read, or it lies in several files")
        self.byte_order = ">" if encoding in BIG_ENDIAN else "<"
        has_checksum = self.flags & MD5 == MD5 and content[4:8] == PLAIN
        if has_checksum and hashlib.md5(content[:-16]).digest() != content[-16:]:
            raise ValueError("wrong checksum")

    def read(self, name: str) -> np.ndarray:
        variables = dict(self._variables())
        if name not in variables:
            raise KeyError(sorted(variables))
        variable = self._variable(variables[name])
        dims = variable.dims if self.flags & ROW_MAJOR else variable.dims[::-1]
        values = np.frombuffer(self._values(variable), variable.dtype).reshape(-1, *dims)
        if not self.flags & ROW_MAJOR:
            values = values.transpose(0, *range(len(dims), 0, -1))
        values = values.astype(variable.dtype.newbyteorder("="))
        return values[0] if variable.records is None else values

    def _record(self, position: int, *kinds: int) -> _Record:
        size, kind = self._beginning(position)
        if kind not in kinds:
            raise ValueError(f"the record at byte {position} is of kind {kind}, not {kinds}")
        if position + size > len(self.content):
            raise ValueError(f"the record at byte {position} goes beyond the end of the file")
        begin = struct.calcsize(f">{self.offset_code}i")
        return _Record(self.content[position + begin : position + size], self.offset_code)

    def _beginning(self, position: int) -> tuple[int, int]:
        """Return a record's size and kind."""
        if position < 8:
            raise ValueError(f"a record at byte {position}")
        return struct.unpack_from(f">{self.offset_code}i", self.content, position)

    def _variables(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the place of each variable's descriptor."""
        seen = set()
        for position in self._record(self.descriptor, GDR).take("oo"):
            while position > 0:
                if position in seen:
                    raise ValueError("its list of variables is circular")
                seen.add(position)
                record = self._record(position, RVDR, ZVDR)
                next_position, *_ = record.take("oiiooiiiiiiioi")
                (name,) = record.take(self.name_code)
                yield name.rstrip(b"\0 ").decode("latin1"), position
                position = next_position

    def _variable(self, position: int) -> _Variable:
        record = self._record(position, RVDR, ZVDR)
        _, code, last, index, _, flags, sparse, *_, elements, _, _, _ = record.take(
            "oiiooiiiiiiioi"
        )
        record.take(self.name_code)
        if self._beginning(position)[1] == ZVDR:
            (num_dims,) = record.take("i")
            sizes = record.take("i" * _checked_dims(num_dims))
        else:
            descriptor = self._record(self.descriptor, GDR)
            *_, num_dims, _, _, _, _, _ = descriptor.take("ooooiiiiioiii")
            sizes = descriptor.take("i" * _checked_dims(num_dims))
        varies = record.take("i" * num_dims)
        dims = tuple(size for size, varies_by_it in zip(sizes, varies) if varies_by_it)
        records = last + 1 if flags & VARIES_BY_RECORD else None
        if code not in TYPES or elements != 1 or sparse:
            raise ValueError("its values are no numbers, or some of its records are left out")
        dtype = np.dtype(self.byte_order + TYPES[code])
        size = dtype.itemsize * math.prod(dims) * (1 if records is None else records)
        if min(dims, default=1) < 1 or last < 0 or size > MAX_BYTES:
            raise ValueError(f"{last + 1} records of shape {dims}")
        return _Variable(dtype, records, dims, index)

    def _values(self, variable: _Variable) -> bytearray:
        """Return the values of all records, joined from their blocks."""
        record_size = variable.dtype.itemsize * math.prod(variable.dims)
        expected = record_size * (1 if variable.records is None else variable.records)
        values = bytearray()
        for first, last, position in self._blocks(variable.index):
            if len(values) >= expected:  # room for records that were never written
                break
            if first * record_size != len(values) or not first <= last < 1 << 31:
                raise ValueError("its records do not follow one another")
            block_size = (last + 1 - first) * record_size
            record = self._record(position, VVR, CVVR)
            if self._beginning(position)[1] == CVVR:
                _, size = record.take("io")
                values += _inflate(record.content[: max(size, 0)], block_size)
            else:
                values += record.content[:block_size]
        if len(values) < expected:
            raise ValueError(f"its values are truncated: {len(values)} of {expected} bytes")
        return values[:expected]

    def _blocks(self, index: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first record, last record, place) of each block, from a tree of indices."""
        pending, seen = [(0, 0, index)], set()
        while pending:
            first, last, position = pending.pop()
            if self._beginning(position)[1] != VXR:
                yield first, last, position
                continue
            if position in seen:
                raise ValueError("its index of records is circular")
            seen.add(position)
            record = self._record(position, VXR)
            next_position, size, used = record.take("oii")
            if not 0 <= used <= size <= len(record.content):
                raise ValueError("its index of records is damaged")
            columns = [record.take(code * size)[:used] for code in "iio"]
            pending += [(0, 0, next_position)] if next_position > 0 else []
            pending += reversed(list(zip(*columns)))


def _checked_dims(number: int) -> int:
    if not 0 <= number <= 10:  # of the format
        raise ValueError(f"a variable of {number} dimensions")
    return number


def _inflate(content: bytes, size: int) -> bytes:
    """Decompress gzip's format, whose checksum is compared, to exactly `size` bytes."""
    if not 0 <= size <= MAX_BYTES:
        raise ValueError(f"{size} bytes are announced")
    inflater = zlib.decompressobj(wbits=31)
    inflated = inflater.decompress(content, size + 1)
    if len(inflated) != size or not inflater.eof:
        raise ValueError(f"{len(inflated)} of {size} bytes are compressed here")
    return inflated
