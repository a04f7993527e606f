import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, random_keypoints, untouched

from common.fusion import cut_to_shortest, replace_joints, weighted_mean, weights_from_logits
from common.h36m_cameras import CAMERA_IDS
from common.npz_io import write_positions_2d
from data.merge import joint_index, main, parse_replacements

SEQUENCES = (("S1", "Walking"), ("S1", "Photo 1"), ("S9", "Sitting 2"))
NAMES = ("vitpose", "pct", "moganet", "transpose")


def load_item(path):
    with np.load(path, allow_pickle=True) as arrays:
        return arrays["positions_2d"].item()


def make_positions(seed, frames=5, logits=False, sequences=SEQUENCES):
    positions = {}
    for i, (subject, action) in enumerate(sequences):
        views = [random_keypoints(frames, 3, seed=100 * seed + 10 * i + c) for c in range(4)]
        if logits:
            for view in views:
                view[..., 2] = view[..., 2] * 9 + 1
        positions.setdefault(subject, {})[action] = views
    return positions


def write(data_dir, name, positions):
    """Write an estimator's two files: without and with confidences."""
    write_positions_2d(data_dir / f"data_2d_h36m_{name}_w_conf.npz", positions)
    bare = {
        subject: {action: [view[..., :2] for view in views] for action, views in actions.items()}
        for subject, actions in positions.items()
    }
    write_positions_2d(data_dir / f"data_2d_h36m_{name}.npz", bare)


@pytest.fixture
def estimators(tmp_path):
    """A data folder with four estimators' files, and what they hold."""
    positions = {name: make_positions(i, logits=name == "pct") for i, name in enumerate(NAMES)}
    for name, of_estimator in positions.items():
        write(tmp_path, name, of_estimator)
    return tmp_path, positions


def merge(data_dir, strategy, *arguments):
    return call(main, "--data-dir", data_dir, "--strategy", strategy, *arguments)


def merged(data_dir, strategy, *arguments):
    result = merge(data_dir, strategy, *arguments)
    assert result.status == 0, result.stderr
    return load_item(data_dir / f"data_2d_h36m_merge_{strategy}.npz"), result


def each_view(positions):
    for subject, actions in positions.items():
        for action, views in actions.items():
            for camera, view in enumerate(views):
                yield subject, action, camera, view


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
            for axis in range(2):
                total = sum(w * float(v[frame, joint, axis]) for w, v in zip(weights, views))
                result[frame, joint, axis] = total / sum(weights)
    return result


# ---- the functions ----


def test_replaced_joints_come_from_their_sources_and_nothing_else_changes():
    base, a, b = (random_keypoints(4, 2, seed=i) for i in range(3))
    before = base.copy()
    mixture = replace_joints(base, {2: a, 16: b})
    for joint in range(17):
        np.testing.assert_array_equal(mixture[:, joint], {2: a, 16: b}.get(joint, base)[:, joint])
    np.testing.assert_array_equal(base, before)


def test_the_weighted_mean_of_equal_weights_is_the_mean():
    views = [random_keypoints(4, 2, seed=i) for i in range(3)]
    expected = (views[0].astype(float) + views[1] + views[2]) / 3
    for weight in (0.0, 0.3):
        weights = [np.full((4, 17), weight)] * 3
        np.testing.assert_allclose(weighted_mean(views, weights), expected, atol=1e-9)


def test_a_weight_of_zero_silences_an_estimator():
    views = [random_keypoints(4, 2, seed=i) for i in range(2)]
    weights = [np.ones((4, 17)), np.zeros((4, 17))]
    np.testing.assert_allclose(weighted_mean(views, weights), views[0], atol=1e-9)


def test_logits_are_divided_by_their_maximum_and_negative_ones_weigh_nothing():
    logits = np.array([[-1.0, 2.0], [8.0, 0.0]], np.float32)
    np.testing.assert_allclose(weights_from_logits(logits), [[0, 0.25], [1, 0]])
    np.testing.assert_array_equal(weights_from_logits(-np.ones((3, 17))), np.zeros((3, 17)))


def test_cutting_keeps_the_beginning():
    views = [random_keypoints(n, 2) for n in (5, 3, 4)]
    for view, cut in zip(views, cut_to_shortest(views)):
        np.testing.assert_array_equal(cut, view[:3])


