"""The main script as its users run it: train, stop, resume, evaluate, log, refuse."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from raw_trees import call

import run_poseformer
from common.distributed import World
from common.evaluation import predict
from common.generators import WindowGenerator, flip_keypoints, flip_poses
from common.h36m_cameras import load_cameras
from common.h36m_dataset import cameras_poses
from common.loss import mpjpe
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.npz_io import write_positions_2d, write_positions_3d
from common.train_step import TrainStep, build_optimizer
from common.training import Interrupted, Interruption
from common.video import read_video

SUBJECTS = ("S1", "S5", "S9")
ACTIONS = ("Sitting", "SittingDown", "Walking 1")
FRAMES = 20
SMALL = ("-frame", "9", "--depth", "1", "--embed-dim-ratio", "8", "-str", "S1,S5", "-ste", "S9")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Smooth motion of three subjects with two estimators' noisy keypoints, as npz files."""
    folder = tmp_path_factory.mktemp("npz")
    random = np.random.default_rng(0)
    positions_3d = {s: {a: motion(random) for a in ACTIONS} for s in SUBJECTS}
    write_positions_3d(folder / "data_3d_h36m.npz", positions_3d)
    for name, noise_px in (("gt", 0), ("vitpose", 3), ("pct", 4), ("moganet", 5)):
        write_positions_2d(
            folder / f"data_2d_h36m_{name}.npz",
            {
                s: {a: views(p, s, noise_px, random) for a, p in actions.items()}
                for s, actions in positions_3d.items()
            },
        )
    return folder


def motion(random):
    """A body of 32 points that sways about its place: (frames, 32, 3), metres, world."""
    body = random.normal(0, 0.3, (32, 3)) + (0, 0, 1)
    phase = np.linspace(0, random.uniform(1, 4), FRAMES)[:, None, None]
    return (body + 0.1 * np.sin(phase + random.uniform(0, 6, (32, 3)))).astype(np.float32)


def views(positions, subject, noise_px, random):
    """A plain pinhole's pictures of the body; the model need not know the lens."""
    pictures = []
    for poses, camera in zip(cameras_poses(positions, subject), load_cameras()[subject]):
        pixels = poses[..., :2] / poses[..., 2:] * camera.intrinsics[:2] + camera.intrinsics[2:4]
        pictures.append((pixels + random.normal(0, noise_px, pixels.shape)).astype(np.float32))
    return pictures


@pytest.fixture
def train(data_dir, tmp_path):
    """Train a small network in this process; returns its result and its folder."""

    def run(*arguments, folder="run", mode="disabled"):
        fixed = ("--data-dir", data_dir, "-c", tmp_path / folder, "--precision", "fp32")
        fixed += ("-b", "32", "--wandb-mode", mode, "-g", "cpu")
        return call(run_poseformer.main, *SMALL, *fixed, *arguments), tmp_path / folder

    return run


def load(path):
    return torch.load(path, weights_only=True)


def assert_same_training(a, b):
    """Weights, moments and step counts are the same to the last bit."""
    for key, weight in a["model_pos"].items():
        assert torch.equal(weight, b["model_pos"][key]), key
    for index, moments in a["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, b["optimizer"]["state"][index][name]), (index, name)
    assert a["epoch"] == b["epoch"]
    assert a["min_loss"] == b["min_loss"]


def log_figures(folder):
    names = ("epoch", "lr", "train_mpjpe_mm", "valid_mpjpe_mm")
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{name: json.loads(line)[name] for name in names} for line in lines]


RANDOM = ("-drop", "0.1", "--drop-path", "0.2", "-std", "2", "--seed", "3")
# Other schedules depend on the number of epochs, which a resume then may not change.
EXTENDABLE = ("--schedule", "published")


@pytest.fixture
def uninterrupted(train):
    result, folder = train("-e", "4", *RANDOM, folder="whole")
    assert result.status == 0, result.stderr
    return folder


@pytest.fixture
def four_epochs(train):
    result, folder = train("-e", "4", *RANDOM, *EXTENDABLE, folder="whole")
    assert result.status == 0, result.stderr
    return folder


