"""Speed and peak memory of `data/visualize.py`: a moving body, as mp4 and as gif, short and long.

    python benchmarks/rendering.py

The seconds are a user's: loading of Python and of the files included. Linux only, for /proc.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.data_preparation import measure
from common.camera import load_cameras, project, world_to_camera
from common.files.console import ArgumentParser, run_script
from common.files.npz import write_positions_2d, write_positions_3d
from common.files.tables import format_markdown
from common.skeleton import JOINTS_32_TO_17

LIMIT_S = {".mp4": 15, ".gif": 30}
LIMIT_FRAMES = 1500
NOISE_PX = 6.0


def main() -> None:
    """Draw all cases and print a table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[LIMIT_FRAMES, 4 * LIMIT_FRAMES])
    arguments = parser.parse_args()
    titles = ("output", "frames", "seconds", "limit", "frames/s", "peak memory, MB", "file, MB")
    rows = [titles]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), max(arguments.frames))
        for suffix, limit in LIMIT_S.items():
            for frames in arguments.frames:
                output = Path(folder, f"film{suffix}")
                flags = ("--limit", str(frames), "--output", str(output))
                seconds, peak_mb = measure("visualize.py", "--data-dir", folder, *flags)
                limit_s = str(limit) if frames == LIMIT_FRAMES else "–"
                figures = f"{frames / seconds:.0f}", f"{peak_mb:.0f}"
                size = f"{output.stat().st_size / 1e6:.1f}"
                rows.append((suffix[1:], f"{frames:,}", f"{seconds:.1f}", limit_s, *figures, size))
    print(format_markdown(rows))


def write_files(folder: Path, frames: int) -> None:
    """Write a body that sways about its place, as `data/visualize.py` reads it by default."""
    random = np.random.default_rng(0)
    body = random.normal(0, 0.3, (32, 3)) + (0, 0, 1)
    phase = np.linspace(0, frames / 10, frames)[:, None, None]
    poses = (body + 0.1 * np.sin(phase + random.uniform(0, 6, (32, 3)))).astype(np.float32)
    write_positions_3d(folder / "data_3d_h36m.npz", {"S1": {"Walking": poses}})
    pictures = [
        project(
            world_to_camera(poses[:, JOINTS_32_TO_17], c.orientation, c.translation_m), c.intrinsics
        )
        for c in load_cameras()["S1"]
    ]
    for name, noise_px in (("gt", 0.0), ("vitpose", NOISE_PX)):
        noisy = [(p + random.normal(0, noise_px, p.shape)).astype(np.float32) for p in pictures]
        write_positions_2d(folder / f"data_2d_h36m_{name}.npz", {"S1": {"Walking": noisy}})


if __name__ == "__main__":
    run_script(main)
