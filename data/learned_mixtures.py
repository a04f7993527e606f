"""The mixtures that learn from gt on the training subjects, for merge.py."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from common.confidences import WITH_CONFIDENCE, check_channel
from common.console import InputError, progress, split_names
from common.fusion import FittedMixture, best_joints, cut_to_shortest, mix_fitted
from common.fusion_fit import fit_mixture
from common.h36m_dataset import TRAIN_SUBJECTS, each_sequence, keypoints_names, keypoints_path
from common.npz_io import Positions2d, read_positions_2d
from common.skeleton import JOINT_NAMES


def each_view(
    estimators: dict[str, Positions2d],
) -> Iterator[tuple[str, str, int, list[np.ndarray]]]:
    """Yield (subject, action, camera, the estimators' arrays) in the order of the first file."""
    first, *_ = estimators.values()
    for subject, action, cameras in each_sequence(first):
        for camera in range(len(cameras)):
            yield subject, action, camera, [e[subject][action][camera] for e in estimators.values()]


def arrange(estimators: dict[str, Positions2d], mixed: Iterable[np.ndarray]) -> Positions2d:
    """Arrange mixed views, in the order of `each_view`, as the estimators' positions are."""
    merged: Positions2d = {}
    for view, (subject, action, *_) in zip(mixed, each_view(estimators)):
        merged.setdefault(subject, {}).setdefault(action, []).append(view)
    return merged


def choose_learned(data_dir: Path, given: str | None, mixture: FittedMixture | None) -> list[str]:
    """Return the estimators of a strategy that learns: all, those given, or those of the fit.

    Raises:
        InputError: if `mixture` was fitted for others, or there are fewer than two.
    """
    if mixture:
        if given is not None and set(split_names(given)) != set(mixture.estimators):
            raise InputError(
                f"--detectors {given}: the weights were fitted for {','.join(mixture.estimators)}; "
                "leave --detectors out, or fit again without --weights"
            )
        return list(mixture.estimators)
    if given is not None:
        return split_names(given)
    names = [name.removesuffix(WITH_CONFIDENCE) for name in keypoints_names(data_dir, "h36m")]
    names = [n for n in dict.fromkeys(names) if n != "gt" and not n.startswith("merge_")]
    if len(names) < 2:
        raise InputError(
            f"{data_dir}: holds {len(names)} estimators' files, but a mixture needs two or more; "
            "prepare them with prepare_2d_estimation.py, or name them with --detectors"
        )
    return names


def confident_paths(
    data_dir: Path, detectors: list[str], mixture: FittedMixture | None
) -> dict[str, Path]:
    """Return {estimator: its file}, with confidences where there is one or the mixture needs it."""
    there_are = keypoints_names(data_dir, "h36m")
    paths = {}
    for i, name in enumerate(detectors):
        confident = mixture.confident[i] if mixture else name + WITH_CONFIDENCE in there_are
        suffix = WITH_CONFIDENCE if confident else ""
        paths[name] = keypoints_path(data_dir, "h36m", name + suffix)
    return paths


# For each view the estimators' arrays (frames, 17, 2 or 3), the truth (frames, 17, 2), in pixels,
# and the subject.
Training = tuple[list[list[np.ndarray]], list[np.ndarray], list[str]]


def training_views(estimators: dict[str, Positions2d], truth_path: Path) -> Training:
    """Return what there is to learn from: the training subjects' views, and no others.

    The arrays of a view are cut to the shortest.

    Raises:
        InputError: if the truth is missing or lacks a sequence, or there is no training subject.
    """
    truth = read_positions_2d(truth_path)
    views, truths, groups = [], [], []
    for subject, action, camera, arrays in each_view(estimators):
        if subject not in TRAIN_SUBJECTS:
            continue
        if action not in truth.get(subject, {}):
            raise InputError(f"{truth_path}: lacks {subject} {action}, which the estimators have")
        true, *arrays = cut_to_shortest([truth[subject][action][camera][..., :2], *arrays])
        truths.append(true)
        views.append(arrays)
        groups.append(subject)
    if not views:
        raise InputError(
            f"{truth_path.parent}: the estimators' files hold none of {', '.join(TRAIN_SUBJECTS)}, "
            "from whom the mixture is learned; prepare these, or give fitted an earlier fit by "
            "--weights"
        )
    return views, truths, groups


def choose_joints(detectors: list[str], training: Training) -> dict[int, str]:
    """Return {joint: the estimator with the lowest mean error}, and print the choice."""
    views, truths, _ = training
    true = np.concatenate(truths)
    errors = {}
    for name, arrays in zip(detectors, zip(*views)):
        difference = np.concatenate(arrays)[..., :2] - true
        errors[name] = np.hypot(*np.moveaxis(difference, -1, 0)).mean(axis=0, dtype=np.float64)
    chosen = best_joints(errors)
    print(f"{'mean error in training, px':28}" + "".join(f"{name:>12}" for name in detectors))
    for joint, best in chosen.items():
        cells = [f"{errors[name][joint]:.2f}{'*' if name == best else ' '}" for name in detectors]
        print(f"{JOINT_NAMES[joint]:28}" + "".join(f"{cell:>12}" for cell in cells))
    for name in detectors:
        joints = [str(joint) for joint, best in chosen.items() if best == name]
        print(f"{name}: {'joints ' + ','.join(joints) if joints else 'no joint'}")
    return chosen


def fit(estimators: dict[str, Positions2d], training: Training) -> FittedMixture:
    """Fit a mixture to the training subjects, and say to what."""
    views, truths, subjects = training
    confident = [array.shape[-1] == 3 for array in views[0]]
    mixture = fit_mixture(list(estimators), confident, views, truths, subjects)
    models = ("variance by confidence" if known else "constant variance" for known in confident)
    told = ", ".join(f"{name} ({model})" for name, model in zip(estimators, models))
    people, frames = ", ".join(dict.fromkeys(subjects)), sum(map(len, truths))
    print(f"fitted to {people}, {frames:,} frames: {told}")
    return mixture


def apply_mixture(mixture: FittedMixture, estimators: dict[str, Positions2d]) -> Positions2d:
    """Apply a fit to every view of every sequence."""
    for name, confident in zip(mixture.estimators, mixture.confident):
        if confident:
            check_channel(Path(f"data_2d_h36m_{name}_w_conf.npz"), estimators[name])
    views = [cut_to_shortest(arrays) for *_, arrays in each_view(estimators)]
    mixed = progress(mix_fitted(mixture, views), total=len(views), desc="mixing", unit="view")
    return arrange(estimators, mixed)
