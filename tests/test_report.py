"""The report's averages against a brute force over all frames, and its texts."""

import json
import re

import numpy as np
import pytest
import torch

from common.files.console import InputError
from common.h36m_dataset import ACTIONS
from common.loss import (
    METRICS,
    MetricSums,
    joint_auc,
    joint_errors,
    joint_pck,
    mpjpe,
    n_mpjpe,
    p_mpjpe,
)
from common.report import format_report, latex_row, make_report
from common.skeleton import JOINT_NAMES

HEADER = "Dire. Disc. Eat Greet Phone Photo Pose Purch. Sit SitD. Smoke Wait WalkD. Walk WalkT. Avg"
GROUPS = {
    "Directions": ["Directions", "Directions 1"],
    "Sitting": ["Sitting 1", "Sitting"],
    "SittingDown": ["SittingDown"],
    "WalkTogether": ["WalkTogether"],
}


def sequence(subject, action, frames, noise_m, seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 0.3, (frames, 17, 3))
    return subject, action, target + rng.normal(0, noise_m, target.shape), target


# Actions of unlike length and error, numbered twins, two cameras, two subjects; most actions
# are missing.
SEQUENCES = [
    sequence("S9", "Directions", 5, 0.02, 1),
    sequence("S9", "Directions 1", 40, 0.03, 2),
    sequence("S9", "Sitting 1", 7, 0.12, 3),
    sequence("S9", "Sitting 1", 9, 0.05, 7),
    sequence("S9", "SittingDown", 11, 0.20, 4),
    sequence("S11", "Sitting", 20, 0.10, 5),
    sequence("S11", "WalkTogether", 3, 0.01, 6),
]


def sums_of(sequences, **options):
    sums = MetricSums()
    for each in sequences:
        sums.add(*each, **options)
    return sums


@pytest.fixture(scope="module")
def report():
    return make_report(sums_of(SEQUENCES))


def brute_force(sequences):
    """Every metric over all frames; no velocity crosses from one sequence to the next."""
    _, _, *both = zip(*sequences)
    predicted, target = (torch.from_numpy(np.concatenate(part)) for part in both)
    errors = joint_errors(predicted, target)
    differences = [np.diff(p, axis=0) - np.diff(t, axis=0) for _, _, p, t in sequences]
    figures = {
        "mpjpe_mm": 1000 * mpjpe(predicted, target),
        "p_mpjpe_mm": 1000 * p_mpjpe(predicted, target),
        "n_mpjpe_mm": 1000 * n_mpjpe(predicted, target),
        "mpjve_mm": 1000 * np.linalg.norm(np.concatenate(differences), axis=-1).mean(),
        "pck_percent": 100 * joint_pck(errors).mean(),
        "auc_percent": 100 * joint_auc(errors).mean(),
    }
    return {name: pytest.approx(float(figure)) for name, figure in figures.items()}


def test_the_figures_are_those_of_a_brute_force(report):
    assert report["frames"] == 95
    assert report["average_over_frames"] == brute_force(SEQUENCES)
    assert list(report["by_action"]) == list(GROUPS)
    for action, names in GROUPS.items():
        own = [s for s in SEQUENCES if s[1] in names]
        frames = sum(len(s[2]) for s in own)
        assert report["by_action"][action] == {"frames": frames, **brute_force(own)}
    for metric in METRICS:
        by_action = [report["by_action"][action][metric] for action in GROUPS]
        assert report["average_over_actions"][metric] == pytest.approx(np.mean(by_action))
    assert len(report["by_sequence"]) == 6
    for name, figures in report["by_sequence"].items():  # over a sequence's cameras
        assert figures == brute_force([s for s in SEQUENCES if f"{s[0]} {s[1]}" == name])
    assert sums_of(SEQUENCES).mpjpe_mm() == report["average_over_actions"]["mpjpe_mm"]


def test_by_subject_is_the_report_of_that_subject_alone(report):
    assert list(report["by_subject"]) == ["S9", "S11"]
    for subject, figures in report["by_subject"].items():
        alone = make_report(sums_of(s for s in SEQUENCES if s[0] == subject))
        own = {k: v for k, v in report["by_sequence"].items() if k.split()[0] == subject}
        assert alone.pop("by_sequence") == own
        alone.pop("by_subject")
        assert figures == alone


