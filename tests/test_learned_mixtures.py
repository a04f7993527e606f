"""merge.py's strategies that learn from gt."""

import json

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, untouched
from test_fusion import estimate, people

from common.npz_io import read_positions_2d, write_positions_2d
from data.merge import main

SUBJECTS = ("S1", "S5", "S9")
NAMES = ("pct", "vitpose")


def positions(arrays):
    """Four views each of "Walking" and "Eating 1" of each subject."""
    views = iter(np.asarray(array, np.float32) for array in arrays)
    return {
        s: {action: [next(views) for _ in range(4)] for action in ("Walking", "Eating 1")}
        for s in SUBJECTS
    }


def write(data_dir, name, estimates):
    write_positions_2d(data_dir / f"data_2d_h36m_{name}_w_conf.npz", positions(estimates))
    bare = positions([array[..., :2] for array in estimates])
    write_positions_2d(data_dir / f"data_2d_h36m_{name}.npz", bare)


@pytest.fixture
def data_dir(tmp_path):
    """Two estimators: vitpose is better, but for joints 3 and 10."""
    truths = people(views=24, frames=30)
    write_positions_2d(tmp_path / "data_2d_h36m_gt.npz", positions(truths))
    vitpose, pct = estimate(truths, 2, 1), estimate(truths, 4, 2)
    for array in vitpose:
        array[:, [3, 10], :2] += 20
    write(tmp_path, "vitpose", vitpose)
    write(tmp_path, "pct", pct)
    return tmp_path


def merge(data_dir, strategy, *arguments):
    return call(main, "--data-dir", data_dir, "--strategy", strategy, *arguments)


def load(data_dir, name):
    return read_positions_2d(data_dir / f"data_2d_h36m_{name}.npz")


def test_best_joint_takes_each_joint_from_the_better_estimator(data_dir):
    run = merge(data_dir, "best_joint")
    assert run.status == 0, run.stderr
    assert "pct: joints 3,10\n" in run.stdout
    mixed, vitpose, pct = (load(data_dir, n) for n in ("merge_best_joint", "vitpose", "pct"))
    for joint in range(17):
        source = pct if joint in (3, 10) else vitpose
        for camera in range(4):
            np.testing.assert_array_equal(
                mixed["S9"]["Walking"][camera][:, joint], source["S9"]["Walking"][camera][:, joint]
            )


@pytest.mark.parametrize("strategy", ["best_joint", "fitted"])
def test_nothing_of_the_test_subjects_is_used(data_dir, strategy):
    """gt without S9 and S11 gives the same mixture."""
    merge(data_dir, strategy)
    output = data_dir / f"data_2d_h36m_merge_{strategy}.npz"
    before = output.read_bytes()
    truth = load(data_dir, "gt")
    truth["S9"] = {a: [v * 0 for v in views] for a, views in truth["S9"].items()}
    write_positions_2d(data_dir / "data_2d_h36m_gt.npz", truth)
    output.unlink()
    assert merge(data_dir, strategy).status == 0
    assert output.read_bytes() == before


def test_fitted_is_better_and_its_weights_apply_without_gt(data_dir):
    run = merge(data_dir, "fitted")
    assert run.status == 0, run.stderr
    assert "fitted to S1, S5, 480 frames" in run.stdout
    truth, mixed = load(data_dir, "gt"), load(data_dir, "merge_fitted")

    def error(name):
        found = load(data_dir, name)
        return np.mean(
            [np.linalg.norm(found["S9"]["Walking"][c] - truth["S9"]["Walking"][c], axis=-1).mean()
             for c in range(4)]
        )  # fmt: skip

    assert error("merge_fitted") < 0.7 * min(error(name) for name in NAMES)
    (data_dir / "data_2d_h36m_gt.npz").unlink()
    (data_dir / "merge_fitted.json").rename(data_dir / "w.json")
    again = merge(data_dir, "fitted", "--weights", data_dir / "w.json", "--output-filename", "o")
    assert again.status == 0, again.stderr
    assert not (data_dir / "merge_fitted.json").exists()
    for subject, actions in read_positions_2d(data_dir / "o.npz").items():
        for action, views in actions.items():
            for camera in range(4):
                np.testing.assert_array_equal(views[camera], mixed[subject][action][camera])


def test_without_confidences_the_variance_is_constant(data_dir):
    (data_dir / "data_2d_h36m_pct_w_conf.npz").unlink()
    run = merge(data_dir, "fitted")
    assert run.status == 0, run.stderr
    assert "pct (constant variance), vitpose (variance by confidence)" in run.stdout


def test_mixtures_are_no_estimators(data_dir):
    assert merge(data_dir, "average", "--detectors", "pct,vitpose").status == 0
    assert "merge_average" not in merge(data_dir, "fitted").stdout


