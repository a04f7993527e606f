"""A lifter that gives the poses of all frames: clips, loss, training, evaluation, streaming."""

import os
import signal
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from raw_trees import assert_one_line_error, call
from small_training import (  # noqa: F401
    CPU,
    assert_same_training,
    data_dir,
    evaluate,
    load,
    log_figures,
    run_training,
    stop_at,
)
from test_augmentation import FRAMES, generators
from test_generators import brute_force, mirror, sequences

import lift as lift_script
import run_poseformer
from common.evaluation import clips_of, predict
from common.files.console import InputError
from common.footage.lifting import StreamingLifter, lift
from common.generators import WindowGenerator, flip_keypoints, flip_poses
from common.lifters import LIFTERS
from common.loss import clip_loss
from common.model_motionagformer import MotionAGFormer, MotionAGFormerConfig
from common.training.checkpoint import Checkpoint
from common.training.device import kept_statistics
from common.training.optimizer import build_optimizer
from common.training.recipe import Recipe

CONFIG = MotionAGFormerConfig(9, 1, 16)
LAST = "last_epoch.bin"
MODEL = ("--model", "motionagformer")
TINY = (*MODEL, "-frame", "5", "--depth", "1", "--dim", "8", "-str", "S1,S5", "-ste", "S9")
TINY += ("-a", "Walking")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MotionAGFormer(CONFIG).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


# Clips -------------------------------------------------------------------------------------------


@torch.no_grad()
def clip_by_clip(model, sequence):
    """Every frame's pose, from each clip of the sequence that holds it."""
    n, count = len(sequence), 1
    while 9 + (count - 1) * 6 < n:  # neighbours share three of nine frames
        count += 1
    starts = [(n - 9) // 2] if n <= 9 else [round(i * (n - 9) / (count - 1)) for i in range(count)]
    sums, weights = np.zeros((n, 17, 3)), np.zeros((n, 1, 1))
    for start in starts:
        clip = np.stack([sequence[min(max(start + k, 0), n - 1)] for k in range(9)])
        clip = torch.from_numpy(clip)[None]
        poses = (model(clip) + flip_poses(model(flip_keypoints(clip)))) / 2
        for k, weight in enumerate([1, 2, 3, 4, 5, 4, 3, 2, 1]):
            if 0 <= start + k < n:
                sums[start + k] += weight * poses[0, k].numpy()
                weights[start + k] += weight
    poses = sums / weights
    poses[:, 0] = 0
    return poses


def test_prediction_is_that_of_clip_by_clip(model):
    keypoints, _ = sequences([30, 1, 9, 5, 8, 10, 15, 16, 18, 19])
    poses = predict(model, keypoints, device="cpu", batch_size=3)
    for sequence, predicted in zip(keypoints, poses, strict=True):
        assert predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, clip_by_clip(model, sequence), atol=1e-5)
    with pytest.raises(ValueError, match="no frame"):
        clips_of(0, 9)


def test_targets_are_the_poses_of_all_frames_and_their_mirror_images():
    keypoints, poses = sequences([5, 1, 12])
    options = {"device": "cpu", "augment": True, "stride": 2, "all_frames": True}
    generator = WindowGenerator(keypoints, poses, 9, **options)
    clips = [clip for clip, _ in brute_force(poses, poses, 9, 2)]
    expected = np.stack([*clips, *(mirror(clip, [0]) for clip in clips)])
    _, targets = generator.gather(torch.arange(len(generator)))
    np.testing.assert_array_equal(targets, expected)


def test_all_targets_of_a_turned_window_are_turned_as_its_middle_is():
    """A rotation and a size about the hip take the plain clip to the turned one."""
    _, _, middle = generators(180, 0.1)
    _, plain, _ = generators(0, 0)
    data, _, turned = generators(180, 0.1, all_frames=True)
    plain = WindowGenerator(
        *([getattr(s, name) for s in data] for name in ("keypoints", "poses")),
        FRAMES,
        device="cpu",
        augment=True,
        all_frames=True,
    )
    samples = turned.start_epoch(1, 1)
    assert torch.equal(samples, middle.start_epoch(1, 1))
    inputs, targets = turned.gather(samples)
    middle_inputs, middle_targets = middle.gather(samples)
    assert torch.equal(inputs, middle_inputs)
    torch.testing.assert_close(targets[:, FRAMES // 2], middle_targets)
    original = plain.gather(samples)[1]
    for before, after in zip(original.double(), targets.double()):
        before, after = before.flatten(0, 1), after.flatten(0, 1)
        map_ = torch.linalg.lstsq(before, after).solution  # of all joints of all frames
        torch.testing.assert_close(before @ map_, after, atol=1e-5, rtol=0)


def test_the_loss_of_clips_is_its_formula():
    random = np.random.default_rng(0)
    predicted, target = random.normal(0, 0.3, (2, 4, 6, 17, 3))
    expected, of_one_frame = [], []
    for p, t in zip(predicted, target):
        scale = (p * t).sum((1, 2)) / (p * p).sum((1, 2))
        position, scaled = p - t, scale[:, None, None] * p - t
        velocity = (p[1:] - p[:-1]) - (t[1:] - t[:-1])
        norms = [np.sqrt((x**2).sum(-1)) for x in (position, scaled, velocity)]
        expected.append(norms[0].mean() + 0.5 * norms[1].mean() + 20 * norms[2].mean())
        of_one_frame.append(norms[0][0].mean() + 0.5 * norms[1][0].mean())
    tensors = torch.from_numpy(predicted), torch.from_numpy(target)
    assert float(clip_loss(*tensors)) == pytest.approx(np.mean(expected), rel=1e-12)
    weights = torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64)
    assert float(clip_loss(*tensors, weights)) == pytest.approx(np.mean(expected[:2]), rel=1e-12)
    first = [t[:, :1] for t in tensors]
    assert float(clip_loss(*first)) == pytest.approx(np.mean(of_one_frame), rel=1e-12)
    exact = tensors[1].clone().requires_grad_()
    clip_loss(exact, tensors[1]).backward()
    assert exact.grad.isfinite().all()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 0.5, 0.0])])
