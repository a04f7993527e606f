"""A training goes on, and loses nothing, where disk, Weights & Biases or printing fail."""

import errno
import os
import signal
import socket
import sys
import types

import pytest
from test_run_poseformer import (  # noqa: F401
    assert_same_training,
    data_dir,
    load,
    log_figures,
    stop_at,
    train,
)

from common import run_folder, run_log
from common.console import InputError, never_fail_to_print
from common.run_log import start_wandb

FILES = {"best_epoch.bin", "epoch_1.bin", "epoch_2.bin", "last_epoch.bin", "log.jsonl"}
EVERY = ("-e", "2", "-cf", "1")


@pytest.fixture
def whole(train):
    result, folder = train(*EVERY, folder="whole")
    assert result.status == 0, result.stderr
    return folder


def assert_same_folders(a, b):
    for name in FILES - {"log.jsonl"}:
        assert_same_training(load(a / name), load(b / name))
    assert log_figures(a) == log_figures(b)
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()} == FILES


class Killed(BaseException):
    """Ends a training in this process where SIGKILL would: nothing is saved on the way out."""


def kill_before_writing(monkeypatch, number):
    plain, count = run_folder.atomic_output, iter(range(1, 100))

    def output(path):
        if next(count) == number:
            raise Killed
        return plain(path)

    monkeypatch.setattr(run_folder, "atomic_output", output)


@pytest.mark.parametrize("number", range(1, 9))
def test_what_an_epoch_writes_is_made_whole_by_the_resume(train, whole, monkeypatch, number):
    with monkeypatch.context() as patch:
        kill_before_writing(patch, number)
        with pytest.raises(Killed):
            train(*EVERY)
    folder = whole.with_name("run")
    resume = ("--resume", "last_epoch.bin") if (folder / "last_epoch.bin").exists() else ()
    result, _ = train(*EVERY, *resume)  # before the first save, the same command starts again
    assert result.status == 0, result.stderr
    assert_same_folders(folder, whole)


@pytest.mark.parametrize("flags", [("-lr", "1e30"), ("-str", "S6"), ("-e", "0")])
def test_overwriting_replaces_nothing_before_the_first_save(train, whole, flags):
    before = {path: path.read_bytes() for path in whole.iterdir()}
    train("-e", "1", "--overwrite", *flags, folder="whole")
    assert {path: path.read_bytes() for path in whole.iterdir()} == before
    result, _ = train("-e", "1", "--no-eval", "--overwrite", folder="whole")
    assert result.status == 0, result.stderr
    assert {path.name for path in whole.iterdir()} == {"last_epoch.bin", "log.jsonl"}
    assert len(log_figures(whole)) == 1


def test_a_folder_without_a_checkpoint_holds_no_run(train):
    for epochs in ("0", "1"):
        result, folder = train("-e", epochs)
        assert result.status == 0, result.stderr
    (folder / "last_epoch.bin").unlink()
    result, _ = train("-e", "1")
    assert "go on with --resume best_epoch.bin" in result.stderr


def full_disk(monkeypatch, fails):
    """Fail to write file `number` of the training, counted from 1, where `fails(number)`."""
    plain, count = run_folder.atomic_output, iter(range(1, 1000))

    def output(path):
        if fails(next(count)):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return plain(path)

    monkeypatch.setattr(run_folder, "atomic_output", output)


@pytest.mark.parametrize("first", range(1, 5))
def test_a_failed_save_is_tried_again(train, whole, monkeypatch, first):
    full_disk(monkeypatch, lambda number: number == first)
    result, folder = train(*EVERY)
    assert result.status == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert "the disk is full" in line and str(folder) in line
    assert_same_folders(folder, whole)


