"""make fuzz: thousands of strange files against every reader; see engine.py for what fails."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from fuzz.engine import READ, REFUSED, campaign  # noqa: E402
from fuzz.readers import all_readers  # noqa: E402


def main() -> int:
    """Run the campaign; 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="in all (default: 20,000)")
    parser.add_argument("--seed", type=int, help="to repeat a campaign (default: random)")
    parser.add_argument("--reader", help="one reader alone, by its name")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    readers = [r for r in all_readers() if arguments.reader in (None, r.name)]
    print(f"seed {seed}", flush=True)
    start, failures = time.perf_counter(), 0
    for reader in readers:
        try:
            cases, keep = arguments.cases // len(readers), Path(tempfile.gettempdir())
            counts = campaign(reader, cases, seed, keep)
            print(f"{reader.name}: {counts[READ]} read, {counts[REFUSED]} refused", flush=True)
        except AssertionError as error:
            failures += 1
            print(f"FAILED {error}", flush=True)
    print(f"{failures} readers failed, {time.perf_counter() - start:.0f} s")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
