"""Cases are read in a forked child with bounds on time and memory; what a case does is a verdict.

A case passes if its file is read, or refused with one short line that names it. It fails on any
other exception, a signal, too much time or memory, code that was run, a changed number that a
checksum could have shown, or a message that is long, has two lines or does not name the file.
"""

import codecs
import contextlib
import faulthandler
import hashlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import torch
from hypothesis.strategies import SearchStrategy

from common.console import InputError

SECONDS = 20  # of computing, for a case
PATIENCE = 6  # times as long by the clock, as the machine may be busy
MEMORY_BYTES = 2 << 30
LONGEST_MESSAGE = 1000
READ, REFUSED = "read", "refused"
# What Python announces before it is done; no reader has a reason to do any of it.
FORBIDDEN_EVENTS = frozenset(
    (
        *("exec", "compile", "pickle.find_class", "os.system", "os.exec", "os.fork", "os.kill"),
        *("os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove"),
        *("os.rename", "os.mkdir", "os.chmod", "shutil.rmtree", "ctypes.dlopen"),
    )
)


class Case(NamedTuple):
    """A file to be read.

    Attributes:
        content: its bytes.
        how: how it was made, for the report.
        original: a valid file's bytes, where a checksum tells that only its value is acceptable.
    """

    content: bytes
    how: str
    original: bytes | None = None


class Reader(NamedTuple):
    """A reader that takes part.

    Attributes:
        name: for the report.
        read: reads a path, and raises `InputError` and nothing else.
        suffix: of the files that it reads.
        cases: draws cases.
        valid: files that it must read, which are tried first.
    """

    name: str
    read: Callable[[Path], Any]
    suffix: str
    cases: SearchStrategy[Case]
    valid: list[bytes]


class Child:
    """A forked process that reads cases, and is replaced when it dies or hangs."""

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self.seconds, self.memory_bytes = seconds, memory_bytes
        self._process = None

    def __enter__(self) -> "Child":
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz")
        return self

    def __exit__(self, *_: Any) -> None:
        self._end()
        self._folder.cleanup()

    def verdict(self, reader: Reader, case: Case) -> str:
        """Read a case; return READ, REFUSED, or what went wrong."""
        path = Path(self._folder.name) / f"case{reader.suffix}"
        path.write_bytes(case.content)
        original = path.with_stem("original")
        if case.original is not None:
            original.write_bytes(case.original)
        if self._process is None:
            self._start()
        original = original if case.original is not None else None
        self._pipe.send((path, original, reader.name, self.seconds))
        late = f"no answer within {self.seconds} s"
        try:
            if self._pipe.poll(PATIENCE * self.seconds):
                return self._pipe.recv()
            verdict = f"{late} of computing or {PATIENCE * self.seconds:g} s of waiting"
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            verdict = late if code == -signal.SIGPROF else f"ended with exit code {code}"
        self._end()
        return verdict

    def register(self, readers: list[Reader]) -> None:
        """Tell which readers there are, before the first case."""
        self._readers = {reader.name: reader for reader in readers}

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(pipe, self._readers, self.memory_bytes), daemon=True
        )
        self._process.start()
        pipe.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Any, readers: dict[str, Reader], memory_bytes: int) -> None:
    faulthandler.disable()
    torch.set_num_threads(1)
    _import_what_is_imported_late(readers.values())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory = Path("/proc/self/statm")  # of Linux; elsewhere a case may take what there is
    if memory.exists():
        pages = int(memory.read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events: list[str] = []
    is_reading = False

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if is_reading and (writes or event in FORBIDDEN_EVENTS):
            events.append(event)

    sys.addaudithook(watch)
    while True:
        try:
            path, original, name, seconds = pipe.recv()
        except EOFError:
            os._exit(0)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process by SIGPROF
        events.clear()
        is_reading = True
        verdict, value = _attempt(readers[name].read, path)
        is_reading = False
        if events and verdict in (READ, REFUSED):
            verdict = f"ran code: {', '.join(events[:5])}"
        elif verdict == READ and original is not None:
            expected = digest(readers[name].read(original))
            verdict = READ if digest(value) == expected else "accepted damaged numbers"
        del value
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(verdict)


def _import_what_is_imported_late(readers: Iterable[Reader]) -> None:
    """Use the readers and codecs once: an import executes code, which would be reported."""
    codecs_used = ("cp437", "utf-8", "latin1", "raw-unicode-escape", "unicode-escape", "ascii")
    for codec in (
        *codecs_used,
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-le",
        "utf-32-be",
    ):
        codecs.lookup(codec)
    with tempfile.TemporaryDirectory() as folder:
        for reader in readers:
            for content in reader.valid and (*reader.valid, b"damaged"):
                path = Path(folder) / f"a{reader.suffix}"
                path.write_bytes(content)
                with contextlib.suppress(Exception):
                    reader.read(path)


def _attempt(read: Callable[[Path], Any], path: Path) -> tuple[str, Any]:
    try:
        return READ, read(path)
    except InputError as error:
        message, cause = str(error), error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return f"took more than the memory: {message[:200]}", None
            cause = cause.__cause__
        is_short = len(message) - len(str(path)) <= LONGEST_MESSAGE
        if not is_short or not message.isprintable() or str(path) not in message:
            return f"refused in a bad way: {message[:300]!r}", None
        return REFUSED, None
    except BaseException:
        return traceback.format_exc(limit=-6)[-2000:], None


def digest(value: Any) -> str:
    """Return a fingerprint of nested containers of arrays and tensors, every byte of them."""
    hasher = hashlib.sha256()
    pending = [value]
    while pending:
        value = pending.pop()
        hasher.update(type(value).__name__.encode())
        if isinstance(value, torch.Tensor):
            hasher.update(f"{value.dtype} {tuple(value.shape)}".encode())
            hasher.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            hasher.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, dict):
            pending.extend(part for item in value.items() for part in item)
        elif isinstance(value, list | tuple):
            hasher.update(str(len(value)).encode())
            pending.extend(value)
        else:
            hasher.update(repr(value).encode())
    return hasher.hexdigest()


