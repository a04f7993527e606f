import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from test_model import golden_model

from common.evaluation import predict
from common.generators import flip_keypoints, flip_poses
from common.loss import MetricSums
from common.model_poseformer import PoseFormerConfig, PoseFormerV2


@torch.no_grad()
def window_by_window(model, sequence, flip):
    half = model.config.number_of_frames // 2
    padded = np.pad(sequence, ((half, half), (0, 0), (0, 0)), mode="edge")
    poses = []
    for t in range(len(sequence)):
        window = torch.from_numpy(padded[t : t + 2 * half + 1])[None]
        pose = model(window)[0, 0]
        if flip:
            pose = (pose + flip_poses(model(flip_keypoints(window))[0, 0])) / 2
        poses.append(pose)
    return torch.stack(poses).numpy()


def test_figures_are_those_of_the_published_evaluation(golden_spec):
    """Flip, edge padding, one-frame sequences, the hip as the network gives it."""
    golden = json.loads((GOLDEN / "evaluation.json").read_text())
    assert golden["results"]
    for result in golden["results"]:
        random = np.random.RandomState(golden["seed_of_sequences"])
        _, model, _ = golden_model(golden_spec, result["config"])
        sums, each = MetricSums(), []
        for length in result["sequence_lengths"]:
            keypoints = random.uniform(-1, 1, (length, 17, 2)).astype(np.float32)
            poses = random.uniform(-0.5, 0.5, (length, 17, 3)).astype(np.float32)
            poses[:, 0] = 0
            (predicted,) = predict(model.eval(), [keypoints], device="cpu")
            one = MetricSums()
            for figures in (sums, one):
                figures.add("S9", "Walking", predicted, poses, all_metrics=False)
            each.append(one.mpjpe_mm())
        assert each == pytest.approx(result["mpjpe_mm_each"], abs=1e-3)
        assert sums.mpjpe_mm() == pytest.approx(result["mpjpe_mm_all_frames"], abs=1e-3)


@pytest.mark.parametrize(
    ("frames", "kept", "coefficients", "channels", "flip"),
    [(27, 3, 3, 2, True), (9, 9, 4, 6, True), (9, 1, 3, 2, False)],
)
def test_prediction_is_that_of_window_by_window(frames, kept, coefficients, channels, flip):
    torch.manual_seed(0)
    config = PoseFormerConfig(frames, kept, coefficients, channels, embed_dim_ratio=8, depth=2)
    model, random = PoseFormerV2(config).eval(), np.random.RandomState(0)
    for embedding in (p for name, p in model.named_parameters() if "pos_embed" in name):
        torch.nn.init.normal_(embedding)
    keypoints = [random.randn(n, 17, channels).astype(np.float32) for n in (40, 1, 3, 25)]
    poses = predict(model, keypoints, device="cpu", flip=flip, batch_size=16)
    for sequence, predicted in zip(keypoints, poses):
        expected = window_by_window(model, sequence, flip)
        assert predicted.shape == expected.shape and predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, expected, atol=1e-5)
