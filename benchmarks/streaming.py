"""Latency of live use: milliseconds from one frame's keypoints to its 3D pose, on the CPU.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --frames 27 81 --checkpoint best_epoch.bin

The weights are random where no checkpoint is given; the time does not depend on them. The first
frames, in which memory is allocated, are not counted. Products are fp32: for one window at a time,
rounding the weights to bf16 takes longer than it saves.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import ArgumentParser, positive_int, run_script
from common.files.tables import format_markdown
from common.footage.lifting import StreamingLifter, load_lifter
from common.model_poseformer import PoseFormerConfig, PoseFormerV2

SIZE = (1920, 1080)
FPS = 30
WARM_UP = 20
LIMIT_MS = {27: 10}


def main() -> None:
    """Print a table: how long a frame takes, with and without the mirrored view."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--frames", type=int, nargs="+", default=[27, 81, 243], help="lengths of the window")
    add("--checkpoint", type=Path, metavar="FILE", help="measure this one instead")
    add("--count", type=positive_int, default=200, help="frames that are measured")
    arguments = parser.parse_args()
    if arguments.checkpoint:
        models = [load_lifter(arguments.checkpoint)]
    else:
        configs = [PoseFormerConfig(number_of_frames=frames) for frames in arguments.frames]
        models = [PoseFormerV2(config).eval() for config in configs]
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    rows = [("frames", "mirrored view", "median, ms", "99%, ms", "limit, ms")]
    for model in models:
        frames = model.config.number_of_frames
        for flip in (True, False):
            median, slow = np.percentile(measure_ms(model, arguments.count, flip), [50, 99])
            figures = f"{median:.1f}", f"{slow:.1f}", str(LIMIT_MS.get(frames, "–"))
            rows.append((str(frames), "yes" if flip else "no", *figures))
    print(format_markdown(rows))


def measure_ms(model: PoseFormerV2, count: int, flip: bool) -> np.ndarray:
    """Return (count,): the milliseconds of each `push`."""
    stream = StreamingLifter(model, size=SIZE, fps=FPS, flip=flip)
    keypoints = np.random.default_rng(0).uniform(200, 900, (WARM_UP + count, 17, 2))
    milliseconds = []
    for frame in keypoints:
        began = time.perf_counter()
        stream.push(frame)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return np.array(milliseconds[WARM_UP:])


if __name__ == "__main__":
    run_script(main)
