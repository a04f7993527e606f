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
from common.h36m_cameras import CAMERA_IDS
from common.h36m_dataset import each_sequence, keypoints_path
from common.npz_io import Positions2d, npz_path, read_positions_2d, write_positions_2d
from common.skeleton import JOINT_NAMES
from data.learned_mixtures import (
    apply_mixture,
    arrange,
    choose_joints,
    choose_learned,
    confident_paths,
    each_view,
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
    truth_paths = [keypoints_path(data_dir, "h36m", "gt")] if learns else []
    output = npz_path(data_dir, arguments.output_filename)
    weights = [data_dir / WEIGHTS] if strategy == "fitted" and learns else []
    check_distinct([output, *weights], [*paths.values(), *truth_paths])
    estimators = read_estimators(paths)
    if weighted:
        check_confidences(estimators, logits)
    report_cuts(estimators)
    training = training_views(estimators, truth_paths[0]) if learns else None
    if strategy == "fitted":
        mixture = mixture or fit(estimators, training)
        merged = apply_mixture(mixture, estimators)
    else:
        if strategy == "best_joint":
            replaced = choose_joints(detectors, training)
        views = (dict(zip(estimators, arrays)) for *_, arrays in each_view(estimators))
        merged = arrange(estimators, (mix(view, replaced, weighted, logits) for view in views))
    write_positions_2d(output, merged)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    for path in weights:
        write_mixture(path, mixture)
        print(f"wrote {path}, for --weights")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    strategies = ("manual", "average", "weighted_average", *LEARNED)
    text = "manual takes joints of one estimator from others, average is the plain mean, "
    text += "weighted_average weights by confidence and reads the files that end in _w_conf; "
    text += "best_joint and fitted learn from gt on the training subjects, and fitted reads "
    text += "_w_conf files where there are any"
    add("--strategy", required=True, choices=strategies, help=text)
    text = "the estimators; for manual, whose joints are replaced (default: "
    text += f"{MANUAL_DETECTORS} for manual, all that there are for {' and '.join(LEARNED)}, "
    text += f"else {AVERAGED_DETECTORS})"
    add("--detectors", metavar="A,B,…", help=text)
    text = "manual alone: joints, by number or name, and the estimator to take them from "
    text += f"(default: {' '.join(MANUAL_REPLACE)})"
    add("--replace", nargs="+", metavar="JOINTS=NAME", help=text)
    text = "weighted_average alone: estimators whose confidences are logits, which are divided "
    text += f"by their maximum over the sequence (default: {LOGITS_DETECTORS})"
    add("--logits", metavar="A,B,…", help=text)
    text = f"fitted alone: apply an earlier fit, {WEIGHTS}, instead of learning from gt"
    add("--weights", type=Path, metavar="FILE", help=text)
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    text = "output, in --data-dir unless the path is absolute "
    text += "(default: data_2d_h36m_merge_<strategy>.npz)"
    add("--output-filename", metavar="FILE", help=text)
    arguments = parser.parse_args()
    strategy = arguments.strategy
    if strategy == "manual":
        arguments.replace = arguments.replace or MANUAL_REPLACE
    elif arguments.replace:
        parser.error(f"--replace goes with --strategy manual, not with {strategy}")
    if arguments.logits is not None and strategy != "weighted_average":
        parser.error(f"--logits goes with weighted_average, not with {strategy}")
    if arguments.weights and strategy != "fitted":
        parser.error(f"--weights goes with --strategy fitted, not with {strategy}")
    if arguments.output_filename is None:
        arguments.output_filename = f"data_2d_h36m_merge_{strategy}.npz"
    return arguments


def parse_replacements(replacements: Sequence[str] | None) -> dict[int, str]:
    """Turn ["2,8=pct", "Head=moganet"] into {joint: estimator}.

    Raises:
        InputError: if one is not of this form, or a joint is unknown or taken twice.
    """
    replaced: dict[int, str] = {}
    for text in replacements or ():
        joints, _, name = text.partition("=")
        if not name:
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
    for index, name in enumerate(JOINT_NAMES):
        if joint in (str(index), name):
            return index
    raise InputError(
        f"--replace: no joint '{joint}'; they are 0 to {len(JOINT_NAMES) - 1}, or "
        f"{', '.join(JOINT_NAMES)}"
    )


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
            joints_of = ", ".join(unused)
            raise InputError(f"--detectors {given}: --replace takes no joint of {joints_of}")
        detectors = list(dict.fromkeys(detectors[:1] + list(replaced.values())))
    if len(detectors) < 2:
        named = ",".join(detectors)
        raise InputError(f"--detectors {named}: a mixture needs two estimators or more")
    return detectors


def choose_logits(given: str | None, detectors: list[str]) -> list[str]:
    """Return the estimators whose confidences are logits.

    Raises:
        InputError: if one that is given is not among the estimators.
    """
    logits = split_names(LOGITS_DETECTORS if given is None else given)
    unknown = [name for name in logits if name not in detectors]
    if given is not None and unknown:
        there, others = ", ".join(detectors), ", ".join(unknown)
        raise InputError(f"--logits {given}: {others} is not among {there}")
    return logits


def read_estimators(paths: dict[str, Path]) -> dict[str, Positions2d]:
    """Read {estimator: positions}, all of the same subjects and actions, from {estimator: file}.

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
    cuts = []
    for subject, action, camera, arrays in each_view(estimators):
        lengths = list(map(len, arrays))
        where = f"{subject} {action}, camera {CAMERA_IDS[camera]}"
        cuts.append((max(lengths) - min(lengths), where, lengths))
    surplus, where, lengths = max(cuts, key=lambda cut: cut[0])
    if surplus:
        frames = ", ".join(f"{name} {length}" for name, length in zip(estimators, lengths))
        print(
            f"cut to the shortest: {sum(cut[0] > 0 for cut in cuts)} of {len(cuts)} views, by up "
            f"to {surplus} frames ({where}: {frames})"
        )


def mix(
    estimates: dict[str, np.ndarray], replaced: dict[int, str], weighted: bool, logits: list[str]
) -> np.ndarray:
    """Mix the estimates of one view, {estimator: (frames, 17, 2 or 3)}, pixels, then confidence.

    Joints of the first are `replaced`, {joint: the estimator to take it from}. Without these, the
    mean is taken, which may be weighted by the confidences; those of some may be logits.

    Returns:
        (frames, 17, 2), float32, pixels, as long as the shortest.
    """
    keypoints = cut_to_shortest([estimate[..., :2] for estimate in estimates.values()])
    if replaced:
        of = dict(zip(estimates, keypoints))
        mixture = replace_joints(keypoints[0], {j: of[name] for j, name in replaced.items()})
    elif weighted:
        weights = [
            weights_from_logits(e[..., 2]) if name in logits else np.maximum(e[..., 2], 0)
            for name, e in estimates.items()
        ]
        mixture = weighted_mean(keypoints, cut_to_shortest(weights))
    else:
        mixture = np.mean(keypoints, axis=0, dtype=np.float64)
    return np.ascontiguousarray(mixture, dtype=np.float32)


if __name__ == "__main__":
    run(main)