def test_the_log_gets_mpjpe_and_the_weights_the_gradient_of_the_whole_loss(model, weights):
    windows = WindowGenerator(*sequences([12]), 9, device="cpu", all_frames=True)
    batch, parameters = torch.tensor([3, 6, 7]), list(model.parameters())
    value = run_poseformer.loss_of(model, windows, batch, weights, "fp32", 0.0, None)
    inputs, targets = windows.gather(batch)
    predicted = model(inputs)
    errors = np.linalg.norm((predicted.detach() - targets).numpy(), axis=-1)
    assert value.item() == pytest.approx(errors[: 3 if weights is None else 2].mean(), rel=1e-5)
    ours = torch.autograd.grad(value, parameters)
    whole = torch.autograd.grad(clip_loss(predicted, targets, weights), parameters)
    assert all(map(torch.equal, ours, whole))


# Training and evaluation -------------------------------------------------------------------------


training = partial(run_training, small=TINY)


def test_a_tiny_training_lowers_the_error_and_its_checkpoint_tells_the_lifter(
    data_dir, evaluate, tmp_path
):
    result, folder = training(data_dir, tmp_path / "run", "-e", "5", "-s", "4", "-lr", "0.02")
    assert result.status == 0, result.stderr
    first, *_, last = (figures["valid_mpjpe_mm"] for figures in log_figures(folder))
    assert last < 0.6 * first
    recipe = load(folder / LAST)["recipe"]
    names = ("recipe", "weight_decay", "stride")
    assert [recipe[name] for name in names] == ["motionagformer", 0.01, 4]
    result, report = evaluate(folder / LAST, "-a", "Walking")  # without --model
    assert result.status == 0, result.stderr
    assert report["average_over_actions"]["mpjpe_mm"] == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize("recipe", ["motionagformer", "default"])
def test_a_stopped_training_goes_on_to_the_bit(data_dir, tmp_path, monkeypatch, recipe):
    flags = ("-e", "2", "--recipe", recipe, "-b", "32", "-s", "4")
    _, whole = training(data_dir, tmp_path / "whole", *flags)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # of 3 steps an epoch
        result, folder = training(data_dir, tmp_path / "run", *flags)
    assert result.status == 128 + signal.SIGTERM
    result, _ = training(data_dir, folder, "--resume", LAST)
    assert result.status == 0, result.stderr
    assert_same_training(load(folder / LAST), load(whole / LAST))
    assert log_figures(folder) == log_figures(whole)


