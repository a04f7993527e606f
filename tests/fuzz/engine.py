"""Strange files are read in a forked child; what the reader does with one is a verdict.

A file passes if it is read, or refused with one short line that names it. It fails on any other
exception, a crash, too much time, code that was run, or a changed number that a checksum shows.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from common.files.console import InputError

SECONDS = 60
MEMORY_BYTES = 3 << 30
LONGEST_MESSAGE = 1000
READ, REFUSED = "read", "refused"
# What Python announces before it is done; no reader has a reason to do any of it.
FORBIDDEN_EVENTS = {
    *("exec", "pickle.find_class", "os.system", "os.exec", "os.fork", "os.kill", "os.rename"),
    *("os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove", "os.mkdir"),
}


class Reader(NamedTuple):
    """A reader that takes part."""

    name: str  # for the report
    read: Callable[[Path], Any]  # may raise `InputError` and nothing else
    suffix: str  # of its files
    valid: list[bytes]  # files that it must read
    changes: list[Callable[[Random], bytes]]  # each draws a strange file
    is_protected: bool = False  # by checksums, which show every flipped bit


def campaign(reader: Reader, cases: int, seed: int, keep: Path) -> Counter:
    """Read the valid files of a reader and some strange ones; return {READ or REFUSED: how many}.

    A case depends on the seed and its number alone. The first file that fails is written to the
    folder `keep`, and an AssertionError tells its number and the verdict.
    """
    counts: Counter = Counter()
    context = multiprocessing.get_context("fork")
    pipe, other_end = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        arguments = (other_end, reader, Path(folder))
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        other_end.close()
        try:
            for case, content in enumerate(reader.valid):
                verdict = _ask(pipe, process, content, None)
                assert verdict == READ, f"{reader.name}, valid file {case}: {verdict}"
            for case in range(cases):
                content, original = draw(reader, Random(f"{seed} {reader.name} {case}"))
                verdict = _ask(pipe, process, content, original)
                if verdict not in (READ, REFUSED):
                    kept = keep / f"{reader.name.replace(' ', '_')}{reader.suffix}"
                    kept.write_bytes(content)
                    raise AssertionError(f"{reader.name}, case {case}, file {kept}: {verdict}")
                counts[verdict] += 1
        finally:
            process.kill()
            process.join()
    return counts


def draw(reader: Reader, random: Random) -> tuple[bytes, bytes | None]:
    """Return a strange file, and the valid one if only that one's value is acceptable."""
    if reader.is_protected and random.random() < 0.3:
        original = random.choice(reader.valid)
        changed = bytearray(original)
        for _ in range(random.randint(1, 3)):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        return bytes(changed), original
    return random.choice(reader.changes)(random), None


def _ask(pipe: Any, process: Any, content: bytes, original: bytes | None) -> str:
    pipe.send((content, original))
    try:
        return pipe.recv() if pipe.poll(SECONDS) else f"no answer within {SECONDS} s"
    except EOFError:
        process.join()
        return f"ended with exit code {process.exitcode}"


def _serve(pipe: Any, reader: Reader, folder: Path) -> None:
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path, valid_path = (folder / f"{name}{reader.suffix}" for name in ("case", "valid"))
    for content in (*reader.valid, b"damaged"):  # to import what is imported late, which runs code
        path.write_bytes(content)
        attempt(reader.read, path)
    events: list[str] = []
    is_reading = False

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        imports = event == "exec" and arguments[0].co_name == "<module>"  # of a codec
        if is_reading and not imports and (writes or event in FORBIDDEN_EVENTS):
            events.append(f"{event} {arguments}"[:200])

    sys.addaudithook(watch)
    while True:
        content, original = pipe.recv()
        path.write_bytes(content)
        is_reading = True
        verdict, value = attempt(reader.read, path)
        is_reading = False
        if events:
            verdict = f"ran code: {', '.join(events[:5])}"
        elif verdict == READ and original is not None:
            valid_path.write_bytes(original)
            if flat(value) != flat(reader.read(valid_path)):
                verdict = "accepted damaged numbers"
        pipe.send(verdict)


def attempt(read: Callable[[Path], Any], path: Path) -> tuple[str, Any]:
    """Return the verdict about a file, and what was read."""
    try:
        return READ, read(path)
    except InputError as error:
        message = str(error)
        is_short = len(message) - len(str(path)) <= LONGEST_MESSAGE
        is_good = is_short and message.isprintable() and str(path) in message
        return (REFUSED if is_good else f"refused in a bad way: {message[:300]!r}"), None
    except BaseException:
        return traceback.format_exc(limit=-6)[-2000:], None


def flat(value: Any) -> list:
    """Return the parts of nested containers of arrays and tensors, every byte of them."""
    if isinstance(value, dict):
        return [part for item in value.items() for part in flat(list(item))]
    if isinstance(value, list | tuple):
        return [len(value), *(part for item in value for part in flat(item))]
    if isinstance(value, torch.Tensor):
        value = value.contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value.dtype, value.shape, value.tobytes()]
    return [repr(value)]