def test_joints_are_given_by_number_or_name():
    assert parse_replacements(["2,8=pct", "Head,Neck/Nose=moganet"]) == {
        2: "pct", 8: "pct", 10: "moganet", 9: "moganet"}  # fmt: skip
    assert joint_index("16") == joint_index("RWrist") == 16


# ---- the script ----


def test_manual_is_vitpose_with_four_joints_of_pct(estimators):
    data_dir, positions = estimators
    result, _ = merged(data_dir, "manual")
    assert [list(result), list(result["S1"])] == [["S1", "S9"], ["Walking", "Photo 1"]]
    for subject, action, camera, view in each_view(result):
        assert view.dtype == np.float32
        for joint in range(17):
            source = "pct" if joint in (2, 8, 10, 14) else "vitpose"
            expected = positions[source][subject][action][camera][:, joint, :2]
            np.testing.assert_array_equal(view[:, joint], expected)


def test_average_is_the_mean_of_three(estimators):
    data_dir, positions = estimators
    result, _ = merged(data_dir, "average")
    for subject, action, camera, view in each_view(result):
        views = [positions[n][subject][action][camera] for n in ("pct", "moganet", "vitpose")]
        expected = sum(v[..., :2].astype(float) for v in views) / 3
        np.testing.assert_allclose(view, expected, atol=1e-3)
        assert view.shape == (5, 17, 2)


def test_weighted_average_weights_by_confidence(estimators):
    data_dir, positions = estimators
    positions["pct"]["S1"]["Walking"][0][0, 3, 2] = -4
    for name in ("pct", "moganet", "vitpose"):
        positions[name]["S9"]["Sitting 2"][1][2, 5, 2] = 0
        write(data_dir, name, positions[name])
    result, run = merged(data_dir, "weighted_average")
    for subject, action, camera, view in each_view(result):
        views = [positions[n][subject][action][camera] for n in ("pct", "moganet", "vitpose")]
        np.testing.assert_allclose(view, weighted_by_hand(views, [1, 0, 0]), atol=1e-3)
    assert run.stderr == ""


def test_other_detectors_and_joints(estimators):
    data_dir, positions = estimators
    view = ("S9", "Sitting 2", 3)

    def of(name):
        subject, action, camera = view
        return positions[name][subject][action][camera]

    def result(strategy, *arguments):
        subject, action, camera = view
        return merged(data_dir, strategy, *arguments)[0][subject][action][camera]

    average = result("average", "--detectors", "moganet,transpose")
    expected = (of("moganet")[..., :2].astype(float) + of("transpose")[..., :2]) / 2
    np.testing.assert_allclose(average, expected, atol=1e-3)

    arguments = ("--detectors", "moganet", "--replace", "0,16=transpose", "Head=pct")
    for detectors in ("moganet", "moganet,transpose", "moganet, pct"):
        manual = result("manual", "--detectors", detectors, *arguments[2:])
        for joint in range(17):
            source = {0: "transpose", 16: "transpose", 10: "pct"}.get(joint, "moganet")
            np.testing.assert_array_equal(manual[:, joint], of(source)[:, joint, :2])

    weighted = result("weighted_average", "--detectors", "pct,transpose", "--logits", "")
    expected = weighted_by_hand([of("pct"), of("transpose")], [0, 0])
    np.testing.assert_allclose(weighted, expected, atol=1e-3)


def test_another_output_name(estimators, tmp_path):
    data_dir, _ = estimators
    assert merge(data_dir, "average", "--output-filename", "data_2d_h36m_mine").status == 0
    assert (data_dir / "data_2d_h36m_mine.npz").is_file()
    assert not (data_dir / "data_2d_h36m_merge_average.npz").exists()


@pytest.mark.parametrize("strategy", ["manual", "average", "weighted_average"])
def test_unequal_lengths_are_cut_to_the_shortest_and_said_once(estimators, strategy):
    data_dir, positions = estimators
    positions["pct"]["S1"]["Walking"][2] = positions["pct"]["S1"]["Walking"][2][:2]
    positions["vitpose"]["S9"]["Sitting 2"][0] = positions["vitpose"]["S9"]["Sitting 2"][0][:4]
    for name in ("pct", "vitpose"):
        write(data_dir, name, positions[name])
    result, run = merged(data_dir, strategy)
    lengths = {(s, a, c): len(view) for s, a, c, view in each_view(result)}
    assert lengths.pop(("S1", "Walking", 2)) == 2
    assert lengths.pop(("S9", "Sitting 2", 0)) == 4
    assert set(lengths.values()) == {5}
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("cut")]
    assert "cut to the shortest: 2 of 12 views, by up to 3 frames" in line
    assert f"S1 Walking, camera {CAMERA_IDS[2]}" in line
    assert "pct 2" in line
    assert "vitpose 5" in line


