"""Several estimators' data_2d_h36m_<detector>.npz to one, data_2d_h36m_merge_<strategy>.npz.

manual takes some joints of one estimator from others; average is the plain mean of several;
weighted_average weights each joint of each frame by the estimators' confidences. Two strategies
learn from gt on the training subjects: best_joint takes each joint from the estimator that is best
for it; fitted is the best linear unbiased mixture, smoothed over time (common/fusion.py).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.confidences import (
    LARGEST_PROBABILITY,
    WITH_CONFIDENCE,
    check_channel,
    largest_confidence,
)
from common.console import DATA_DIR, ArgumentParser, InputError, run, split_names, warn
from common.files import check_distinct
from common.fusion import cut_to_shortest, replace_joints, weighted_mean, weights_from_logits
from common.fusion_fit import read_mixture, write_mixture
from common.h36m_dataset import CAMERA_IDS, each_sequence, keypoints_path
from common.npz_io import Positions2d, npz_path, read_positions_2d, write_positions_2d
from common.skeleton import JOINT_NAMES
from data.learned_mixtures import (
    apply_mixture,
    choose_joints,
    choose_learned,
    confident_paths,
    fit,
    training_views,
)

MANUAL_DETECTORS = "vitpose"
MANUAL_REPLACE = ("2,8,10,14=pct",)
AVERAGED_DETECTORS = "pct,moganet,vitpose"
LOGITS_DETECTORS = "pct"
LEARNED = ("best_joint", "fitted")
WEIGHTS = "merge_fitted.json"


def main() -> None:
    """Read the estimators' files, check that they match, mix them, write."""
    arguments = parse_arguments()
    strategy, data_dir = arguments.strategy, arguments.data_dir
    mixture = read_mixture(arguments.weights) if arguments.weights else None
    replaced = parse_replacements(arguments.replace)
    given = arguments.detectors
    if strategy in LEARNED:
        given = ",".join(choose_learned(data_dir, given, mixture))
    detectors = choose_detectors(strategy, given, replaced)
    weighted = strategy == "weighted_average"
    logits = choose_logits(arguments.logits, detectors)
    if strategy == "fitted":
        paths = confident_paths(data_dir, detectors, mixture)
    else:
        suffix = WITH_CONFIDENCE if weighted else ""
        paths = {n: keypoints_path(data_dir, "h36m", n + suffix) for n in detectors}
    learns = strategy in LEARNED and mixture is None
    truth_path = keypoints_path(data_dir, "h36m", "gt") if learns else None
    filename = arguments.output_filename
    if filename is None:
        filename = f"data_2d_h36m_merge_{strategy}.npz"
    output = npz_path(data_dir, filename)
    outputs = [output, data_dir / WEIGHTS] if strategy == "fitted" and learns else [output]
    check_distinct(outputs, [*paths.values(), *([truth_path] if truth_path else [])])
    estimators = read_estimators(paths)
    if weighted:
        check_confidences(estimators, logits)
    report_cuts(estimators)
    training = training_views(estimators, truth_path) if truth_path else None
    if strategy == "fitted":
        mixture = mixture or fit(estimators, training)
        merged = apply_mixture(mixture, estimators)
    else:
        if strategy == "best_joint":
            replaced = choose_joints(detectors, training)
        merged = mix(estimators, replaced, weighted, logits)
    write_positions_2d(output, merged)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    if strategy == "fitted" and training:
        write_mixture(data_dir / WEIGHTS, mixture)
        print(f"wrote {data_dir / WEIGHTS}, for --weights")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--strategy",
        required=True,
        choices=("manual", "average", "weighted_average", *LEARNED),
        help="manual takes joints of one estimator from others, average is the plain mean, "
        "weighted_average weights by confidence and reads the files that end in _w_conf; "
        "best_joint and fitted learn from gt on the training subjects, and fitted reads _w_conf "
        "files where there are any",
    )
    add(
        "--detectors",
        metavar="A,B,…",
        help=f"the estimators; for manual, whose joints are replaced (default: {MANUAL_DETECTORS} "
        f"for manual, all that there are for {' and '.join(LEARNED)}, else {AVERAGED_DETECTORS})",
    )
    add(
        "--replace",
        nargs="+",
        metavar="JOINTS=NAME",
        help="manual alone: joints, by number or name, and the estimator to take them from "
        f"(default: {' '.join(MANUAL_REPLACE)})",
    )
    add(
        "--logits",
        metavar="A,B,…",
        help="weighted_average alone: estimators whose confidences are logits, which are divided "
        f"by their maximum over the sequence (default: {LOGITS_DETECTORS})",
    )
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help=f"fitted alone: apply an earlier fit, {WEIGHTS}, instead of learning from gt",
    )
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    add(
        "--output-filename",
        metavar="FILE",
        help="output, in --data-dir unless the path is absolute "
        "(default: data_2d_h36m_merge_<strategy>.npz)",
    )
    arguments = parser.parse_args()
    if arguments.strategy == "manual":
        arguments.replace = arguments.replace or MANUAL_REPLACE
    elif arguments.replace:
        parser.error(f"--replace goes with --strategy manual, not with {arguments.strategy}")
    if arguments.logits is not None and arguments.strategy != "weighted_average":
        parser.error(f"--logits goes with weighted_average, not with {arguments.strategy}")
    if arguments.weights and arguments.strategy != "fitted":
        parser.error(f"--weights goes with --strategy fitted, not with {arguments.strategy}")
    return arguments


