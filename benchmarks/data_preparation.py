"""Time and peak memory of each step from raw files to npz, and the limits for both.

On a full-size stand-in for the raw files: `python data/make_sample.py --full --data-dir DIR`, then
`python benchmarks/data_preparation.py --data-dir DIR`. Linux only, for /proc.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.files.console import DATA_DIR, ArgumentParser, InputError, run_script
from common.files.tables import format_markdown

MERGE_STRATEGIES = ("manual", "average", "weighted_average")
MERGED_DETECTORS = {"vitpose", "pct", "moganet"}
LIMIT_S = {"prepare_data_h36m.py": 90, "prepare_2d_estimation.py": 60, "merge.py": 60}
LIMIT_MB = 4000
POLL_S = 0.05


def main() -> None:
    """Run every step, print a table, and exit with status 1 if a step exceeds a limit."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    folder = {"type": Path, "metavar": "DIR"}
    where = "folder whose preprocess folder holds cdf_files and h36m_<detector>; only read"
    parser.add_argument("--data-dir", **folder, default=DATA_DIR, help=where)
    where = "where about 5 GB of outputs go until the end (default: the system's)"
    parser.add_argument("--scratch-dir", **folder, help=where)
    arguments = parser.parse_args()
    raw = arguments.data_dir.resolve() / "preprocess"
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder; data/make_sample.py --full writes one")
    rows, within_limits = [("step", "seconds", "limit", "peak memory, MB", "limit")], True
    with tempfile.TemporaryDirectory(dir=arguments.scratch_dir) as scratch:
        for script, *flags in steps(raw):
            seconds, peak_mb = measure(script, "--data-dir", scratch, *flags)
            within_limits &= seconds < LIMIT_S[script] and peak_mb < LIMIT_MB
            step = " ".join([script, *(flag for flag in flags if "-dir=" not in flag)])
            print(f"{step}: {seconds:.1f} s", file=sys.stderr)
            limit = f"{LIMIT_S[script]}"
            rows.append((step, f"{seconds:.1f}", limit, f"{peak_mb:,.0f}", f"{LIMIT_MB:,}"))
    print(format_markdown(rows))
    raise SystemExit(0 if within_limits else 1)


def steps(raw: Path) -> Iterator[tuple[str, ...]]:
    """Yield each step's script and flags, for the raw files in the folder."""
    yield "prepare_data_h36m.py", f"--cdf-dir={raw / 'cdf_files'}"
    folders = {path.name.removeprefix("h36m_"): path for path in sorted(raw.glob("h36m_*"))}
    for detector, folder in folders.items():
        for keep_conf in ([], ["--keep-conf"]):
            where = f"--detections-dir={folder}"
            yield "prepare_2d_estimation.py", "--detector", detector, where, *keep_conf
    if set(folders) >= MERGED_DETECTORS:
        for strategy in MERGE_STRATEGIES:
            yield "merge.py", "--strategy", strategy


def measure(script: str, *flags: str) -> tuple[float, float]:
    """Run a script; return its seconds, and the peak memory of all of its processes in MB.

    Memory is the sum of the processes' resident sets, which counts shared pages more than once.

    Raises:
        InputError: if the script fails.
    """
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "data" / script), *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        pages = 0
        while process.poll() is None:
            pages = max(pages, resident_pages(process.pid))
            time.sleep(POLL_S)
    if process.returncode:
        raise InputError(f"{script} {' '.join(flags)}: exit status {process.returncode}")
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