def test_logits_are_scaled_before_the_cut(estimators):
    """The maximum is that of the sequence, not of what is left of it."""
    data_dir, positions = estimators
    positions["pct"]["S1"]["Walking"][1][4, 0, 2] = 50
    positions["moganet"]["S1"]["Walking"][1] = positions["moganet"]["S1"]["Walking"][1][:4]
    for name in ("pct", "moganet"):
        write(data_dir, name, positions[name])
    result, _ = merged(data_dir, "weighted_average")
    views = [positions[n]["S1"]["Walking"][1] for n in ("pct", "moganet", "vitpose")]
    np.testing.assert_allclose(
        result["S1"]["Walking"][1], weighted_by_hand(views, [1, 0, 0]), atol=1e-3
    )


def test_equal_lengths_are_not_said(estimators):
    assert "cut" not in merged(estimators[0], "average")[1].stdout


def test_undeclared_logits_are_a_warning(estimators):
    result = merge(estimators[0], "weighted_average", "--logits", "moganet")
    assert result.status == 0
    assert result.stderr.startswith("warning: ")
    assert "data_2d_h36m_pct_w_conf.npz: confidences reach" in result.stderr
    assert result.stderr.count("\n") == 1


# ---- bad input ----


@pytest.fixture
def with_earlier_output(estimators):
    for strategy in ("manual", "average", "weighted_average"):
        (estimators[0] / f"data_2d_h36m_merge_{strategy}.npz").write_bytes(b"earlier")
    return estimators


@pytest.mark.parametrize("strategy", ["manual", "average", "weighted_average"])
def test_files_of_different_sequences_are_refused(with_earlier_output, strategy):
    data_dir, positions = with_earlier_output
    del positions["pct"]["S9"]
    positions["vitpose"]["S1"]["Waiting"] = positions["vitpose"]["S1"]["Walking"]
    for name in ("pct", "vitpose"):
        write(data_dir, name, positions[name])
    suffix = "_w_conf" if strategy == "weighted_average" else ""
    with untouched(data_dir):
        assert_one_line_error(
            merge(data_dir, strategy),
            f"data_2d_h36m_pct{suffix}.npz lacks S1 Waiting, S9 Sitting 2",
        )


@pytest.mark.parametrize("strategy", ["manual", "average", "weighted_average"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_file_that_cannot_be_read_is_named(with_earlier_output, strategy, damage):
    data_dir, _ = with_earlier_output
    suffix = "_w_conf" if strategy == "weighted_average" else ""
    path = data_dir / f"data_2d_h36m_pct{suffix}.npz"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: 5000 if damage == "truncated" else 0])
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, strategy), path)


def test_confidences_that_do_not_exist_are_named(with_earlier_output):
    data_dir, _ = with_earlier_output
    bare = (data_dir / "data_2d_h36m_moganet.npz").read_bytes()
    (data_dir / "data_2d_h36m_moganet_w_conf.npz").write_bytes(bare)
    with untouched(data_dir):
        assert_one_line_error(
            merge(data_dir, "weighted_average"),
            "data_2d_h36m_moganet_w_conf.npz: holds no confidences",
            "--detector moganet --keep-conf",
        )


