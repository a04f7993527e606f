"""Whoever edits the plain model gets what they wrote, on a CPU too."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from test_run_poseformer import data_dir  # noqa: F401

EDITS = {
    "another activation": ("F.gelu(self.fc1(x))", "F.silu(self.fc1(x))"),
    "one more residual": (
        "x = x + self.drop_path(self.mlp(self.norm2(x)))\n        return x",
        "x = x + self.drop_path(self.mlp(self.norm2(x)))\n        return x + self.norm1(x)",
    ),
}


def train(folder, data_dir, name):
    """Train and validate an epoch with a copy of the code: weights, mm, standard error."""
    flags = ["--data-dir", data_dir, "-c", folder / name, "-g", "cpu", "--precision", "fp32"]
    flags += ["-str", "S1", "-ste", "S9", "-frame", "9", "--depth", "1", "--embed-dim-ratio", "16"]
    flags += ["-e", "1", "-b", "64", "--seed", "1", "--wandb-mode", "disabled"]
    command = [sys.executable, folder / "run_poseformer.py", *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    checkpoint = torch.load(folder / name / "best_epoch.bin", weights_only=True)
    weights = torch.cat([w.flatten() for w in checkpoint["model_pos"].values()])
    return weights, checkpoint["min_loss"], result.stderr


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_training_and_evaluation_compute_what_was_written(data_dir, tmp_path, edit):
    fast_cpu = pytest.importorskip("common.fast_cpu")
    if fast_cpu.kernels() is None:
        pytest.skip("no C compiler")
    shutil.copytree(REPOSITORY / "common", tmp_path / "common")
    shutil.copy(REPOSITORY / "run_poseformer.py", tmp_path)
    weights, figure, errors = train(tmp_path, data_dir, "unedited")
    assert errors == ""

    model = tmp_path / "common" / "model_poseformer.py"
    assert model.read_text().count(edit[0]) == 1
    model.write_text(model.read_text().replace(*edit))
    edited = train(tmp_path, data_dir, "edited")
    assert "is used without it" in edited[2]
    for file in ("fast_cpu.py", "fast_cpu.c"):
        (tmp_path / "common" / file).unlink()
    plain = train(tmp_path, data_dir, "plain")
    assert plain[2] == ""
    assert torch.equal(edited[0], plain[0]) and edited[1] == plain[1]
    assert not torch.allclose(weights, plain[0], atol=1e-4) and figure != plain[1]
