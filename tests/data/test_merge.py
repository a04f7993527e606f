"""merge.py: every strategy against loops or the truth, and what it says of bad input."""

import json

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, random_keypoints, untouched
from test_fusion import estimate, fit_of_real_footage, people
from test_sides import REAL, error_px

from common.files.npz import read_custom_2d, read_positions_2d, write_positions_2d
from common.fusion.fitting import write_mixture
from data import prepare_2d_custom
from data.merge import main

SEQUENCES = (("S1", "Walking"), ("S1", "Photo 1"), ("S9", "Sitting 2"))
NAMES = ("vitpose", "pct", "moganet", "transpose")
PUBLISHED = ("manual", "average", "weighted_average")


def file(data_dir, name):
    return data_dir / f"data_2d_h36m_{name}.npz"


def load(data_dir, name):
    return read_positions_2d(file(data_dir, name))


def write(data_dir, name, positions):
    """Write an estimator's two files: without and with confidences."""
    write_positions_2d(file(data_dir, f"{name}_w_conf"), positions)
    bare = {
        subject: {action: [view[..., :2] for view in views] for action, views in actions.items()}
        for subject, actions in positions.items()
    }
    write_positions_2d(file(data_dir, name), bare)


def arrange(sequences, views):
    """Arrange views, four for each sequence, as a file holds them."""
    views, positions = iter(views), {}
    for subject, action in sequences:
        arrays = [np.asarray(next(views), np.float32) for _ in range(4)]
        positions.setdefault(subject, {})[action] = arrays
    return positions


def each_view(positions):
    for subject, actions in positions.items():
        for action, views in actions.items():
            for camera, view in enumerate(views):
                yield subject, action, camera, view


@pytest.fixture
def estimators(tmp_path):
    """Four estimators' files beside earlier outputs; pct's confidences are logits."""
    positions = {}
    for i, name in enumerate(NAMES):
        views = [random_keypoints(5, 3, seed=100 * i + v) for v in range(12)]
        for view in views if name == "pct" else ():
            view[..., 2] = view[..., 2] * 9 + 1
        positions[name] = arrange(SEQUENCES, views)
        write(tmp_path, name, positions[name])
    for strategy in PUBLISHED:
        file(tmp_path, f"merge_{strategy}").write_bytes(b"earlier")
    return tmp_path, positions


def merge(data_dir, strategy, *arguments):
    return call(main, "--data-dir", data_dir, "--strategy", strategy, *arguments)


def refused(says, *arguments):
    with untouched(arguments[0]):
        assert_one_line_error(merge(*arguments), says)


def merged(data_dir, strategy, *arguments):
    result = merge(data_dir, strategy, *arguments)
    assert result.status == 0, result.stderr
    return load(data_dir, f"merge_{strategy}"), result


def error_of_s9(data_dir, name, bias_free=False):
    """Return the mean error in pixels, or that without each joint's mean."""
    found, truth = (load(data_dir, n)["S9"] for n in (name, "gt"))
    views = [(found[a][c], v) for a, views in truth.items() for c, v in enumerate(views)]
    differences = np.concatenate([array[: len(v), :, :2] - v for array, v in views])
    differences -= bias_free * differences.mean(axis=0)
    return np.linalg.norm(differences, axis=-1).mean()


def weighted_by_hand(views, logits):
    """Average (frames, 17, 3) arrays with loops; `logits` says which of them hold logits."""
    frames = min(len(view) for view in views)
    result = np.zeros((frames, 17, 2))
    scales = [max(c for row in v[..., 2].tolist() for c in row) if is_ else 1
              for v, is_ in zip(views, logits)]  # fmt: skip
    for frame in range(frames):
        for joint in range(17):
            weights = [max(float(v[frame, joint, 2]), 0) / s for v, s in zip(views, scales)]
            if sum(weights) == 0:
                weights = [1] * len(views)
            total = sum(w * v[frame, joint, :2].astype(float) for w, v in zip(weights, views))
            result[frame, joint] = total / sum(weights)
    return result


# The published strategies ------------------------------------------------------------------------


