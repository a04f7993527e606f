"""A training step against PyTorch in double precision, alone and shared among processes."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from common.generators import WindowGenerator
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.device import backward
from common.training.optimizer import build_optimizer, set_learning_rate
from common.training.processes import World
from common.training.recipe import RECIPES, Recipe
from run_poseformer import loss_of

CONFIG = {"number_of_frames": 9, "embed_dim_ratio": 8, "depth": 2}
RANDOM = {"drop_rate": 0.1, "drop_path_rate": 0.2}


class SmallTraining:
    """A small network on random windows, with the step of `run_poseformer.train`."""

    def __init__(
        self,
        recipe=RECIPES["published"],
        *,
        frames=40,
        precision="fp32",
        noise_std=0.0,
        velocity=None,
        **config,
    ):
        random = np.random.RandomState(0)
        keypoints = random.uniform(-1, 1, (frames, 17, 2)).astype(np.float32)
        poses = random.uniform(-0.5, 0.5, (frames, 17, 3)).astype(np.float32)
        self.windows = WindowGenerator([keypoints], [poses], 9, device="cpu", augment=True)
        torch.manual_seed(0)
        config = PoseFormerConfig(**CONFIG | config)
        self.model = PoseFormerV2(config).train()
        self.optimizer = build_optimizer(self.model, recipe, precision)
        set_learning_rate(self.optimizer, 1e-3)
        self.precision = precision
        how = {"precision": precision, "noise_std": noise_std, "velocity": velocity}
        self.loss = partial(loss_of, self.model, self.windows, **how)

    def step(self, indices, weights=None):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(indices, weights)
        backward(loss, self.model, self.precision)
        self.optimizer.step()
        return loss.detach()

    def gradients(self, indices, weights=None):
        loss = self.loss(indices, weights)
        return [loss.detach(), *torch.autograd.grad(loss, list(self.model.parameters()))]

    def weights(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def test_step_is_adamw_on_the_network_in_double_precision():
    training = SmallTraining()
    exact = copy.deepcopy(training.model).double()
    reference = torch.optim.AdamW(exact.parameters(), lr=1e-3, weight_decay=0.1, fused=False)
    for indices in training.windows.start_epoch(0, 0).split(30):  # 30, 30 and the remaining 20
        loss = training.step(indices)
        inputs, targets = (part.double() for part in training.windows.gather(indices))
        predicted = exact(inputs)[:, 0]
        expected = (predicted - targets).square().sum(-1).sqrt().mean()
        reference.zero_grad()
        expected.backward()
        reference.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, value), precise in zip(training.weights().items(), exact.state_dict().values()):
        # Adam divides by a gradient's size, so the smallest ones are moved by their rounding.
        difference = (value - precise).abs()
        assert difference.mean() < 2e-5 and difference.max() < 2e-3, name


@pytest.mark.parametrize("weights", [None, torch.tensor([0.1] * 8 + [0.2, 0.0])])
def test_velocities_are_those_of_neighbouring_windows(weights):
    """The loss is worth MPJPE, and pulls at the steps from a window to the next, too."""
    training = SmallTraining(velocity=torch.tensor(3.0))
    batch = torch.arange(5, 55, 5)  # those from 40 on are mirrored; of two, a step is taken
    (inputs, targets), (later, later_targets) = map(
        training.windows.gather, (batch, batch[::8] + 1)
    )
    predicted, later = (training.model(x).squeeze(1) for x in (inputs, later))
    errors = (predicted - targets).norm(dim=-1).mean(dim=-1)
    steps = (later - predicted[::8]) - (later_targets - targets[::8])
    steps = steps.norm(dim=-1).mean(dim=-1)
    if weights is None:
        error, velocity = errors.mean(), steps.mean()
    else:
        error, velocity = errors @ weights, (steps[0] + 2 * steps[1]) / 3
    expected = torch.autograd.grad(error + 3 * velocity, list(training.model.parameters()))
    value, *gradients = training.gradients(batch, weights)
    assert value.item() == pytest.approx(error.item(), rel=1e-6)
    for ours, theirs in zip(gradients, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_frame_has_one_noise_in_both_of_its_windows():
    training, seen = SmallTraining(noise_std=0.1, velocity=torch.tensor(1.0)), []
    training.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = torch.tensor([0, 3, 5, 7, 9, 11, 13, 15, 39, 45])
    training.loss(batch, None)
    [windows] = seen
    assert windows.shape[0] == 12
    assert torch.equal(windows[10:, :-1], windows[[0, 8], 1:])
    clean = training.windows.gather(batch)[0]
    assert (windows[:10] - clean).std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(("size", "samples"), [(1, 1), (1, 11), (2, 16), (2, 1), (3, 11)])
def test_parts_of_a_batch_give_its_loss_and_gradients(size, samples):
    """On a GPU, and among several processes, batches that are not full are filled up."""
    velocity = torch.tensor(2.0) if size == 1 else None  # several choose other windows for it
    training = SmallTraining(velocity=velocity)
    batch = torch.randperm(80, generator=torch.manual_seed(1))[:samples]
    whole, nothing = World(0, 1, torch.device("cpu")).local_batch(batch, 16)
    assert whole is batch and nothing is None
    parts = []
    for rank in range(size):
        world = World(rank, size, torch.device("cuda"))
        indices, weights = world.local_batch(batch, 16)
        assert indices.shape == weights.shape == (world.local_batch_size(16),)
        parts.append(training.gradients(indices, weights))
    for expected, *values in zip(training.gradients(batch), *parts):
        mean = torch.stack(values).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [1, 1e-4])
def test_fp16_loses_no_small_gradients(share):
    """Those of a large batch are small: without the scale 0.0001 of a loss has no gradient left."""
    indices, flat = torch.arange(16), []
    for precision in ("fp32", "fp16"):
        training = SmallTraining(precision=precision)
        backward(share * training.loss(indices, None), training.model, precision)
        flat.append(torch.cat([p.grad.flatten() for p in training.model.parameters()]))
    assert (flat[1] - flat[0]).norm() < 0.005 * flat[0].norm()


def test_fp16_overflow_ends_in_a_loss_that_is_not_finite():
    training = SmallTraining(Recipe(optimizer="muon"), precision="fp16")
    assert training.step(torch.arange(16)).isfinite()
    loss = training.loss
    training.loss = lambda *batch: 1e9 * loss(*batch)
    training.step(torch.arange(16))
    training.loss = loss
    assert not training.step(torch.arange(16)).isfinite()


def test_noise_moves_the_loss():
    indices = torch.arange(8)
    noisy = SmallTraining(noise_std=0.1).step(indices)
    assert not torch.equal(SmallTraining().step(indices), noisy)