@pytest.mark.parametrize("frames", [1, 5])
def test_a_training_with_longer_clips_starts_from_shorter_ones(
    data_dir, tmp_path, monkeypatch, frames
):
    _, short = training(data_dir, tmp_path / "short", "-e", "1", "-frame", frames)
    start = ("--init-from", short / LAST, "-e", "1", "-lr", "1e-9")
    result, folder = training(data_dir, tmp_path / "long", *start, "-frame", "11")
    assert result.status == 0, result.stderr
    before, after = load(short / LAST), load(folder / LAST)
    assert [c["config"]["number_of_frames"] for c in (before, after)] == [frames, 11]
    of_frames = 0
    for name, weight in after["model_pos"].items():
        if "running" in name or "tracked" in name:  # as training goes on
            continue
        expected = before["model_pos"][name]
        if expected.shape != weight.shape:
            of_frames += 1
            expected = expected[[(2 * frame + 1) * frames // 22 for frame in range(11)]]
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)
    assert of_frames == 2  # weights and biases of one layer's batch norm
    monkeypatch.setitem(LIFTERS["motionagformer"].presets, "s", {"number_of_frames": 7})
    small = {"small": MODEL + TINY[4:]}  # without -frame
    _, folder = run_training(data_dir, tmp_path / "preset", *start, "--preset", "s", **small)
    assert load(folder / LAST)["config"]["number_of_frames"] == 7
    refused, _ = training(data_dir, tmp_path / "even", *start, "-frame", "10")
    assert_one_line_error(refused, f"{short / LAST}: number_of_frames must be odd")
    refused, _ = training(data_dir, tmp_path / "much", *start, "-frame", "41")
    assert_one_line_error(refused, "longer than every sequence")


REFUSED = {
    "the other's width": ("--embed-dim-ratio 8", "--embed-dim-ratio: motionagformer has none"),
    "velocities": ("--velocity 1", "--velocity: motionagformer's loss has velocities"),
    "dropout": ("-drop 0.1", "--dropout, --drop-path: motionagformer has none"),
    "longer than 20 frames": ("-frame 21", "longer than every sequence; choose -frame 19 or less"),
    "even": ("-frame 10", "number_of_frames must be odd"),
    "heads": ("--dim 12", "dim must be a multiple of the 8 attention heads"),
    "of the first lifter": ("--model poseformerv2", "--dim: poseformerv2 has none"),
    "nobody": ("--model nobody", "'nobody' is not one of poseformerv2, motionagformer"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_lifter_does_not_have_is_refused_in_a_line(data_dir, tmp_path, flags, message):
    result, folder = training(data_dir, tmp_path / "run", *flags.split())
    assert_one_line_error(result, message)
    assert not folder.exists()


def test_no_memory_for_a_batch_is_a_line(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run_poseformer, "loss_of", lambda *_, **__: torch.empty(2**50))
    result, _ = training(data_dir, tmp_path / "run")
    assert_one_line_error(result, "error: out of memory; choose a smaller --batch-size")


def test_trial_steps_leave_no_statistics_behind(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with kept_statistics(model):
        model.train()(torch.rand(2, 9, 17, 2))
        assert not all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(v, before[n]) for n, v in model.eval().state_dict().items())


def save(model, path):
    torch.save({"model_pos": model.state_dict(), "config": asdict(model.config)}, path)
    return path


def test_a_checkpoint_of_one_lifter_is_refused_as_the_others(model, data_dir, tmp_path):
    ours = save(model, tmp_path / "ag.bin")
    theirs = save(LIFTERS["poseformerv2"].network(LIFTERS["poseformerv2"].config()), tmp_path / "p")
    for flag in ("--evaluate", "--resume"):
        flags = (flag, ours, "--data-dir", data_dir, "--model", "poseformerv2", *CPU)
        says = f"--model poseformerv2: contradicts {ours}, which is a motionagformer; leave"
        assert_one_line_error(call(run_poseformer.main, *flags), says)
    result = call(lift_script.main, "--checkpoint", theirs, *MODEL, "-k", "x", "-g", "cpu")
    assert_one_line_error(result, "which is a poseformerv2")


def test_weights_of_a_published_file_load(model, tmp_path):
    config = MotionAGFormerConfig(9, 1, 16, in_chans=3, confidence_chans=1)
    network = MotionAGFormer(config)
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "published.bin"
    torch.save({"epoch": 59, "model": weights}, path)
    checkpoint = Checkpoint.load(path, model="motionagformer")
    assert checkpoint.config == config
    clip = torch.rand(1, 9, 17, 3)
    assert torch.equal(checkpoint.build_model("cpu")(clip), network.eval()(clip))
    weights.popitem()
    torch.save({"model": weights}, path)
    with pytest.raises(InputError, match=r"published\.bin: does not fit .*head\.bias"):
        Checkpoint.load(path).build_model("cpu")


def test_muon_takes_the_layers(model):
    matrices, _ = build_optimizer(model, Recipe()).param_groups
    # Of each block the MLP's two; qkv and proj of attention, U and V of a graph; and the fusion.
    assert len(matrices["params"]) == 4 * 4 + 1


# Streaming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fps", "flip"), [(50, True), (24, False)])
@torch.no_grad()
def test_a_stream_takes_the_last_pose_of_the_clip_that_ends_now(model, fps, flip):
    keypoints = np.cumsum(np.random.default_rng(0).normal(300, 5, (12, 17, 2)), axis=0) / 12
    stream = StreamingLifter(model, size=(640, 480), fps=fps, flip=flip)
    poses = np.stack([stream.push(frame) for frame in keypoints])
    causal = lift(keypoints, model, size=(640, 480), fps=fps, flip=flip, causal=True)
    np.testing.assert_allclose(poses, causal, atol=1e-5)
    if fps == 50:
        inputs = torch.from_numpy((keypoints / 320 - [1, 0.75]).astype(np.float32))
        for t in (0, 5, 11):
            clip = inputs[[max(0, t + k) for k in range(-8, 1)]][None]
            pose = (model(clip) + flip_poses(model(flip_keypoints(clip))))[0, -1] / 2
            np.testing.assert_allclose(poses[t, 1:], pose[1:], atol=1e-5)