def test_manual_is_vitpose_with_four_joints_of_pct(estimators):
    data_dir, positions = estimators
    result, _ = merged(data_dir, "manual")
    assert [list(result), list(result["S1"])] == [["S1", "S9"], ["Walking", "Photo 1"]]
    for subject, action, camera, view in each_view(result):
        for joint in range(17):
            source = "pct" if joint in (2, 8, 10, 14) else "vitpose"
            expected = positions[source][subject][action][camera][:, joint, :2]
            np.testing.assert_array_equal(view[:, joint], expected)


def test_means_of_three_plain_and_weighted_by_confidence(estimators):
    data_dir, positions = estimators
    positions["pct"]["S1"]["Walking"][0][0, 3, 2] = -4
    for name in ("pct", "moganet", "vitpose"):
        positions[name]["S9"]["Sitting 2"][1][2, 5, 2] = 0
        write(data_dir, name, positions[name])
    average, _ = merged(data_dir, "average")
    weighted, run = merged(data_dir, "weighted_average")
    assert run.stderr == "" and "cut" not in run.stdout
    for subject, action, camera, view in each_view(average):
        views = [positions[n][subject][action][camera] for n in ("pct", "moganet", "vitpose")]
        expected = sum(v[..., :2].astype(float) for v in views) / 3
        np.testing.assert_allclose(view, expected, atol=1e-3)
        expected = weighted_by_hand(views, [1, 0, 0])
        np.testing.assert_allclose(weighted[subject][action][camera], expected, atol=1e-3)


def test_other_detectors_joints_and_outputs(estimators):
    data_dir, positions = estimators
    of = {name: positions[name]["S9"]["Sitting 2"][3] for name in NAMES}

    def result(strategy, *arguments):
        return merged(data_dir, strategy, *arguments)[0]["S9"]["Sitting 2"][3]

    average = result("average", "--detectors", "moganet,transpose")
    expected = (of["moganet"][..., :2].astype(float) + of["transpose"][..., :2]) / 2
    np.testing.assert_allclose(average, expected, atol=1e-3)
    for detectors in ("moganet", "moganet,transpose", "moganet, pct"):
        replaced = ("--replace", "0,RWrist=transpose", "Head=pct")
        manual = result("manual", "--detectors", detectors, *replaced)
        for joint in range(17):
            source = {0: "transpose", 16: "transpose", 10: "pct"}.get(joint, "moganet")
            np.testing.assert_array_equal(manual[:, joint], of[source][:, joint, :2])
    earlier = file(data_dir, "merge_average").read_bytes()
    assert merge(data_dir, "average", "--output-filename", "data_2d_h36m_mine").status == 0
    assert load(data_dir, "mine")
    assert file(data_dir, "merge_average").read_bytes() == earlier
    weighted = result("weighted_average", "--detectors", "pct,transpose", "--logits", "")
    expected = weighted_by_hand([of["pct"], of["transpose"]], [0, 0])
    np.testing.assert_allclose(weighted, expected, atol=1e-3)


@pytest.mark.parametrize("strategy", PUBLISHED)
def test_unequal_lengths_are_cut_to_the_shortest_and_said_once(estimators, strategy):
    """Logits are scaled before: by the maximum of the sequence, not of what is left of it."""
    data_dir, positions = estimators
    positions["vitpose"]["S1"]["Walking"][2] = positions["vitpose"]["S1"]["Walking"][2][:2]
    positions["pct"]["S1"]["Walking"][2][4, 0, 2] = 50
    positions["pct"]["S9"]["Sitting 2"][0] = positions["pct"]["S9"]["Sitting 2"][0][:4]
    for name in ("pct", "vitpose"):
        write(data_dir, name, positions[name])
    result, run = merged(data_dir, strategy)
    lengths = {(s, a, c): len(view) for s, a, c, view in each_view(result)}
    assert lengths.pop(("S1", "Walking", 2)) == 2
    assert lengths.pop(("S9", "Sitting 2", 0)) == 4
    assert set(lengths.values()) == {5}
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("cut")]
    assert "cut to the shortest: 2 of 12 views, by up to 3 frames (S1 Walking, camera 5" in line
    assert "pct 5" in line and "vitpose 2" in line
    if strategy == "weighted_average":
        views = [positions[n]["S1"]["Walking"][2] for n in ("pct", "moganet", "vitpose")]
        expected = weighted_by_hand(views, [1, 0, 0])
        np.testing.assert_allclose(result["S1"]["Walking"][2], expected, atol=1e-3)