# ---- bad input ----


def damage_truth(data_dir, change):
    truth = load(data_dir, "gt")
    change(truth)
    write_positions_2d(data_dir / "data_2d_h36m_gt.npz", truth)


def shorten(truth):
    for actions in truth.values():
        for views in actions.values():
            views[:] = [view[:5] for view in views]


@pytest.mark.parametrize("strategy", ["best_joint", "fitted"])
def test_gt_that_does_not_fit_is_named(data_dir, strategy):
    damage_truth(data_dir, lambda truth: truth["S5"].pop("Walking"))
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, strategy), "data_2d_h36m_gt.npz: lacks S5 Walking")
    (data_dir / "data_2d_h36m_gt.npz").unlink()
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, strategy), "data_2d_h36m_gt.npz: no such file")


def test_too_few_frames_are_said(data_dir):
    damage_truth(data_dir, shorten)
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, "fitted"), "80 frames", "it takes 200")


@pytest.mark.parametrize("strategy", ["best_joint", "fitted"])
def test_no_training_subject_is_said(data_dir, strategy):
    for path in data_dir.glob("*.npz"):
        write_positions_2d(path, {"S9": read_positions_2d(path)["S9"]})
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, strategy), "hold none of S1, S5")


def test_nan_is_refused(data_dir):
    views = load(data_dir, "pct_w_conf")
    views["S1"]["Walking"][0][3, 4, 1] = np.nan
    write_positions_2d(data_dir / "data_2d_h36m_pct_w_conf.npz", views)
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, "fitted"), "pct_w_conf.npz", "NaN")


def test_one_estimator_is_no_mixture(data_dir):
    for path in data_dir.glob("data_2d_h36m_pct*"):
        path.unlink()
    assert_one_line_error(merge(data_dir, "fitted"), "holds 1 estimators' files")


def test_weights_of_other_estimators_are_refused(data_dir):
    merge(data_dir, "fitted")
    weights = data_dir / "merge_fitted.json"
    write(data_dir, "moganet", estimate(people(views=24, frames=30), 3, 9))
    result = merge(data_dir, "fitted", "--weights", weights, "--detectors", "pct,moganet")
    assert_one_line_error(result, "the weights were fitted for pct,vitpose")
    (data_dir / "data_2d_h36m_vitpose_w_conf.npz").unlink()
    result = merge(data_dir, "fitted", "--weights", weights)
    assert_one_line_error(result, "data_2d_h36m_vitpose_w_conf.npz: no such file")
    bare = (data_dir / "data_2d_h36m_vitpose.npz").read_bytes()
    (data_dir / "data_2d_h36m_vitpose_w_conf.npz").write_bytes(bare)
    result = merge(data_dir, "fitted", "--weights", weights)
    assert_one_line_error(result, "data_2d_h36m_vitpose_w_conf.npz: holds no confidences")


DAMAGES = ("missing", "no JSON", "deep", "lacks", "NaN", "singular", "indefinite", "shape")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_named(data_dir, damage):
    merge(data_dir, "fitted")
    weights = data_dir / "merge_fitted.json"
    contents = json.loads(weights.read_text())
    if damage == "lacks":
        del contents["motion"]
    elif damage == "NaN":
        contents["bias"][0][0][0] = float("nan")
    elif damage == "singular":
        contents["correlation"][2] = [[1, 1], [1, 1]]
    elif damage == "indefinite":
        contents["correlation"][2] = [[1, 2], [2, 1]]
    elif damage == "shape":
        contents["layout"].pop()
    texts = {"no JSON": "{", "deep": "[" * 200_000}
    weights.write_text(texts.get(damage) or json.dumps(contents))
    if damage == "missing":
        weights.unlink()
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, "fitted", "--weights", weights), weights)


def test_weights_go_with_fitted(data_dir):
    assert_one_line_error(merge(data_dir, "average", "--weights", "x"), "goes with --strategy fit")


# ---- real motion ----


def test_fitted_is_a_sixth_better_than_every_published_mixture(real_chain, tmp_path):
    source, _ = real_chain
    for path in source.glob("data_2d*.npz"):
        (tmp_path / path.name).symlink_to(path)
    assert merge(tmp_path, "fitted").status == 0
    truth = load(tmp_path, "gt")

    def bias_free(name):
        found = load(tmp_path, name)
        difference = np.concatenate(
            [
                found[s][a][c][: len(view)] - view
                for s in ("S9", "S11")
                for a, views in truth[s].items()
                for c, view in enumerate(views)
            ]
        )
        return np.linalg.norm(difference - difference.mean(axis=0), axis=-1).mean()

    published = [bias_free(f"merge_{s}") for s in ("manual", "average", "weighted_average")]
    assert bias_free("merge_fitted") < min(0.85 * min(published), 3.6)
