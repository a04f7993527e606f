"""The command line of `run_poseformer.py`, and how it goes together with a checkpoint."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from common.files.console import (
    CHECKPOINT_DIR,
    DATA_DIR,
    ArgumentParser,
    InputError,
    non_negative_int,
    positive_int,
    warn,
)
from common.h36m_dataset import Sequence2d3d, parse_subjects
from common.lifters import DEFAULT, LIFTERS, LifterConfig, name_of
from common.training.checkpoint import Checkpoint, find_checkpoint
from common.training.recipe import RECIPES, Recipe, one_of

WANDB_MODES = ("auto", "online", "offline", "disabled")

# (short flag, its field of a lifter's configuration, what stands for its value, help)
NETWORK_FLAGS = (
    ("-frame", "number_of_frames", "F", "receptive field, odd"),
    ("-frame-kept", "number_of_kept_frames", "f", "central frames that enter as they are"),
    ("-coeff-kept", "number_of_kept_coeffs", "n", "lowest DCT coefficients of the whole window"),
    ("", "depth", "BLOCKS", "blocks of each kind, or layers"),
    ("", "embed_dim_ratio", "D", "channels a joint"),
    ("", "dim", "D", "channels a joint, of motionagformer"),
)
_PRESETS = tuple(dict.fromkeys(name for lifter in LIFTERS.values() for name in lifter.presets))
# Of each group: flags, the type of their value, default, what stands for the value, help.
_FLAGS = {
    "data": (
        ("-d --dataset", str, "h36m", "NAME", "read data_3d_NAME.npz"),
        ("--data-dir", Path, DATA_DIR, "DIR", "folder of npz files (default: the repository's)"),
        ("--trust-data", bool, False, None, "go on with 2D that does not fit the 3D"),
    ),
    "model": (
        (
            *("--model", one_of(*LIFTERS), None, "|".join(LIFTERS)),
            f"the lifter (default: {DEFAULT})",
        ),
        (
            *("--preset", one_of(*_PRESETS), None, "|".join(_PRESETS)),
            "frames, depth and channels of a published motionagformer (default: xs)",
        ),
    ),
    "run": (
        (
            *("-c --checkpoint", Path, None, "DIR"),
            "folder of best_epoch.bin, last_epoch.bin, epoch_N.bin and log.jsonl "
            "(default: that of the resumed checkpoint, or the repository's checkpoint)",
        ),
        ("-g --gpu", str, "0", "N", "which GPU; cpu for none (default: 0)"),
        (
            *("--tf32", bool, False, None),
            "let a GPU round fp32 to 11 bits in products (2D by about half a pixel), faster",
        ),
    ),
    "run of a training": (
        ("-r --resume", str, None, "FILE", "go on from this checkpoint"),
        (
            *("--init-from", str, None, "FILE"),
            "start a new training, which --resume goes on with, from this checkpoint's weights, "
            "for other windows if -frame is given",
        ),
        ("--overwrite", bool, False, None, "replace an earlier run in the checkpoint folder"),
        ("--no-eval", bool, False, None, "do not validate after each epoch"),
        (
            *("-cf --checkpoint-frequency", non_negative_int, 0, "N"),
            "also keep epoch_N.bin every N epochs",
        ),
        (
            *("--export-training-curves", bool, False, None),
            "draw training_curves.png into the checkpoint folder after each epoch",
        ),
        ("--no-compile", bool, False, None, "on a GPU, train without torch.compile"),
        ("--no-cuda-graph", bool, False, None, "on a GPU, train without CUDA graphs"),
        ("--wandb-name", str, None, "NAME", "name of the Weights & Biases run"),
        ("--wandb-id", str, None, "ID", "go on with this Weights & Biases run"),
        (
            *("--wandb-project", str, "poseformerv2-h36m", "NAME"),
            "its project (default: poseformerv2-h36m)",
        ),
        (
            *("--wandb-mode", one_of(*WANDB_MODES), "auto", "|".join(WANDB_MODES)),
            "auto, the default, is online when you are logged in, else offline",
        ),
    ),
    "evaluation": (
        ("--evaluate", str, None, "FILE", "evaluate this checkpoint, ours or a published one"),
        ("--by-subject", bool, False, None, "also report each subject"),
        ("--latex", bool, False, None, "also print the table's row in LaTeX"),
        ("--report", Path, None, "FILE.json", "write all figures to this file"),
    ),
}
_BY_LIFT = "films, pose files and own footage are made by lift.py now; see python lift.py --help"
_MOVED = ("--render", "--viz-", "--causal", "--no-resample", "--smooth", "--up")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return every flag's value, of the process's command line by default.

    Of `Recipe` and the network, which a checkpoint may answer too, it is None unless given.

    Raises:
        SystemExit: with status 2 and one line on standard error, for wrong usage.
        InputError: if flags contradict each other.
    """
    argv = sys.argv[1:] if argv is None else argv
    for word in argv:
        if word.startswith(_MOVED):
            raise InputError(f"{word.split('=')[0]}: {_BY_LIFT}")
    parser = make_parser()
    given = parser.parse_args(argv)  # holds what was given, and nothing else
    _check(parser, vars(given))
    defaults = {flag.dest: getattr(flag, "unless_given", None) for _, flag in _flags(parser)}
    values = defaults | vars(given)
    for name in ("resume",) if values["resume"] else ("evaluate", "init_from"):
        if values[name]:
            folder = None if name == "init_from" else values["checkpoint"]
            values[name] = find_checkpoint(values[name], folder)
    if not values["checkpoint"]:
        values["checkpoint"] = values["resume"].parent if values["resume"] else CHECKPOINT_DIR
    return argparse.Namespace(**values)


