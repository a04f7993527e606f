"""Several estimators' data_2d_h36m_<detector>.npz to one, data_2d_h36m_merge_<strategy>.npz.

manual takes some joints of one estimator from others; average is the plain mean of several;
weighted_average weights each joint of each frame by the confidences in the _w_conf files. Two
strategies learn from gt on the training subjects: best_joint takes each joint from the estimator
that is best for it; fitted is the best linear unbiased mixture, smoothed over time
(common/fusion/mixtures.py), and takes confidences where there are any. Own footage
(-d custom, data_2d_custom_…) has no truth: there these two apply what they learned before.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import CAMERA_IDS
from common.files import confidences, console
from common.files.console import DATA_DIR, InputError, progress, split_names
from common.files.npz import (
    Positions2d,
    npz_path,
    read_custom_2d,
    read_positions_2d,
    write_custom_2d,
    write_positions_2d,
)
from common.files.output import check_distinct
from common.files.tables import format_table
from common.fusion.errors_2d import View, estimates_path, list_estimators, list_views, view_arrays
from common.fusion.fitting import (
    fit_mixture,
    read_joints,
    read_mixture,
    write_joints,
    write_mixture,
)
from common.fusion.mixtures import FittedMixture, cut_to_shortest, mix_fitted, weighted_mean
from common.fusion.same_people import same_people
from common.h36m_dataset import FPS, TRAIN_SUBJECTS, keypoints_path
from common.skeleton import JOINT_NAMES

DETECTORS = {
    "manual": "vitpose",
    "average": "pct,moganet,vitpose",
    "weighted_average": "pct,moganet,vitpose",
}
LEARNED = ("best_joint", "fitted")
STRATEGIES_OF_FLAG = {"replace": ["manual"], "logits": ["weighted_average"], "weights": LEARNED}
MANUAL_REPLACE = "2,8,10,14=pct"
LOGITS_DETECTOR = "pct"
WEIGHTS = "merge_{}.json"  # of a strategy


def main() -> None:
    """Read the estimators' files, check that they match, mix them, write."""
    arguments = parse_arguments()
    dataset, strategy, data_dir = arguments.dataset, arguments.strategy, arguments.data_dir
    own, weights = dataset == "custom", arguments.weights
    mixture = read_mixture(weights) if weights and strategy == "fitted" else None
    replaced: dict[int, str] = {}
    if strategy == "manual":
        replaced = parse_replacements(arguments.replace or [MANUAL_REPLACE])
    elif weights and strategy == "best_joint":
        replaced = read_joints(weights)
    if weights:
        detectors = list(mixture.estimators if mixture else dict.fromkeys(replaced.values()))
    else:
        detectors = choose_detectors(data_dir, strategy, arguments.detectors, replaced)
    files = find_files(detectors, arguments.detectors or "") if own and weights else detectors
    logits = choose_logits(arguments.logits, detectors)
    confident = own or strategy in ("fitted", "weighted_average")
    path_of = estimates_path if confident else keypoints_path
    paths = {name: path_of(data_dir, dataset, file) for name, file in zip(detectors, files)}
    learns = strategy in LEARNED and not weights
    truth_paths = [keypoints_path(data_dir, "h36m", "gt")] if learns else []
    output = npz_path(data_dir, arguments.output_filename or f"data_2d_{dataset}_merge_{strategy}")
    check_distinct([output], [*paths.values(), *truth_paths])

    if own:
        estimators, views, estimates, videos = read_own_footage(paths, output)
    else:
        estimators = {name: read_positions_2d(path) for name, path in paths.items()}
        opened = list(zip(paths.values(), estimators.values()))
        views = list(dict.fromkeys(view for file in opened for view in list_views(*file, file[1])))
        estimates = list(zip(*(view_arrays(*file, views) for file in opened)))
    for i, (name, path) in enumerate(paths.items()):
        print(f"read {path} ({sum(map(len, estimators[name].values()))} sequences)")
        if strategy == "weighted_average" or (mixture and mixture.confident[i]):
            confidences.check_channel(path, estimators[name])
        if strategy == "weighted_average" and name not in logits:
            largest = confidences.largest_confidence(estimators[name])
            if largest > confidences.LARGEST_PROBABILITY:
                advice = f"if they are logits, add {name} to --logits"
                console.warn(f"{path}: confidences reach {largest:.3g}; {advice}")
    report_cuts(detectors, views, estimates)
    if learns:
        training = training_views(truth_paths[0], views, estimates)
        if strategy == "best_joint":
            replaced = choose_joints(detectors, training)
        else:
            mixture = fit(detectors, training)
    if mixture:
        if own:  # the fit is one at `FPS`; what it knows of motion is per frame³
            fps = next(iter(videos.values())).get("fps", FPS)
            mixture = replace(mixture, motion=mixture.motion * (FPS / fps) ** 3)
        mixed = mix_fitted(mixture, list(map(cut_to_shortest, estimates)))
    else:
        by_name = (dict(zip(detectors, arrays)) for arrays in estimates)
        mixed = (mix(view, strategy, replaced, logits) for view in by_name)
    merged: Positions2d = {}
    bar = progress(zip(views, mixed), total=len(views), desc="mixing", unit="view")
    for (subject, action, _), view in bar:
        view = np.ascontiguousarray(view, dtype=np.float32)
        merged.setdefault(subject, {}).setdefault(action, []).append(view)
    if own:
        write_custom_2d(output, merged, videos)
    else:
        write_positions_2d(output, merged)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    if learns:
        path = data_dir / WEIGHTS.format(strategy)
        write_mixture(path, mixture) if mixture else write_joints(path, replaced)
        print(f"wrote {path}, for --weights")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = console.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--strategy", required=True, choices=(*DETECTORS, *LEARNED), help="how to mix, see above")
    text = "custom: data_2d_custom_NAME.npz of own footage, NAME by --detectors (default: h36m)"
    add("-d", "--dataset", choices=("h36m", "custom"), default="h36m", help=text)
    text = "the estimators; for manual, whose joints are replaced (default: all that there are "
    text += f"for {' and '.join(LEARNED)}; {DETECTORS['manual']} for manual, else "
    text += f"{DETECTORS['average']}); of own footage with --weights, names that end in those of "
    text += "the fit's estimators"
    add("--detectors", metavar="A,B,…", help=text)
    text = "manual alone: joints, by number or name, and the estimator to take them from "
    text += f"(default: {MANUAL_REPLACE})"
    add("--replace", nargs="+", metavar="JOINTS=NAME", help=text)
    text = "weighted_average alone: estimators whose confidences are logits, which are divided "
    text += f"by their maximum over the sequence (default: {LOGITS_DETECTOR})"
    add("--logits", metavar="A,B,…", help=text)
    text = f"{' and '.join(LEARNED)}: apply what was learned before, {WEIGHTS.format('<strategy>')}"
    add("--weights", type=Path, metavar="FILE", help=text)
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    text = "output, in --data-dir unless the path is absolute "
    text += "(default: data_2d_<dataset>_merge_<strategy>.npz)"
    add("--output-filename", metavar="FILE", help=text)
    arguments = parser.parse_args()
    for flag, strategies in STRATEGIES_OF_FLAG.items():
        if getattr(arguments, flag) is not None and arguments.strategy not in strategies:
            wanted = " or ".join(strategies)
            parser.error(f"--{flag} goes with --strategy {wanted}, not {arguments.strategy}")
    own = arguments.dataset == "custom"
    if own and arguments.detectors is None:
        parser.error("own footage: name the files to mix, --detectors dance_vitpose,dance_pct")
    if own and arguments.strategy in LEARNED and not arguments.weights:
        parser.error(
            f"own footage has no truth for {arguments.strategy} to learn from; give "
            f"{WEIGHTS.format(arguments.strategy)} of Human3.6M by --weights"
        )
    if arguments.weights and arguments.detectors is not None and not own:
        parser.error("--detectors does not go with --weights, which names its estimators")
    return arguments


