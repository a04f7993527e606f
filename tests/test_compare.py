"""The study: its runs, what it resumes and refuses, its test and its tables."""

import csv
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from raw_trees import assert_one_line_error, call
from scipy import stats
from test_confidences import confident  # noqa: F401
from test_run_poseformer import data_dir, load  # noqa: F401

import compare
from common import runs
from compare import default_inputs
from study_results import best_cells, draw_study, latex_table, seed_error_mm, study_rows, wilcoxon

SMALL = ("-frame", "9", "--depth", "1", "--embed-dim-ratio", "8", "-str", "S1,S5", "-ste", "S9")
SMALL += ("--precision", "fp32", "-b", "64")


@pytest.fixture
def study(data_dir, tmp_path):
    """Run compare.py on the small data set, with a small network on the CPU."""

    def run(*arguments, folder="study"):
        fixed = ("--study", tmp_path / folder, "--data-dir", data_dir, "--gpus", "cpu", *SMALL)
        return call(compare.main, *fixed, *arguments), tmp_path / folder

    return run


def test_a_study_is_done_resumed_extended_and_compared(study, monkeypatch):
    inputs = ("--keypoints", "vitpose+pct", "pct", "--epochs", "1")
    result, folder = study(*inputs, "--seeds", "0")
    assert result.status == 0, result.stderr
    assert "2 runs, 0 of them done" in result.stdout
    first = {p: p.stat().st_mtime_ns for p in folder.glob("*/seed_*/*")}
    assert len({p.parent for p in first}) == 2
    assert load(folder / "pct" / "seed_0" / "last_epoch.bin")["recipe"]["keypoints"] == "pct"

    # A run that was killed after its training is evaluated alone; a new seed is trained.
    (folder / "pct" / "seed_0" / "report.json").unlink()
    calls = []
    plain = runs.Processes.call
    monkeypatch.setattr(
        runs.Processes, "call", lambda s, c, o: (calls.append(c), plain(s, c, o))[1]
    )
    result, _ = study("--keypoints", "pct", "--epochs", "1", "--seeds", "0", "7")
    assert result.status == 0, result.stderr
    assert "2 runs, 0 of them done" in result.stdout
    assert len(calls) == 4
    resumed = [c for c in calls if "--resume" in c]
    assert [c[c.index("--keypoints") + 1] for c in resumed] == ["pct"]
    assert load(folder / "pct" / "seed_7" / "last_epoch.bin")["recipe"]["seed"] == 7
    untouched = folder / "vitpose+pct" / "seed_0" / "last_epoch.bin"
    assert untouched.stat().st_mtime_ns == first[untouched]

    with (folder / "table.csv").open(newline="") as file:
        rows = {row["keypoints"]: row for row in csv.DictReader(file)}
    errors = [
        json.loads((folder / "pct" / f"seed_{s}" / "report.json").read_text())
        ["average_over_actions"]["mpjpe_mm"]
        for s in (0, 7)
    ]  # fmt: skip
    assert float(rows["pct"]["mpjpe_mm"]) == pytest.approx(np.mean(errors))
    assert float(rows["pct"]["mpjpe_mm_std"]) == pytest.approx(np.std(errors, ddof=1))
    assert 4 < float(rows["pct"]["error_2d_px"]) < 6
    assert (folder / "study.png").stat().st_size > 10_000
    assert (folder / "table.md").read_text() in result.stdout

    nan = '{"average_over_actions": {"mpjpe_mm": NaN}, "by_sequence": {}}'
    for damaged in ("{}", nan, "[" * 200_000):
        (folder / "pct" / "seed_7" / "report.json").write_text(damaged)
        result, _ = study("--keypoints", "pct", "--epochs", "1", "--seeds", "0", "7")
        assert_one_line_error(result, folder / "pct" / "seed_7" / "report.json", "damaged")


def test_each_gpu_takes_a_run(data_dir, tmp_path, monkeypatch):
    """Neither of the first two trainings goes on before the other one has started."""
    together = threading.Barrier(2)
    calls = []

    def run(self, command, output):
        calls.append(command)
        if "--evaluate" in command:
            partial = Path(command[command.index("--report") + 1])
            partial.write_text(json.dumps(report(0, 50)))
        else:
            together.wait(timeout=240)
        return 0

    monkeypatch.setattr(runs.Processes, "call", run)
    arguments = ("--study", tmp_path / "s", "--data-dir", data_dir, "--gpus", "0,3", "-ste", "S9")
    result = call(compare.main, *arguments, "--keypoints", "pct", "vitpose", "--seeds", "0", "1")
    assert result.status == 0, result.stderr
    gpus = [c[c.index("--gpu") + 1] for c in calls if "--evaluate" not in c]
    assert sorted(gpus) == ["0", "0", "3", "3"]


def test_a_killed_study_goes_on(data_dir, tmp_path):
    command = [sys.executable, REPOSITORY / "compare.py", "--study", tmp_path / "study"]
    command += ["--data-dir", data_dir, "--gpus", "cpu", "--keypoints", "pct", "--seeds", "0"]
    command += ["--epochs", "8", "-b", "32", *SMALL[:-2]]
    folder = tmp_path / "study" / "pct" / "seed_0"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (folder / "last_epoch.bin").is_file():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 143
    done = load(folder / "last_epoch.bin")["epoch"]
    assert not (folder / "report.json").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))
    assert 1 <= done <= 8
    assert (folder / "report.json").is_file()


