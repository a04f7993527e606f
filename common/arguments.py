"""What the command line asks of `run_poseformer.py`, checked; what a checkpoint answers instead."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from common.architecture import (
    MAX_WEIGHTS,
    infer_config,
    number_of_weights,
)
from common.confidences import WITH_CONFIDENCE
from common.console import InputError, shown, warn
from common.flags import KINDS, NETWORK_FLAGS, OWN_FOOTAGE, make_parser
from common.h36m_dataset import parse_subjects
from common.model_poseformer import PoseFormerConfig
from common.recipe import RECIPES, Recipe
from common.render import RenderOptions

# What one way of using the script reads, and no other.
EVALUATION_FLAGS = ("by_subject", "latex", "report")
RENDER_FLAGS = ("viz_subject", "viz_action", "viz_camera", "viz_output", "viz_export", "viz_limit")
RENDER_FLAGS += ("viz_skip", "viz_downsample", "viz_size", "viz_bitrate", "viz_no_ground_truth")
RENDER_FLAGS += ("viz_video",)
TRAINING_FLAGS = ("recipe", "epochs", "batch_size", "learning_rate", "schedule", "warmup")
TRAINING_FLAGS += ("lr_decay", "optimizer", "beta2", "init", "dropout", "drop_path")
TRAINING_FLAGS += ("turn", "resize", "exchange_limbs")
TRAINING_FLAGS += ("subjects_train", "stride", "subset", "no_data_augmentation", "no_eval")
TRAINING_FLAGS += ("overwrite", "checkpoint_frequency", "export_training_curves")
TRAINING_FLAGS += ("no_compile", "no_cuda_graph")
TRAINING_FLAGS += ("wandb_name", "wandb_id", "wandb_project", "wandb_mode")
FOOTAGE_FLAGS = ("causal", "no_resample", "smooth", "up")
# Flags that --render of the dataset, and flags that own footage has no use for.
SEQUENCE_FLAGS = ("subjects_test", "actions", "std", "seed")
DATASET_FLAGS = ("downsample", "std")


# What flags and a checkpoint say together --------------------------------------------------------


def training_recipe(
    arguments: argparse.Namespace, checkpoint: dict[str, Any] | None, path: Path | None
) -> Recipe:
    """Return the checkpoint's recipe, or the flags' where there is no checkpoint.

    Raises:
        InputError: if a flag contradicts the checkpoint: the run would not go on exactly.
    """
    given = _given(arguments, Recipe)
    if checkpoint is None:
        recipe = replace(RECIPES[given.get("recipe", "default")], **given)
        if recipe.schedule != "published" and "lr_decay" in given:
            raise InputError(
                f"--lr-decay {recipe.lr_decay:g}: goes with --schedule published; the learning "
                f"rate of {recipe.schedule} falls to zero"
            )
    else:
        recipe = _recipe_of(checkpoint, path, given)
    tested = set(parse_subjects(recipe.subjects_test)) & set(parse_subjects(recipe.subjects_train))
    if tested:
        warn(
            f"{', '.join(sorted(tested))}: both trained on and tested on, so the errors do not "
            "tell how well the network does for other people"
        )
    return recipe


def _recipe_of(checkpoint: dict[str, Any], path: Path | None, given: dict[str, Any]) -> Recipe:
    """Return the recipe of a training that goes on.

    What an earlier version did not store was as published. Of a published schedule, which does
    not depend on it, the number of epochs may change.
    """
    stored = stored_recipe(checkpoint, path)
    recipe = replace(RECIPES["published"], **(stored or given))
    if recipe.schedule == "published" and "epochs" in given:
        recipe = replace(recipe, epochs=given["epochs"])
    for name, value in given.items():
        if getattr(recipe, name) != value:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: {path} was trained with "
                f"{getattr(recipe, name)}; leave the flag out to go on with that, or start a new "
                "run"
            )
    return recipe


def evaluation_recipe(
    arguments: argparse.Namespace, checkpoint: dict[str, Any], path: Path
) -> Recipe:
    """Return the flags' recipe, with the estimator of the training unless another is given.

    Noise, frame rate and test subjects are the evaluation's own.
    """
    stored = stored_recipe(checkpoint, path)
    estimator = {k: v for k, v in stored.items() if k == "keypoints"}
    return Recipe(**estimator | _given(arguments, Recipe))


def stored_recipe(checkpoint: dict[str, Any] | None, path: Path | None) -> dict[str, Any]:
    """Return those fields of the recipe that a checkpoint of ours holds.

    Raises:
        InputError: if one of them is not what its flag could be.
    """
    stored = (checkpoint or {}).get("recipe", {})
    if not isinstance(stored, dict):
        raise InputError(f"{path}: its recipe is {shown(stored)}, not names and values")
    names = [f.name for f in fields(Recipe) if f.name in stored]
    return {name: KINDS[name].check(stored[name], f"{path}: its {name}") for name in names}


def architecture(
    arguments: argparse.Namespace,
    recipe: Recipe,
    checkpoint: dict[str, Any] | None,
    path: Path | None,
) -> PoseFormerConfig:
    """Return the network that the checkpoint holds, or else the one that the flags describe.

    Raises:
        InputError: if the flags describe no network, or contradict the checkpoint.
    """
    confidences = confidence_count(recipe.keypoints)
    channels = {
        "in_chans": 2 * len(estimator_names(recipe.keypoints)) + confidences,
        "confidence_chans": confidences,
    }
    given = {name: value for name in NETWORK_FLAGS if (value := getattr(arguments, name))}
    try:
        if not checkpoint:
            config = PoseFormerConfig(**channels, **given)
            if (size := number_of_weights(config)) > MAX_WEIGHTS:
                raise InputError(
                    f"--embed-dim-ratio {config.embed_dim_ratio}: the network would have {size:,} "
                    f"weights, more than {MAX_WEIGHTS:,}; choose fewer channels or blocks"
                )
        else:
            config = infer_config(checkpoint, path, arguments.number_of_frames)
            check_flags(config, given | channels, path)
        if arguments.evaluate:
            return config
        return replace(config, drop_rate=recipe.dropout, drop_path_rate=recipe.drop_path)
    except ValueError as error:
        raise InputError(str(error)) from error


def check_flags(config: PoseFormerConfig, flags: dict[str, Any], path: Path | str) -> None:
    """Refuse flags that contradict the checkpoint's architecture.

    Args:
        config: the checkpoint's.
        flags: {field of `PoseFormerConfig`: the user's value}; `in_chans` and
            `confidence_chans` follow from --keypoints.
        path: the checkpoint's file, for messages.

    Raises:
        InputError: naming the flag, its value and the checkpoint's.
    """
    for name, value in flags.items():
        stored = getattr(config, name)
        if value == stored:
            continue
        if name == "in_chans":
            raise InputError(
                f"--keypoints: {value} channels, but {path} was trained with {stored} (two for "
                "each estimator, and its confidence for a name that ends in _w_conf); give as "
                "many estimators as it was trained with"
            )
        if name == "confidence_chans":
            raise InputError(
                f"--keypoints: {value} confidences (names that end in _w_conf), but {path} was "
                f"trained with {stored}"
            )
        raise InputError(
            f"--{name.replace('_', '-')} {value}: contradicts {path}, which has {stored}; "
            "leave the flag out or choose another checkpoint"
        )


def _given(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass that the user gave as flags."""
    values = {field.name: getattr(arguments, field.name) for field in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def render_options(arguments: argparse.Namespace) -> RenderOptions:
    """Return what the flags --viz-… say of the output.

    Raises:
        InputError: if the output cannot be written, or they contradict each other.
    """
    names = [field.name for field in fields(RenderOptions)]
    return RenderOptions(**{name: getattr(arguments, f"viz_{name}") for name in names})


def estimator_names(keypoints: str) -> list[str]:
    """Return the estimators that a value of --keypoints stands for, in their order."""
    if keypoints == "concatenate":
        return ["vitpose", "pct", "moganet"]
    return keypoints.split("+")


def confidence_count(keypoints: str) -> int:
    """Return how many of these estimators give their confidence to the network."""
    return sum(name.endswith(WITH_CONFIDENCE) for name in estimator_names(keypoints))


# The command line --------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; what a checkpoint may answer is None unless it is given.

    Args:
        argv: the arguments, those of the process by default.

    Raises:
        SystemExit: with status 2 and one line on standard error, for wrong usage.
        InputError: if flags contradict each other.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    # The parser sets no default where there is a value: what is not None then was given.
    nothing = argparse.Namespace(**dict.fromkeys(vars(arguments)))
    given = {name for name, v in vars(parser.parse_args(argv, nothing)).items() if v is not None}
    _check(arguments, given)
    return arguments


def _check_footage(arguments: argparse.Namespace, given: set[str]) -> None:
    if arguments.dataset != OWN_FOOTAGE:
        refuse_flags(given, FOOTAGE_FLAGS, f"goes with -d {OWN_FOOTAGE}")
        return
    if not arguments.evaluate:
        raise InputError(
            f"-d {OWN_FOOTAGE}: own footage has no true 3D to train on; add --evaluate FILE"
        )
    if arguments.keypoints is None or len(estimator_names(arguments.keypoints)) > 1:
        raise InputError(f"-d {OWN_FOOTAGE}: name one file's keypoints with -k")
    if confidence_count(arguments.keypoints):
        raise InputError(
            f"-d {OWN_FOOTAGE}: own footage is lifted from coordinates alone; take a checkpoint "
            f"and keypoints without {WITH_CONFIDENCE}"
        )
    refuse_flags(given, (*EVALUATION_FLAGS, *DATASET_FLAGS), f"is not for -d {OWN_FOOTAGE}")
    if arguments.up and arguments.viz_camera:
        raise InputError("--up and --viz-camera both set the vertical; give one of them")


def _check(arguments: argparse.Namespace, given: set[str]) -> None:
    _check_footage(arguments, given)
    for name in ("evaluate", "resume"):
        if getattr(arguments, name) == "":
            raise InputError(f"--{name} '': give the checkpoint's file")
    if arguments.resume and arguments.evaluate:
        raise InputError("--resume and --evaluate exclude each other; give one of them")
    if arguments.resume and arguments.overwrite:
        raise InputError("--resume goes on with a run, --overwrite replaces it; give one of them")
    if arguments.render and not arguments.evaluate:
        raise InputError("--render draws a checkpoint's prediction; add --evaluate FILE")
    if not arguments.render:
        refuse_flags(given, RENDER_FLAGS, "goes with --render; add that, or leave it out")
    if arguments.render or not arguments.evaluate:
        refuse_flags(given, EVALUATION_FLAGS, "goes with --evaluate, without --render")
    if arguments.evaluate:
        refuse_flags(given, TRAINING_FLAGS, "is for training, not for --evaluate; leave it out")
    if arguments.render and arguments.dataset != OWN_FOOTAGE:
        refuse_flags(given, SEQUENCE_FLAGS, "is not for --render; leave it out")
    if arguments.keypoints is not None and "" in arguments.keypoints.split("+"):
        raise InputError(f"--keypoints '{arguments.keypoints}': an estimator's name is missing")
    if arguments.number_of_frames is not None and arguments.number_of_frames % 2 == 0:
        raise InputError(
            f"--number-of-frames {arguments.number_of_frames}: must be odd, "
            "so that the window has a central frame"
        )


def refuse_flags(given: set[str], names: Sequence[str], reason: str) -> None:
    """Refuse flags that the user gave and that would not be read.

    Raises:
        InputError: naming the first of them, with `reason`.
    """
    for name in names:
        if name in given:
            raise InputError(f"--{name.replace('_', '-')} {reason}")
