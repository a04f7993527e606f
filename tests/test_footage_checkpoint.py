"""The checkpoint of the repository on real video: what it gave when it was made, it gives here."""

import runpy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from raw_trees import assert_one_line_error, call
from test_lifting import SIZE, moving, random_model

from benchmarks import footage
from common.files.console import CHECKPOINT_DIR
from common.footage.lifting import lift
from common.training.checkpoint import Checkpoint

PATH = CHECKPOINT_DIR / "footage.bin"
# Right wrist, left foot and head of some frames of cam02, MediaPipe heavy, metres, as it was made.
FRAMES, JOINTS = (0, 30, 60, 99), (16, 6, 10)
EXPECTED_M = (
    ((-0.340, -0.025, -0.024), (0.004, 0.753, 0.171), (-0.066, -0.708, -0.240)),
    ((-0.248, -0.551, -0.294), (0.092, 0.655, 0.324), (0.328, -0.559, -0.306)),
    ((-0.003, -0.534, -0.539), (0.174, 0.664, 0.403), (0.392, -0.429, -0.436)),
    ((-0.593, -0.095, -0.201), (0.076, 0.709, 0.189), (-0.216, -0.606, -0.324)),
)


@pytest.fixture(scope="module")
def truth():
    with np.load(footage.FOOTAGE / "cam02_truth.npz") as file:
        return dict(file)


def test_it_gives_the_poses_that_it_gave(truth):
    keypoints = footage.keypoints_px("cam02", "MediaPipe heavy", truth)
    poses = lift(keypoints, PATH, size=(1080, 1920), fps=60)
    np.testing.assert_allclose(poses[np.ix_(FRAMES, JOINTS)], EXPECTED_M, atol=2e-3)


def test_it_is_small_and_says_what_it_is():
    checkpoint = Checkpoint.load(PATH)
    assert PATH.stat().st_size < 8e6
    assert checkpoint.config.view == "person" and checkpoint.recipe["recipe"] == "footage"


def test_a_checkpoint_without_its_optimizer_lifts_the_same(tmp_path):
    model, small = random_model(number_of_frames=9), tmp_path / "small.bin"
    content = {"model_pos": model.state_dict(), "config": asdict(model.config), "optimizer": {}}
    torch.save(content | {"epoch": 3, "mean_pose": torch.zeros(17, 3)}, tmp_path / "whole.bin")
    script = runpy.run_path(str(CHECKPOINT_DIR / "without_optimizer.py"))
    assert call(script["main"], tmp_path / "whole.bin", small).status == 0
    assert "optimizer" not in Checkpoint.load(small).content
    poses = [lift(moving(12), m, size=SIZE) for m in (model, small)]
    np.testing.assert_allclose(*poses, atol=0.01)  # weights are rounded to 11 bits
    result = call(script["main"], small, small)
    assert_one_line_error(result, "small.bin")


def test_a_pose_that_never_moves_has_the_known_errors(truth):
    """The figures that were published with the footage, which another program measured."""
    still = np.broadcast_to(truth["camera_m"].mean(axis=0), truth["camera_m"].shape)
    mpjpe_mm, _, p_mpjpe_mm, size, jitter = footage.measure(still, truth["camera_m"], 60)
    assert (round(mpjpe_mm), round(p_mpjpe_mm), jitter) == (166, 102, 0)
    assert size == pytest.approx(1, abs=0.01)
    perfect = footage.measure(truth["camera_m"] * 1.1, truth["camera_m"], 60)
    assert perfect[1] < 1e-3 and perfect[2] < 1e-3 and perfect[3] == pytest.approx(1.1)
