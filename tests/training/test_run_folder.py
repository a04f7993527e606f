"""A training goes on, and loses nothing, where disk, Weights & Biases or printing fail."""

import errno
import os
import resource
import signal
import socket
import sys
import types
from unittest import mock

import pytest
from small_training import (  # noqa: F401
    EXTENDABLE,
    assert_same_training,
    data_dir,
    load,
    log_figures,
    run_training,
    stop_at,
    train,
)

from common.files.console import never_fail_to_print
from common.training import run_folder, wandb_run
from common.training.wandb_run import WandbRun

FILES = {"best_epoch.bin", "epoch_1.bin", "epoch_2.bin", "last_epoch.bin", "log.jsonl"}
EVERY = ("-e", "2", "-cf", "1")


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    result, folder = run_training(data_dir, tmp_path_factory.mktemp("whole") / "run", *EVERY)
    assert result.status == 0, result.stderr
    return folder


def assert_same_folders(a, b):
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()} == FILES
    for name in FILES - {"log.jsonl"}:
        assert_same_training(load(a / name), load(b / name))
    assert log_figures(a) == log_figures(b)


class Killed(BaseException):
    """Ends a training in this process where SIGKILL would: nothing is saved on the way out."""


@pytest.mark.parametrize("number", range(1, 5))
def test_what_an_epoch_writes_is_made_whole_by_the_resume(train, whole, monkeypatch, number):
    plain, count = run_folder.atomic_output, iter(range(1, 100))

    def killed_before_writing(path):
        if next(count) == number:
            raise Killed
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "atomic_output", killed_before_writing)
        with pytest.raises(Killed):
            train(*EVERY)
    # Before the first save, the same command starts again.
    result, folder = train(*EVERY, *(("--resume", "last_epoch.bin") if number > 1 else ()))
    assert result.status == 0, result.stderr
    assert_same_folders(folder, whole)


def test_a_run_is_replaced_at_the_first_save_of_another_and_only_if_that_is_said(train):
    _, folder = train("-e", "1", "--no-eval", "-cf", "1")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result, _ = train("-e", "1")
    assert result.status == 2 and "--overwrite" in result.stderr
    for flags in (("-lr", "1e30"), ("-str", "S6"), ("-e", "0")):  # these save nothing
        train("-e", "1", "--overwrite", *flags)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    result, _ = train("-e", "1", "--no-eval", "--overwrite", "--seed", "1")
    assert result.status == 0, result.stderr
    assert {path.name for path in folder.iterdir()} == {"last_epoch.bin", "log.jsonl"}
    assert load(folder / "last_epoch.bin")["recipe"]["seed"] == 1


# Disks


def fill_disk(is_full):
    """Let writing fail in the middle of each file above 20 kB, or do so no longer."""
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if is_full else limit, limit))


def test_a_failed_save_is_tried_again(train, whole, monkeypatch):
    stop_at(monkeypatch, 2, lambda: fill_disk(True))
    stop_at(monkeypatch, 12, lambda: fill_disk(False))
    try:
        result, folder = train(*EVERY)
    finally:
        fill_disk(False)
    assert result.status == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {folder}") and "saves again" in line
    assert_same_folders(folder, whole)


@pytest.mark.parametrize("stop", [False, True], ids=["to the end", "until a signal"])
def test_a_disk_that_stays_full_ends_in_an_error(train, whole, monkeypatch, stop):
    with monkeypatch.context() as patch:
        stop_at(patch, 10, lambda: fill_disk(True))
        if stop:
            stop_at(patch, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            result, folder = train(*EVERY)
        finally:
            fill_disk(False)
    assert result.status == (143 if stop else 2)
    last = result.stderr.splitlines()[-1]
    assert "could not be saved" in last
    assert f"--resume {folder / 'last_epoch.bin' if stop else 'last_epoch.bin'}" in last
    assert load(folder / "last_epoch.bin")["epoch"] == 1
    result, _ = train(*EVERY, "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert_same_folders(folder, whole)


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(train, monkeypatch):
    def refused(dir):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refused)
    result, folder = train("-e", "1")
    assert result.status == 2
    assert result.stderr.startswith(f"error: {folder}: the file system is read-only")


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


def test_a_run_of_wandb_gets_config_figures_and_model(train, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    calls = {name: mock.Mock() for name in ("log", "log_artifact")}
    for name, seen in calls.items():
        monkeypatch.setattr(wandb.Run, name, seen)
    with mock.patch.object(wandb, "init", wraps=wandb.init) as init:
        result, folder = train("-e", "2", *EXTENDABLE, mode="offline")
        assert result.status == 0, result.stderr
        assert "wandb sync" in result.stdout
        train("-e", "3", "--resume", "last_epoch.bin", mode="offline")
    config = init.call_args.kwargs["config"]
    assert (config["keypoints"], config["number_of_frames"]) == ("vitpose", 9)
    logged, names = log_figures(folder), ("lr", "train_mpjpe_mm", "valid_mpjpe_mm", "epoch")
    assert [(*figures.values(), epoch) for (figures, epoch), _ in calls["log"].call_args_list] == [
        tuple(record[name] for name in names) for record in logged
    ]
    artifact, *_ = calls["log_artifact"].call_args.args
    assert set(artifact.manifest.entries) == {"best_epoch.bin", "last_epoch.bin"}
    run_id = load(folder / "last_epoch.bin")["wandb_id"]
    assert [call.kwargs["id"] for call in init.call_args_list] == [None, run_id]
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{run_id}"))) == 2


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
    monkeypatch.setattr(wandb_run, "_TIMEOUT_S", 1)
    return monkeypatch


def start_with_a_warning(capsys, mode):
    run = WandbRun(mode, project="p")
    errors = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in errors if line.startswith("warning: Weights & Biases")]
    if run.id:
        assert run._run.settings._offline and "offline" in warning
        run.finish([])
    return run.id


def test_where_wandb_does_not_start_online_the_run_is_offline_or_none(stranger, capsys):
    assert start_with_a_warning(capsys, "online")  # without a login
    sys.modules["wandb"].teardown()
    stranger.setenv("WANDB_API_KEY", "0123456789" * 4)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        stranger.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert start_with_a_warning(capsys, "auto")
    stranger.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a broken installation
    assert WandbRun("auto").id is None
    assert "did not start" in capsys.readouterr().err


class FailingRun:
    """A run that fails in everything, as with a home that cannot be written to."""

    id = "abc"
    settings = types.SimpleNamespace(_offline=True, sync_dir="wandb/offline-run")

    def log(self, *_, **__):
        raise RuntimeError("the service is gone")

    log_artifact = finish = log


def test_a_run_that_fails_later_ends_no_training(train, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "init", lambda **_: FailingRun())
    result, folder = train("-e", "1", mode="offline")
    assert result.status == 0
    assert "did not log: the service is gone" in result.stderr
    assert load(folder / "last_epoch.bin")["epoch"] == 1
    monkeypatch.setattr(FailingRun, "log", lambda *_, **__: None)
    result, _ = train("-e", "1", folder="other", mode="offline")
    assert result.status == 0
    assert "did not take the checkpoints" in result.stderr
    assert "wandb sync 'wandb/offline-run'" in result.stdout
