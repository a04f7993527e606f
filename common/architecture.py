"""Which network a checkpoint's weights belong to, found before any of it takes memory."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.checkpoint import (
    model_state,
)
from common.console import InputError, Kind, listing, rate, warn
from common.model_poseformer import PoseFormerConfig, PoseFormerV2


def _up_to(most: int) -> Kind:
    return Kind(int, lambda n: 1 <= n <= most, f"a whole number from 1 to {most}")


# Fields of `PoseFormerConfig`, within what a machine can hold.
ARCHITECTURE = {
    "number_of_frames": _up_to(4095),
    "number_of_kept_frames": _up_to(4095),
    "number_of_kept_coeffs": _up_to(4095),
    "in_chans": _up_to(1024),
    "confidence_chans": Kind(int, lambda n: 0 <= n <= 1024, "a whole number from 0 to 1024"),
    "embed_dim_ratio": _up_to(4096),
    "depth": _up_to(1000),
    "drop_rate": rate,
    "drop_path_rate": rate,
}
MAX_WEIGHTS = 10**9


def infer_config(
    checkpoint: dict[str, Any], path: Path | str, number_of_frames: int | None = None
) -> PoseFormerConfig:
    """Return the architecture that a checkpoint's weights belong to.

    What the shapes of the weights tell is taken from them: kept frames and coefficients,
    channels, width and depth. The window's length is not among it, as the DCT has no parameters:
    it comes from the configuration in our own files, and otherwise from the user. A file without
    a configuration does not tell the drop rates either; they are then the defaults.

    Args:
        checkpoint: from `load_checkpoint`.
        path: its file, for messages.
        number_of_frames: the window's length in frames where the file does not tell it. If it is
            None there, the default is taken and a warning says so.

    Raises:
        InputError: if the weights are not a PoseFormerV2's, if the stored configuration
            contradicts them, or if no window of that length can have such weights.
    """
    weights = model_state(checkpoint)
    from_shapes = _architecture_from_shapes(weights, path)
    if "config" in checkpoint:
        config = _config(_stored_fields(checkpoint["config"], path), path)
        for name, value in from_shapes.items():
            if getattr(config, name) != value:
                raise InputError(
                    f"{path}: damaged, because its configuration says {name} = "
                    f"{getattr(config, name)} and its weights say {value}; create it again"
                )
        return _small_enough(config, weights, path)
    if number_of_frames is None:
        number_of_frames = PoseFormerConfig.number_of_frames
        warn(
            f"{path}: does not tell its number of frames; taking {number_of_frames} "
            "(if it was trained with another, give --number-of-frames)"
        )
    config = _config({**from_shapes, "number_of_frames": number_of_frames}, path)
    return _small_enough(config, weights, path)


def _small_enough(
    config: PoseFormerConfig, weights: Mapping[str, Tensor], path: Path | str
) -> PoseFormerConfig:
    """Return the configuration, unless its network is far larger than the weights that are there.

    A few bytes can describe a network that fills the memory.
    """
    there, needed = sum(w.numel() for w in weights.values()), number_of_weights(config)
    if needed > 2 * there + 10**6:
        raise InputError(
            f"{path}: damaged, because it describes a network of {needed:,} weights and holds "
            f"{there:,}; create it again"
        )
    return config


def number_of_weights(config: PoseFormerConfig) -> int:
    """Return how many weights a network has, without making it.

    Its blocks are alike, so two shallow networks tell what each block adds.
    """
    with torch.device("meta"):
        networks = [PoseFormerV2(replace(config, depth=depth)) for depth in (1, 2)]
    one, two = (sum(w.numel() for w in n.state_dict().values()) for n in networks)
    return one + (config.depth - 1) * (two - one)


def _architecture_from_shapes(state: Mapping[str, Tensor], path: Path | str) -> dict[str, int]:
    """Return the fields of `PoseFormerConfig` that the weights' shapes tell."""
    blocks = {match[1] for key in state if (match := re.match(r"Spatial_blocks\.(\d+)\.", key))}
    try:
        embed_dim_ratio, in_chans = state["Joint_embedding.weight"].shape
        return {
            "number_of_kept_frames": state["Temporal_pos_embed"].shape[1],
            "number_of_kept_coeffs": state["Temporal_pos_embed_"].shape[1],
            "in_chans": in_chans,
            "embed_dim_ratio": embed_dim_ratio,
            "depth": len(blocks),
        }
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: not the weights of a PoseFormerV2: Joint_embedding.weight, "
            "Temporal_pos_embed or Temporal_pos_embed_ is missing or has other dimensions; "
            f"it holds {listing([repr(key) for key in state])}"
        ) from error


def _stored_fields(stored: Any, path: Path | str) -> dict[str, Any]:
    """Return the stored configuration, if it is a dict of exactly the right names."""
    if isinstance(stored, dict):  # written before confidences could be an input
        stored = {"confidence_chans": 0, **stored}
    if not isinstance(stored, dict) or stored.keys() != ARCHITECTURE.keys():
        raise InputError(
            f"{path}: its configuration does not have the fields "
            f"{', '.join(ARCHITECTURE)}; create it again"
        )
    return stored


def _config(values: dict[str, Any], path: Path | str) -> PoseFormerConfig:
    for name, value in values.items():
        ARCHITECTURE[name].check(value, f"{path}: damaged, because its {name}")
    try:
        return PoseFormerConfig(**values)
    except ValueError as error:
        raise InputError(
            f"{path}: {error}; give another --number-of-frames or choose another file"
        ) from error