@pytest.mark.parametrize(
    ("strategy", "flags", "message"),
    [
        ("average", ("--output-filename", "data_2d_h36m_pct"), "is the same file as"),
        ("average", ("--output-filename", ""), "give the name of a file"),
        ("average", ("--detectors", ""), "two estimators or more"),
        ("average", ("--logits", "pct"), "--logits goes with weighted_average"),
        ("weighted_average", ("--logits", "pct,nobody"), "nobody is not among pct, moganet"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(with_earlier_output, strategy, flags, message):
    data_dir, _ = with_earlier_output
    with untouched(data_dir):
        assert_one_line_error(merge(data_dir, strategy, *flags), message)


def test_an_input_that_is_the_output_through_a_link_is_left_alone(with_earlier_output, tmp_path):
    """Such a merge once replaced the estimator's own file."""
    data_dir, _ = with_earlier_output
    link = tmp_path / "link"
    link.symlink_to(data_dir)
    with untouched(data_dir):
        output = link / "data_2d_h36m_pct.npz"
        assert_one_line_error(merge(data_dir, "average", "--output-filename", output), output)


def test_a_full_disk_leaves_the_earlier_output(with_earlier_output, monkeypatch):
    data_dir, _ = with_earlier_output

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with untouched(data_dir):
        assert_one_line_error(
            merge(data_dir, "average"), data_dir / "data_2d_h36m_merge_average.npz", "disk is full"
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["average", "--detectors", "pct"], "--detectors pct: a mixture needs two"),
        (["average", "--detectors", "pct,pct"], "named twice"),
        (["average", "--detectors", "pct,hrnet"], "data_2d_h36m_hrnet.npz: no such file"),
        (["average", "--replace", "2=pct"], "--replace goes with --strategy manual"),
        (["manual", "--replace", "2,17=pct"], "no joint '17'"),
        (["manual", "--replace", "Nose=pct"], "no joint 'Nose'"),
        (["manual", "--replace", "2,=pct"], "no joint ''"),
        (["manual", "--replace", "2,8"], "--replace 2,8: expected joints=estimator"),
        (["manual", "--replace", "2=pct", "RKnee=moganet"], "joint RKnee is taken twice"),
        (["manual", "--replace", "2=vitpose"], "--detectors vitpose: a mixture needs two"),
        (["manual", "--detectors", "vitpose,pct", "--replace", "2=moganet"], "no joint of pct"),
        (["median"], "median"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line(with_earlier_output, arguments, says):
    with untouched(with_earlier_output[0]):
        assert_one_line_error(merge(with_earlier_output[0], *arguments), says)


# ---- real estimates ----


def test_mixtures_of_real_estimates_agree_with_brute_force(real_chain):
    data_dir, outputs = real_chain
    names = ("pct", "moganet", "vitpose")
    files = {n: load_item(data_dir / f"data_2d_h36m_{n}_w_conf.npz") for n in names}
    results = {
        strategy: load_item(data_dir / f"data_2d_h36m_merge_{strategy}.npz")
        for strategy in ("manual", "average", "weighted_average")
    }
    for subject, action, camera in [
        ("S1", "Photo", 0),
        ("S9", "Sitting 1", 2),
        ("S11", "Posing", 3),
    ]:
        views = [files[name][subject][action][camera] for name in names]
        manual, average, weighted = (r[subject][action][camera] for r in results.values())
        expected = views[2][..., :2].copy()
        expected[:, [2, 8, 10, 14]] = views[0][:, [2, 8, 10, 14], :2]
        np.testing.assert_array_equal(manual, expected)
        np.testing.assert_allclose(
            average, sum(v[..., :2].astype(float) for v in views) / 3, atol=1e-3
        )
        np.testing.assert_allclose(weighted, weighted_by_hand(views, [1, 0, 0]), atol=1e-3)
    for result in results.values():
        assert [len(result[s]) for s in ("S1", "S5", "S6", "S7", "S8", "S9", "S11")] == [30] * 6 + [
            29
        ]
    assert "read" in outputs["merge.py", "--strategy", "weighted_average"]


def test_mixtures_of_real_estimates_are_less_noisy(real_chain):
    """The published finding; were joints or cameras exchanged, the opposite would come out."""
    data_dir, _ = real_chain
    truth = load_item(data_dir / "data_2d_h36m_gt.npz")

    def mean_error_px(name):
        estimate = load_item(data_dir / f"data_2d_h36m_{name}.npz")
        return np.mean(
            [
                np.linalg.norm(estimate[s][a][c][: len(view)] - view, axis=-1).mean()
                for s, a, c, view in each_view(truth)
            ]
        )

    single = min(mean_error_px(name) for name in ("vitpose", "pct", "moganet"))
    assert mean_error_px("merge_average") < single
    assert mean_error_px("merge_weighted_average") < single