def campaign(
    readers: list[Reader],
    cases: int,
    seed: int,
    keep: Path | None = None,
    report: Callable[[str], None] = print,
) -> Counter:
    """Run the same number of cases on every reader.

    Args:
        readers: which readers.
        cases: how many cases in all.
        seed: of the drawing.
        keep: folder for the smallest file that fails; None to keep none.
        report: is given one line for each reader.

    Returns:
        {"<reader>: <verdict>": how many}.

    Raises:
        AssertionError: if a case fails; the message says how it was made, and its verdict.
    """
    counts: Counter = Counter()
    with Child() as child:
        child.register(readers)
        for reader in readers:
            for content in reader.valid:
                verdict = child.verdict(reader, Case(content, "valid"))
                assert verdict == READ, f"{reader.name}: a valid file: {verdict}"
            per_reader = -(-cases // len(readers))
            _run_reader(reader, child, per_reader, seed, keep, counts)
            read, refused = (counts[f"{reader.name}: {verdict}"] for verdict in (READ, REFUSED))
            report(f"{reader.name}: {read + refused} cases, {read} read, {refused} refused")
    return counts


def _run_reader(
    reader: Reader, child: Child, cases: int, seed: int, keep: Path | None, counts: Counter
) -> None:
    failures: list[str] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(reader.cases)
    def run(case: Case) -> None:
        verdict = child.verdict(reader, case)
        counts[f"{reader.name}: {verdict}"] += 1
        if verdict in (READ, REFUSED):
            return
        where = ""
        if keep is not None:
            kept = keep / f"{reader.name.replace(' ', '_')}{reader.suffix}"
            kept.write_bytes(case.content)
            where = f" (kept as {kept})"
        failures.append(
            f"{reader.name}, seed {seed}: {case.how}, {len(case.content)} bytes{where}: {verdict}"
        )
        raise AssertionError(failures[-1])

    try:
        run()
    except (AssertionError, hypothesis.errors.Flaky) as error:
        raise AssertionError(failures[-1] if failures else str(error)) from None
