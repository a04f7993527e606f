"""The study and the comparison of recipes: runs, what they resume and refuse, tests and tables."""

import csv
import json
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call
from scipy import stats
from small_training import SMALL, data_dir, load  # noqa: F401

import run_poseformer
import study
from benchmarks import recipes
from common import study_runs
from common.arguments import parse_arguments, training_recipe
from common.files.npz import read_positions_2d
from common.training.recipe import RECIPES


def report(seed, mean):
    errors = np.random.default_rng(seed).normal(mean, 1, 30)
    averages = {"mpjpe_mm": mean, "p_mpjpe_mm": mean - 10, "mpjve_mm": mean / 10}
    sequences = {f"S9 Walking {i}": {"mpjpe_mm": error} for i, error in enumerate(errors)}
    return {"average_over_actions": averages, "by_sequence": sequences, "frames_per_s": 100 * mean}


# In place of run_poseformer.py: it trains nothing, and its results follow from its flags.
FAKE_SCRIPT = """
import json, sys, time
from itertools import pairwise
from pathlib import Path

flags, here = dict(pairwise(sys.argv)), Path(__file__).parent
folder = Path(flags["-c"])
with (here / "commands").open("a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
level = (50 if folder.parent.name == "published" else 40) + int(folder.name[-1])
if flags.get("--wandb-name") == "fails":
    sys.exit("a line\\nerror: no luck\\n")
elif "--evaluate" in flags:
    Path(flags["--report"]).write_text((here / f"report_{level}").read_text())
else:
    (folder / "last_epoch.bin").touch()
    with (folder / "log.jsonl").open("w") as file:
        for epoch in (1, 2):
            record = {"lr": 1, "epoch": epoch, "valid_mpjpe_mm": 9, "seconds": 30 * epoch}
            file.write(json.dumps(record) + "\\n")
    if flags.get("--wandb-name") == "waits" and "--resume" not in flags:
        time.sleep(300)
    while flags["--gpu"] != "cpu" and len(list(here.glob("study/*/*/last_epoch.bin"))) < 2:
        time.sleep(0.01)  # for another run at the same time
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Give the commands of the runs so far, which are those of `FAKE_SCRIPT`."""
    (tmp_path / "run_poseformer.py").write_text(FAKE_SCRIPT)
    for level in range(40, 60):
        (tmp_path / f"report_{level}").write_text(json.dumps(report(level, level)))
    monkeypatch.setattr(study_runs, "REPOSITORY", tmp_path)
    return lambda: list(map(json.loads, (tmp_path / "commands").read_text().splitlines()))


@pytest.fixture
def do_study(data_dir, tmp_path):
    """Run a script on the small data set, with a small network on the CPU."""

    def run(*arguments, script=study):
        fixed = ("--study", tmp_path / "study", "--data-dir", data_dir, "--gpus", "cpu")
        small = (*SMALL, "--precision", "fp32")
        return call(script.main, *fixed, *small, *arguments), tmp_path / "study"

    return run


class InMainThread(ThreadPoolExecutor):
    """Does its work at once, in the thread that alone may handle signals."""

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


def test_a_study_of_one_real_run(do_study, monkeypatch):
    """The runs are real; they share this process, as loading PyTorch takes longer than they do."""

    def run_here(command, output, stop):
        result = call(run_poseformer.main, *command[2:])
        output.write_text(result.stdout + result.stderr)
        return result.status

    monkeypatch.setattr(study_runs, "ThreadPoolExecutor", InMainThread)
    monkeypatch.setattr(study_runs, "run_command", run_here)
    flags = ("--keypoints", "pct", "--seeds", "3", "--epochs", "1", "--actions", "Walking")
    result, folder = do_study(*flags)
    assert result.status == 0, result.stderr
    run = folder / "pct" / "seed_3"
    recipe = load(run / "last_epoch.bin")["recipe"]
    assert (recipe["keypoints"], recipe["seed"]) == ("pct", 3)
    with (folder / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    averages = json.loads((run / "report.json").read_text())["average_over_actions"]
    assert float(row["mpjpe_mm"]) == averages["mpjpe_mm"]
    assert 4 < float(row["error_2d_px"]) < 6
    assert (folder / "study.png").stat().st_size > 10_000
    assert (folder / "table.md").read_text() in result.stdout


def test_a_killed_study_goes_on(do_study, commands, tmp_path):
    flags = ("--keypoints", "pct", "--seeds", "0", "--wandb-name", "waits")
    checkpoint = tmp_path / "study" / "pct" / "seed_0" / "last_epoch.bin"

    def kill():
        while not checkpoint.is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=kill).start()
    result, _ = do_study(*flags)
    assert result.status == 143
    assert len(commands()) == 1
    result, folder = do_study(*flags)
    assert result.status == 0, result.stderr
    assert "--resume" in commands()[1]
    assert (folder / "table.md").is_file()


