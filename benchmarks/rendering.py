"""Speed and peak memory of drawing: a walk at 1700×400, as mp4 and as gif, short and long.

    python benchmarks/rendering.py

Each case runs in its own process, whose peak memory is read at its end; ffmpeg's is the peak of any
process that it started.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.console import ArgumentParser, run
from common.h36m_cameras import load_cameras
from common.h36m_dataset import FPS
from common.skeleton import JOINTS_32_TO_17
from data.synthetic.acting import perform
from data.synthetic.bodies import make_bodies
from data.synthetic.room import place_in_room, view
from data.visualize import Footage, render_estimates

SIZE = (1700, 400)
LIMIT_S = {".mp4": 15, ".gif": 30}
LIMIT_FRAMES = 1500
NOISE_PX = 6.0


def main() -> None:
    """Run all cases, each in its own process, and print a table; with `--case`, run that one."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[LIMIT_FRAMES, 4 * LIMIT_FRAMES])
    parser.add_argument("--case", nargs=2, metavar=("SUFFIX", "FRAMES"), help="run one case only")
    arguments = parser.parse_args()
    if arguments.case:
        suffix, frames = arguments.case
        print(json.dumps(measure(suffix, int(frames))))
        return
    print("| output | frames | seconds | limit | frames/s | drawing, MB | ffmpeg, MB | file, MB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for suffix, limit in LIMIT_S.items():
        for frames in arguments.frames:
            case = run_case(suffix, frames)
            limit_s = limit if frames == LIMIT_FRAMES else "–"
            print(
                f"| {suffix[1:]} | {frames:,} | {case['seconds']:.1f} | {limit_s} | "
                f"{frames / case['seconds']:.0f} | {case['drawing_mb']:.0f} | "
                f"{case['ffmpeg_mb']:.0f} | {case['file_mb']:.1f} |",
                flush=True,
            )


def run_case(suffix: str, frames: int) -> dict[str, float]:
    """Measure in a fresh process, so that one case's memory does not count for the next."""
    command = [sys.executable, __file__, "--case", suffix, str(frames)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(suffix: str, frames: int) -> dict[str, float]:
    """Draw a walk; return the time in seconds and the peak memory in MB."""
    truth_px, poses_m = make_walk(frames)
    noise = np.random.default_rng(1).normal(0, NOISE_PX, truth_px.shape)
    camera = load_cameras()["S1"][1]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, f"walk{suffix}")
        start = time.perf_counter()
        footage = Footage(camera, {"Estimate": truth_px + noise}, truth_px, poses_m, range(frames))
        render_estimates(output, footage, f"S1 · Walking · camera {camera.id}", FPS, SIZE)
        seconds = time.perf_counter() - start
        file_mb = output.stat().st_size / 1e6
    return {
        "seconds": seconds,
        "file_mb": file_mb,
        "drawing_mb": peak_mb(resource.RUSAGE_SELF),
        "ffmpeg_mb": peak_mb(resource.RUSAGE_CHILDREN),
    }


def peak_mb(who: int) -> float:
    """Return the highest resident memory so far; Linux counts it in KiB."""
    return resource.getrusage(who).ru_maxrss / 1024


def make_walk(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a walk in pixels (frames, 17, 2) and in metres in the world (frames, 17, 3)."""
    random = np.random.default_rng(0)
    cameras = load_cameras()["S1"]
    joints, walked = perform(random, "Walking", make_bodies(random, np.array([1.75])), frames)
    poses = place_in_room(random, joints[0], walked[0], cameras)[:, JOINTS_32_TO_17]
    return view(poses, cameras[1])[0], poses


if __name__ == "__main__":
    run(main)