def test_by_joint(report):
    distances = np.concatenate([np.linalg.norm(p - t, axis=-1) for _, _, p, t in SEQUENCES])
    assert list(report["by_joint"]) == list(JOINT_NAMES)
    for of_joint, figures in zip(distances.T, report["by_joint"].values()):
        assert figures["mpjpe_mm"] == pytest.approx(1000 * of_joint.mean())
        assert figures["pck_percent"] == pytest.approx(100 * (of_joint < 0.15).mean())


def test_states_of_two_processes_add_up_to_the_whole(report):
    first, second = sums_of(SEQUENCES[:3]), sums_of(SEQUENCES[3:])
    whole = make_report(MetricSums(first.state + second.state))
    for name in ("average_over_actions", "average_over_frames"):
        assert whole[name] == pytest.approx(report[name])


def test_figures_that_are_missing_are_none_and_shown_as_a_dash(report):
    sums = sums_of(SEQUENCES, all_metrics=False)
    figures = make_report(sums)["average_over_frames"]
    assert figures.pop("mpjpe_mm") == report["average_over_frames"]["mpjpe_mm"]
    assert set(figures.values()) == {None}
    single = make_report(sums_of([sequence("S9", "Eating", 1, 0.1, 0)]))
    assert single["average_over_actions"]["mpjve_mm"] is None
    assert json.loads(json.dumps(single, allow_nan=False)) == single
    assert re.search(r"^MPJVE( +-){16}$", format_report(single), re.MULTILINE)


def test_bad_sequences_are_refused():
    subject, action, predicted, target = sequence("S9", "Eating", 4, 0.1, 0)
    with pytest.raises(InputError, match=r"S9 Dancing: none of the 15 actions"):
        MetricSums().add(subject, "Dancing", predicted, target)
    with pytest.raises(ValueError, match="expected two tensors"):
        MetricSums().add(subject, action, predicted[:3], target)
    predicted[3, 16, 2] = np.nan
    with pytest.raises(InputError, match=r"S9 Eating: the prediction is NaN"):
        MetricSums().add(subject, action, predicted, target)


def test_the_text_holds_the_literatures_table_and_both_averages(report):
    lines = format_report(report).splitlines()
    header = next(i for i, line in enumerate(lines) if line.split() == HEADER.split())
    rows = lines[header + 1 : header + 7]
    for row, (metric, name) in zip(rows, METRICS.items()):
        figures = [report["by_action"].get(action, {}).get(metric) for action in ACTIONS]
        figures.append(report["average_over_actions"][metric])
        assert row.split() == [name, *("-" if x is None else f"{x:.1f}" for x in figures)]
    assert len({len(line) for line in [lines[header], *rows]}) == 1
    averages = (report[f"average_over_{what}"]["mpjpe_mm"] for what in ("actions", "frames"))
    over_actions, over_frames = map("{:.2f}".format, averages)
    rows = {line[:26].strip(): line[26:].split()[0] for line in lines if line}
    assert (rows["over 4 actions"], rows["over 95 frames"]) == (over_actions, over_frames)
    assert set(JOINT_NAMES) <= rows.keys()
    assert lines[-1] == (
        f"MPJPE on Validation data: {over_actions} mm (mean over 4 actions; "
        f"mean over 95 frames: {over_frames} mm)"
    )


def test_the_text_names_subjects_on_demand(report):
    assert "S11" not in format_report(report)
    text = format_report(report, by_subject=True)
    assert text.count("WalkT.") == 3
    figure = report["by_subject"]["S11"]["average_over_actions"]["mpjpe_mm"]
    own = text[text.index("S11, mean") :]
    assert re.search(rf"^over 2 actions +{figure:.2f} ", own, re.MULTILINE)


def test_latex_row(report):
    row = latex_row(report, "ViTPose_w & 50%")
    label, *cells = row.removesuffix(r" \\").replace(r"\&", "and").split(" & ")
    assert label == r"ViTPose\_w and 50\%"
    assert cells[0] == f"{report['by_action']['Directions']['mpjpe_mm']:.1f}"
    assert cells[1] == "-"
    assert cells[15] == f"{report['average_over_actions']['mpjpe_mm']:.1f}"
