"""Output that is complete or not there: checked before the work, replaced at its end."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.console import InputError

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves is not removed
    fcntl = None

TEMPORARY_MARK = ".unfinished"


def find_folder(name: Path | str, parents: Iterable[Path], advice: str) -> Path:
    """Return the first of `parents` / `name` that is a folder; an absolute name is the only one.

    Raises:
        InputError: if there is none; the message says where it was looked for.
    """
    candidates = list(dict.fromkeys(parent / name for parent in parents))
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    tried = ", ".join(map(str, candidates))
    raise InputError(f"{name}: no such folder (looked for {tried}); {advice}")


def check_output(path: Path | str, suffixes: Sequence[str]) -> Path:
    """Return `path` if a file can be meant by it, before any work is done for it.

    Raises:
        InputError: if its ending is none of `suffixes`, or its folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the ending must be {' or '.join(suffixes)}")
    _check_no_folder(path)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; create it or choose another")
    return path


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that is an input or another output, also by another name or a link.

    Raises:
        InputError: naming both.
    """
    others = list(inputs)
    for output in outputs:
        for other in others:
            if _is_same_file(output, other):
                raise InputError(f"{output}: is the same file as {other}; choose another name")
        others.append(output)


def _is_same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:  # one of them does not exist yet
        return a.resolve() == b.resolve()


@contextlib.contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces `path` once the block has succeeded.

    If the block fails, the temporary file is removed and an earlier `path` stays as it was. What
    a killed process left of the same output is removed; that of a running one is locked by it.
    The temporary path has the same suffix; its folder is created where it is missing.

    Raises:
        InputError: if `path` is a folder.
        OSError: naming `path`, as on a full or read-only disk.
    """
    path = Path(path)
    _check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked_folder(path.parent):
            _remove_unfinished(path)
            descriptor, name = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.stem}.", suffix=TEMPORARY_MARK + path.suffix
            )
            _lock(descriptor)
    except OSError as error:  # name the output, not the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
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
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file; give the name of a file")


def _remove_unfinished(path: Path) -> None:
    """Remove the temporary files of `path` that no running process holds locked."""
    if fcntl is None:
        return
    pattern = f".{glob.escape(path.stem)}.*{TEMPORARY_MARK}{glob.escape(path.suffix)}"
    for stale in path.parent.glob(pattern):
        with contextlib.suppress(OSError), stale.open("rb+") as file:
            if _lock(file.fileno()):
                stale.unlink()


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Let no other process look for unfinished files until this one's is locked."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed, or its process ends; tell whether that was possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, AttributeError):
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    """Wait until the file is on the disk: renamed before that, a power cut would leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
