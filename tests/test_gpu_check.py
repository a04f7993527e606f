"""`make gpu-check` on a CPU: what needs no GPU passes, so that it works on the day there is one."""

from dataclasses import replace

import torch

from benchmarks import gpu, throughput
from common.model_poseformer import PoseFormerConfig
from common.training.processes import start_world

CONFIG = PoseFormerConfig(9, embed_dim_ratio=8, depth=1)


def test_all_but_captures_passes_on_a_cpu(monkeypatch):
    small = {
        gpu: {
            "CONFIG": CONFIG,
            "CHECKED": CONFIG,
            "RANDOM": replace(CONFIG, drop_rate=0.1, drop_path_rate=0.1),
            "TOLERANCE": dict.fromkeys(gpu.TOLERANCE, 1e-9),
            "SMALL": replace(gpu.SMALL, batch_size=6),
            "DEFAULT": replace(gpu.DEFAULT, batch_size=8),
            "SIZES": (8, 9),
            "STEPS": 2,
            "LAST_BATCH": 4,
            "MAX_SEQUENCES": 40,
            "TEST_FRAMES": 120,
            "SEQUENCE_LENGTH": 60,
        },
        throughput: {
            "SEQUENCE_LENGTH": 60,
            "SEQUENCES": 2,
            "median_seconds": lambda work, _: work().item(),
        },
        torch: {"compile": lambda function, dynamic: function},
        torch.cuda: {
            "synchronize": lambda: None,
            "reset_peak_memory_stats": lambda: None,
            "max_memory_allocated": lambda: 0,
        },
    }
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    world = start_world("cpu")
    rows = (*gpu.checks(world), *gpu.measurements(world))
    results = {name: throughput.result_of(work) for name, work in rows}
    failed = [name for name, result in results.items() if "FAILED" in result]
    assert failed == ["a capture that breaks is one line"]
    assert results["graph equals eager steps, fp32"].startswith("differ by 0 ")
