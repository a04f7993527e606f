"""evaluate_2d.py against NumPy and SciPy on all values, and its bad input."""

import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from raw_trees import assert_one_line_error, call, untouched
from scipy import stats
from test_fusion import estimate, people

from common.files.npz import read_positions_2d, write_positions_2d
from common.fusion.errors_2d import error_correlation, rank_correlation
from common.skeleton import JOINT_NAMES
from data.evaluate_2d import main

SUBJECTS = ("S1", "S9", "S11")
ACTIONS = ("Walking", "Walking 1", "Eating 1")


def positions(arrays):
    views = iter(np.asarray(array, np.float32) for array in arrays)
    return {s: {a: [next(views) for _ in range(4)] for a in ACTIONS} for s in SUBJECTS}


@pytest.fixture
def data_dir(tmp_path):
    truths = people(views=36, frames=15)
    write_positions_2d(tmp_path / "data_2d_h36m_gt.npz", positions(truths))
    for i, name in enumerate(("vitpose", "pct")):
        estimates = estimate(truths, 3 + 2 * i, i, (4.0, -1.0))
        write_positions_2d(tmp_path / f"data_2d_h36m_{name}_w_conf.npz", positions(estimates))
        estimates = [array[..., :2] for array in estimates]
        write_positions_2d(tmp_path / f"data_2d_h36m_{name}.npz", positions(estimates))
    return tmp_path


def evaluate(data_dir, *arguments):
    return call(main, "--data-dir", data_dir, *arguments)


def report(data_dir, *arguments):
    result = evaluate(data_dir, "--report", data_dir / "r.json", *arguments)
    assert result.status == 0, result.stderr
    return json.loads((data_dir / "r.json").read_text())


def load(data_dir, name):
    return read_positions_2d(data_dir / f"data_2d_h36m_{name}.npz")


TESTED = list(itertools.product(("S9", "S11"), ACTIONS, range(4)))


def differences(data_dir, name, chosen=lambda s, a, c: True):
    estimates, truth = load(data_dir, name), load(data_dir, "gt")
    views = (view for view in TESTED if chosen(*view))
    return np.concatenate([estimates[s][a][c].astype(float) - truth[s][a][c] for s, a, c in views])


def test_all_figures_agree_with_numpy(data_dir):
    found = report(data_dir)
    assert list(found["estimators"]) == ["pct", "vitpose"]
    assert found["frames"] == 2 * 3 * 4 * 15
    by_joint = {n: np.linalg.norm(differences(data_dir, n), axis=-1).mean(axis=0)
                for n in ("pct", "vitpose")}  # fmt: skip
    best = [min(by_joint, key=lambda name: by_joint[name][j]) for j in range(17)]
    assert list(found["best"]["mean_px"].values()) == best
    for name, summary in found["estimators"].items():
        difference = differences(data_dir, name)
        errors = np.linalg.norm(difference, axis=-1)
        bias = difference.mean(axis=0)
        bias_free = np.linalg.norm(difference - bias, axis=-1)

        def check(figures, errors, bias_free):
            expected = [errors.mean(), bias_free.mean(), *np.percentile(errors, (50, 95))]
            names = ("mean_px", "bias_free_px", "median_px", "p95_px")
            np.testing.assert_allclose([figures[name] for name in names], expected, rtol=1e-5)

        check(summary, errors, bias_free)
        for j, joint in enumerate(JOINT_NAMES):
            figures = summary["by_joint"][joint]
            check(figures, errors[:, j], bias_free[:, j])
            np.testing.assert_allclose(figures["bias_px"], bias[j], atol=1e-4)
        for group, member, chosen in (
            ("by_action", "Walking", lambda s, a, c: a != "Eating 1"),
            ("by_camera", "58860488", lambda s, a, c: c == 2),
            ("by_subject", "S11", lambda s, a, c: s == "S11"),
        ):
            part = differences(data_dir, name, chosen=chosen)
            lengths = (np.linalg.norm(d, axis=-1) for d in (part, part - bias))
            check(summary[group][member], *lengths)
        for px, percent in enumerate(summary["cumulative"]):
            assert percent == pytest.approx(100 * (errors <= px).mean(), abs=1e-9)


def test_pck_and_jitter_by_hand(data_dir):
    summary = report(data_dir, "--keypoints", "pct")["estimators"]["pct"]
    truth, found = load(data_dir, "gt"), load(data_dir, "pct")
    near, second = [], []
    for s, a, c in TESTED:
        difference = found[s][a][c].astype(float) - truth[s][a][c]
        for pose, error in zip(truth[s][a][c], difference):
            size = max(np.ptp(pose[:, 0]), np.ptp(pose[:, 1]))
            near.append(np.linalg.norm(error, axis=-1) < 0.02 * size)
        for before, now, after in zip(difference, difference[1:], difference[2:]):
            second.append(after - 2 * now + before)
    assert summary["pck_0.02"] == pytest.approx(100 * np.mean(near))
    assert 5 < summary["pck_0.02"] < 95
    jitter = np.linalg.norm(second, axis=-1).mean()
    assert summary["jitter_px"] == pytest.approx(jitter, rel=1e-5)


