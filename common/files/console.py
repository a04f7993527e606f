"""What every script shares: flags, the one-line error, the progress bar, the data folder."""

import argparse
import contextlib
import errno
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_DIR = REPOSITORY / "data"
CHECKPOINT_DIR = REPOSITORY / "checkpoint"

MAX_SHOWN_NAME = 80
LARGEST_INTEGER = 2**32 - 1  # of a flag: a seed that every library takes

EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


class InputError(Exception):
    """Bad usage or bad input; the message is one line that names the file and what to do."""

    def __init__(self, message: str) -> None:  # a damaged name may hold what cannot be printed
        super().__init__("".join(c if c.isprintable() else "?" for c in message))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None, False, and those that the help text already gives."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        silent = silent or "(default:" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, `error: …`, with exit status 2."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _HelpFormatter)
        # Abbreviated flags would silently change meaning when a flag is added.
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the message as one line on standard error and exit with status 2."""
        fail(f"{message} (see {Path(self.prog).name} --help)")


def split_names(text: str) -> list[str]:
    """Return the names in "a,b, c", without empty ones."""
    return [name.strip() for name in text.split(",") if name.strip()]


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict = 1, 5, 5, 5
_short.maxstring = _short.maxother = 60


def shown(value: Any) -> str:
    """Return how a value from a file is written in a message: in part of a line, however large."""
    return " ".join(_short.repr(value).split())


def listing(names: Iterable[Any]) -> str:
    """Return "a, b, c, d, e and 7 more"."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(str(name)[:MAX_SHOWN_NAME] for name in names[:5]) + more


def fail(message: str) -> NoReturn:
    """Print `error: message` as one line on standard error and exit with status 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT)


def warn(message: str) -> None:
    """Print `warning: message` as one line on standard error."""
    print("warning: " + " ".join(message.split()), file=sys.stderr)


class _PatientStream:
    """A text stream that loses what cannot be written: its reader is gone, or the disk is full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream or Path(os.devnull).open("w")  # noqa: SIM115

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def never_fail_to_print() -> None:
    """Let output lose what cannot be written: a training is worth more than what it prints."""
    sys.stdout, sys.stderr = _PatientStream(sys.stdout), _PatientStream(sys.stderr)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; bad input becomes one line and exit status 2.

    After SIGTERM, as after Ctrl-C, temporary files are removed and other processes are ended.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the locale cannot write, such as "…", is escaped
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except InputError as error:
        fail(str(error))
    except OSError as error:
        fail(describe_os_error(error))
    except MemoryError as error:
        fail(f"out of memory: {error}. Use a smaller batch or fewer files at once")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        # All is written and cleaned up: a signal while Python shuts down just ends the process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def _terminate(*_: Any) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def leave_signals_to_parent() -> None:
    """Make a worker process ignore Ctrl-C, which its parent handles, and end at once on SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True)
class Check:
    """What a value may be, wherever it comes from: a flag, a checkpoint or a log."""

    type: type  # bool, int, float or str
    holds: Callable[[Any], bool]  # tells whether a value of this type is admitted
    what: str  # what it is, in words: "a positive whole number"

    def __call__(self, text: str) -> Any:
        """Return the value of a flag's text, as a type of argparse."""
        try:
            value = self.type(text)
        except ValueError:
            value = None
        if value is None or not self.holds(value):
            raise argparse.ArgumentTypeError(f"'{text[:MAX_SHOWN_NAME]}' is not {self.what}")
        if not self.admits(value):
            raise argparse.ArgumentTypeError(f"{text[:MAX_SHOWN_NAME]} is too large a number")
        return value

    def admits(self, value: Any) -> bool:
        """Tell whether a value that was read from a file is of this kind; an int may be a float."""
        if type(value) is int and abs(value) > LARGEST_INTEGER:
            return False
        is_typed = type(value) is self.type or (self.type is float and type(value) is int)
        return is_typed and self.holds(value)

    def check(self, value: Any, where: str) -> Any:
        """Return a value from a file; InputError, beginning with `where`, if it is another kind."""
        if not self.admits(value):
            raise InputError(f"{where} is {shown(value)}, not {self.what}")
        return value


positive_int = Check(int, lambda n: n > 0, "a positive whole number")
non_negative_int = Check(int, lambda n: n >= 0, "a whole number from 0")
positive_float = Check(float, lambda x: 0 < x < float("inf"), "a positive number")
non_negative_float = Check(float, lambda x: 0 <= x < float("inf"), "a number from 0")
rate = Check(float, lambda x: 0 <= x < 1, "a rate from 0 to below 1")
yes_or_no = Check(bool, lambda _: True, "True or False")


def describe_os_error(error: OSError) -> str:
    """Return one sentence that names the file and the reason."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space and run again",
        errno.EROFS: "the file system is read-only; choose another folder",
    }
    what = advice.get(error.errno or 0, error.strerror or str(error))
    where = error.filename2 or error.filename
    return f"{where}: {what}" if where else what


def progress(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar on standard error, silent where that is no terminal or tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:  # training and evaluation need NumPy and PyTorch alone
        return _NoBar(iterable)
    return tqdm(iterable, disable=not sys.stderr.isatty(), dynamic_ncols=True, **options)


class _NoBar(contextlib.nullcontext):
    """What this project uses of a tqdm bar, showing nothing."""

    n = 0

    def __init__(self, iterable: Iterable | None) -> None:
        super().__init__(self)
        self._iterable = iterable

    def __iter__(self) -> Any:
        return iter(self._iterable)

    def update(self, _: Any) -> None:
        pass

    set_postfix_str = update