def test_only_what_is_missing_is_done(do_study, commands):
    flags = ("--keypoints", "vitpose+pct", "pct")
    result, folder = do_study(*flags, "--seeds", "0")
    assert result.status == 0, result.stderr
    assert len(commands()) == 4
    (folder / "pct" / "seed_0" / "report.json").unlink()  # as of a run killed before its end
    result, _ = do_study(*flags, "--seeds", "0", "7")
    assert "4 runs, 1 of them done" in result.stdout
    trainings = [dict(pairwise(c)) for c in commands()[4:] if "--evaluate" not in c]
    assert [(f["--keypoints"], f["--seed"], "--resume" in f) for f in trainings] == [
        ("pct", "0", True),
        ("vitpose+pct", "7", False),
        ("pct", "7", False),
    ]


def test_each_lifter_has_a_block_and_trains_by_its_own_flags(do_study, commands):
    do_study("--keypoints", "pct", "--seeds", "0", "--recipe", "published")
    flags = ("--keypoints", "vitpose", "pct", "--seeds", "0", "--recipe", "published")
    flags += ("--dim", "16")  # beside --embed-dim-ratio of `SMALL`
    result, folder = do_study(*flags, "--model", "poseformerv2", "motionagformer")
    assert result.status == 0, result.stderr
    assert "4 runs, 1 of them done" in result.stdout
    trainings = [dict(pairwise(c)) for c in commands() if "--evaluate" not in c]
    network = ("--model", "--dim", "--embed-dim-ratio", "--depth", "--keypoints")
    assert [[f.get(name) for name in network] for f in trainings] == [
        [None, None, "8", "1", "pct"],
        [None, None, "8", "1", "vitpose"],
        ["motionagformer", "16", None, "1", "vitpose"],
        ["motionagformer", "16", None, "1", "pct"],
    ]
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == 2 * ["poseformerv2"] + 2 * ["motionagformer"]
    assert json.loads((folder / "motionagformer" / "study.json").read_text())["dim"] == 16
    assert_one_line_error(do_study(*flags, "--model", "motionagformer")[0], "has model None, not")


def test_training_flags_of_one_lifter_do_not_go_to_the_other():
    own, common = ["--dropout", "0.1", "--velocity", "1.0"], ["--stride", "2"]
    second = ["--model", "motionagformer"]
    flags = study_runs.flags_of_lifters({"a": own + common, "b": own + common + second})
    assert sorted(flags["a"]) == sorted(own + common)
    assert sorted(flags["b"]) == sorted(common + second)


def test_each_gpu_takes_a_run(do_study, commands):
    result, _ = do_study("--keypoints", "pct", "vitpose", "--seeds", "0", "1", "--gpus", "0,3")
    assert result.status == 0, result.stderr
    gpus = [c[c.index("--gpu") + 1] for c in commands() if "--evaluate" not in c]
    assert len(gpus) == 4 and set(gpus) == {"0", "3"}


