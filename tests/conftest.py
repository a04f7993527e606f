import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden")
REAL_MOCAP = REPOSITORY.parent / "shared" / "real_mocap"

sys.path.insert(0, str(REPOSITORY))


@pytest.fixture(scope="session")
def golden():
    """Arrays that the published model and the field's camera and metric code give."""
    with np.load(GOLDEN / "reference_vectors.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_spec():
    return json.loads((GOLDEN / "reference_spec.json").read_text())


@pytest.fixture(scope="session")
def real_mocap():
    """Real motion capture in Human3.6M's layout, which is not part of the repository."""
    if not REAL_MOCAP.is_dir():
        pytest.skip("no real motion capture beside the repository")
    return REAL_MOCAP


@pytest.fixture(scope="session")
def run_script():
    """Run one of the project's scripts as a user would, in a process of its own."""

    def run(script, *arguments, cwd=None, env=None, check=True, timeout=240):
        command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
        result = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{command} exited {result.returncode}:\n{result.stderr}")
        return result

    return run
