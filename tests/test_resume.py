"""A training that was stopped goes on to the bit; several processes train like one."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY
from raw_trees import assert_one_line_error, call
from small_training import (  # noqa: F401
    CPU,
    EXTENDABLE,
    RANDOM,
    SMALL,
    assert_same_training,
    data_dir,
    evaluate,
    load,
    log_figures,
    run_training,
    stop_at,
    train,
)

import run_poseformer
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.epoch import Interrupted, Interruption
from common.training.processes import World

LAST = "last_epoch.bin"


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    result, _ = run_training(data_dir, folder, "-e", "3", *RANDOM)
    assert result.status == 0, result.stderr
    return folder


def assert_same_runs(folder, reference):
    assert_same_training(load(folder / LAST), load(reference / LAST))
    assert log_figures(folder) == log_figures(reference)


def test_one_epoch_and_two_more_are_three(train):
    """Also where a kill has cut the log's last line short."""
    _, whole = train("-e", "3", *RANDOM, *EXTENDABLE, folder="whole")
    _, folder = train("-e", "1", *RANDOM, *EXTENDABLE)
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lr": 0.0')
    result, _ = train("-e", "3", "--resume", LAST)
    assert result.status == 0, result.stderr
    assert_same_runs(folder, whole)
    result, _ = train("--resume", LAST)
    assert "all 3 epochs are done" in result.stdout
    assert len(log_figures(folder)) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["within an epoch", "during a validation"])
def test_a_signal_loses_nothing(train, uninterrupted, monkeypatch, number, place):
    def send(*_, **__):
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        if place == "within an epoch":
            stop_at(patch, 10, send)  # of 8 steps an epoch
        else:
            patch.setattr(run_poseformer, "evaluate", send)
        result, folder = train("-e", "3", *RANDOM)
    assert result.status == 128 + number
    (line,) = result.stderr.splitlines()
    assert f"--resume {folder / LAST}" in line
    stopped = load(folder / LAST)
    place_saved = stopped["epoch"], stopped["progress"]["step"]
    assert place_saved == ((1, 2) if place == "within an epoch" else (0, 8))
    result, _ = train("--resume", LAST)
    assert result.status == 0, result.stderr
    assert_same_runs(folder, uninterrupted)


def test_a_resume_keeps_to_the_recipe_and_refuses_another(train):
    first, _ = train("-e", "1", "-a", "Walking")
    # 2 subjects, a sequence, 4 cameras, 5 windows and their mirror images
    assert "80 training samples" in first.stdout
    second, _ = train("--resume", LAST)
    assert "80 training samples" in second.stdout
    for flags, name in (
        (("-e", "2"), "--epochs"),
        (("--schedule", "published"), "--schedule"),
        (("--recipe", "published"), "--recipe"),
        (("-lr", "0.1"), "--learning-rate"),
        (("-k", "pct"), "--keypoints"),
        (("-frame", "27"), "--number-of-frames"),
    ):
        result, _ = train("--resume", LAST, *flags)
        assert result.status == 2
        assert result.stderr.startswith(f"error: {name} {flags[1]}"), result.stderr


def test_checkpoints_of_before_the_schedules_go_on(train, evaluate):
    _, folder = train("--recipe", "published", "-e", "2", *RANDOM, "-cf", "1")
    expected, before = load(folder / LAST), load(folder / "epoch_1.bin")
    _, figures = evaluate(folder / "epoch_1.bin")
    not_stored = "recipe epochs schedule warmup optimizer beta2 init turn resize exchange_limbs "
    not_stored += "exchange_until velocity"
    for name in not_stored.split():
        del before["recipe"][name]
    del before["progress"]["is_best"], before["config"]["confidence_chans"]
    torch.save(before, folder / LAST)
    _, same_figures = evaluate(folder / LAST)
    assert same_figures["average_over_actions"] == figures["average_over_actions"]
    log = log_figures(folder)
    result, _ = train("--resume", LAST, "-e", "2")
    assert result.status == 0, result.stderr
    assert_same_training(load(folder / LAST), expected)
    assert load(folder / LAST)["recipe"] == expected["recipe"]
    assert log_figures(folder) == log
    result, _ = train("--resume", LAST, "--optimizer", "muon")
    assert result.stderr.startswith("error: --optimizer muon"), result.stderr


def test_a_resume_goes_on_in_its_folder_and_writes_over_no_other_run(
    train, data_dir, tmp_path, monkeypatch
):
    _, other = train("-e", "1", folder="other")
    _, folder = train("-e", "2", "-cf", "1", *EXTENDABLE)
    kept = {path: path.read_bytes() for path in (*other.iterdir(), *folder.iterdir())}
    for checkpoint, place in ((folder / LAST, other), (folder / "epoch_1.bin", folder)):
        result, _ = train("--resume", checkpoint, folder=place.name)
        assert_one_line_error(result, f"{place}: holds another run ({LAST}); go on with -c {place}")
        result, _ = train("--resume", "epoch_3.bin", folder=place.name)
        assert_one_line_error(result, f"looked for {place / 'epoch_3.bin'}")
    assert kept == {path: path.read_bytes() for path in kept}

    flags = ("--data-dir", data_dir, "--wandb-mode", "disabled", *SMALL, *CPU, "-e", "3")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
        result = call(run_poseformer.main, *flags, "--resume", f"run/{LAST}")
    assert result.stderr.rstrip().endswith(f"--resume run/{LAST}")
    seconds = load(folder / LAST)["progress"]["seconds"]
    result = call(run_poseformer.main, *flags, "--resume", f"run/{LAST}")
    assert result.status == 0, result.stderr
    record = json.loads((folder / "log.jsonl").read_text().splitlines()[2])
    assert record["epoch"] == 3 and record["seconds"] > seconds > 0


