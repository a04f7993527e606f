"""Write a checkpoint without its optimizer, in half precision: a sixth of the size, to be shared.

python checkpoint/without_optimizer.py checkpoint/vitpose/best_epoch.bin vitpose.bin

It evaluates, lifts, and starts new trainings (--init-from), but cannot be resumed.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import ArgumentParser, run_script
from common.files.output import atomic_output, check_distinct
from common.training.checkpoint import Checkpoint


def main() -> None:
    """Read, keep the weights, the network, the recipe and the mean pose, write."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of run_poseformer.py")
    parser.add_argument("output", type=Path, help="the file to write")
    arguments = parser.parse_args()
    check_distinct([arguments.output], [arguments.checkpoint])
    checkpoint = Checkpoint.load(arguments.checkpoint)
    weights = {
        name: w.half() if w.is_floating_point() else w for name, w in checkpoint.weights.items()
    }
    content = {
        "model_pos": weights,
        "config": asdict(checkpoint.config),
        "recipe": checkpoint.recipe,
    }
    content |= {name: checkpoint.content[name] for name in ("epoch", "mean_pose")}
    with atomic_output(arguments.output) as temporary:
        torch.save(content, temporary)
    size_mb, count = arguments.output.stat().st_size / 1e6, sum(w.numel() for w in weights.values())
    print(f"wrote {arguments.output} ({size_mb:.1f} MB, {count:,} weights)")


if __name__ == "__main__":
    run_script(main)
