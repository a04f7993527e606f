"""A short campaign against every reader, and that the campaign notices what it is there for."""

import ast
import ctypes
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from fuzz.engine import READ, REFUSED, SECONDS, Case, Child, Reader, campaign
from fuzz.mutations import flipped_bits
from fuzz.readers import all_readers, one_of, saved
from hypothesis import strategies as st

from common.console import InputError

ARRAYS = saved(np.savez, a=np.arange(200.0))


def raising(error):
    raise error


def refusing(message):
    return lambda path: raising(InputError(message.format(path=path)))


def compute_for_ever():
    while True:
        pass


def out_of_memory(path):
    try:
        bytearray(1 << 33)
    except MemoryError as error:
        raise InputError(f"{path}: too large") from error


def believing(path):
    """Read what stands in a file, whatever its checksum is."""
    content = path.read_bytes()
    return np.frombuffer(content[200:1000], np.uint8)


READERS = {
    READ: lambda path: path.read_bytes(),
    REFUSED: refusing("{path}: damaged"),
    "ValueError: wrong": lambda path: raising(ValueError("wrong")),
    "KeyboardInterrupt": lambda path: raising(KeyboardInterrupt),
    "exit code -11": lambda path: ctypes.string_at(0),
    "exit code 3": lambda path: os._exit(3),
    "no answer within 0.2 s": lambda path: compute_for_ever(),
    "1.2 s of waiting": lambda path: time.sleep(1000),
    "took more than the memory": out_of_memory,
    "MemoryError": lambda path: bytearray(1 << 33),
    "refused in a bad way": refusing("no name"),
    "in a bad way": refusing("{path}: " + "x" * 5000),
    "ran code: os.system": lambda path: os.system("true"),
    "ran code: compile, exec": lambda path: exec("1"),
    "ran code: pickle.find_class": lambda path: pickle.loads(pickle.dumps(Case)),
    "ran code: open": lambda path: path.with_name("new").write_text(""),
}


@pytest.mark.parametrize("verdict", READERS)
def test_a_verdict_says_what_a_reader_does(verdict):
    reader = Reader("reader", READERS[verdict], ".bin", st.nothing(), [])
    harmless = Reader("harmless", READERS[READ], ".bin", st.nothing(), [])
    with Child(memory_bytes=1 << 30) as child:
        child.register([harmless, reader])
        for _ in range(2):  # the child that died is replaced
            assert child.verdict(harmless, Case(b"content", "so")) == READ
            child.seconds = 0.2 if " s" in verdict else SECONDS
            assert verdict in child.verdict(reader, Case(b"content", "so"))
            child.seconds = SECONDS
            assert child.verdict(harmless, Case(b"content", "so")) == READ


def test_a_campaign_finds_damaged_numbers_that_are_believed():
    reader = Reader("believing", believing, ".npz", one_of(bits=flipped_bits([ARRAYS])), [ARRAYS])
    with pytest.raises(AssertionError, match=r"believing, seed 5: bits.*accepted damaged numbers"):
        campaign([reader], 300, seed=5)


UNRESTRICTED = {
    "npz of arrays": lambda path: np.load(path, allow_pickle=True)["a"],
    "npy": lambda path: np.load(path, allow_pickle=True),
    "legacy checkpoint": lambda path: torch.load(path, weights_only=False),
}


@pytest.mark.parametrize("name", UNRESTRICTED)
def test_a_campaign_finds_fault_with_the_usual_readers(name):
    (reader,) = (r for r in all_readers() if r.name == name)
    with pytest.raises(AssertionError, match=name):
        campaign([reader._replace(read=UNRESTRICTED[name])], 100, seed=0)


def test_no_reader_is_shaken_by_a_few_hundred_cases():
    said = []
    counts = campaign(all_readers(), 480, seed=20_261_123, report=said.append)
    assert counts.total() >= 480
    assert {verdict.split(": ")[1] for verdict in counts} == {READ, REFUSED}
    assert len(said) == len(all_readers())
    for reader in all_readers():
        assert counts[f"{reader.name}: {REFUSED}"] > 10


# What no source may call

UNSAFE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "marshal.load"),
    *("marshal.loads", "shelve.open", "joblib.load", "dill.load", "dill.loads", "yaml.load"),
    *("pandas.read_pickle", "pd.read_pickle", "eval", "exec"),
}


def unsafe_calls(source):
    """Return the calls in a source that can run code of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name in UNSAFE]
        elif isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in UNSAFE:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = node.keywords if called.endswith("load") else []
            allowed = [ast.unparse(k.value) for k in keywords if k.arg == "allow_pickle"]
            found += ["allow_pickle"] if allowed not in ([], ["False"]) else []
    return found


def test_no_source_reads_with_an_unrestricted_unpickler():
    folders = [p for p in REPOSITORY.iterdir() if p.is_dir() and p.name not in (".venv", "tests")]
    sources = [*REPOSITORY.glob("*.py"), *(p for f in folders for p in f.rglob("*.py"))]
    assert REPOSITORY / "common" / "torch_file.py" in sources
    calls = {source: unsafe_calls(source.read_text()) for source in sources}
    assert {source: found for source, found in calls.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "class A(pickle.Unpickler): pass",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "numpy.lib.npyio.load(path, allow_pickle=flag)",
        "torch.load(path, weights_only=True)",
        "read = torch.load",
        "eval('1')",
    ],
)
def test_the_search_for_unrestricted_unpicklers_finds_them(source):
    assert unsafe_calls(source)
    assert not unsafe_calls(
        "np.load(path, allow_pickle=False)\nnp.save(path, x, allow_pickle=True)"
    )


def test_a_campaign_repeats_from_its_seed():
    command = [sys.executable, REPOSITORY / "tests" / "fuzz", "--cases", "40", "--seed", "7"]
    runs = [
        subprocess.run([*command, "--reader", "checkpoint"], capture_output=True, text=True)
        for _ in range(2)
    ]
    for run in runs:
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("seed 7\ncheckpoint: 40 cases, ")
        assert "40 cases passed, 0 readers failed" in run.stdout
    first, second = (run.stdout.splitlines()[1] for run in runs)
    assert first == second