@pytest.mark.parametrize("launch", ["this", "another"])
def test_a_restart_by_torchrun_goes_on_with_its_own_run_alone(train, monkeypatch, launch):
    """Not with the one that it was to replace."""
    torchrun = World(0, 1, torch.device("cpu"), launch="this")
    monkeypatch.setattr(run_poseformer, "start_world", lambda _: replace(torchrun, launch=launch))
    train("-e", "1", *EXTENDABLE)
    monkeypatch.setattr(run_poseformer, "start_world", lambda _: replace(torchrun, restarts=1))
    result, _ = train("-e", "1", *EXTENDABLE, "--overwrite")
    assert ("all 1 epochs are done" in result.stdout) == (launch == "this"), result.stderr
    assert result.status == 0


# Several processes


KILLED_ONCE = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
import run_poseformer
from common.files.console import run_script
plain, steps = run_poseformer.loss_of, iter(range(1, 1000))
def killed(*arguments, **options):
    if next(steps) == 7 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "00":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments, **options)
run_poseformer.loss_of = killed
run_script(run_poseformer.main)
"""


def run_quietly(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)


def test_two_processes_of_which_one_is_killed_train_like_one(train, data_dir, tmp_path):
    """Torchrun restarts them in the second epoch, without --resume."""
    # Of 5 steps an epoch the last is not full, and each has an odd number of samples.
    flags = ("-e", "2", "--init", "published", "-b", "49", "--velocity", "0")
    train(*flags, folder="one")
    script = tmp_path / "killed_once.py"
    script.write_text(KILLED_ONCE)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--max_restarts=1"]
    # As --standalone, but for the id, with which torchrun calls each launch "none".
    torchrun += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    command = [*torchrun, script, *SMALL, *CPU, "--data-dir", data_dir, *flags]
    result = run_quietly([*command, "-c", tmp_path / "two", "--wandb-mode", "disabled"])
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.count("epoch 1/2") == 1  # of one process, and before the restart
    one, two = (load(tmp_path / name / LAST) for name in ("one", "two"))
    assert len(two["launch"]) == 16
    torch.manual_seed(0)
    start = PoseFormerV2(PoseFormerConfig(**one["config"])).state_dict()
    # Of all weights together: AdamW moves a single one by the learning rate, however small its
    # gradient, and so shows rounding in those that hardly have one.
    moves = [
        torch.cat([(run["model_pos"][key] - start[key]).flatten() for key in start])
        for run in (one, two)
    ]
    assert torch.dist(*moves) < 0.01 * moves[0].norm()
    for a, b in zip(log_figures(tmp_path / "one"), log_figures(tmp_path / "two"), strict=True):
        assert b == pytest.approx(a, rel=1e-4)


def test_of_two_processes_a_signal_that_comes_within_the_agreement_is_kept(monkeypatch):
    """Only one process gets it, and while it waits for the other's answer."""
    interruption = Interruption(World(0, 2, torch.device("cpu")))

    def others_answer(self, values):
        os.kill(os.getpid(), signal.SIGTERM)
        return values  # which the other process does not add to

    monkeypatch.setattr(World, "maximum", others_answer)
    with interruption:
        assert not interruption.is_requested()
        assert interruption.is_requested()  # the same signal
        with pytest.raises(Interrupted):
            interruption.run_interruptible(lambda: pytest.fail("work after a signal"))


def test_the_campaign_in_short():
    """`make torture` in full: kills and signals, of one and of two processes."""
    flags = ("--kills", "4", "--sigterms", "2", "--sigints", "1")
    result = run_quietly([REPOSITORY / "tests" / "torture.py", *flags])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("nothing was lost\n")


def test_synthetic_people_are_the_same_after_a_resume(train, evaluate, monkeypatch):
    flags = ("--recipe", "footage", "-e", "2", "--people", "8", "--no-eval")
    result, whole = train(*flags, folder="whole")
    assert "240 training samples" in result.stdout
    with monkeypatch.context() as patch:
        stop_at(patch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))  # of 8 steps an epoch
        _, folder = train(*flags)
    result, _ = train("--resume", LAST, "--no-eval")
    assert result.status == 0, result.stderr
    assert_same_runs(folder, whole)
    # Its network is evaluated on the dataset, but trained further on people alone.
    assert evaluate(folder / LAST)[1]["average_over_actions"]["mpjpe_mm"] > 0
    result, _ = train("--init-from", folder / LAST, folder="other")
    assert_one_line_error(result, "sees persons; --recipe footage trains those")
