"""Output that is complete or not there: checked before the work, replaced at its end."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.console import InputError


def check_output(path: Path | str, suffixes: Sequence[str]) -> Path:
    """Return `path` if a file can be meant by it, before any work is done for it.

    Raises:
        InputError: if its ending is none of `suffixes`, or its folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the ending must be {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; create it or choose another")
    return path


@contextlib.contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces `path` once the block has succeeded.

    If the block fails, the temporary file is removed and an earlier `path` stays as it was.

    Args:
        path: the output; its folder is created where it is missing.

    Yields:
        The path to write to, with the same suffix.

    Raises:
        InputError: if `path` is a folder.
        OSError: naming `path`, as on a full or read-only disk.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
    except OSError as error:  # name the output, not the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == name:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Wait until the file is on the disk: renamed before that, a power cut would leave it empty."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
