"""Time and peak memory of the scripts in `data/`, from raw files to npz and film, and their limits.

On a full-size stand-in for the raw files: `python data/make_sample.py --full --data-dir DIR`, then
`python benchmarks/data_scripts.py --data-dir DIR`. Takes about 5 GB in the system's folder for
temporary files. Linux only, for /proc.
"""

import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import DATA_DIR, ArgumentParser, InputError, run_script

LIMIT_MB = 4000
FILM_FRAMES = 1500  # of a film that has a limit; a longer one must not take more memory
POLL_S = 0.05


def main() -> None:
    """Run every step and print a line for each; fail if one exceeds a limit."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    where = "folder whose preprocess folder holds cdf_files and h36m_<detector>; only read"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", default=DATA_DIR, help=where)
    raw = parser.parse_args().data_dir.resolve() / "preprocess"
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder; data/make_sample.py --full writes one")
    line = "{:60} {:>8} {:>6} {:>16}"
    print(line.format("step", "seconds", "limit", "peak memory, MB"))
    too_much = False
    with tempfile.TemporaryDirectory() as scratch:
        for limit_s, script, *flags in steps(raw):
            seconds, peak_mb = measure([script, "--data-dir", scratch, *flags], scratch)
            too_much |= seconds > limit_s or peak_mb > LIMIT_MB
            step = " ".join([script, *(flag for flag in flags if "-dir=" not in flag)])
            print(line.format(step, f"{seconds:.1f}", limit_s, f"{peak_mb:,.0f}"), flush=True)
    if too_much:
        raise InputError(f"a step took more than its limit, or than {LIMIT_MB:,} MB")


def steps(raw: Path) -> Iterator[tuple]:
    """Yield each step's limit in seconds, its script and its flags."""
    yield 90, "prepare_data_h36m.py", f"--cdf-dir={raw / 'cdf_files'}"
    folders = {path.name.removeprefix("h36m_"): path for path in sorted(raw.glob("h36m_*"))}
    for detector, folder in folders.items():
        for confidences in ((), ("--keep-conf",)):
            flags = f"--detector={detector}", f"--detections-dir={folder}", *confidences
            yield 60, "prepare_2d_estimation.py", *flags
    if {"vitpose", "pct", "moganet"} <= set(folders):
        for strategy in ("manual", "average", "weighted_average"):
            yield 60, "merge.py", f"--strategy={strategy}"
    if "vitpose" in folders:
        for limit_s, output in ((15, "--output=film.mp4"), (30, "--output=film.gif")):
            yield limit_s, "visualize.py", output, f"--limit={FILM_FRAMES}"
            yield math.inf, "visualize.py", output


def measure(command: list[str], folder: str) -> tuple[float, float]:
    """Run a script of `data/` in a folder; return its seconds and its processes' peak memory, MB.

    Memory is the sum of the processes' resident sets, which counts shared pages more than once.
    """
    start, pages = time.perf_counter(), 0
    python = [sys.executable, str(DATA_DIR / command[0]), *command[1:]]
    with subprocess.Popen(python, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            pages = max(pages, resident_pages(process.pid))
            time.sleep(POLL_S)
    if process.returncode:
        raise InputError(f"{' '.join(command)}: exit status {process.returncode}")
    return time.perf_counter() - start, pages * resource.getpagesize() / 1e6


def resident_pages(pid: int) -> int:
    """Return the memory of a process and of all that it started; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = [child for path in threads for child in path.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages + sum(resident_pages(int(child)) for child in children)


if __name__ == "__main__":
    run_script(main)
