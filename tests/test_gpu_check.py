"""`make gpu-check` on a CPU: what needs no GPU passes, so that it works on the day there is one."""

from dataclasses import replace

import torch

from benchmarks import gpu, throughput
from common.model_poseformer import PoseFormerConfig
from common.training.processes import start_world

CONFIG = PoseFormerConfig(9, embed_dim_ratio=8, depth=1)
NEEDS_A_GPU = ("a capture that breaks", "attention by the efficient")


def test_all_but_captures_passes_on_a_cpu(monkeypatch):
    small = {
        gpu: {
            "CONFIG": CONFIG,
            "RANDOM": replace(CONFIG, drop_rate=0.1, drop_path_rate=0.1),
            "PoseFormerConfig": lambda *_: CONFIG,
            "SMALL": replace(gpu.SMALL, batch_size=6),
            "DEFAULT": replace(gpu.DEFAULT, batch_size=8),
            "SIZES": (8,),
            "STEPS": 2,
            "LAST_BATCH": 4,
            "MAX_SEQUENCES": 40,
            "TEST_FRAMES": 120,
            "SEQUENCE_LENGTH": 60,
            "seconds_on_gpu": lambda work, _: work() and 1.0,
        },
        throughput: {
            "SEQUENCE_LENGTH": 60,
            "SEQUENCES": 2,
            "median_seconds": lambda work, *_, **__: work().item(),
        },
        torch.cuda: {
            "synchronize": lambda *_: None,
            "reset_peak_memory_stats": lambda: None,
            "max_memory_allocated": lambda: 0,
        },
    }
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    table = gpu.Table(deadline=float("inf"))
    gpu.check(table, start_world("cpu"))
    gpu.measure(table, start_world("cpu"))
    failed = [name for name, result in table.rows if result.startswith("FAILED")]
    assert [name for name in failed if not any(part in name for part in NEEDS_A_GPU)] == []
    assert ("graph equals eager steps, fp32", "the same bits") in table.rows
