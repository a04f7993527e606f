"""Whoever edits the plain model gets what they wrote, on a CPU too."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from small_training import CPU, SMALL, data_dir, load  # noqa: F401

PLAIN = "x = x + self.drop_path(self.mlp(self.norm2(x)))\n        return x"
EDITED = PLAIN.replace("return x", "return x + self.norm1(x)")


def train(folder, data_dir, name):
    """Train and validate an epoch with a copy of the code: weights, mm, standard error."""
    flags = [
        *SMALL,
        "--embed-dim-ratio",
        "16",
        *CPU,
        "--data-dir",
        data_dir,
        "-c",
        folder / name,
        "-e",
        "1",
    ]
    command = [sys.executable, folder / "run_poseformer.py", *flags, "--wandb-mode", "disabled"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    checkpoint = load(folder / name / "best_epoch.bin")
    weights = torch.cat([w.flatten() for w in checkpoint["model_pos"].values()])
    return weights, checkpoint["min_loss"], result.stderr


def test_training_and_evaluation_compute_what_was_written(data_dir, tmp_path):
    fast_cpu = pytest.importorskip("common.fast_cpu")
    if fast_cpu.kernels() is None:
        pytest.skip("no C compiler")
    shutil.copytree(REPOSITORY / "common", tmp_path / "common")
    shutil.copy(REPOSITORY / "run_poseformer.py", tmp_path)
    model = tmp_path / "common" / "model_poseformer.py"
    assert model.read_text().count(PLAIN) == 1
    model.write_text(model.read_text().replace(PLAIN, EDITED))
    *edited, errors = train(tmp_path, data_dir, "edited")
    assert "is used without it" in errors
    for file in ("fast_cpu.py", "fast_cpu.c"):
        (tmp_path / "common" / file).unlink()
    *plain, errors = train(tmp_path, data_dir, "plain")
    assert errors == ""
    assert torch.equal(edited[0], plain[0]) and edited[1] == plain[1]