def test_two_runs_share_the_processors(do_study, commands, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(study_runs.torch, "get_num_threads", lambda: 6)
    result, _ = do_study("--keypoints", "pct", "vitpose", "--gpus", "cpu,cpu")
    assert result.status == 0, result.stderr
    assert os.environ.pop("OMP_NUM_THREADS") == "3"


def test_the_default_inputs(tmp_path):
    for name in ("gt", "vitpose", "pct", "merge_x", "pct_w_conf", "vitpose_w_conf", "moganet"):
        (tmp_path / f"data_2d_h36m_{name}.npz").write_bytes(b"")
    assert " ".join(study.default_inputs(tmp_path, "h36m")) == (
        "moganet pct vitpose merge_x pct_w_conf vitpose_w_conf moganet+pct+vitpose"
    )


# ---- the test and the tables ----


def test_a_difference_that_another_seed_would_undo_is_not_called_real():
    """Every sequence is worse by 5 mm, but the seeds differ by 20 mm."""
    reports = {"a": [report(1, 50), report(1, 70)], "b": [report(1, 55), report(1, 75)]}
    rows = study.study_rows(reports, {})
    assert rows[1]["p_best"] < 1e-4
    assert not rows[1]["worse"]


def test_the_rows_are_sorted_and_tested_against_the_best():
    reports = {"a_b": [report(1, 50), report(2, 51)], "c": [report(3, 40), report(4, 41)],
               "d": [report(3, 40), report(4, 41)]}  # fmt: skip
    rows = study.study_rows(reports, {"c": {"mean_px": 3.0, "bias_free_px": 2.0}})
    assert study.seed_error_mm(rows) == pytest.approx(np.sqrt(2 * 0.5 / 2))
    lines = study.markdown_table([rows]).splitlines()
    assert lines[2:5] == [
        "| c | **3.00** | **2.00** | **40.5 ± 0.7** | **30.5 ± 0.7** | – |",
        "| d | – | – | 40.5 ± 0.7 | 30.5 ± 0.7 | 1.000 |",
        "| a_b | – | – | 50.5 ± 0.7 | 40.5 ± 0.7 | < 0.001 |",
    ]
    assert lines[-1].endswith("Worse than c beyond chance, by both: a_b.")
    latex = study.latex_table([rows])
    assert r"a\_b & -- & -- & 50.5 $\pm$ 0.7 & 40.5 $\pm$ 0.7 & $<$ 0.001 \\" in latex
    assert r"c & \textbf{3.00} & \textbf{2.00} & \textbf{40.5 $\pm$ 0.7}" in latex


def test_ranks_and_their_correlation_are_scipys():
    random, blocks, errors = np.random.default_rng(0), {}, {}
    for model in ("x", "y", "z"):
        errors[model] = random.integers(40, 44, 6)
        reports = {f"input {i}": [report(i, float(e))] for i, e in enumerate(errors[model])}
        blocks[model] = study.study_rows(reports, {})
    study.add_ranks(blocks)
    for model, rows in blocks.items():
        assert [row["model"] for row in rows] == 6 * [model]
        for row in rows:
            for other, own in errors.items():
                rank = stats.rankdata(own)[int(row["keypoints"][-1])]
                assert row[f"rank_{other}"] == rank
                expected = stats.spearmanr(errors[model], own).statistic
                assert row[f"spearman_{other}"] == pytest.approx(expected)
    lines = study.markdown_table(list(blocks.values())).splitlines()
    assert lines[0].endswith("| p | rank, x | rank, y | rank, z |")
    assert [line.split(":")[0] for line in lines[2:20]] == [
        f"| {m}" for m in "xyz" for _ in "123456"
    ]
    correlation = stats.spearmanr(errors["x"], errors["z"]).statistic
    assert f"x and z {correlation:.2f}" in lines[-1]
    latex = study.latex_table(list(blocks.values()))
    assert latex.startswith("\\begin{tabular}{lrrrrrrrr}") and latex.count("hline") == 5
    assert f"% {lines[-1]}" in latex


def test_equal_inputs_differ_by_no_more_than_tukeys_table():
    rows = [{"mpjpe_mm_seeds": [0.0] * 5, "mpjpe_mm_std": 2.0}] * 3
    assert study.seed_limit_mm(rows) == pytest.approx(3.77 * 2 / 5**0.5, rel=2e-3)  # 12 degrees
    assert study.seed_limit_mm(rows[:1]) == 0
    assert study.seed_limit_mm([{"mpjpe_mm_seeds": [0.0], "mpjpe_mm_std": None}] * 6) == 0


def test_2d_is_measured_on_the_actions_of_the_3d(data_dir):
    found = [
        study.measure_inputs(data_dir, "h36m", ["pct"], ["S9"], actions)["pct"]["mean_px"]
        for actions in ("Walking", "Walking 1", "*")
    ]
    truth, pct = (
        read_positions_2d(data_dir / f"data_2d_h36m_{name}.npz")["S9"]["Walking 1"]
        for name in ("gt", "pct")
    )
    errors = [np.linalg.norm(a - b, axis=-1) for a, b in zip(truth, pct)]
    assert found[:2] == pytest.approx([np.mean(errors)] * 2, rel=1e-5)
    assert found[2] != found[0]


# ---- recipes ----


def test_every_recipe_is_one_that_trains_and_differs():
    found = []
    for flags in recipes.RECIPES.values():
        arguments = parse_arguments(flags.split())
        recipe = arguments.model, training_recipe(arguments, None)
        assert recipe not in found
        found.append(recipe)
    assert (None, RECIPES["published"]) in found and (None, RECIPES["default"]) in found


def test_the_recipes_table_and_figure_are_of_the_runs(do_study, commands):
    flags = ("--recipes", "published", "default", "--epochs", "2", "-ste", "S8")
    result, folder = do_study(*flags, "--seeds", "0", "2", script=recipes)
    assert result.status == 0, result.stderr
    assert len(commands()) == 8
    training, evaluation = (dict(pairwise(command)) for command in commands()[:2])
    assert (training["--recipe"], training["--epochs"]) == ("published", "2")
    assert evaluation["--subjects-test"] == "S8"
    assert "--epochs" not in evaluation
    assert result.stdout.endswith(TABLE)
    assert (folder / "recipes.md").read_text() == TABLE
    assert (folder / "recipes.png").read_bytes().startswith(b"\x89PNG")


TABLE = """\
| recipe | MPJPE, mm | P-MPJPE, mm | MPJVE, mm/frame | seconds | evaluation, frames/s |
|---|--:|--:|--:|--:|--:|
| published | 51.0 ± 1.4 | 41.0 ± 1.4 | 5.1 ± 0.1 | 90 | 5,100 |
| default | 41.0 ± 1.4 | 31.0 ± 1.4 | 4.1 ± 0.1 | 90 | 4,100 |
"""


def test_a_recipe_that_has_changed_since_is_refused(do_study, commands):
    flags = ("--recipes", "published", "--epochs", "2")
    _, folder = do_study(*flags, script=recipes)
    result, _ = do_study("--recipes", "default", *flags[2:], script=recipes)  # one more
    assert result.status == 0, result.stderr
    settings = json.loads((folder / "study.json").read_text())
    found = [settings[f"{recipe}: optimizer"] for recipe in ("published", "default")]
    assert found == ["adamw", "muon"]
    (folder / "study.json").write_text(json.dumps(settings | {"default: exchange_until": 0.5}))
    result, _ = do_study("--recipes", "default", *flags[2:], script=recipes)
    assert_one_line_error(result, "this study has default: exchange_until 0.5, not 0.75")
    flags = ("--recipes", "default, fp32", "--epochs", "3")  # a further one
    assert_one_line_error(do_study(*flags, script=recipes)[0], "this study has --epochs 2, not 3")


def test_recipes_of_equal_time_have_as_many_epochs_as_fit(do_study, commands):
    """The first epoch of the timed run takes 30 s."""
    flags = ("--recipes", "default", "motionagformer", "--minutes", "1.6", "--seeds", "0", "2")
    result, _ = do_study(*flags, script=recipes)
    assert result.status == 0, result.stderr
    trainings = [dict(pairwise(c)) for c in commands() if "--evaluate" not in c]
    found = [(f.get("--model"), f["--epochs"], f["--seed"]) for f in trainings]
    second = "motionagformer"
    assert found == [
        *((None, "1", "0"), (second, "1", "0")),
        *((None, "3", "0"), (second, "3", "0"), (None, "3", "2"), (second, "3", "2")),
    ]


# ---- bad input ----


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        (study, ("--keypoints", "hrnet"), "data_2d_h36m_hrnet.npz: no such file"),
        (study, ("--keypoints", "vitpose+"), "'vitpose+': not an estimator's name"),
        (study, ("--keypoints", "pct", "pct"), "--keypoints: one is given twice"),
        (study, ("--resume", "last_epoch.bin"), "--resume: each run gets its own"),
        (study, ("--gpus", "cpu,x"), "--gpu x: expected the number of one GPU"),
        (study, ("--gpus", ","), "--gpus: one is given twice, or none"),
        (recipes, (), "give either --epochs N, and all recipes see as many samples, or --minutes"),
        (recipes, ("--epochs", "2", "--recipe", "published"), "--recipe: each run gets its own"),
        (recipes, ("--epochs", "2", "--recipes", "best"), "invalid choice"),
        (recipes, ("--epochs", "0"), "--epochs 0: there is nothing to compare"),
    ],
)
def test_bad_usage_is_one_line(do_study, script, arguments, says):
    result, folder = do_study(*arguments, script=script)
    assert_one_line_error(result, says)
    assert not folder.exists()


def test_another_recipe_and_other_folders_are_refused(do_study, commands):
    _, folder = do_study("--keypoints", "pct", "--epochs", "2")
    says = "study.json: this study has epochs 2, not 3; give the same flags, or choose another"
    assert_one_line_error(do_study("--keypoints", "pct", "--epochs", "3")[0], says)
    start = folder / "pct" / "seed_0" / "last_epoch.bin"
    result, _ = do_study("--keypoints", "pct", "--epochs", "2", "--init-from", start)
    assert_one_line_error(result, f"this study has init_from None, not {start}")
    (folder / "study.json").unlink()
    assert_one_line_error(do_study()[0], "holds something else")


def test_a_run_that_fails_is_named_and_what_it_said(do_study, commands):
    result, folder = do_study("--keypoints", "pct", "--seeds", "0", "--wandb-name", "fails")
    says = f"error: {folder / 'pct' / 'seed_0' / 'output.txt'}: no luck"
    assert_one_line_error(result, says)
