"""Outputs: whole or not there, never an input; and what a console of another locale shows."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from raw_trees import call

from common.console import (
    ArgumentParser,
    InputError,
    listing,
    non_negative_int,
    positive_int,
    shown,
)
from common.files import atomic_output, check_distinct

# Writes half of an output, says so, and waits to be killed.
HALF = """
import sys, time
from common.files import atomic_output
with atomic_output(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start_writing():
    """Start a process that has half written an output."""
    processes = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HALF, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout.readline() == b"written\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def write(path, content=b"new"):
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, start_writing):
    path = tmp_path / "a.npz"
    others = [".a.original.npz", ".a.npz", ".ab.12345678.unfinished.npz", "a.unfinished.npz"]
    for name in others:
        (tmp_path / name).write_bytes(b"another's")
    process = start_writing(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    write(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "a.npz"])


def test_what_a_running_process_writes_is_left_alone(tmp_path, start_writing):
    path = tmp_path / "a.npz"
    start_writing(path)
    (unfinished,) = tmp_path.iterdir()
    write(path)
    assert unfinished.read_bytes() == b"half"
    assert path.read_bytes() == b"new"


def test_a_process_may_write_an_output_within_itself(tmp_path):
    with atomic_output(tmp_path / "a.bin") as outer:
        outer.write_bytes(b"outer")
        write(tmp_path / "a.bin", b"inner")
        assert (tmp_path / "a.bin").read_bytes() == b"inner"
    assert (tmp_path / "a.bin").read_bytes() == b"outer"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_locks_outputs_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("common.files.fcntl", None)
    write(tmp_path / "a.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_output_that_is_an_input_by_a_link_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.npz").write_bytes(b"a")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "b.npz").symlink_to(folder / "a.npz")
    os.link(folder / "a.npz", tmp_path / "c.npz")
    inputs = [folder / "other.npz", folder / "a.npz"]
    for output in (tmp_path / "link" / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"):
        with pytest.raises(InputError, match=rf"{output}: is the same file as .*data/a\.npz"):
            check_distinct([output], inputs)
    check_distinct([tmp_path / "link" / "new.npz"], inputs)


def test_two_outputs_that_are_one_file_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for other in (tmp_path / "link" / "a", tmp_path / "b" / ".." / "a"):
        with pytest.raises(InputError, match="is the same file as"):
            check_distinct([tmp_path / "a", other])
    check_distinct([tmp_path / "a", tmp_path / "b"])


# The console


SCRIPTS = [
    str(path.relative_to(REPOSITORY))
    for folder in ("", "data")
    for path in sorted((REPOSITORY / folder).glob("*.py"))
    if "parse_arguments()" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_shown_in_an_ascii_locale(script):
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    result = subprocess.run(
        [sys.executable, REPOSITORY / script, "--help"], env=environment, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert b"usage" in result.stdout


@pytest.mark.parametrize("text", ["1" * 20, "9" * 5000, "1e3", "x" * 5000, "-1"])
@pytest.mark.parametrize("kind", [positive_int, non_negative_int])
def test_a_number_of_many_digits_is_one_short_error(kind, text):
    def main():
        parser = ArgumentParser()
        parser.add_argument("--number", type=kind)
        parser.parse_args()

    result = call(main, f"--number={text}")
    assert result.status == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr) < 300


def test_values_of_strangers_are_shown_in_part_of_a_line():
    knot = []
    knot.append(knot)
    tens = 1
    for _ in range(9):
        tens = [tens] * 10
    for value in (
        knot,
        tens,
        {1: tens},
        "x" * 10_000,
        [tens],
        (knot,),
        object(),
        2**500,
        b"y" * 999,
    ):
        assert len(shown(value)) < 200
        assert "\n" not in shown(value)
    assert shown(1.5) == "1.5"
    assert shown("a") == "'a'"
    assert shown(None) == "None"
    assert listing(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert listing("ab") == "a, b"
