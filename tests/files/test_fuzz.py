"""Strange files against every reader of foreign files; `make fuzz` tries thousands.

A file passes if it is read, or refused with one short line that names it. It fails on any other
exception, a crash, code that was run, or a changed number that a checksum shows. A case depends on
the seed, the reader and its number alone.
"""

import os
import sys
from random import Random

import numpy as np
import pytest
import torch
from strange_files import READERS

from common.files.console import InputError

CASES, SEED = int(os.environ.get("CASES", 60)), os.environ.get("SEED", "20261123")
LONGEST_MESSAGE = 1000
# What Python announces before it is done; no reader has a reason to do any of it.
FORBIDDEN_EVENTS = {
    *("exec", "pickle.find_class", "os.system", "os.exec", "os.fork", "os.kill", "os.rename"),
    *("os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.remove", "os.mkdir"),
}
reading = []  # the file that is read, and what was done meanwhile


def watch(event, arguments):
    if reading:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        imports = event == "exec" and arguments[0].co_name == "<module>"  # of a codec
        if not imports and (writes or event in FORBIDDEN_EVENTS):
            reading.append(f"{event} {arguments}"[:200])


sys.addaudithook(watch)


def attempt(reader, path):
    """Read a file; return None if it is refused as it should be, else what was read, flat."""
    reading[:] = [path]
    try:
        value = reader.read(path)
    except InputError as error:
        value, message = None, str(error)
        is_short = len(message) - len(str(path)) <= LONGEST_MESSAGE
        assert is_short and message.isprintable() and str(path) in message, message[:300]
    finally:
        _, *done = reading
        reading.clear()
    assert not done, f"ran code: {done[:5]}"
    return None if value is None else flat(value)


def flat(value):
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


def flipped(random, content):
    content = bytearray(content)
    for _ in range(random.randint(1, 3)):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_no_reader_is_shaken_by_strange_files(tmp_path, reader):
    path, refused = tmp_path / f"case{reader.suffix}", 0
    expected = {}
    for content in reader.valid:
        path.write_bytes(content)
        reader.read(path)  # imports what is imported late, which runs code
        expected[content] = attempt(reader, path)
    for case in range(CASES):
        print(f"seed {SEED}, case {case}")
        random = Random(f"{SEED} {reader.name} {case}")
        original = None
        if reader.is_protected and random.random() < 0.3:
            original = random.choice(reader.valid)
        content = flipped(random, original) if original else random.choice(reader.changes)(random)
        path.write_bytes(content)
        found = attempt(reader, path)
        refused += found is None
        assert found is None or not original or found == expected[original], "damaged numbers"
    assert refused > CASES // 6