def parse_replacements(replacements: Sequence[str] | None) -> dict[int, str]:
    """Turn ["2,8=pct", "Head=moganet"] into {joint: estimator}.

    Raises:
        InputError: if one is not of this form, or a joint is unknown or taken twice.
    """
    replaced: dict[int, str] = {}
    for text in replacements or ():
        joints, equals, name = text.partition("=")
        if not equals or not name:
            raise InputError(f"--replace {text}: expected joints=estimator, such as 2,8,10,14=pct")
        for joint in joints.split(","):
            index = joint_index(joint)
            if index in replaced:
                raise InputError(f"--replace {text}: joint {joint} is taken twice")
            replaced[index] = name
    return replaced


def joint_index(joint: str) -> int:
    """Return the index of a joint that is given by number or by name.

    Raises:
        InputError: if there is no such joint.
    """
    numbers = {str(i): i for i in range(len(JOINT_NAMES))}
    by_name = {name: i for i, name in enumerate(JOINT_NAMES)}
    if joint not in numbers | by_name:
        raise InputError(
            f"--replace: no joint '{joint}'; they are 0 to {len(JOINT_NAMES) - 1}, or "
            f"{', '.join(JOINT_NAMES)}"
        )
    return (numbers | by_name)[joint]


def choose_detectors(strategy: str, given: str | None, replaced: dict[int, str]) -> list[str]:
    """Return the estimators to read; for manual, the one whose joints are replaced comes first.

    Raises:
        InputError: if one is named twice, has no part in the mixture, or there is but one.
    """
    default = MANUAL_DETECTORS if strategy == "manual" else AVERAGED_DETECTORS
    detectors = split_names(default if given is None else given)
    if len(set(detectors)) < len(detectors):
        raise InputError(f"--detectors {given}: an estimator is named twice")
    if strategy == "manual":
        unused = sorted(set(detectors[1:]) - set(replaced.values()))
        if unused:
            raise InputError(
                f"--detectors {given}: --replace takes no joint of {', '.join(unused)}"
            )
        detectors = list(dict.fromkeys(detectors[:1] + list(replaced.values())))
    if len(detectors) < 2:
        raise InputError(
            f"--detectors {','.join(detectors)}: a mixture needs two estimators or more"
        )
    return detectors


def choose_logits(given: str | None, detectors: list[str]) -> list[str]:
    """Return the estimators whose confidences are logits.

    Raises:
        InputError: if one that is given is not among the estimators.
    """
    logits = split_names(LOGITS_DETECTORS if given is None else given)
    unknown = [name for name in logits if name not in detectors]
    if given is not None and unknown:
        raise InputError(
            f"--logits {given}: {', '.join(unknown)} is not among {', '.join(detectors)}"
        )
    return logits