def parse_replacements(replacements: Sequence[str]) -> dict[int, str]:
    """Turn ["2,8=pct", "Head=moganet"] into {joint: estimator}."""
    joints = {name: j for j, name in enumerate(JOINT_NAMES)}
    joints |= {str(j): j for j in joints.values()}
    replaced: dict[int, str] = {}
    for text in replacements:
        given, _, estimator = text.partition("=")
        if not estimator:
            raise InputError(f"--replace {text}: expected joints=estimator, such as 2,8,10,14=pct")
        for joint in given.split(","):
            if joint not in joints:
                raise InputError(
                    f"--replace: no joint '{joint}'; they are 0 to {len(JOINT_NAMES) - 1}, or "
                    f"{', '.join(JOINT_NAMES)}"
                )
            if joints[joint] in replaced:
                raise InputError(f"--replace {text}: joint {joint} is taken twice")
            replaced[joints[joint]] = estimator
    return replaced


def choose_detectors(
    data_dir: Path, strategy: str, given: str | None, replaced: dict[int, str]
) -> list[str]:
    """Return the estimators to read; for manual, the one whose joints are replaced comes first."""
    if given is None and strategy in LEARNED:
        detectors = [n for n in list_estimators(data_dir) if not n.startswith("merge_")]
    else:
        detectors = split_names(DETECTORS[strategy] if given is None else given)
    if strategy == "manual":
        unused = sorted(set(detectors[1:]) - set(replaced.values()))
        if unused:
            unused = ", ".join(unused)
            raise InputError(f"--detectors {given}: --replace takes no joint of {unused}")
        detectors = detectors[:1] + list(replaced.values())
    detectors = list(dict.fromkeys(detectors))
    if len(detectors) < 2:
        raise InputError(
            f"estimators: {', '.join(detectors) or 'none'}, but a mixture needs two or more; name "
            "them with --detectors, or prepare their files first"
        )
    return detectors


