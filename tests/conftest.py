import os

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # before PyTorch; the tests share the machine
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

    def run(script, *arguments, cwd=None, env=None, check=True, timeout=900):
        command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
        result = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{command} exited {result.returncode}:\n{result.stderr}")
        return result

    return run


@pytest.fixture(scope="session")
def real_chain(real_mocap, run_script, tmp_path_factory):
    """The data folder and the standard outputs of the whole chain, run on real motion.

    Each script runs once as a user would run it, from an arbitrary folder; its other runs are in
    this process, to save time.
    """
    from raw_trees import call

    from data import merge, prepare_2d_estimation

    data_dir = tmp_path_factory.mktemp("real_chain")
    (data_dir / "preprocess").symlink_to(real_mocap)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    outputs = {}

    def run(script, *arguments):
        result = run_script(f"data/{script}", "--data-dir", data_dir, *arguments, cwd=elsewhere)
        outputs[(script, *arguments)] = result.stdout

    def run_here(main, *arguments):
        result = call(main, "--data-dir", data_dir, *arguments)
        assert result.status == 0, result.stderr

    run("prepare_data_h36m.py")
    run("prepare_2d_estimation.py", "--detector", "vitpose")
    run_here(prepare_2d_estimation.main, "--detector", "vitpose", "--keep-conf")
    for detector in ("pct", "moganet", "transpose"):
        run_here(prepare_2d_estimation.main, "--detector", detector)
        run_here(prepare_2d_estimation.main, "--detector", detector, "--keep-conf")
    run("merge.py", "--strategy", "weighted_average")
    for strategy in ("manual", "average"):
        run_here(merge.main, "--strategy", strategy)
    assert not list(elsewhere.iterdir())
    return data_dir, outputs
