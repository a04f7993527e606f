"""One training step on an imaginary GPU, operator by operator; run in a process of its own.

Tensors have shapes and a device, no memory. Prints each operator that reads tensors of another
device; ends with an error at the first that reads a number back to the host.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch._subclasses.fake_tensor as fake_tensor
from torch._subclasses.fake_impls import op_implementations_dict
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.augmentation import AugmentedWindows
from common.h36m_dataset import Sequence2d3d
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.optimizer import build_optimizer, set_learning_rate
from common.training.processes import World
from common.training.recipe import Recipe
from run_poseformer import loss_of


class Watch(TorchDispatchMode):
    """Notes operators, and those among them that mix devices."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        values = tree_leaves([arguments, options, result])
        devices = {str(v.device) for v in values if isinstance(v, torch.Tensor)}
        self.names.append(str(function))
        if devices - {"gpu:0"}:
            print(function, sorted(devices))
        return result


_setup_privateuseone_for_python_backend("gpu")
torch.gpu.get_amp_supported_dtype = lambda: [torch.bfloat16]
shapes = torch.library.Library("aten", "IMPL")  # PyTorch has them for a rate that is a number
shapes.impl("_fused_adamw_.tensor_lr", lambda *arguments, **options: None, "Meta")
fake_tensor.init_gpu_context = lambda device: None
torch.__future__.set_overwrite_module_params_on_conversion(True)
device, mode = torch.device("gpu", 0), fake_tensor.FakeTensorMode()
config = PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=2, drop_rate=0.1, drop_path_rate=0.1)
model = PoseFormerV2(config).train()
data = np.zeros((40, 17, 3), np.float32)
sequence = Sequence2d3d("S1", "Walking", 0, data[..., :2], data, data[:, 0] + 5)
with mode:
    scenes = {"turn_degrees": 180, "resize": 0.1, "exchange_limbs": 0.5}
    windows = AugmentedWindows([sequence], 9, **scenes, device=device, augment=True)
    model._apply(lambda t: mode.from_tensor(t).to(device))
    read = torch.ops.aten._local_scalar_dense.default
    with mock.patch.dict(op_implementations_dict, {read: lambda *_: True}):
        optimizer = build_optimizer(model, Recipe())  # which checks the learning rate, once
    set_learning_rate(optimizer, 1e-4)
    samples = torch.zeros(50, dtype=torch.int64, device=device)
    velocity = torch.ones((), device=device)
    with Watch() as watch:
        indices, weights = World(0, 1, device).local_batch(samples, 64)
        loss = loss_of(model, windows, indices, weights, "fp32", 0.1, velocity)
        loss.backward()
        optimizer.step()
assert len(indices) == 64 and loss.device == device
assert "aten._fused_adamw_.tensor_lr" in watch.names, "the learning rate is frozen in a graph"
assert "aten.native_layer_norm_backward.default" in watch.names
print(f"{len(watch.names)} operators")