@pytest.mark.parametrize("stop", [False, True], ids=["to the end", "until a signal"])
def test_a_disk_that_stays_full_ends_in_an_error(train, whole, monkeypatch, stop):
    with monkeypatch.context() as patch:
        # last_epoch.bin and the log of the first epoch are written, its best_epoch.bin is not
        full_disk(patch, lambda number: number > 2)
        if stop:
            stop_at(patch, 40, lambda: os.kill(os.getpid(), signal.SIGTERM))
        result, folder = train(*EVERY)
    assert result.status == (143 if stop else 2)
    last = result.stderr.splitlines()[-1]
    assert "could not be saved" in last and "--resume last_epoch.bin" in last
    assert load(folder / "last_epoch.bin")["epoch"] == 1  # from which all can be made
    result, _ = train(*EVERY, "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert_same_folders(folder, whole)


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(train, monkeypatch):
    def refused(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refused)
    result, folder = train("-e", "1")
    assert result.status == 2
    assert result.stderr == (
        f"error: {folder}: the file system is read-only; choose another folder\n"
    )


# Standard output


class Broken:
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    def isatty(self):
        return False


@pytest.mark.parametrize("stream", [Broken(), None], ids=["broken", "closed"])
def test_printing_fails_no_training(train, monkeypatch, stream):
    def break_streams():
        sys.stdout = sys.stderr = stream
        never_fail_to_print()

    monkeypatch.setattr("run_poseformer.never_fail_to_print", break_streams)
    result, folder = train("-e", "1")
    assert result.status == 0
    assert load(folder / "last_epoch.bin")["epoch"] == 1


# Weights & Biases


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """A user whom Weights & Biases does not know."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads the environment once
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_log, "_WANDB_TIMEOUT_S", 1)
    return monkeypatch


def started(capsys, mode):
    run = start_wandb(mode, project="p", name=None, run_id=None, config={})
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    if run.id:
        assert run._run.settings._offline
        run.close()
    assert len(warnings) == 1 and "Weights & Biases: " in warnings[0], warnings
    return run.id, warnings[0]


def test_without_a_login_the_run_is_offline(stranger, capsys):
    run_id, error = started(capsys, "online")
    assert run_id and "offline" in error


@pytest.mark.parametrize(("name", "value"), [("API_KEY", "abc"), ("MODE", "nonsense")])
def test_with_a_wrong_setting_the_run_is_offline_or_none(stranger, capsys, name, value):
    stranger.setenv(f"WANDB_{name}", value)
    started(capsys, "auto")


def test_with_a_server_that_does_not_answer_the_run_is_offline(stranger, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        stranger.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        stranger.setenv("WANDB_API_KEY", "0123456789" * 4)
        run_id, error = started(capsys, "auto")
    assert run_id and "offline" in error


def test_with_a_broken_installation_there_is_no_run(stranger, capsys):
    stranger.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    assert started(capsys, "auto")[0] is None


class FailingRun:
    """A run that fails in everything, as with a home that cannot be written to."""

    id = "abc"
    settings = types.SimpleNamespace(_offline=True, sync_dir="wandb/offline-run")

    def log(self, *_, **__):
        raise RuntimeError("the service is gone")

    log_artifact = finish = log


def test_a_run_that_fails_later_ends_no_training(train, monkeypatch):
    monkeypatch.setattr(run_log, "_start", lambda *_, **__: FailingRun())
    result, folder = train("-e", "2", mode="offline")
    assert result.status == 0
    assert "did not log: the service is gone" in result.stderr
    assert load(folder / "last_epoch.bin")["epoch"] == 2

    monkeypatch.setattr(FailingRun, "log", lambda *_, **__: None)
    result, _ = train("-e", "1", folder="other", mode="offline")
    assert result.status == 0
    assert "did not take the checkpoints" in result.stderr
    assert "wandb sync 'wandb/offline-run'" in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        '{"epoch": Infinity}',
        '{"epoch": "3"}',
        '{"epoch": 0}',
        "3",
        "[" * 200_000,
        '{"epoch": ' + "9" * 400 + "}",
        '{"epoch": ' + "9" * 5000 + "}",
        '{"epoch": 1, "lr": "x"}',
        '{"epoch": 1, "train_mpjpe_mm": ' + "9" * 400 + "}",
        '{"epoch": 1, "valid_mpjpe_mm": [1]}',
        '{"epoch": 1, "seconds": Infinity}',
    ],
    ids=lambda line: line[:40],
)
def test_a_strange_log_is_refused_in_a_line(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(InputError, match=r"log\.jsonl") as refusal:
        run_log.read_log(path)
    assert len(str(refusal.value)) < 400