def test_confidence_that_predicts_the_error_is_told_from_chance(data_dir):
    told = report(data_dir)["estimators"]["vitpose"]["confidence"]
    errors = [one["error_px"] for one in told["calibration"]]
    assert errors[0] > 2 * errors[-1]
    difference = differences(data_dir, "vitpose")
    errors = np.linalg.norm(difference - difference.mean(axis=0), axis=-1)
    views = load(data_dir, "vitpose_w_conf")
    confidence = np.concatenate([views[s][a][c][..., 2] for s, a, c in TESTED])
    for j, joint in enumerate(JOINT_NAMES):
        expected = stats.spearmanr(confidence[:, j], errors[:, j]).statistic
        assert told["by_joint"][joint] == pytest.approx(expected, abs=1e-4)


def test_what_is_constant_has_no_rank_correlation():
    assert rank_correlation(np.ones(9), np.arange(9)) is None


def test_correlation_of_errors_is_numpys():
    random = np.random.default_rng(0)
    common = random.standard_normal((400, 17, 2))
    errors = [common + random.standard_normal((400, 17, 2)) + 9 for _ in range(3)]
    for joint, found in enumerate(error_correlation(errors)):
        centred = [(e[:, joint] - e[:, joint].mean(axis=0)).ravel() for e in errors]
        np.testing.assert_allclose(found, np.corrcoef(centred), atol=1e-12)


def test_frames_beyond_the_truth_are_not_counted(data_dir):
    before = report(data_dir)["estimators"]["pct"]
    longer = load(data_dir, "pct_w_conf")
    for views in (views for actions in longer.values() for views in actions.values()):
        views[:] = [np.concatenate([view, view[-2:] + 99]) for view in views]
    write_positions_2d(data_dir / "data_2d_h36m_pct_w_conf.npz", longer)
    assert report(data_dir)["estimators"]["pct"] == before


def test_an_exact_estimator_and_one_without_confidence(data_dir):
    write_positions_2d(data_dir / "data_2d_h36m_exact.npz", load(data_dir, "gt"))
    found = report(data_dir, "--keypoints", "exact", "pct")
    assert found["estimators"]["exact"]["mean_px"] == 0
    assert found["estimators"]["exact"]["confidence"] is None
    assert found["error_correlation"]["mean"][0] == [None, None]
    assert "NaN" not in (data_dir / "r.json").read_text()  # which is no JSON


def test_the_csv_holds_the_figures(data_dir):
    expected = report(data_dir)["estimators"]
    assert evaluate(data_dir, "--report", data_dir / "r.csv").status == 0
    with (data_dir / "r.csv").open(newline="") as file:
        rows = {tuple(row[:4]): row[4] for row in csv.reader(file)}
    assert float(rows["pct", "all", "all", "mean_px"]) == expected["pct"]["mean_px"]
    bias = expected["vitpose"]["by_joint"]["Head"]["bias_px"]
    assert float(rows["vitpose", "by_joint", "Head", "bias_y_px"]) == bias[1]
    assert ("pct", "error_correlation", "vitpose", "pearson") in rows


def test_the_figures_are_drawn(data_dir):
    write_positions_2d(data_dir / "data_2d_h36m_exact.npz", load(data_dir, "gt"))
    result = evaluate(data_dir, "--figures", data_dir / "figs")
    assert result.status == 0, result.stderr
    names = ["calibration", "cumulative_error", "error_correlation", "joint_errors"]
    pictures = sorted((data_dir / "figs").iterdir())
    assert [path.name for path in pictures] == [f"{name}.png" for name in names]
    for path in pictures:
        assert np.asarray(Image.open(path).convert("L")).std() > 10


# Bad input ---------------------------------------------------------------------------------------


def remove(data_dir, *names):
    for path in [path for name in names for path in data_dir.glob(f"data_2d_h36m_{name}*.npz")]:
        path.unlink()


def change_pct(data_dir, edit):
    content = load(data_dir, "pct_w_conf")
    edit(content["S9"])
    write_positions_2d(data_dir / "data_2d_h36m_pct_w_conf.npz", content)


@pytest.mark.parametrize(
    ("damage", "arguments", "says"),
    [
        (lambda d: remove(d, "gt"), [], "data_2d_h36m_gt.npz: no such file"),
        (None, ["--keypoints", "hrnet"], "data_2d_h36m_hrnet.npz: no such file"),
        (None, ["--subjects", "S5"], "data_2d_h36m_gt.npz: lacks S5"),
        (None, ["--report", "r.txt"], "must be .json or .csv"),
        (lambda d: remove(d, "pct", "vitpose"), [], "holds no estimator's"),
        (lambda d: change_pct(d, lambda p: p.pop("Walking")), [], "lacks S9 Walking, which the"),
        (lambda d: change_pct(d, lambda p: p.update(Walking=[v[:9] for v in p["Walking"]])), [],
         "S9 Walking, camera 54138969: 9 frames, but gt has 15"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(data_dir, damage, arguments, says):
    if damage:
        damage(data_dir)
    with untouched(data_dir):
        assert_one_line_error(evaluate(data_dir, *arguments), says)
