"""A small training on made-up motion, for the tests of whole runs."""

import json

import numpy as np
import pytest
import torch
from raw_trees import call

import run_poseformer
from common.camera import load_cameras
from common.files.npz import write_positions_2d, write_positions_3d
from common.h36m_dataset import cameras_poses

ACTIONS = ("Sitting", "SittingDown", "Walking 1")
FRAMES = 20
SMALL = ("-frame", "9", "--depth", "1", "--embed-dim-ratio", "8", "-str", "S1,S5", "-ste", "S9")
SMALL += ("-b", "32", "-s", "4")
CPU = ("--precision", "fp32", "-g", "cpu")
RANDOM = ("-drop", "0.1", "--drop-path", "0.2", "-std", "2", "--seed", "3")
# Other recipes depend on the number of epochs, which a resume then may not change.
EXTENDABLE = ("--schedule", "published", "--velocity", "0", "--exchange-until", "1")


def write_data(folder, actions=ACTIONS, frames=FRAMES):
    """Write smooth motion of three subjects, and its noisy keypoints by four estimators."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    subjects = ("S1", "S5", "S9")
    positions_3d = {s: {a: motion(frames, random) for a in actions} for s in subjects}
    write_positions_3d(folder / "data_3d_h36m.npz", positions_3d)
    for name, noise_px in (("gt", 0), ("vitpose", 3), ("pct", 4), ("moganet", 5)):
        positions_2d = {
            s: {a: views(p, s, noise_px, random) for a, p in of_subject.items()}
            for s, of_subject in positions_3d.items()
        }
        write_positions_2d(folder / f"data_2d_h36m_{name}.npz", positions_2d)
    return folder


def motion(frames, random):
    """Return (frames, 32, 3), metres, world: a body that sways about its place."""
    body = random.normal(0, 0.3, (32, 3)) + (0, 0, 1)
    phase = np.linspace(0, random.uniform(1, 4), frames)[:, None, None]
    return (body + 0.1 * np.sin(phase + random.uniform(0, 6, (32, 3)))).astype(np.float32)


def views(positions, subject, noise_px, random):
    """Return a plain pinhole's pictures of the body; the model need not know the lens."""
    pictures = []
    for poses, camera in zip(cameras_poses(positions, subject), load_cameras()[subject]):
        pixels = poses[..., :2] / poses[..., 2:] * camera.intrinsics[:2] + camera.intrinsics[2:4]
        pictures.append((pixels + random.normal(0, noise_px, pixels.shape)).astype(np.float32))
    return pictures


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("npz"))


def run_training(data_dir, folder, *arguments, mode="disabled", small=SMALL):
    """Train in this process, 8 steps an epoch; return the call's result and the folder."""
    fixed = ("--data-dir", data_dir, "-c", folder, "--wandb-mode", mode, *CPU)
    return call(run_poseformer.main, *small, *fixed, *arguments), folder


def stop_at(monkeypatch, number, what):
    """Call `what` within the training step with this number, counted over epochs from 1."""
    steps, plain = iter(range(1, 10**6)), run_poseformer.loss_of

    def counted(*arguments, **options):
        if next(steps) == number:
            what()
        return plain(*arguments, **options)

    monkeypatch.setattr(run_poseformer, "loss_of", counted)


@pytest.fixture
def train(data_dir, tmp_path):
    def run(*arguments, folder="run", mode="disabled"):
        return run_training(data_dir, tmp_path / folder, *arguments, mode=mode)

    return run


@pytest.fixture
def evaluate(data_dir, tmp_path):
    """Evaluate a checkpoint; return the call's result and the report, None after an error."""

    def run(checkpoint, *arguments):
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        flags = ("--evaluate", checkpoint, "--data-dir", data_dir, "-ste", "S9", *CPU)
        result = call(run_poseformer.main, *flags, "--report", report, *arguments)
        return result, json.loads(report.read_text()) if report.is_file() else None

    return run


def load(path):
    return torch.load(path, weights_only=True)


def log_figures(folder):
    """Return what log.jsonl holds, without the times."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    names = ("epoch", "lr", "train_mpjpe_mm", "valid_mpjpe_mm")
    return [{name: json.loads(line)[name] for name in names} for line in lines]


def assert_same_training(ours, theirs):
    """Weights, moments, step counts, errors and place are the same to the last bit."""
    for name in ("epoch", "lr", "min_loss", "progress"):
        assert ours[name] == theirs[name], f"{name}: {ours[name]} is not {theirs[name]}"
    for found, expected in (
        (ours["model_pos"], theirs["model_pos"]),
        *zip(*(one["optimizer"]["state"].values() for one in (ours, theirs)), strict=True),
    ):
        assert found.keys() == expected.keys()
        others = [key for key, value in expected.items() if not torch.equal(found[key], value)]
        assert not others, f"different: {others}"
