import json
import re

import numpy as np
import pytest
import torch

from common.console import InputError
from common.h36m_dataset import ACTIONS
from common.loss import METRICS, MetricSums, auc, mpjpe, mpjve, n_mpjpe, p_mpjpe, pck
from common.report import format_report, latex_row, make_report
from common.skeleton import JOINT_NAMES

HEADER = "Dire. Disc. Eat Greet Phone Photo Pose Purch. Sit SitD. Smoke Wait WalkD. Walk WalkT. Avg"
FUNCTIONS = {
    "mpjpe_mm": lambda p, t: 1000 * mpjpe(p, t),
    "p_mpjpe_mm": lambda p, t: 1000 * p_mpjpe(p, t),
    "n_mpjpe_mm": lambda p, t: 1000 * n_mpjpe(p, t),
    "pck_percent": pck,
    "auc_percent": auc,
}


def sequence(subject, action, frames, noise_m, seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 0.3, (frames, 17, 3))
    return subject, action, target + rng.normal(0, noise_m, target.shape), target


@pytest.fixture(scope="module")
def sequences():
    """Actions of unlike length and error, numbered twins, two subjects; most actions missing."""
    return [
        sequence("S9", "Directions", 5, 0.02, 1),
        sequence("S9", "Directions 1", 40, 0.03, 2),
        sequence("S9", "Sitting 1", 7, 0.12, 3),
        sequence("S9", "SittingDown", 11, 0.20, 4),
        sequence("S11", "Sitting", 20, 0.10, 5),
        sequence("S11", "WalkTogether", 3, 0.01, 6),
    ]


def sums_of(sequences):
    sums = MetricSums()
    for each in sequences:
        sums.add(*each)
    return sums


@pytest.fixture(scope="module")
def report(sequences):
    return make_report(sums_of(sequences))


def joined(sequences):
    """Predictions and targets of several sequences, one after the other."""
    return [torch.from_numpy(np.concatenate(part)) for part in list(zip(*sequences))[2:]]


def brute_force(sequences):
    figures = {name: function(*joined(sequences)).item() for name, function in FUNCTIONS.items()}
    differences = [np.diff(p, axis=0) - np.diff(t, axis=0) for _, _, p, t in sequences]
    velocities = np.linalg.norm(np.concatenate(differences), axis=-1)
    return figures | {"mpjve_mm": 1000 * velocities.mean()}


def figures_of(entry):
    return {name: entry[name] for name in METRICS}


GROUPS = {
    "Directions": ["Directions", "Directions 1"],
    "Sitting": ["Sitting 1", "Sitting"],
    "SittingDown": ["SittingDown"],
    "WalkTogether": ["WalkTogether"],
}


def test_by_action(sequences, report):
    assert list(report["by_action"]) == list(GROUPS)
    for action, names in GROUPS.items():
        own = [s for s in sequences if s[1] in names]
        assert figures_of(report["by_action"][action]) == pytest.approx(brute_force(own))
        assert report["by_action"][action]["frames"] == sum(len(s[2]) for s in own)


def test_averages_over_frames_and_over_actions_differ_and_are_right(sequences, report):
    assert report["frames"] == 86
    assert report["average_over_frames"] == pytest.approx(brute_force(sequences))
    for name in METRICS:
        by_action = [report["by_action"][action][name] for action in GROUPS]
        assert report["average_over_actions"][name] == pytest.approx(np.mean(by_action))
    gap = report["average_over_actions"]["mpjpe_mm"] - report["average_over_frames"]["mpjpe_mm"]
    assert abs(gap) > 1
    assert sums_of(sequences).mpjpe_mm() == report["average_over_actions"]["mpjpe_mm"]


def test_by_subject_is_the_report_of_that_subject_alone(sequences, report):
    assert list(report["by_subject"]) == ["S9", "S11"]
    for subject, figures in report["by_subject"].items():
        alone = make_report(sums_of(s for s in sequences if s[0] == subject))
        of_subject = {k: v for k, v in report["by_sequence"].items() if k.split()[0] == subject}
        assert alone.pop("by_sequence") == of_subject
        alone.pop("by_subject")
        assert figures == alone


def test_by_sequence_is_over_a_sequences_cameras(sequences):
    """Two cameras of one take, of unlike lengths: one figure, over all frames."""
    cameras = [sequence("S9", "Sitting 1", 7, 0.1, 8), sequence("S9", "Sitting 1", 9, 0.2, 9)]
    found = make_report(sums_of([*sequences[:2], *cameras]))["by_sequence"]
    assert list(found) == ["S9 Directions", "S9 Directions 1", "S9 Sitting 1"]
    alone = make_report(sums_of(cameras))["average_over_frames"]
    assert found["S9 Sitting 1"] == pytest.approx(alone)


def test_by_joint(sequences, report):
    predicted, target = (part.numpy() for part in joined(sequences))
    distances = np.linalg.norm(predicted - target, axis=-1)
    assert list(report["by_joint"]) == list(JOINT_NAMES)
    for j, name in enumerate(JOINT_NAMES):
        figures = report["by_joint"][name]
        assert figures["mpjpe_mm"] == pytest.approx(1000 * distances[:, j].mean())
        assert figures["pck_percent"] == pytest.approx(100 * (distances[:, j] < 0.15).mean())
    for name in METRICS:
        mean = np.mean([figures[name] for figures in report["by_joint"].values()])
        assert mean == pytest.approx(report["average_over_frames"][name])


