"""Time and peak memory of the scripts in `data/`, from raw files to npz and film.

On a full-size stand-in for the raw files: `python data/make_sample.py --full --data-dir DIR`, then
`python benchmarks/data_scripts.py --data-dir DIR`. Takes about 5 GB in the system's folder for
temporary files. Linux only, for /proc.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import DATA_DIR, ArgumentParser, InputError, run_script

POLL_S = 0.05


def main() -> None:
    """Run every step and print a line for each."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    where = "folder whose preprocess folder holds cdf_files and h36m_<detector>; only read"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", default=DATA_DIR, help=where)
    raw = parser.parse_args().data_dir.resolve() / "preprocess"
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder; data/make_sample.py --full writes one")
    line = "{:60} {:>8} {:>16}"
    print(line.format("step", "seconds", "peak memory, MB"))
    with tempfile.TemporaryDirectory() as scratch:
        for script, *flags in steps(raw):
            seconds, peak_mb = measure([script, "--data-dir", scratch, *flags], scratch)
            step = " ".join([script, *(flag for flag in flags if "-dir=" not in flag)])
            print(line.format(step, f"{seconds:.1f}", f"{peak_mb:,.0f}"), flush=True)


def steps(raw: Path) -> Iterator[tuple[str, ...]]:
    """Yield each step's script and its flags."""
    yield "prepare_data_h36m.py", f"--cdf-dir={raw / 'cdf_files'}"
    folders = {path.name.removeprefix("h36m_"): path for path in sorted(raw.glob("h36m_*"))}
    for detector, folder in folders.items():
        flags = f"--detector={detector}", f"--detections-dir={folder}"
        yield "prepare_2d_estimation.py", *flags
        yield "prepare_2d_estimation.py", *flags, "--keep-conf"
    if {"vitpose", "pct", "moganet"} <= set(folders):
        for strategy in ("manual", "average", "weighted_average"):
            yield "merge.py", f"--strategy={strategy}"
    if "vitpose" in folders:
        for output in ("--output=film.mp4", "--output=film.gif"):
            yield "visualize.py", output, "--limit=1500"
            yield "visualize.py", output  # a longer film must not take more memory


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