def stop_at(monkeypatch, step_number, what):
    """Call `what` at the end of the training step with this number, counted over epochs."""
    steps = iter(range(1, 10**6))
    plain = TrainStep.__call__

    def counted(self, *arguments):
        loss = plain(self, *arguments)
        if next(steps) == step_number:
            what()
        return loss

    monkeypatch.setattr(TrainStep, "__call__", counted)


def test_two_epochs_and_two_more_are_four(train, four_epochs):
    train("-e", "2", *RANDOM, *EXTENDABLE)
    result, folder = train("-e", "4", "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert_same_training(load(four_epochs / "last_epoch.bin"), load(folder / "last_epoch.bin"))
    assert log_figures(folder) == log_figures(four_epochs)


def test_a_log_line_cut_short_by_a_kill_does_not_stop_a_resume(train, four_epochs):
    _, folder = train("-e", "2", *RANDOM, *EXTENDABLE)
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lr": 0.0')
    result, _ = train("-e", "4", "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert log_figures(folder) == log_figures(four_epochs)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_an_epoch_loses_nothing(train, uninterrupted, monkeypatch, number, status):
    with monkeypatch.context() as patch:
        stop_at(patch, 40, lambda: os.kill(os.getpid(), number))
        result, folder = train("-e", "4", *RANDOM)
    assert result.status == status
    (line,) = result.stderr.splitlines()
    assert "--resume last_epoch.bin" in line
    stopped = load(folder / "last_epoch.bin")
    # 960 samples are 30 steps, so step 40 is the tenth of the second epoch.
    assert (stopped["epoch"], stopped["progress"]["step"]) == (1, 10)

    result, _ = train("-e", "4", "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert_same_training(load(uninterrupted / "last_epoch.bin"), load(folder / "last_epoch.bin"))
    assert log_figures(folder) == log_figures(uninterrupted)


def test_resuming_keeps_to_the_actions(train):
    first, _ = train("-e", "1", "-a", "Walking", *EXTENDABLE)
    second, folder = train("-e", "2", "--resume", "last_epoch.bin")
    # 2 subjects, a sequence, 4 cameras, 20 frames and their mirror images
    assert "320 training samples" in first.stdout
    assert "320 training samples" in second.stdout
    third, _ = train("-e", "2", "--resume", "last_epoch.bin")
    assert "all 2 epochs are done" in third.stdout
    assert len(log_figures(folder)) == 2


def test_a_signal_during_validation_loses_nothing(train, uninterrupted, monkeypatch):
    def interrupted_evaluation(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_poseformer, "evaluate", interrupted_evaluation)
        result, folder = train("-e", "4", *RANDOM)
    assert result.status == 143
    result, _ = train("-e", "4", "--resume", "last_epoch.bin", "-cf", "1")
    assert result.status == 0, result.stderr
    assert load(folder / "epoch_1.bin")["lr"] == log_figures(folder)[0]["lr"]  # no step was left
    assert_same_training(load(uninterrupted / "last_epoch.bin"), load(folder / "last_epoch.bin"))


def test_resume_refuses_another_recipe_or_network(train):
    train("-e", "1")
    for flags, name in (
        (("-e", "2"), "--epochs"),
        (("--schedule", "published"), "--schedule"),
        (("--recipe", "published"), "--recipe"),
        (("--turn", "0"), "--turn"),
        (("--optimizer", "adamw"), "--optimizer"),
        (("--exchange-limbs", "0"), "--exchange-limbs"),
        (("--seed", "7"), "--seed"),
        (("-lr", "0.1"), "--learning-rate"),
        (("-k", "pct"), "--keypoints"),
        (("-frame", "27"), "--number-of-frames"),
    ):
        result, _ = train("--resume", "last_epoch.bin", *flags)
        assert result.status == 2
        assert result.stderr.startswith(f"error: {name} {flags[1]}"), result.stderr


def test_a_second_run_is_refused_unless_it_may_overwrite(train):
    _, folder = train("-e", "1")
    before = (folder / "last_epoch.bin").read_bytes()
    result, _ = train("-e", "1", "--seed", "5")
    assert result.status == 2
    assert "--overwrite" in result.stderr
    assert (folder / "last_epoch.bin").read_bytes() == before
    result, _ = train("-e", "1", "--seed", "5", "--overwrite")
    assert result.status == 0, result.stderr
    assert (folder / "last_epoch.bin").read_bytes() != before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(train, monkeypatch):
    _, folder = train("-e", "1", *EXTENDABLE)
    good = (folder / "last_epoch.bin").read_bytes()
    plain = TrainStep.__call__

    def spoiled(self, *arguments):
        return plain(self, *arguments) * math.nan

    monkeypatch.setattr(TrainStep, "__call__", spoiled)
    result, _ = train("-e", "2", "--resume", "last_epoch.bin")
    assert result.status == 2
    assert "epoch 2, step 1" in result.stderr
    assert (folder / "last_epoch.bin").read_bytes() == good


def test_training_lowers_the_validation_error_and_keeps_the_best(train):
    result, folder = train("-e", "6", "-lr", "2e-3", "-cf", "2", "-k", "gt", *EXTENDABLE)
    assert result.status == 0, result.stderr
    valid = [record["valid_mpjpe_mm"] for record in log_figures(folder)]
    assert min(valid) < 0.9 * valid[0]
    best = load(folder / "best_epoch.bin")
    assert best["min_loss"] == min(valid)
    assert best["epoch"] == 1 + valid.index(min(valid))
    assert sorted(p.name for p in folder.glob("epoch_*")) == [
        "epoch_2.bin",
        "epoch_4.bin",
        "epoch_6.bin",
    ]
    rates = [record["lr"] for record in log_figures(folder)]
    assert rates == pytest.approx([2e-3 * 0.99**e for e in range(6)])


def test_every_step_has_the_rate_of_its_schedule(train, monkeypatch):
    rates, plain = [], TrainStep.__call__

    def noted(self, *arguments):
        rates.append(self.optimizer.param_groups[0]["lr"])
        return plain(self, *arguments)

    monkeypatch.setattr(TrainStep, "__call__", noted)
    train("-e", "2", "-lr", "1e-3", "--warmup", "6", "--no-eval")
    _, folder = train("-e", "3", "-b", "48", "--no-eval", "--recipe", "published", folder="other")
    # 960 samples are 30 steps of 32 and 20 of 48.
    rise, fall = np.linspace(0, 1e-3, 7)[1:], np.linspace(1e-3, 0, 55)[:-1]
    expected = np.concatenate([rise, fall, np.repeat(5e-4 * 0.99 ** np.arange(3), 20)])
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    recipe = load(folder / "last_epoch.bin")["recipe"]
    assert (recipe["recipe"], recipe["schedule"], recipe["turn"]) == ("published", "published", 0)


def test_a_checkpoint_of_before_the_schedules_goes_on_as_published(train):
    _, folder = train("-e", "2", *RANDOM, "--recipe", "published")
    train("-e", "4", *RANDOM, "--recipe", "published", folder="published")
    before = load(folder / "last_epoch.bin")
    new = ("recipe", "epochs", "schedule", "warmup", "optimizer", "beta2", "init", "turn", "resize")
    for name in (*new, "exchange_limbs"):
        del before["recipe"][name]
    torch.save(before, folder / "last_epoch.bin")
    result, _ = train("-e", "4", "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    expected = load(folder.with_name("published") / "last_epoch.bin")
    assert_same_training(expected, load(folder / "last_epoch.bin"))
    assert load(folder / "last_epoch.bin")["recipe"] == expected["recipe"]


def test_a_checkpoint_of_before_muon_goes_on_with_adamw(train):
    """The default recipe stored neither an optimizer nor exchanged limbs."""
    flags = ("-e", "2", *RANDOM, "--optimizer", "adamw", "--exchange-limbs", "0")
    _, folder = train(*flags, "-cf", "1")
    expected = load(folder / "last_epoch.bin")
    before = load(folder / "epoch_1.bin")
    for name in ("optimizer", "exchange_limbs"):
        del before["recipe"][name]
    torch.save(before, folder / "last_epoch.bin")
    for flag, value in (("--optimizer", "muon"), ("--exchange-limbs", "0.5")):
        result, _ = train("--resume", "last_epoch.bin", flag, value)
        assert result.status == 2
        assert result.stderr.startswith(f"error: {flag} {value}"), result.stderr
    result, _ = train("--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    assert_same_training(expected, load(folder / "last_epoch.bin"))


def test_evaluation_repeats_the_validation_figure_and_reports_everything(train, data_dir, tmp_path):
    _, folder = train("-e", "2", "--export-training-curves")
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    report = tmp_path / "report.json"
    result = call(
        run_poseformer.main,
        *("--evaluate", folder / "best_epoch.bin", "--data-dir", data_dir, "-ste", "S9"),
        *("--precision", "fp32", "--report", report, "--by-subject", "--latex", "-g", "cpu"),
    )
    assert result.status == 0, result.stderr
    figures = json.loads(report.read_text())
    best = load(folder / "best_epoch.bin")
    assert figures["average_over_actions"]["mpjpe_mm"] == pytest.approx(best["min_loss"], rel=1e-6)
    assert f"MPJPE on Validation data: {best['min_loss']:.2f} mm" in result.stdout
    assert f"mean pose: {figures['mean_pose_mpjpe_mm']:.2f} mm" in result.stdout
    assert figures["frames"] == len(ACTIONS) * 4 * FRAMES
    assert figures["keypoints"] == "vitpose"  # as it was trained
    assert {"checkpoint", "seconds", "frames_per_s", "by_joint", "by_subject"} <= set(figures)
    assert r" \\" in result.stdout


def test_actions_are_exact_names(train, data_dir):
    _, folder = train("-e", "1", "--no-eval")
    counts = {}
    for actions in ("*", "Sitting", "Walking", "Walking 1"):
        report = folder / "report.json"
        result = call(
            run_poseformer.main,
            *("--evaluate", "last_epoch.bin", "-c", folder, "--data-dir", data_dir),
            *("-ste", "S9", "-a", actions, "--report", report, "-g", "cpu"),
        )
        assert result.status == 0, result.stderr
        counts[actions] = json.loads(report.read_text())["frames"]
    one = 4 * FRAMES
    assert counts == {"*": 3 * one, "Sitting": one, "Walking": one, "Walking 1": one}
    result = call(
        run_poseformer.main,
        *("--evaluate", "last_epoch.bin", "-c", folder, "--data-dir", data_dir, "-a", "Walk"),
        *("-ste", "S9", "-g", "cpu"),
    )
    assert result.status == 2
    assert "no action 'Walk'; there are: Sitting, SittingDown, Walking 1" in result.stderr


def test_several_estimators_are_concatenated(train, data_dir):
    result, folder = train("-e", "1", "-k", "concatenate")
    assert result.status == 0, result.stderr
    checkpoint = load(folder / "best_epoch.bin")
    assert checkpoint["config"]["in_chans"] == 6
    result = call(
        run_poseformer.main,
        *("--evaluate", folder / "best_epoch.bin", "--data-dir", data_dir, "-k", "vitpose+pct"),
        *("-ste", "S9", "-g", "cpu"),
    )
    assert result.status == 2
    assert "as many estimators" in result.stderr


def test_a_published_checkpoint_gives_its_model_s_figure(data_dir, tmp_path):
    """Made in exactly the published form: `module.` on every key, a pickled RandomState."""
    torch.manual_seed(0)
    model = PoseFormerV2(PoseFormerConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    torch.save(
        {
            "epoch": 60,
            "lr": 1e-4,
            "random_state": np.random.RandomState(1234),
            "optimizer": optimizer.state_dict(),
            "model_pos": {f"module.{k}": v for k, v in model.state_dict().items()},
            "min_loss": np.float64(48.1),
            "wandb_id": "6mr5twid",
        },
        tmp_path / "published.bin",
    )
    report = tmp_path / "report.json"
    result = call(
        run_poseformer.main,
        *("--evaluate", "published.bin", "-c", tmp_path, "--data-dir", data_dir, "-k", "vitpose"),
        *("-ste", "S9", "--precision", "fp32", "--report", report, "-g", "cpu"),
    )
    assert result.status == 0, result.stderr
    figure = json.loads(report.read_text())["average_over_actions"]["mpjpe_mm"]
    assert figure == pytest.approx(plain_mpjpe_mm(model, data_dir), rel=1e-5)


@torch.no_grad()
def plain_mpjpe_mm(model, data_dir):
    """Window by window, action by action, with flip, from the files alone."""
    with np.load(data_dir / "data_3d_h36m.npz", allow_pickle=True) as arrays:
        positions_3d = arrays["positions_3d"].item()["S9"]
    with np.load(data_dir / "data_2d_h36m_vitpose.npz", allow_pickle=True) as arrays:
        positions_2d = arrays["positions_2d"].item()["S9"]
    swapped = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]
    by_action = []
    model.eval()
    for action, world in positions_3d.items():
        errors = []
        for i, poses in enumerate(cameras_poses(world, "S9")):
            camera = load_cameras()["S9"][i]
            pixels = positions_2d[action][i].astype(np.float64)
            screen = pixels * 2 / camera.width - [1, camera.height / camera.width]
            for t in range(len(poses)):
                frames = np.clip(np.arange(t - 13, t + 14), 0, len(poses) - 1)
                window = torch.tensor(screen[frames][None], dtype=torch.float32)
                mirrored = window[:, :, swapped] * torch.tensor([-1.0, 1.0])
                back = model(mirrored)[0, 0][swapped] * torch.tensor([-1.0, 1.0, 1.0])
                pose = (model(window)[0, 0] + back) / 2
                error = pose.double().numpy() - (poses[t] - poses[t, 0])
                errors.append(np.linalg.norm(error, axis=-1))
        by_action.append(np.mean(errors))
    return 1000 * np.mean(by_action)


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_malicious_checkpoint_runs_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_pos": {}, "epoch": Malicious()}, tmp_path / "evil.bin")
    assert pickle.dumps(Malicious())  # it would run, were it unpickled
    for flag in ("--evaluate", "--resume"):
        result = call(run_poseformer.main, flag, tmp_path / "evil.bin", "--data-dir", data_dir)
        assert result.status == 2
        assert "posix.system" in result.stderr
    assert not Path("executed").exists()


def test_wandb_s_own_record_holds_config_figures_and_model(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, folder = train(
        *("-e", "2", "--wandb-name", "poseformerv2-vitpose", *EXTENDABLE), mode="offline"
    )
    assert result.status == 0, result.stderr
    assert "wandb sync" in result.stdout
    (first,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    config, history, artifacts, run_id = wandb_record(first)
    assert config["keypoints"] == "vitpose"
    assert config["number_of_frames"] == 9
    logged = log_figures(folder)
    assert [h["loss/train"] for h in history] == [r["train_mpjpe_mm"] for r in logged]
    assert [h["loss/valid"] for h in history] == [r["valid_mpjpe_mm"] for r in logged]
    assert [h["lr"] for h in history] == [r["lr"] for r in logged]
    assert artifacts == [("model", {"best_epoch.bin", "last_epoch.bin"})]
    assert load(folder / "last_epoch.bin")["wandb_id"] == run_id

    train("-e", "3", "--resume", "last_epoch.bin", mode="offline")
    (second,) = set(tmp_path.glob("wandb/offline-run-*/*.wandb")) - {first}
    _, history, _, resumed_id = wandb_record(second)
    assert resumed_id == run_id
    assert [h["_step"] for h in history] == [3]


def wandb_record(path):
    """Read an offline run's file, which is complete a moment after the run was closed."""
    deadline = time.monotonic() + 240
    records = wandb_records(path)
    while not records or records[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{path} is not complete"
        time.sleep(0.1)
        records = wandb_records(path)
    config, history, artifacts, run_id = {}, [], [], None
    for record in records:
        if record.WhichOneof("record_type") == "run":
            run_id = record.run.run_id
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items})
        elif record.WhichOneof("record_type") == "artifact":
            names = {entry.path for entry in record.artifact.manifest.contents}
            artifacts.append((record.artifact.type, names))
    return config, history, artifacts, run_id


def wandb_records(path):
    """Read the records that a file holds so far with the package's own reader."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    records = []
    while data := store.scan_data():
        records.append(wandb_internal_pb2.Record())
        records[-1].ParseFromString(data)
    return records


def test_two_processes_train_and_evaluate_like_one(train, data_dir, tmp_path):
    # The last batch of an epoch is not full.
    flags = ("-e", "2", "--init", "published", "-b", "50")
    train(*flags, folder="one")
    command = torchrun(REPOSITORY / "run_poseformer.py", data_dir)
    result = run_quietly([*command, *flags, "-c", tmp_path / "two"])
    assert result.returncode == 0, result.stderr
    one, two = (load(tmp_path / name / "last_epoch.bin") for name in ("one", "two"))
    torch.manual_seed(0)
    start = PoseFormerV2(PoseFormerConfig(**one["config"])).state_dict()
    # Of all weights together: AdamW moves a single one by the learning rate, however small its
    # gradient, and so shows rounding in those that hardly have one.
    moves = [
        torch.cat([(run["model_pos"][key] - start[key]).flatten() for key in start])
        for run in (one, two)
    ]
    assert torch.dist(*moves) < 0.01 * moves[0].norm()
    for a, b in zip(log_figures(tmp_path / "one"), log_figures(tmp_path / "two")):
        assert b == pytest.approx(a, rel=1e-4)
    assert result.stdout.count("epoch 1/2") == 1  # one process prints
    assert "Warning" not in result.stderr


KILLED_ONCE = """
import os, signal, sys
sys.path.insert(0, {repository!r})
import run_poseformer
from common.console import run
from common.train_step import TrainStep
plain, steps = TrainStep.__call__, iter(range(1, 1000))
def killed(self, *arguments):
    if next(steps) == 30 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "00":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *arguments)
TrainStep.__call__ = killed
run(run_poseformer.main)
"""


def test_a_restart_by_torchrun_goes_on_from_the_last_epoch(train, data_dir, tmp_path):
    """The same command, without --resume; torchrun keeps the addresses of the killed processes."""
    flags = ("-e", "3", "-b", "50")
    script = tmp_path / "killed_once.py"
    script.write_text(KILLED_ONCE.format(repository=str(REPOSITORY)))
    result = run_quietly(
        [*torchrun(script, data_dir, "--max_restarts=1"), *flags, "-c", tmp_path / "killed"]
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert [record["epoch"] for record in log_figures(tmp_path / "killed")] == [1, 2, 3]
    assert result.stdout.count("epoch 1/3") == 1  # 20 steps; the kill came in the second epoch


@pytest.mark.parametrize(
    "environment", [{}, {"RANK": "x"}, {"RANK": "2", "LOCAL_RANK": "0"}], ids=str
)
def test_an_environment_that_is_not_torchrun_s_is_one_line(train, monkeypatch, environment):
    for name, value in ({"WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    result, _ = train("-e", "1")
    assert result.status == 2
    assert result.stderr.startswith("error: WORLD_SIZE is 2") and "torchrun" in result.stderr


def test_of_two_processes_a_signal_that_comes_within_the_agreement_is_kept(monkeypatch):
    """Only one process gets it, and while it waits for the other's answer."""
    world = World(0, 2, torch.device("cpu"))
    interruption = Interruption(world)

    def others_answer(self, values):
        os.kill(os.getpid(), signal.SIGTERM)
        return values  # which the other process does not add to

    monkeypatch.setattr(World, "maximum", others_answer)
    with interruption:
        assert not interruption.is_requested()
        assert interruption.is_requested()  # the same signal
        with pytest.raises(Interrupted):
            interruption.attempt(lambda: pytest.fail("work after a signal"))


def test_of_two_processes_both_stop_after_the_validation_of_each(monkeypatch):
    answers = []
    monkeypatch.setattr(World, "maximum", lambda _, values: answers.append(int(values)) or values)
    with Interruption(World(1, 2, torch.device("cpu"))) as interruption:
        with pytest.raises(Interrupted):
            interruption.attempt(lambda: os.kill(os.getpid(), signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)  # from torchrun, a moment later
    assert answers == [0, signal.SIGTERM]  # it asked before and after its work


def test_training_on_a_test_subject_warns(train):
    result, _ = train("-e", "1", "-str", "S1,S9")
    assert result.status == 0
    assert "warning: S9: both trained on and tested on" in result.stderr


def test_the_campaign_in_short():
    """`make torture` in full: kills and signals, of one and of two processes."""
    flags = ("--kills", "5", "--sigterms", "2", "--sigints", "1", "--no-disks")
    result = run_quietly([sys.executable, REPOSITORY / "tests" / "torture.py", *flags])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("nothing was lost\n")


def torchrun(script, data_dir, *settings):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
        *(*settings, script, *SMALL, "--precision", "fp32", "-g", "cpu"),
        *("--data-dir", data_dir, "--wandb-mode", "disabled"),
    ]


def run_quietly(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=900
    )


def test_the_mean_of_the_processes_gradients_is_the_batch_s():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    keypoints = [random.normal(size=(15, 17, 2)).astype(np.float32)]
    poses = [random.normal(size=(15, 17, 3)).astype(np.float32)]
    windows = WindowGenerator(keypoints, poses, 9, device="cpu")
    model = PoseFormerV2(PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=1)).double()
    windows._keypoints, windows._poses = windows._keypoints.double(), windows._poses.double()
    batch = torch.arange(15)

    def gradient(indices, weight=1.0):
        model.zero_grad()
        predicted = model(windows.gather(indices)[0]).squeeze(1)
        (weight * mpjpe(predicted, windows.gather(indices)[1])).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(batch)
    for size in (2, 4, 16):  # of 16 processes, one is left without a sample
        worlds = [World(rank, size, torch.device("cpu")) for rank in range(size)]
        shares = [world.share_of(batch) for world in worlds]
        drawn = torch.cat([indices for indices, weight in shares if weight])
        assert sorted(drawn.tolist()) == batch.tolist()  # without overlap
        mean = sum(gradient(*share) for share in shares) / size
        torch.testing.assert_close(mean, whole, rtol=1e-9, atol=1e-12)


def test_training_with_flips_on_mirrored_data_gives_mirrored_predictions():
    random = np.random.default_rng(0)
    keypoints = [random.normal(size=(n, 17, 2)).astype(np.float32) for n in (12, 20)]
    poses = [random.normal(size=(n, 17, 3)).astype(np.float32) for n in (12, 20)]

    def train_and_predict(keypoints, poses, shift):
        torch.manual_seed(0)
        model = PoseFormerV2(PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=1))
        windows = WindowGenerator(keypoints, poses, 9, device="cpu", augment=True)
        train_step = TrainStep(
            lambda batch: run_poseformer.loss_of(model, windows, batch, "fp32", 0.0),
            build_optimizer(model, 1e-3),
            torch.device("cpu"),
        )
        for epoch in range(3):
            for batch in ((windows.start_epoch(0, epoch) + shift) % len(windows)).split(16):
                train_step(batch)
        return predict(model.eval(), keypoints, device="cpu")

    plain = train_and_predict(keypoints, poses, shift=0)
    # The mirror image of a mirrored sample is the sample: the shift draws the same batches.
    mirrored = train_and_predict(
        [flip_keypoints(torch.tensor(k)).numpy() for k in keypoints],
        [flip_poses(torch.tensor(p)).numpy() for p in poses],
        shift=32,
    )
    for a, b in zip(plain, mirrored):
        np.testing.assert_allclose(b, flip_poses(torch.tensor(a)).numpy(), atol=1e-6)


TRAINING_FLAGS = (
    *(("--epochs", "200"), ("--batch-size", "16"), ("--overwrite",), ("--no-eval",)),
    *(("--checkpoint-frequency", "2"), ("--export-training-curves",), ("--learning-rate", "1")),
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-k", "nobody"), "there are: gt, moganet, pct, vitpose"),
        (("-k", "vitpose+nobody"), "there are: gt, moganet, pct, vitpose"),
        (("-str", "S6"), "lacks S6; it holds S1, S5, S9"),
        (("-str", "S2"), "no subject 'S2'"),
        (("-a", "Running"), "no action 'Running'"),
        (("-frame", "10"), "must be odd"),
        (("-frame-kept", "11"), "number_of_kept_frames"),
        (("-coeff-kept", "12"), "number_of_kept_coeffs"),
        (("--embed-dim-ratio", "12"), "multiple of the 8 attention heads"),
        (("-b", "0"), "not a positive whole number"),
        (("-lr", "nan"), "not a positive number"),
        (("-g", "0,1"), "torchrun"),
        (("--render",), "--evaluate"),
        (("--evaluate", "absent.bin"), "absent.bin: no such checkpoint"),
        (("--resume", "absent.bin"), "absent.bin: no such checkpoint"),
        (("--evaluate", "a", "--resume", "b"), "exclude each other"),
        (("--resume", "a", "--overwrite"), "give one of them"),
        (("--evaluate", ""), "--evaluate '': give the checkpoint's file"),
        (("--evaluate", "a", "--viz-limit", "3"), "--viz-limit goes with --render"),
        (("--evaluate", "a", "--render", "--latex"), "--latex goes with --evaluate"),
        (("--report", "a.json"), "--report goes with --evaluate"),
        (("--evaluate", "a", "--report", "a.txt"), "the ending must be .json"),
        (("--evaluate", "a", "--render", "--viz-output", "a.avi"), "the ending must be .mp4"),
        (("--evaluate", "a", "--render", "--viz-export", "no/a.csv"), "no: no such folder"),
        (
            ("--evaluate", "a", "--render", "--viz-output", "a.png", "--viz-video", "a.mp4"),
            "--viz-video is for videos",
        ),
        (("--evaluate", "a", "--render", "--viz-output", "a.gif", "--viz-bitrate", "9"), "for mp4"),
        *((("--evaluate", "a", *f), f"{f[0]} is for training") for f in TRAINING_FLAGS),
        (("--evaluate", "a", "--render", "-std", "3"), "--std is not for --render"),
        (("--seed", str(2**64)), "is too large a number"),
        (("-b", "9" * 20), "is too large a number"),
        (("--viz-limit", "9" * 20), "is too large a number"),
        (("-frame", "30001"), "not a whole number from 1 to 4095"),
        (("--embed-dim-ratio", "100000000"), "not a whole number from 1 to 4096"),
        (("--embed-dim-ratio", "4096"), "weights, more than 1,000,000,000"),
        (("-k", "vitpose+"), "an estimator's name is missing"),
        (("-a", ","), "no action is named"),
        (("--data-dir", "nowhere"), "data_3d_h36m.npz: no such file"),
        (("--no-such-flag",), "unrecognized arguments: --no-such-flag"),
    ],
)
def test_bad_usage_is_one_line(train, data_dir, tmp_path, flags, message):
    if "--evaluate" in flags:
        folder = tmp_path / "run"
        common = ("--data-dir", data_dir, "-c", folder, "-g", "cpu")
        result = call(run_poseformer.main, *common, *flags)
    else:
        result, folder = train("-e", "1", *flags)
    assert result.status == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not folder.exists()


def test_a_render_writes_video_and_poses(train, data_dir, tmp_path):
    _, folder = train("-e", "1")
    result = call(
        run_poseformer.main,
        *("--evaluate", folder / "best_epoch.bin", "--data-dir", data_dir, "-g", "cpu", "--render"),
        *("--viz-action", "Walking 1", "--viz-camera", "2", "--viz-skip", "4"),
        *("--viz-downsample", "2", "--viz-limit", "5", "--viz-output", tmp_path / "out.mp4"),
        *("--viz-export", tmp_path / "poses.json", "--precision", "fp32"),
    )
    assert result.status == 0, result.stderr
    assert len(list(read_video(tmp_path / "out.mp4", (0, 0, 1, 1), (170, 40)))) == 5
    poses = json.loads((tmp_path / "poses.json").read_text())
    assert poses["frames"] == [4, 6, 8, 10, 12]
    # The predicted hip is put at the true one.
    with np.load(data_dir / "data_3d_h36m.npz", allow_pickle=True) as arrays:
        hip = arrays["positions_3d"].item()["S9"]["Walking 1"][4:13:2, 0]
    np.testing.assert_allclose(np.array(poses["positions"])[:, 0], hip, atol=1e-5)