def test_states_of_two_halves_add_up_to_the_whole(sequences, report):
    first, second = sums_of(sequences[::2]), sums_of(sequences[1::2])
    assert first.state.dtype == torch.float64
    sums = MetricSums(first.state + second.state, first.sequences | second.sequences)
    whole = make_report(sums)
    assert_close(whole, report)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_close(value, other[key])
        else:
            assert value == pytest.approx(other[key])


def test_velocity_does_not_cross_from_one_sequence_to_the_next():
    _, _, _, target = sequence("S9", "Eating", 10, 0, 0)
    sums = MetricSums()
    sums.add("S9", "Eating", target + 1.0, target)
    sums.add("S9", "Eating 1", target - 1.0, target)
    assert make_report(sums)["average_over_frames"]["mpjve_mm"] == pytest.approx(0, abs=1e-9)
    both = np.concatenate([target + 1.0, target - 1.0]), np.concatenate([target, target])
    assert mpjve(*map(torch.from_numpy, both)) > 0.1


def test_mpjpe_alone_leaves_the_other_figures_out(sequences, report):
    sums = MetricSums()
    for each in sequences:
        sums.add(*each, all_metrics=False)
    assert sums.mpjpe_mm() == report["average_over_actions"]["mpjpe_mm"]
    figures = make_report(sums)["average_over_frames"]
    assert figures.pop("mpjpe_mm") == report["average_over_frames"]["mpjpe_mm"]
    assert set(figures.values()) == {None}


def test_report_survives_json_also_where_a_figure_is_missing():
    report = make_report(sums_of([sequence("S9", "Eating", 1, 0.1, 0)]))
    assert report["by_action"]["Eating"]["mpjve_mm"] is None
    assert report["average_over_actions"]["mpjve_mm"] is None
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert re.search(r"^MPJVE( +-){16}$", format_report(report), re.MULTILINE)


def test_bad_sequences_are_refused():
    good = sequence("S9", "Eating", 4, 0.1, 0)
    with pytest.raises(InputError, match=r"S9 Dancing: none of the 15 actions"):
        MetricSums().add("S9", "Dancing", *good[2:])
    spoilt = good[2].copy()
    spoilt[3, 16, 2] = np.nan
    with pytest.raises(InputError, match=r"S9 Eating: the prediction is NaN"):
        MetricSums().add("S9", "Eating", spoilt, good[3])
    with pytest.raises(ValueError, match="expected two tensors"):
        MetricSums().add("S9", "Eating", good[2][:3], good[3])
    with pytest.raises(ValueError, match="no sequence"):
        make_report(MetricSums())


def test_float32_tensors_give_the_same_figures(sequences, report):
    sums = MetricSums()
    for subject, action, predicted, target in sequences:
        sums.add(subject, action, torch.tensor(predicted).float(), torch.tensor(target).float())
    figures = make_report(sums)["average_over_actions"]
    assert figures == pytest.approx(report["average_over_actions"], rel=1e-5)


def test_text_has_the_literatures_table(report):
    lines = format_report(report).splitlines()
    header = next(i for i, line in enumerate(lines) if line.split() == HEADER.split())
    rows = [line.split() for line in lines[header + 1 : header + 7]]
    assert [row[0] for row in rows] == ["MPJPE", "P-MPJPE", "N-MPJPE", "MPJVE", "PCK@150", "AUC"]
    for row, name in zip(rows, METRICS):
        assert len(row) == 17
        for action, cell in zip(ACTIONS, row[1:]):
            present = action in GROUPS
            assert cell == (f"{report['by_action'][action][name]:.1f}" if present else "-")
        assert row[-1] == f"{report['average_over_actions'][name]:.1f}"
    assert len({len(line) for line in lines[header : header + 7]}) == 1


def test_text_labels_both_averages(report):
    lines = format_report(report).splitlines()
    over_actions = f"{report['average_over_actions']['mpjpe_mm']:.2f}"
    over_frames = f"{report['average_over_frames']['mpjpe_mm']:.2f}"
    rows = {line[:26].strip(): line[26:].split() for line in lines if line.startswith("over ")}
    assert rows["over 4 actions"][0] == over_actions
    assert rows["over 86 frames"][0] == over_frames
    assert lines[-1] == (
        f"MPJPE on Validation data: {over_actions} mm (mean over 4 actions; "
        f"mean over 86 frames: {over_frames} mm)"
    )


def test_text_names_every_joint_and_subjects_on_demand(report):
    text = format_report(report)
    for joint in JOINT_NAMES:
        assert re.search(rf"^{joint} +\d+\.\d\d ", text, re.MULTILINE)
    assert "S11" not in text
    by_subject = format_report(report, by_subject=True)
    assert by_subject.count("WalkT.") == 3
    figure = report["by_subject"]["S11"]["average_over_actions"]["mpjpe_mm"]
    own = by_subject[by_subject.index("S11, mean") :]
    assert re.search(rf"^over 2 actions +{figure:.2f} ", own, re.MULTILINE)


def test_latex_row(report):
    figures = {a: report["by_action"][a]["mpjpe_mm"] for a in GROUPS}
    figures["Avg"] = report["average_over_actions"]["mpjpe_mm"]
    cells = [f"{figures[a]:.1f}" if a in figures else "-" for a in [*ACTIONS, "Avg"]]
    assert latex_row(report, "ViTPose_w & 50%") == rf"ViTPose\_w \& 50\% & {' & '.join(cells)} \\"
    p_mpjpe_row = latex_row(report, "x", "p_mpjpe_mm")
    assert p_mpjpe_row.endswith(rf"& {report['average_over_actions']['p_mpjpe_mm']:.1f} \\")