def test_undeclared_logits_are_a_warning(estimators):
    _, run = merged(estimators[0], "weighted_average", "--logits", "moganet")
    assert run.stderr.startswith("warning: ") and run.stderr.count("\n") == 1
    assert "data_2d_h36m_pct_w_conf.npz: confidences reach" in run.stderr


# The strategies that learn -----------------------------------------------------------------------


@pytest.fixture
def learnable(tmp_path):
    """Truth and two estimators: vitpose is better, but for joints 3 and 10."""
    truths = people(views=24, frames=30)
    vitpose, pct = estimate(truths, 2, 1), estimate(truths, 4, 2)
    for array in vitpose:
        array[:, [3, 10], :2] += 20
    sequences = [(s, action) for s in ("S1", "S5", "S9") for action in ("Walking", "Eating 1")]
    write_positions_2d(file(tmp_path, "gt"), arrange(sequences, truths))
    write(tmp_path, "vitpose", arrange(sequences, vitpose))
    write(tmp_path, "pct", arrange(sequences, pct))
    return tmp_path


def change(data_dir, name, edit):
    positions = load(data_dir, name)
    edit(positions)
    write_positions_2d(file(data_dir, name), positions)


def test_best_joint_takes_each_joint_from_the_better_estimator(learnable):
    mixed, run = merged(learnable, "best_joint")
    assert "pct: joints 3,10\n" in run.stdout
    for subject, action, camera, view in each_view(mixed):
        for joint in range(17):
            source = load(learnable, "pct" if joint in (3, 10) else "vitpose")
            expected = source[subject][action][camera][:, joint]
            np.testing.assert_array_equal(view[:, joint], expected)


@pytest.mark.parametrize("strategy", ["best_joint", "fitted"])
def test_nothing_of_the_test_subjects_is_used(learnable, strategy):
    merged(learnable, strategy)
    output = file(learnable, f"merge_{strategy}")
    before = output.read_bytes()
    change(learnable, "gt", lambda truth: [view.fill(0) for *_, view in each_view(
        {"S9": truth["S9"]})])  # fmt: skip
    output.unlink()
    merged(learnable, strategy)
    assert output.read_bytes() == before


def test_fitted_is_better_and_its_weights_apply_without_gt(learnable):
    _, run = merged(learnable, "fitted")
    assert "fitted to S1, S5, 480 frames" in run.stdout
    errors = [error_of_s9(learnable, name) for name in ("merge_fitted", "pct", "vitpose")]
    assert errors[0] < 0.7 * min(errors[1:])
    file(learnable, "gt").unlink()
    weights = (learnable / "merge_fitted.json").rename(learnable / "w.json")
    again = merge(learnable, "fitted", "--weights", weights, "--output-filename", "o")
    assert again.status == 0, again.stderr
    assert not (learnable / "merge_fitted.json").exists()
    assert (learnable / "o.npz").read_bytes() == file(learnable, "merge_fitted").read_bytes()


def test_without_confidences_the_variance_is_constant_and_mixtures_are_no_estimators(learnable):
    file(learnable, "pct_w_conf").unlink()
    merged(learnable, "average", "--detectors", "pct,vitpose")
    _, run = merged(learnable, "fitted")
    assert "pct (constant variance), vitpose (variance by confidence)" in run.stdout
    assert "merge_average" not in run.stdout


# Own footage -------------------------------------------------------------------------------------

OWN = {"full": "mp_full.npy", "heavy": "mp_heavy.npy", "thunder": "thunder.json"}


