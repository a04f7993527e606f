"""The main script as its users run it: train, evaluate, refuse."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_trees import Calls, assert_one_line_error, call
from small_training import (  # noqa: F401
    ACTIONS,
    EXTENDABLE,
    FRAMES,
    data_dir,
    evaluate,
    load,
    log_figures,
    train,
)
from test_checkpoint import published

import run_poseformer
from common.camera import load_cameras
from common.h36m_dataset import cameras_poses
from common.model_poseformer import PoseFormerConfig, PoseFormerV2


def test_training_lowers_the_validation_error_and_keeps_the_best(train):
    flags = ("-e", "5", "-lr", "2e-3", "-cf", "2", "-k", "gt", "-s", "2", *EXTENDABLE)
    result, folder = train(*flags)
    assert result.status == 0, result.stderr
    valid = [record["valid_mpjpe_mm"] for record in log_figures(folder)]
    assert min(valid) < 0.9 * valid[0]
    best = load(folder / "best_epoch.bin")
    assert best["min_loss"] == min(valid)
    assert best["epoch"] == 1 + valid.index(min(valid))
    kept = sorted(path.name for path in folder.glob("epoch_*"))
    assert kept == ["epoch_2.bin", "epoch_4.bin"]
    rates = [record["lr"] for record in log_figures(folder)]
    assert rates == pytest.approx([2e-3 * 0.99**e for e in range(5)])


def test_a_new_training_starts_from_the_weights_of_a_checkpoint(train):
    first, folder = train("-k", "gt", "-e", "1")
    assert first.status == 0, first.stderr
    start = folder / "best_epoch.bin"
    flags = ("--init-from", start, "--schedule", "cosine", "-lr", "1e-9", "--optimizer", "adamw")
    result, other = train("-k", "gt", "-e", "1", *flags, folder="other")
    assert result.status == 0, result.stderr
    theirs, ours = load(start), load(other / "last_epoch.bin")
    for key, weight in ours["model_pos"].items():
        torch.testing.assert_close(weight, theirs["model_pos"][key], rtol=0, atol=1e-5)
    assert (ours["epoch"], ours["recipe"]["schedule"]) == (1, "cosine")
    [before], [after] = log_figures(folder), log_figures(other)
    assert after["valid_mpjpe_mm"] == pytest.approx(before["valid_mpjpe_mm"], abs=0.01)
    flags += ("--init-from", "gone.bin", "--resume", "last_epoch.bin")  # which needs no start
    result, _ = train(*flags, "-k", "gt", folder="other")
    assert "all 1 epochs are done" in result.stdout, result.stderr
    result, _ = train("--init-from", start, "-e", "1", "--depth", "2", folder="wrong")
    assert_one_line_error(result, "depth 2")


def test_every_step_has_the_rate_of_its_schedule(train, monkeypatch):
    rates, plain = [], run_poseformer.set_learning_rate

    def noted(optimizer, rate):
        plain(optimizer, rate)
        rates.extend({group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(run_poseformer, "set_learning_rate", noted)
    train("-e", "2", "-lr", "1e-3", "--warmup", "6", "--no-eval")
    train("-e", "3", "-b", "48", "--no-eval", "--recipe", "published", folder="other")
    # 240 samples are 8 steps of 32 and 5 of 48.
    rise, fall = np.linspace(0, 1e-3, 7)[1:], np.linspace(1e-3, 0, 11)[:-1]
    expected = np.concatenate([rise, fall, np.repeat(5e-4 * 0.99 ** np.arange(3), 5)])
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(train, monkeypatch):
    _, folder = train("-e", "1", *EXTENDABLE)
    good, plain = (folder / "last_epoch.bin").read_bytes(), run_poseformer.loss_of
    monkeypatch.setattr(run_poseformer, "loss_of", lambda *a, **k: plain(*a, **k) * math.nan)
    result, _ = train("-e", "2", "--resume", "last_epoch.bin")
    assert_one_line_error(result, "the loss became nan at epoch 2, step 1")
    assert (folder / "last_epoch.bin").read_bytes() == good


def test_evaluation_repeats_the_validation_figure_and_reports_everything(train, evaluate):
    _, folder = train("-e", "2", "--export-training-curves")
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    result, figures = evaluate(folder / "best_epoch.bin", "--by-subject", "--latex")
    assert result.status == 0, result.stderr
    best = load(folder / "best_epoch.bin")
    assert figures["average_over_actions"]["mpjpe_mm"] == pytest.approx(best["min_loss"], rel=1e-6)
    assert f"MPJPE on Validation data: {best['min_loss']:.2f} mm" in result.stdout
    assert f"mean pose: {figures['mean_pose_mpjpe_mm']:.2f} mm" in result.stdout
    assert figures["frames"] == len(ACTIONS) * 4 * FRAMES
    assert figures["keypoints"] == "vitpose"  # as it was trained
    assert {"checkpoint", "seconds", "frames_per_s", "by_joint", "by_subject"} <= set(figures)
    assert r" \\" in result.stdout

    one = 4 * FRAMES
    for actions, count in {"Sitting": one, "Walking": one, "Walking 1": one, "*": 3 * one}.items():
        _, figures = evaluate("last_epoch.bin", "-c", folder, "-a", actions)
        assert figures["frames"] == count
    result, _ = evaluate("last_epoch.bin", "-c", folder, "-a", "Walk")
    assert_one_line_error(result, "no action 'Walk'; there are: Sitting, SittingDown, Walking 1")
    result, _ = evaluate("last_epoch.bin", "-c", folder, "-frame", "27")
    assert_one_line_error(result, "--number-of-frames 27: contradicts", "which has 9")


def test_several_estimators_are_concatenated(train, evaluate):
    result, folder = train("-e", "1", "-k", "concatenate")
    assert result.status == 0, result.stderr
    assert load(folder / "best_epoch.bin")["config"]["in_chans"] == 6
    result, _ = evaluate(folder / "best_epoch.bin", "-k", "vitpose+pct")
    assert_one_line_error(result, "--keypoints: 4 channels", "as many estimators")


def test_training_on_a_test_subject_warns(train):
    result, _ = train("-e", "0", "-str", "S1,S9")
    assert result.status == 0
    assert "warning: S9: both trained on and tested on" in result.stderr


def test_a_published_checkpoint_gives_its_model_s_figure(data_dir, evaluate, tmp_path):
    """Made in exactly the published form: `module.` on every key, a pickled RandomState."""
    torch.manual_seed(0)
    model = PoseFormerV2(PoseFormerConfig(embed_dim_ratio=16, depth=2))
    torch.save(published(model), tmp_path / "published.bin")
    result, figures = evaluate("published.bin", "-c", tmp_path, "-k", "vitpose", "-a", "Walking")
    assert result.status == 0, result.stderr
    expected = plain_mpjpe_mm(model.eval(), data_dir, "Walking 1")
    assert figures["average_over_actions"]["mpjpe_mm"] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def plain_mpjpe_mm(model, data_dir, action):
    """Window by window with flip, from the files alone."""
    with np.load(data_dir / "data_3d_h36m.npz", allow_pickle=True) as arrays:
        world = arrays["positions_3d"].item()["S9"][action]
    with np.load(data_dir / "data_2d_h36m_vitpose.npz", allow_pickle=True) as arrays:
        positions_2d = arrays["positions_2d"].item()["S9"][action]
    swapped = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]
    errors, cameras = [], load_cameras()["S9"]
    for pixels, poses, camera in zip(positions_2d, cameras_poses(world, "S9"), cameras):
        screen = pixels.astype(np.float64) * 2 / camera.width - [1, camera.height / camera.width]
        for t in range(len(poses)):
            frames = np.clip(np.arange(t - 13, t + 14), 0, len(poses) - 1)
            window = torch.tensor(screen[frames][None], dtype=torch.float32)
            mirrored = window[:, :, swapped] * torch.tensor([-1.0, 1.0])
            back = model(mirrored)[0, 0][swapped] * torch.tensor([-1.0, 1.0, 1.0])
            pose = (model(window)[0, 0] + back) / 2
            error = pose.double().numpy() - (poses[t] - poses[t, 0])
            errors.append(np.linalg.norm(error, axis=-1))
    return 1000 * np.mean(errors)


def test_a_malicious_checkpoint_runs_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"model_pos": {}, "epoch": Calls(os.system, "touch executed")}, tmp_path / "evil.bin"
    )
    for flag in ("--evaluate", "--resume"):
        result = call(run_poseformer.main, flag, tmp_path / "evil.bin", "--data-dir", data_dir)
        assert_one_line_error(result, "evil.bin", "system")
    assert not Path("executed").exists()


# Flags, and a part of the message.
BAD_USAGE = [
    ("-k nobody", "there are: gt, moganet, pct, vitpose"),
    ("-k vitpose+", "'vitpose+' is not names of estimators"),
    ("-str S6", "lacks S6; it holds S1, S5, S9"),
    ("-str S2", "no subject 'S2'"),
    ("-a Running", "no action 'Running'"),
    ("-a ,", "no action is named"),
    ("-frame 10", "must be odd"),
    ("-frame-kept 11", "number_of_kept_frames"),
    ("--embed-dim-ratio 12", "multiple of the 8 attention heads"),
    ("-b 0", "not a positive whole number"),
    ("-lr nan", "not a positive number"),
    ("-lrd 0.5", "--lr-decay 0.5: goes with --schedule published"),
    ("--warmup 99", "--warmup 99: longer than the training, which has 8 steps"),
    ("-g 0,1", "torchrun"),
    ("--seed 18446744073709551616", "is too large a number"),
    ("--data-dir nowhere", "data_3d_h36m.npz: no such file"),
    ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
    ("--resume absent.bin", "absent.bin: no such checkpoint"),
    ("--resume a --overwrite", "give one of them"),
    ("--report a.json", "--report goes with --evaluate"),
    ("--evaluate absent.bin", "absent.bin: no such checkpoint"),
    ("--evaluate a --resume b", "exclude each other"),
    ("--evaluate=", "--evaluate '': give the checkpoint's file"),
]
FOR_TRAINING = (
    *("--epochs 200", "--batch-size 16", "--overwrite", "--no-eval", "--learning-rate 1"),
    *("--checkpoint-frequency 2", "--export-training-curves"),
)
BAD_USAGE += [(f"--evaluate a {f}", f"{f.split()[0]} is for training") for f in FOR_TRAINING]
MOVED = ("--render", "--viz-output x", "--causal", "--no-resample", "--smooth 5", "--up y")
BY_LIFT = "films, pose files and own footage are made by lift.py"
BAD_USAGE += [(f"--evaluate a {f}", f"{f.split()[0]}: {BY_LIFT}") for f in MOVED]
BAD_USAGE += [(f"{flag} custom", f"-d custom: {BY_LIFT}") for flag in ("-d", "--dataset")]


@pytest.mark.parametrize(("flags", "message"), BAD_USAGE)
def test_bad_usage_is_one_line(train, data_dir, tmp_path, flags, message):
    folder = tmp_path / "run"
    if "--evaluate" in flags:
        common = ("--data-dir", data_dir, "-c", folder, "-g", "cpu")
        result = call(run_poseformer.main, *common, *flags.split())
    else:
        result, _ = train("-e", "1", *flags.split())
    assert_one_line_error(result, message)
    assert not folder.exists()