def test_the_default_inputs(confident):
    (confident / "data_2d_h36m_merge_x.npz").write_bytes(b"")
    inputs = default_inputs(confident, "h36m")
    (confident / "data_2d_h36m_merge_x.npz").unlink()
    assert inputs == [
        "moganet", "pct", "vitpose", "merge_x", "pct_w_conf", "vitpose_w_conf",
        "moganet+pct+vitpose",
    ]  # fmt: skip


# ---- the test and the tables ----


@pytest.mark.parametrize("n", [8, 59, 400])
def test_wilcoxon_is_scipys(n):
    random = np.random.default_rng(n)
    for shift in (0, 0.3):
        for values in (random.normal(shift, 1, n), np.round(random.normal(shift, 2, n))):
            expected = stats.wilcoxon(values, method="approx", correction=False).pvalue
            assert wilcoxon(values) == pytest.approx(expected, rel=1e-9)
    assert wilcoxon(np.zeros(5)) == 1


def test_a_difference_that_another_seed_would_undo_is_not_called_real():
    """Every sequence is worse by 5 mm, but the seeds differ by 20 mm."""
    a = [report(1, 50), report(1, 70)]
    b = [report(1, 55), report(1, 75)]
    rows = study_rows({"a": a, "b": b}, {})
    assert rows[1]["p_best"] < 1e-4
    assert not rows[1]["worse"]


def report(seed, mean):
    random = np.random.default_rng(seed)
    sequences = {
        f"S9 Walking {i}": {"mpjpe_mm": e} for i, e in enumerate(random.normal(mean, 1, 30))
    }
    return {"average_over_actions": {"mpjpe_mm": mean, "p_mpjpe_mm": 1}, "by_sequence": sequences}


def test_the_rows_are_sorted_and_tested_against_the_best():
    reports = {"a_b": [report(1, 50), report(2, 51)], "c": [report(3, 40), report(4, 41)],
               "d": [report(3, 40), report(4, 41.0)]}  # fmt: skip
    rows = study_rows(reports, {"c": {"mean_px": 3.0, "bias_free_px": 2.0}})
    assert [row["keypoints"] for row in rows] == ["c", "d", "a_b"]
    assert [row["mpjpe_mm"] for row in rows] == [40.5, 40.5, 50.5]
    assert rows[0]["p_best"] is None
    assert rows[1]["p_best"] == 1
    assert rows[2]["p_best"] < 1e-4
    assert [row["worse"] for row in rows] == [False, False, True]
    assert seed_error_mm(rows) == pytest.approx(np.sqrt(2 * 0.5 / 2))
    assert rows[0]["error_2d_px"] == 3
    assert rows[2]["error_2d_px"] is None
    assert (0, 2) in best_cells(rows)
    latex = latex_table(rows)
    assert r"a\_b & -- & -- & 50.5 $\pm$ 0.7" in latex
    assert r"\textbf{40.5 $\pm$ 0.7}" in latex
    assert draw_study(rows) is not None


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--keypoints", "hrnet"), "data_2d_h36m_hrnet.npz: no such file"),
        (("--keypoints", "vitpose+"), "'vitpose+': not an estimator's name"),
        (("--keypoints", "pct", "pct"), "--keypoints: one is given twice"),
        (("--seeds", "1", "1"), "--seeds: one is given twice"),
        (("--resume", "last_epoch.bin"), "--resume: each run gets its own"),
        (("-c", "x"), "-c: each run gets its own"),
        (("--seeds", "-1"), "whole number from 0"),
        (("--no-eval",), "--no-eval: each run gets its own"),
        (("--gpus", "cpu,x"), "--gpu x: expected the number of one GPU"),
        (("--gpus", ","), "--gpus: one is given twice, or none"),
        (("--no-such-flag", "1"), "--no-such-flag"),
        (("--learning-rate", "x"), "--learning-rate"),
    ],
)
def test_bad_usage_is_one_line(study, arguments, says):
    result, folder = study(*arguments)
    assert_one_line_error(result, says)
    assert not folder.exists()


def test_another_recipe_and_other_folders_are_refused(study, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert_one_line_error(study(folder="full")[0], "holds something else")
    (tmp_path / "study").mkdir()
    for damaged in ("[", "[" * 200_000, "7"):
        (tmp_path / "study" / "study.json").write_text(damaged)
        assert_one_line_error(study()[0], "study.json: damaged")
    (tmp_path / "study" / "study.json").write_text('{"epochs": 7}')
    before = (tmp_path / "study" / "study.json").read_bytes()
    assert_one_line_error(study()[0], "study.json: this study has", "choose another --study")
    assert (tmp_path / "study" / "study.json").read_bytes() == before


def test_a_run_that_fails_is_named_and_what_it_said(study):
    arguments = ("--keypoints", "pct", "--seeds", "0", "--epochs", "1", "--actions", "Dancing")
    result, folder = study(*arguments)
    assert_one_line_error(result, folder / "pct" / "seed_0" / "output.txt", "no action 'Dancing'")