def find_files(estimators: list[str], given: str) -> list[str]:
    """Return for each of a fit's estimators the name in --detectors that ends like it."""
    names, chosen = split_names(given), []
    for estimator in estimators:
        end = estimator, estimator + confidences.WITH_CONFIDENCE
        ending = [name for name in names if name.endswith(end)]
        if len(ending) != 1:
            raise InputError(
                f"--detectors {given}: {len(ending)} of the names end in {estimator}; the fit "
                f"takes one each of {', '.join(estimators)}, such as dance_{estimator}"
            )
        chosen += ending
    return chosen


def choose_logits(given: str | None, detectors: list[str]) -> list[str]:
    """Return the estimators whose confidences are logits."""
    if given is None:
        return [LOGITS_DETECTOR]
    logits = split_names(given)
    unknown = ", ".join(name for name in logits if name not in detectors)
    if unknown:
        raise InputError(f"--logits {given}: {unknown} is not among {', '.join(detectors)}")
    return logits


def read_own_footage(
    paths: dict[str, Path], output: Path
) -> tuple[dict[str, Positions2d], list[View], list[list[np.ndarray]], dict[str, dict]]:
    """Return the estimators' sequences, then the mixture's: views, estimates, and metadata."""
    files = {path: read_custom_2d(path) for path in paths.values()}
    estimators = {
        name: {s: {"custom": [array]} for s, array in files[path][0].items()}
        for name, path in paths.items()
    }
    same = same_people(files, output.stem.removeprefix("data_2d_custom_"))
    views = [View(sequence.name, "custom", 0) for sequence in same]
    videos = {sequence.name: sequence.about for sequence in same}
    return estimators, views, [sequence.estimates for sequence in same], videos


def report_cuts(
    detectors: list[str], views: list[View], estimates: list[Sequence[np.ndarray]]
) -> None:
    """Say how many views have estimates of unequal length, and which differ the most."""
    lengths = np.array([list(map(len, arrays)) for arrays in estimates])
    surplus = np.ptp(lengths, axis=1)
    if surplus.any():
        most = surplus.argmax()
        subject, action, camera = views[most]
        frames = ", ".join(map("{} {}".format, detectors, lengths[most]))
        print(
            f"cut to the shortest: {np.count_nonzero(surplus)} of {len(views)} views, by up to "
            f"{surplus[most]} frames ({subject} {action}, camera {CAMERA_IDS[camera]}: {frames})"
        )


