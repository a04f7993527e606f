"""What the flags and a checkpoint say together: the recipe, the network, where training stopped."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from common.arguments import (
    ARCHITECTURE_DEFAULTS,
    RECIPE_DEFAULTS,
    estimator_names,
    fill_defaults,
)
from common.checkpoint import check_flags, infer_config, load_into, model_state
from common.console import InputError, warn
from common.distributed import World
from common.epoch import TrainingState
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training import load_optimizer_state


def settle_recipe(
    arguments: argparse.Namespace, checkpoint: dict[str, Any] | None, path: Path | None
) -> None:
    """Fill the recipe's flags from the checkpoint, then with the defaults.

    Raises:
        InputError: if a flag contradicts the checkpoint: the run would not go on exactly.
    """
    for name, value in stored_recipe(checkpoint).items():
        given = getattr(arguments, name)
        if given is not None and given != value:
            raise InputError(
                f"--{name.replace('_', '-')} {given}: {path} was trained with {value}; leave the "
                "flag out to go on with that, or start a new run"
            )
        setattr(arguments, name, value)
    fill_defaults(arguments, RECIPE_DEFAULTS)


def stored_recipe(checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """Return those flags of the recipe that a checkpoint of ours holds, with the right types."""
    stored = (checkpoint or {}).get("recipe")
    if not isinstance(stored, dict):
        return {}
    return {
        name: stored[name]
        for name, default in RECIPE_DEFAULTS.items()
        if isinstance(stored.get(name), type(default))
    }


def settle_architecture(
    arguments: argparse.Namespace, checkpoint: dict[str, Any] | None, path: Path | None
) -> PoseFormerConfig:
    """Return the network that the checkpoint holds, or else the one that the flags describe.

    Raises:
        InputError: if the flags describe no network, or contradict the checkpoint.
    """
    in_chans = 2 * len(estimator_names(arguments.keypoints))
    given = {name: getattr(arguments, name) for name in ARCHITECTURE_DEFAULTS}
    if checkpoint:
        config = infer_config(checkpoint, path, arguments.number_of_frames)
        check_flags(config, given | {"in_chans": in_chans}, path)
    else:
        fill_defaults(arguments, ARCHITECTURE_DEFAULTS)
        given = {name: getattr(arguments, name) for name in ARCHITECTURE_DEFAULTS}
        try:
            config = PoseFormerConfig(in_chans=in_chans, **given)
        except ValueError as error:
            raise InputError(str(error)) from error
    if arguments.evaluate:
        return config
    return replace(config, drop_rate=arguments.dropout, drop_path_rate=arguments.drop_path)


def checkpoint_contents(
    model: PoseFormerV2,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    arguments: argparse.Namespace,
    average_pose: torch.Tensor,
) -> dict[str, Any]:
    """Return what a checkpoint of ours holds: tensors and plain types under published names."""
    return {
        "epoch": state.epoch,
        "lr": float(optimizer.param_groups[0]["lr"]),
        "optimizer": optimizer.state_dict(),
        "model_pos": model.state_dict(),
        "min_loss": state.min_loss,
        "wandb_id": state.wandb_id,
        "config": asdict(model.config),
        "recipe": {name: getattr(arguments, name) for name in RECIPE_DEFAULTS},
        "progress": state.contents(),
        "mean_pose": average_pose,
    }


def restore(
    model: PoseFormerV2,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    checkpoint: dict[str, Any],
    path: Path,
    world: World,
) -> None:
    """Put model, optimizer and state where the checkpoint left them.

    Raises:
        InputError: if the checkpoint's weights or optimizer do not fit the model.
    """
    load_into(model, model_state(checkpoint), path)
    if "optimizer" in checkpoint:
        try:
            load_optimizer_state(optimizer, checkpoint["optimizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: {error}; resume from another checkpoint") from error
    elif world.is_main:
        warn(f"{path}: has no optimizer that fits; its moments begin anew")
    state.restore(checkpoint, path, world)