@pytest.fixture
def own_footage(tmp_path):
    """Real video by three estimators, and what was learned of them in two other cameras."""
    for name, source in OWN.items():
        how = ("--size", "1080x1920", "--fps", 60, "--keep-conf", "--data-dir", tmp_path)
        source = REAL / f"cam03_{source}"
        run = call(prepare_2d_custom.main, "--input", source, "--name", f"walk_{name}", *how)
        assert run.status == 0, run.stderr
    write_mixture(tmp_path / "merge_fitted.json", fit_of_real_footage(OWN))
    return tmp_path


def merge_own(data_dir, strategy, *arguments, detectors="walk_thunder,walk_full,walk_heavy"):
    return merge(data_dir, strategy, "-d", "custom", "--detectors", detectors, *arguments)


def test_mixtures_of_own_footage_are_nearer_to_the_truth_than_their_estimators(own_footage):
    def error(name, sequence):
        positions, metadata = read_custom_2d(own_footage / f"data_2d_custom_{name}.npz")
        assert metadata == {sequence: {"w": 1080, "h": 1920, "fps": 60, "first_frame": 0} | {
            "person": metadata[sequence]["person"]}}  # fmt: skip
        return error_px(positions[sequence][..., :2], "cam03")

    mean = np.mean([error(f"walk_{name}_w_conf", f"walk_{name}") for name in OWN])
    for strategy in ("average", "weighted_average", "fitted"):
        weights = ["--weights", own_footage / "merge_fitted.json"] if strategy == "fitted" else []
        run = merge_own(own_footage, strategy, *weights)
        assert run.status == 0, run.stderr
        assert error(f"merge_{strategy}", f"merge_{strategy}") < mean


def test_best_joint_of_own_footage_is_what_was_best_before(learnable, own_footage):
    merged(learnable, "best_joint")
    for name, source in {"vitpose": "full", "pct": "heavy"}.items():
        source = own_footage / f"data_2d_custom_walk_{source}_w_conf.npz"
        source.rename(own_footage / f"data_2d_custom_walk_{name}.npz")
    weights = ("--weights", learnable / "merge_best_joint.json")
    output = ("--output-filename", "data_2d_custom_mix")
    run = merge_own(own_footage, "best_joint", *weights, *output, detectors="walk_pct,walk_vitpose")
    assert run.status == 0, run.stderr
    mix, vitpose, pct = (
        next(iter(read_custom_2d(own_footage / f"data_2d_custom_{name}.npz")[0].values()))
        for name in ("mix", "walk_vitpose", "walk_pct")
    )
    vitpose[:, [3, 10]] = pct[:, [3, 10]]
    np.testing.assert_array_equal(mix, vitpose[..., :2])


def test_own_footage_without_what_a_mixture_takes_is_one_line(own_footage):
    weights = ("--weights", own_footage / "merge_fitted.json")

    def refused(says, *arguments, **how):
        with untouched(own_footage):
            assert_one_line_error(merge_own(own_footage, *arguments, **how), says)

    refused("own footage has no truth for fitted to learn from; give merge_fitted.json", "fitted")
    refused("0 of the names end in heavy", "fitted", *weights, detectors="walk_full,walk_thunder")
    refused("not a choice of joints", "best_joint", *weights)
    refused("walk_x.npz: no such file", "average", detectors="walk_full,walk_x")
    path = own_footage / "data_2d_custom_walk_heavy_w_conf.npz"
    call(prepare_2d_custom.main, "--input", REAL / "cam03_mp_heavy.npy", "--name", "walk_heavy",
         "--size", "1080x1920", "--fps", 60, "--data-dir", own_footage)  # fmt: skip
    path.unlink()
    says = "data_2d_custom_walk_heavy.npz: holds no confidences; write it again with prepare_2d_cus"
    refused(says, "weighted_average")


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["average", "--detectors", "pct,pct"], "estimators: pct, but a mixture needs two or more"),
        (["average", "--detectors", "pct,hrnet"], "data_2d_h36m_hrnet.npz: no such file"),
        (["average", "--replace", "2=pct"], "--replace goes with --strategy manual"),
        (["average", "--output-filename", "data_2d_h36m_pct"], "is the same file as"),
        (["weighted_average", "--logits", "pct,nobody"], "nobody is not among pct, moganet"),
        (["manual", "--replace", "2,17=pct"], "no joint '17'"),
        (["manual", "--replace", "2,8"], "--replace 2,8: expected joints=estimator"),
        (["manual", "--replace", "2=pct", "RKnee=moganet"], "joint RKnee is taken twice"),
        (["manual", "--detectors", "vitpose,pct", "--replace", "2=moganet"], "no joint of pct"),
        (["best_joint"], "data_2d_h36m_gt.npz: no such file"),
        (["fitted", "--weights", "w.json"], "w.json: No such file"),
        (["fitted", "--weights", "w", "--detectors", "a,b"], "--detectors does not go with"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line(estimators, arguments, says):
    refused(says, estimators[0], *arguments)


def test_files_that_do_not_match_or_cannot_be_read_are_named(estimators):
    data_dir, positions = estimators
    path = file(data_dir, "pct_w_conf")
    del positions["pct"]["S9"]
    positions["vitpose"]["S1"]["Waiting"] = positions["vitpose"]["S1"]["Walking"]
    write(data_dir, "vitpose", positions["vitpose"])
    refused("lacks S1 Waiting, which the other files", data_dir, "weighted_average")
    write(data_dir, "pct", positions["pct"])
    refused(f"{path}: lacks S9 Sitting 2, S1 Waiting", data_dir, "weighted_average")
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, data_dir, "weighted_average")


