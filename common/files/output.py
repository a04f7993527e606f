"""Output that is complete or not there: checked before the work, replaced at its end."""

import contextlib
import glob
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.files.console import InputError

TEMPORARY_MARK = ".unfinished"
SECONDS_PER_DAY = 24 * 60 * 60


def find_folder(name: Path | str, parents: Iterable[Path], advice: str) -> Path:
    """Return the first of `parents` / `name` that is a folder; an absolute name is the only one.

    Raises InputError if there is none; the message says where it was looked for.
    """
    candidates = list(dict.fromkeys(parent / name for parent in parents))
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    tried = ", ".join(map(str, candidates))
    raise InputError(f"{name}: no such folder (looked for {tried}); {advice}")


def check_output(path: Path | str, suffixes: Sequence[str]) -> Path:
    """Return `path` if a file can be meant by it, before any work is done for it.

    Raises InputError if its ending is none of `suffixes`, or its folder is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the ending must be {' or '.join(suffixes)}")
    _check_no_folder(path)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; create it or choose another")
    return path


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that is an input or another output, also by another name or a link."""
    others = list(inputs)
    for output in outputs:
        for other in others:
            try:
                same = output.samefile(other)
            except OSError:  # one of them does not exist yet
                same = output.resolve() == other.resolve()
            if same:
                raise InputError(f"{output}: is the same file as {other}; choose another name")
        others.append(output)


@contextlib.contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces `path` once the block has succeeded.

    If the block fails, the temporary file is removed and an earlier `path` stays as it was. What
    a killed process left of the same output is removed after a day. The temporary path has the
    same suffix; its folder is created where it is missing.

    Raises InputError if `path` is a folder, OSError naming `path`, as on a full or read-only disk.
    """
    path = Path(path)
    _check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{glob.escape(path.stem)}.*{TEMPORARY_MARK}{glob.escape(path.suffix)}"
    for left in path.parent.glob(name):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > SECONDS_PER_DAY:
                left.unlink()
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{TEMPORARY_MARK}{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # renamed before that, a power cut would leave it empty
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file; give the name of a file")
