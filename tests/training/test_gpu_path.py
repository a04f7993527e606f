"""What can be checked of the GPU path without a GPU; `make gpu-check` does the rest on one."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import stand_in_cuda
import torch
import torch.nn.functional as F
from test_training_step import RANDOM, SmallTraining

import common.model_poseformer
import common.training.processes
from common.augmentation import AugmentedWindows
from common.files.console import InputError
from common.h36m_dataset import Sequence2d3d
from common.model_poseformer import Attention, attend, attend_by_sums
from common.training.cuda_graph import CapturedStep
from common.training.device import compile_loss, resolve_precision
from common.training.optimizer import set_learning_rate
from common.training.processes import World
from common.training.recipe import Recipe
from run_poseformer import loss_of

GPU = torch.device("cuda", 1)
BATCH = 16  # of 24 samples, so that the last batch is filled up


class GpuTraining(SmallTraining):
    """A training with dropout, drop path and noise, as on a GPU but for where its tensors are."""

    def __init__(self, optimizer="muon", precision="fp32"):
        recipe = Recipe(optimizer=optimizer)
        self.velocity = torch.tensor(0.0)
        how = {"precision": precision, "noise_std": 0.1, "velocity": self.velocity}
        super().__init__(recipe, frames=12, **how, **RANDOM)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(1e-3)

    def capture(self):
        return CapturedStep(self.step, self.optimizer, BATCH, GPU, several_processes=False)

    def train(self, step):
        """Two epochs with two learning rates; return the losses and all that has moved."""
        torch.manual_seed(1)
        values = []
        for epoch in (1, 2):
            set_learning_rate(self.optimizer, 1e-3 / epoch)
            self.velocity.fill_(epoch)
            for batch in self.windows.start_epoch(0, epoch).split(BATCH):
                values.append(step(*World(0, 1, GPU).local_batch(batch, BATCH)))
        moments = [value for entry in self.optimizer.state.values() for value in entry.values()]
        return [*values, *self.weights().values(), *moments, torch.get_rng_state()]


@pytest.mark.parametrize(("optimizer", "precision"), [("muon", "fp32"), ("adamw", "bf16")])
def test_replayed_steps_are_eager_steps_bit_for_bit(monkeypatch, optimizer, precision):
    stand_in_cuda.install(monkeypatch)
    eager, captured = (GpuTraining(optimizer, precision) for _ in range(2))
    with torch.device("meta"):  # of what is made without a device
        expected = eager.train(eager.step)
    step = captured.capture()
    found = captured.train(step)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert step._graph.replays == 2 * 2


def test_capture_that_fails_says_why_and_lack_of_memory_is_not_hidden(monkeypatch):
    stand_in_cuda.install(monkeypatch)
    training = GpuTraining("adamw")
    step = training.step
    training.step = lambda *batch: torch.tensor(step(*batch).item())
    with pytest.raises(InputError, match="not permitted when stream is capturing") as error:
        training.capture()
    assert "--no-cuda-graph" in str(error.value) and "\n" not in str(error.value)
    training.step = mock.Mock(side_effect=ValueError("a compiler's error\nmore"))
    with pytest.raises(InputError, match="a compiler's error; start again with --no-cuda-graph"):
        training.capture()
    training.step = mock.Mock(side_effect=torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError):
        training.capture()


def test_loss_is_one_graph_for_the_compiler(monkeypatch):
    """Windows, network and loss without a break; inductor itself is for `make gpu-check`.

    A tensor that is made without the inputs' device would be on another one.
    """
    training, random = SmallTraining(depth=1), np.random.RandomState(0)
    data = random.uniform(-0.5, 0.5, (40, 17, 3)).astype(np.float32)
    sequence = Sequence2d3d("S1", "Walking", 0, data[..., :2], data, data[:, 0] + 5)
    scenes = {"turn_degrees": 180, "resize": 0.1, "exchange_limbs": 0.5}
    training.windows = AugmentedWindows([sequence], 9, **scenes, device="cpu", augment=True)
    training.windows.start_epoch(0, 1)
    how = {"precision": "fp32", "noise_std": 0.0, "velocity": torch.tensor(2.0)}
    plain = partial(loss_of, training.model, training.windows, **how)
    monkeypatch.setattr(common.model_poseformer, "attend", attend_by_sums)
    training.loss, batch = plain, (torch.arange(0, 80, 5), torch.full((16,), 1 / 16))
    with torch.device("meta"):
        results = [training.gradients(*batch)]
    training.loss = torch.compile(plain, fullgraph=True, backend="eager")
    results.append(training.gradients(*batch))
    torch._dynamo.reset()
    for expected, traced in zip(*results):
        torch.testing.assert_close(traced, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tokens", "channels"), [(17, 4), (6, 68)])
def test_attention_by_sums_is_attention(monkeypatch, tokens, channels):
    torch.manual_seed(0)
    qkv = torch.randn(3, 20, 8, tokens, channels)
    exact = attend(*qkv.double())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    assert (attend(*qkv) - exact).norm() < 5e-7 * exact.norm()


def test_attention_in_parts_is_attention(monkeypatch):
    """The fused attention of a GPU takes only so many sequences at a time."""
    torch.manual_seed(0)
    attention, x = Attention(16, 0.0), torch.randn(50, 17, 16)
    whole = attention(x)
    seen, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v: seen.append(len(q)) or fused(q, k, v)
    )
    monkeypatch.setattr(common.model_poseformer, "MAX_SEQUENCES", 16)
    torch.testing.assert_close(attention(x), whole)
    assert seen == [16, 16, 16, 2]


@pytest.mark.parametrize("config", [{}, RANDOM])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: loss, None),
        (lambda loss: loss * 10, "differ by"),
        (lambda loss: loss * float("nan"), "differ by"),
        (mock.Mock(side_effect=TypeError("no compiler\nmore")), "no compiler"),
    ],
)
def test_compiled_loss_is_used_only_if_it_agrees(monkeypatch, capsys, change, message, config):
    training = SmallTraining(**config)
    plain = training.loss

    def compiled(*batch):
        return change(plain(*batch))

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled)
    before = torch.get_rng_state()
    result = compile_loss(plain, training.model, 4, "fp32")
    assert torch.equal(torch.get_rng_state(), before)
    assert result is (plain if message else compiled)
    assert all(p.grad is None for p in training.model.parameters())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (message is not None)
    assert message is None or message in lines[0]


@pytest.mark.parametrize("has", [(True, False), (False, True), (False, False)])
def test_precision_follows_the_processor(monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has[1])
    chosen = [resolve_precision(choice, torch.device("cpu")) for choice in ("bf16", "auto")]
    assert chosen == ["bf16", "bf16" if any(has) else "fp32"]


@pytest.mark.parametrize(
    ("hip", "name", "capability", "precision"),
    [
        (None, "GTX 1080", (6, 1), "fp32"),
        (None, "V100", (7, 0), "fp16"),
        (None, "T4", (7, 5), "fp16"),
        (None, "H100", (9, 0), "bf16"),
        ("7.2", "gfx906:sramecc+:xnack-", (9, 0), "fp32"),  # MI50
        ("7.2", "gfx90a:sramecc+:xnack-", (9, 0), "bf16"),  # MI250
        ("7.2", "gfx1030", (10, 3), "fp32"),  # RX 6800
        ("7.2", "gfx1100", (11, 0), "bf16"),  # RX 7900
    ],
)
def test_precision_follows_the_gpu(monkeypatch, hip, name, capability, precision):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    properties = mock.Mock(gcnArchName=name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert resolve_precision("auto", GPU) == precision