def test_confidences_that_do_not_exist_are_named(estimators):
    path = file(estimators[0], "moganet_w_conf")
    path.write_bytes(file(estimators[0], "moganet").read_bytes())
    says = f"{path}: holds no confidences; write it again with prepare_2d_estimation.py --detector "
    refused(f"{says}moganet --keep-conf", estimators[0], "weighted_average")


def test_what_cannot_be_learned_from_is_one_line(learnable):
    change(learnable, "gt", lambda truth: truth["S5"].pop("Walking"))
    refused("lacks S5 Walking", learnable, "best_joint")
    for path in learnable.glob("*.npz"):
        write_positions_2d(path, {"S9": read_positions_2d(path)["S9"]})
    refused("hold none of S1, S5", learnable, "best_joint")


def test_weights_without_their_confidences_or_damaged_are_named(learnable):
    merged(learnable, "fitted")
    weights = learnable / "merge_fitted.json"
    text, fitted = weights.read_text(), (learnable, "fitted", "--weights", weights)
    fields = json.loads(text)
    for damaged in (
        text[:5000],
        json.dumps({k: v for k, v in fields.items() if k != "motion"}),
        json.dumps(fields | {"layout": fields["layout"][:-1]}),
        json.dumps(fields | {"layout": [[float("nan")] * 17] * 19}),
        json.dumps(fields | {"correlation": [[[1, 2], [2, 1]]] * 17}),
    ):
        weights.write_text(damaged)
        refused(f"{weights}: not a fitted mixture", *fitted)
    weights.write_text(text)
    file(learnable, "vitpose_w_conf").unlink()
    refused("data_2d_h36m_vitpose.npz: holds no confidences", *fitted)


# Real estimates ----------------------------------------------------------------------------------


def test_mixtures_of_real_estimates_are_less_noisy_and_fitted_most_so(real_chain, tmp_path):
    """The published finding; exchanged joints or cameras give the opposite."""
    for path in real_chain[0].glob("data_2d*.npz"):  # a part of the sequences, to save time
        positions = read_positions_2d(path)
        part = {s: dict(sorted(positions[s].items())[::3]) for s in ("S1", "S5", "S9")}
        write_positions_2d(tmp_path / path.name, part)
    merged(tmp_path, "fitted")
    single = min(error_of_s9(tmp_path, name) for name in ("pct", "moganet", "vitpose"))
    assert error_of_s9(tmp_path, "merge_average") < single
    assert error_of_s9(tmp_path, "merge_weighted_average") < single
    published = min(error_of_s9(tmp_path, f"merge_{s}", bias_free=True) for s in PUBLISHED)
    assert error_of_s9(tmp_path, "merge_fitted", bias_free=True) < min(0.85 * published, 3.6)
