"""Foreign files: zip archives, checked and bounded, and one error for everything that fails."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.console import InputError
from common.stand_ins import UnsafePickleError

# Poses deflate to a third; a member that inflates to more than these is meant to fill the memory.
MAX_DEFLATION = 20
ALWAYS_ALLOWED_BYTES = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_IS_ENCRYPTED, _SIZES_FOLLOW, _IS_UTF8 = 1, 1 << 3, 1 << 11
_IN_ZIP64_FIELD = 0xFFFFFFFF
_LARGEST_DESCRIPTOR = 24  # bytes behind a member whose sizes follow it
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError),
    *(RuntimeError, LookupError, OverflowError),
)


@contextlib.contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a missing, foreign or damaged file gives into an `InputError`.

    `expected` is what it should be, for the message, such as "file of arrays".
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        yield
    except UnsafePickleError as error:
        raise InputError(
            f"{path}: refused, because it holds {error}, which could run code; "
            f"expected a {expected}"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: damaged, or too large for this machine's memory") from error
    except ValueError as error:
        raise InputError(
            f"{path}: damaged, truncated or no {expected} ({str(error)[:200]}); "
            "download or create it again"
        ) from error


def read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read every member of a zip archive, stored or deflated.

    Checksums are compared, and the archive's directory is compared with the members' own headers,
    so that a damaged directory can neither exchange nor hide members.

    Yields:
        (name, bytes), in the order of the directory.

    Raises:
        ValueError: if the archive is damaged, encrypted, or inflates beyond the bounds above.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            with path.open("rb") as file:
                _check_directory(file, members, archive.start_dir)
            for member in members:
                with archive.open(member) as file:  # which compares the checksum at the end
                    content = file.read(member.file_size + 1)
                if len(content) != member.file_size:
                    raise ValueError(f"the member {member.filename[:80]} is truncated")
                yield member.filename, content
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error
    except OSError as error:
        if error.filename:
            raise
        raise ValueError(f"its offsets lead nowhere: {error}") from error


def _check_directory(file: BinaryIO, members: list[zipfile.ZipInfo], directory: int) -> None:
    """Compare the directory, which starts at byte `directory`, with the members' own headers."""
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        _check_member(member)
        file.seek(member.header_offset)
        header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        signature, _, flags, method, *_, crc, packed, size, name_length, extra = header
        name = file.read(name_length).decode("utf-8" if flags & _IS_UTF8 else "cp437")
        told = [(crc, member.CRC), (packed, member.compress_size), (size, member.file_size)]
        if flags & _SIZES_FOLLOW:  # behind the member, as they were not known when it was begun
            told = [(here, there) for here, there in told if here]
        if (
            (signature, flags, method) != (b"PK\3\4", member.flag_bits, member.compress_type)
            or name != member.orig_filename
            or any(here not in (there, _IN_ZIP64_FIELD) for here, there in told)
            or not end <= member.header_offset <= end + _LARGEST_DESCRIPTOR
        ):
            raise ValueError(f"the directory contradicts the member {member.filename[:80]}")
        end = file.tell() + extra + member.compress_size
    if not end <= directory <= end + _LARGEST_DESCRIPTOR:
        raise ValueError("the directory leaves members out, or the last member is truncated")


def _check_member(member: zipfile.ZipInfo) -> None:
    name, packed, size = member.filename[:80], member.compress_size, member.file_size
    if member.flag_bits & _IS_ENCRYPTED:
        raise ValueError(f"the member {name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"the member {name} is neither stored nor deflated; save it again")
    if member.compress_type == zipfile.ZIP_STORED and packed != size:
        raise ValueError(f"the member {name} is stored in another size than its own")
    if size > max(ALWAYS_ALLOWED_BYTES, MAX_DEFLATION * packed):
        raise ValueError(f"the member {name} would inflate from {packed:,} to {size:,} bytes")
