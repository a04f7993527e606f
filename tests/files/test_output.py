"""Outputs: whole or not there, never an input; and what a console of another locale shows."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY
from raw_trees import untouched

from common.files.console import InputError, listing, progress, shown
from common.files.output import atomic_output, check_distinct

# Writes half of an output, says so, and waits to be killed.
HALF = """
import sys, time
from common.files.output import atomic_output
with atomic_output(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""


def write(path, content=b"new"):
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


def test_a_success_replaces_the_file_and_creates_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"first", b"second"):
        write(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_whatever_fails_within_leaves_the_earlier_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"earlier")
    with untouched(tmp_path), pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with atomic_output(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            assert temporary.suffix == ".bin"
            raise KeyboardInterrupt
    with pytest.raises(InputError, match="this is a folder"), atomic_output(tmp_path):
        raise AssertionError("must not be entered")


@pytest.mark.parametrize("size", [0, 9_999])
def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, size):
    path = tmp_path / "a.bin"
    write(path, b"earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with untouched(tmp_path), pytest.raises(OSError) as caught:
            write(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    path = tmp_path / "a.npz"
    others = [".a.original.npz", ".a.npz", ".ab.12345678.unfinished.npz", "a.unfinished.npz"]
    for name in others:
        (tmp_path / name).write_bytes(b"another's")
    command = [sys.executable, "-c", HALF, str(path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        write(path)  # what a running process writes is left alone
        process.send_signal(signal.SIGKILL)
    (unfinished,) = {p.name for p in tmp_path.iterdir()} - {*others, "a.npz"}
    assert (tmp_path / unfinished).read_bytes() == b"half"
    for name in (unfinished, *others):
        os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
    write(path)
    assert {p.name for p in tmp_path.iterdir()} == {*others, "a.npz"}


def test_an_output_that_is_an_input_or_another_output_is_refused(tmp_path):
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
    for other in (tmp_path / "link" / "new", folder / ".." / "data" / "new"):
        with pytest.raises(InputError, match="is the same file as"):
            check_distinct([folder / "new", other])


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


def test_values_of_strangers_are_shown_in_part_of_a_line():
    tens = 1
    for _ in range(9):
        tens = [tens] * 10
    for value in (tens, {1: tens}, "x" * 10_000, (tens,), object(), 2**500, b"y" * 999):
        assert len(shown(value)) < 200
        assert "\n" not in shown(value)
    assert [shown(1.5), shown("a"), shown(None)] == ["1.5", "'a'", "None"]
    assert listing(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert listing("ab") == "a, b"


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_a_bar_may_be_missing(monkeypatch, has_tqdm):
    if not has_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress([1, 2, 3], desc="counting")) == [1, 2, 3]
    with progress(total=3, initial=1) as bar:
        bar.update(2 - bar.n)
        bar.set_postfix_str("half")