def read_estimators(paths: dict[str, Path]) -> dict[str, Positions2d]:
    """Read the estimators' npz files.

    Args:
        paths: {estimator: its file}.

    Returns:
        {estimator: positions}, all of the same subjects and actions.

    Raises:
        InputError: if a file is missing or bad, or subjects or actions differ.
    """
    estimators = {name: read_positions_2d(path) for name, path in paths.items()}
    sequences = {
        name: {f"{subject} {action}" for subject, action, _ in each_sequence(positions)}
        for name, positions in estimators.items()
    }
    everything = set().union(*sequences.values())
    problems = [
        f"{paths[name]} lacks {', '.join(sorted(everything - found))}"
        for name, found in sequences.items()
        if found != everything
    ]
    if problems:
        raise InputError(f"{'; '.join(problems)}. Files of one mixture hold the same sequences")
    for name, path in paths.items():
        print(f"read {path} ({len(sequences[name])} sequences)")
    return estimators


def check_confidences(estimators: dict[str, Positions2d], logits: list[str]) -> None:
    """Warn of confidences that look like logits and are not declared to be.

    Raises:
        InputError: if an estimator has no confidences.
    """
    for name, positions in estimators.items():
        check_channel(Path(f"data_2d_h36m_{name}_w_conf.npz"), positions)
        largest = largest_confidence(positions)
        if name not in logits and largest > LARGEST_PROBABILITY:
            warn(
                f"data_2d_h36m_{name}_w_conf.npz: confidences reach {largest:.3g}; if they are "
                f"logits, add {name} to --logits"
            )


def report_cuts(estimators: dict[str, Positions2d]) -> None:
    """Say how many views have estimates of unequal length, and which differ the most."""
    first, *_ = estimators.values()
    cuts = []
    for subject, action, cameras in each_sequence(first):
        for camera in range(len(cameras)):
            lengths = {n: len(e[subject][action][camera]) for n, e in estimators.items()}
            surplus = max(lengths.values()) - min(lengths.values())
            cuts.append((surplus, f"{subject} {action}, camera {CAMERA_IDS[camera]}", lengths))
    surplus, where, lengths = max(cuts, key=lambda cut: cut[0])
    if surplus:
        frames = ", ".join(f"{name} {length}" for name, length in lengths.items())
        print(
            f"cut to the shortest: {sum(cut[0] > 0 for cut in cuts)} of {len(cuts)} views, by up "
            f"to {surplus} frames ({where}: {frames})"
        )


def mix(
    estimators: dict[str, Positions2d], replaced: dict[int, str], weighted: bool, logits: list[str]
) -> Positions2d:
    """Mix every view of every sequence.

    Args:
        estimators: {estimator: positions}; the first is the one whose joints are replaced.
        replaced: {joint: the estimator to take it from}; empty for a mean.
        weighted: whether the mean is weighted by the confidences.
        logits: estimators whose confidences are logits.

    Returns:
        {subject: {action: [four arrays (frames, 17, 2)]}}, float32, pixels.
    """
    merged: Positions2d = {}
    first, *_ = estimators.values()
    for subject, action, cameras in each_sequence(first):
        merged.setdefault(subject, {})[action] = [
            mix_view(
                {name: e[subject][action][camera] for name, e in estimators.items()},
                replaced,
                weighted,
                logits,
            )
            for camera in range(len(cameras))
        ]
    return merged


def mix_view(
    views: dict[str, np.ndarray], replaced: dict[int, str], weighted: bool, logits: list[str]
) -> np.ndarray:
    """Mix the estimates (frames, 17, 2 or 3) of one view, as `mix`; returns (frames, 17, 2)."""
    keypoints = cut_to_shortest([view[..., :2] for view in views.values()])
    if replaced:
        by_name = dict(zip(views, keypoints))
        mixture = replace_joints(keypoints[0], {j: by_name[name] for j, name in replaced.items()})
    elif weighted:
        weights = [
            weights_from_logits(view[..., 2]) if name in logits else np.maximum(view[..., 2], 0)
            for name, view in views.items()
        ]
        mixture = weighted_mean(keypoints, cut_to_shortest(weights))
    else:
        mixture = np.mean(keypoints, axis=0, dtype=np.float64)
    return np.ascontiguousarray(mixture, dtype=np.float32)


if __name__ == "__main__":
    run(main)