def mix(
    estimates: dict[str, np.ndarray], strategy: str, replaced: dict[int, str], logits: list[str]
) -> np.ndarray:
    """Mix the estimates of one view, {estimator: (frames, 17, 2 or 3)}, pixels, then confidence.

    Used are, for weighted_average, the names of those whose confidences are `logits`; for manual
    and best_joint, {joint: the estimator from which it is taken}, the others being the first's.
    Returns (frames, 17, 2), pixels, as long as the shortest.
    """
    keypoints = cut_to_shortest([array[..., :2] for array in estimates.values()])
    if strategy == "average":
        return np.mean(keypoints, axis=0, dtype=np.float64)
    if strategy == "weighted_average":
        weights = [  # scaled by the whole view's maximum, then cut
            confidences.scale_logits(a[..., 2]) if name in logits else np.maximum(a[..., 2], 0)
            for name, a in estimates.items()
        ]
        return weighted_mean(keypoints, cut_to_shortest(weights))
    by_name, mixture = dict(zip(estimates, keypoints)), keypoints[0].copy()
    for joint, name in replaced.items():
        mixture[:, joint] = by_name[name][:, joint]
    return mixture


# The strategies that learn ----------------------------------------------------------------------

# For each view the estimators' arrays (frames, 17, 2 or 3), the truth (frames, 17, 2), in pixels,
# and the subject.
Training = tuple[list[Sequence[np.ndarray]], list[np.ndarray], list[str]]


def training_views(
    truth_path: Path, views: list[View], estimates: list[Sequence[np.ndarray]]
) -> Training:
    """Return what there is to learn from: the training subjects' views, cut to the shortest."""
    chosen = [i for i, view in enumerate(views) if view.subject in TRAIN_SUBJECTS]
    if not chosen:
        raise InputError(
            f"{truth_path.parent}: the estimators' files hold none of {', '.join(TRAIN_SUBJECTS)}, "
            "from whom the mixture is learned; prepare these, or give fitted an earlier fit by "
            "--weights"
        )
    truths = view_arrays(truth_path, read_positions_2d(truth_path), [views[i] for i in chosen])
    cut = [cut_to_shortest([t[..., :2], *estimates[i]]) for i, t in zip(chosen, truths)]
    return [a[1:] for a in cut], [a[0] for a in cut], [views[i].subject for i in chosen]


def choose_joints(detectors: list[str], training: Training) -> dict[int, str]:
    """Return {joint: the estimator with the lowest mean error}, and print the choice."""
    views, truths, _ = training
    errors, truth = [], np.concatenate(truths)
    for arrays in zip(*views):
        x, y = np.moveaxis(np.concatenate(arrays)[..., :2] - truth, -1, 0)
        errors.append(np.hypot(x, y).mean(axis=0, dtype=np.float64))
    best = np.argmin(errors, axis=0)  # (17,)
    rows = [["mean error in training, px", *detectors]]
    for joint, chosen, of_joint in zip(JOINT_NAMES, best, zip(*errors)):
        stars = ["*" if e == chosen else " " for e in range(len(detectors))]
        rows.append([joint, *map("{:.2f}{}".format, of_joint, stars)])
    print(format_table(rows, label_width=28, column_width=12))
    for e, name in enumerate(detectors):
        joints = ",".join(map(str, np.flatnonzero(best == e)))
        print(f"{name}: {'joints ' + joints if joints else 'no joint'}")
    return {j: detectors[e] for j, e in enumerate(best)}


def fit(detectors: list[str], training: Training) -> FittedMixture:
    """Fit a mixture to the training subjects, and say to what."""
    mixture, (_, truths, subjects) = fit_mixture(detectors, *training), training
    models = {True: "variance by confidence", False: "constant variance"}
    told = (f"{name} ({models[known]})" for name, known in zip(detectors, mixture.confident))
    people, frames = ", ".join(dict.fromkeys(subjects)), sum(map(len, truths))
    print(f"fitted to {people}, {frames:,} frames: {', '.join(told)}")
    return mixture


if __name__ == "__main__":
    console.run_script(main)