def make_parser() -> ArgumentParser:
    """Return the parser of `run_poseformer.py`, which sets no default."""
    parser = ArgumentParser(
        description="Train a lifter on one 2D estimator's keypoints, resume, evaluate.",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.HelpFormatter,
    )
    says = {
        "model": "with --resume and --evaluate the checkpoint says; others are an error",
        "training": "with --resume all of it comes from the checkpoint",
    }
    titles = ("data", "model", "training", "run", "run of a training", "evaluation")
    groups = {title: parser.add_argument_group(title, says.get(title)) for title in titles}
    for f in fields(Recipe):
        _add_recipe_flag(groups[f.metadata["group"]], f)
    for short, name, metavar, help in NETWORK_FLAGS:
        flags = [*filter(None, [short]), f"--{name.replace('_', '-')}"]
        default = next(d for x in LIFTERS.values() if (d := getattr(x.config, name, None)))
        help += f" (default: {default})"
        groups["model"].add_argument(*flags, type=positive_int, metavar=metavar, help=help)
    for title, flags in _FLAGS.items():
        for names, kind, default, metavar, help in flags:
            how = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": metavar}
            flag = groups[title].add_argument(*names.split(), help=help, **how)
            flag.unless_given = default
    return parser


def _flags(parser: ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yield the title of its group and each flag, but for --help."""
    for group in parser._action_groups:
        yield from ((group.title, flag) for flag in group._group_actions if flag.dest != "help")


def _add_recipe_flag(group: Any, field: Any) -> None:
    """Add the flag of a field of `Recipe`; it has no default, as a checkpoint may answer."""
    kind, names, help = (field.metadata[key] for key in ("kind", "names", "help"))
    flags = [n for n in names if n.startswith("-")] + [f"--{field.name.replace('_', '-')}"]
    if kind.type is bool:
        group.add_argument(*flags, action="store_true", help=help)
        return
    if "(default:" not in help:
        help += f" (default: {field.default})"
    options = kind.what.removeprefix("one of ").replace(", ", "|")
    metavar = next((n for n in names if not n.startswith("-")), options)
    group.add_argument(*flags, type=kind, metavar=metavar, help=help.replace("%", "%%"))


def _check(parser: ArgumentParser, given: dict[str, Any]) -> None:
    """Refuse flags that contradict each other, or that would not be read."""
    if given.get("dataset") == "custom":
        raise InputError(f"-d custom: {_BY_LIFT}")
    for name in ("evaluate", "resume", "init_from"):
        if given.get(name) == "":
            raise InputError(f"--{name.replace('_', '-')} '': give the checkpoint's file")
    for other in ("evaluate", "overwrite"):
        if "resume" in given and other in given:
            raise InputError(f"--resume and --{other} exclude each other; give one of them")
    unread, reason = ("evaluation",), "goes with --evaluate"
    if "evaluate" in given:
        unread = ("training", "run of a training")
        reason = "is for training, not for --evaluate; leave it out"
    for title, flag in _flags(parser):
        if title in unread and flag.dest in given:
            raise InputError(f"--{flag.dest.replace('_', '-')} {reason}")


# The flags and a checkpoint together -------------------------------------------------------------


def training_recipe(
    arguments: argparse.Namespace, checkpoint: Checkpoint | None, initial: Checkpoint | None = None
) -> Recipe:
    """Return the checkpoint's recipe, or the flags', for the network of `initial` if there is one.

    Raises:
        InputError: if a flag contradicts the checkpoint: the run would not go on exactly.
    """
    given = _given(arguments)
    if checkpoint is None:
        usual = LIFTERS[_lifter_name(arguments, initial)].recipe
        recipe = replace(RECIPES[given.get("recipe", usual)], **given)
        if recipe.schedule != "published" and "lr_decay" in given:
            raise InputError(
                f"--lr-decay {recipe.lr_decay:g}: goes with --schedule published; the learning "
                f"rate of {recipe.schedule} falls to zero"
            )
        of_data = ("actions", "subset", "downsample", "std", "turn", "resize", "exchange_limbs")
        for name in (*of_data, "exchange_until"):
            if recipe.people and name in given:
                raise InputError(
                    f"--{name.replace('_', '-')}: is for a data set, not for synthetic people; "
                    "leave it out"
                )
    else:
        recipe = _resumed_recipe(checkpoint, given)
    tested = set(parse_subjects(recipe.subjects_test)) & set(parse_subjects(recipe.subjects_train))
    if tested:
        warn(
            f"{', '.join(sorted(tested))}: both trained on and tested on, so the errors do not "
            "tell how well the network does for other people"
        )
    return recipe


def _resumed_recipe(checkpoint: Checkpoint, given: dict[str, Any]) -> Recipe:
    """Return the recipe of a training that goes on.

    What an earlier version did not store was as published. A recipe whose steps do not depend on
    the number of epochs, as the published one, may get more.
    """
    recipe = replace(RECIPES["published"], **(checkpoint.recipe or given))
    if not recipe.depends_on_epochs and "epochs" in given:
        recipe = replace(recipe, epochs=given["epochs"])
    for name, value in given.items():
        if getattr(recipe, name) != value:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: {checkpoint.path} was trained with "
                f"{getattr(recipe, name)}; leave the flag out to go on with that, or start a new "
                "run"
            )
    return recipe


def evaluation_recipe(arguments: argparse.Namespace, checkpoint: Checkpoint) -> Recipe:
    """Return the flags' recipe, with the training's estimator and frame rate where none is given.

    Noise and test subjects are the evaluation's own.
    """
    trained = {k: v for k, v in checkpoint.recipe.items() if k in ("keypoints", "downsample")}
    return Recipe(**trained | _given(arguments))


def network_config(
    arguments: argparse.Namespace,
    recipe: Recipe,
    sequences: list[Sequence2d3d],
    checkpoint: Checkpoint | None,
) -> LifterConfig:
    """Return the network that the checkpoint holds, or else the one that the flags describe.

    It takes the channels of the sequences, and has the recipe's dropout.

    Raises:
        InputError: if the flags describe no network, or contradict the checkpoint.
    """
    model = _lifter_name(arguments, checkpoint)
    lifter = LIFTERS[model]
    flags = network_flags(arguments, model)
    flags["in_chans"] = sequences[0].keypoints.shape[-1]
    flags["confidence_chans"] = sequences[0].confidences
    rates = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
    if any(rates[name] for name in rates.keys() - lifter.fields):
        raise InputError(f"--dropout, --drop-path: {model} has none; leave it out")
    rates = {name: rate for name, rate in rates.items() if name in lifter.fields}
    if arguments.velocity and lifter.config.gives_all_frames:
        raise InputError(f"--velocity: {model}'s loss has velocities of its own; leave it out")
    if checkpoint is not None:
        checkpoint.check_channels(flags["in_chans"], flags["confidence_chans"])
        for name, value in flags.items():
            stored = getattr(checkpoint.config, name)
            if value != stored:
                raise InputError(
                    f"--{name.replace('_', '-')} {value}: contradicts {checkpoint.path}, which has "
                    f"{stored}; leave the flag out or choose another checkpoint"
                )
        return replace(checkpoint.config, **rates)
    try:
        return lifter.config(**flags, **rates, view="person" if recipe.people else "picture")
    except ValueError as error:
        raise InputError(str(error)) from error


def _lifter_name(arguments: argparse.Namespace, checkpoint: Checkpoint | None) -> str:
    return name_of(checkpoint.config) if checkpoint else arguments.model or DEFAULT


def network_flags(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """Return the fields of the lifter's configuration that the user gave as flags or a preset."""
    lifter, values = LIFTERS[model], vars(arguments)
    flags = {name: values[name] for _, name, *_ in NETWORK_FLAGS if values[name] is not None}
    for name in sorted(flags.keys() - lifter.fields):
        raise InputError(f"--{name.replace('_', '-')}: {model} has none; leave it out")
    if arguments.preset and arguments.preset not in lifter.presets:
        raise InputError(f"--preset {arguments.preset}: {model} has no presets; leave it out")
    return lifter.presets.get(arguments.preset, {}) | flags


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `Recipe` that the user gave as flags."""
    values = {field.name: getattr(arguments, field.name) for field in fields(Recipe)}
    return {name: value for name, value in values.items() if value is not None}
