"""Checkpoints: atomic saving, safe loading of ours and of published ones, strict use of weights.

Ours hold tensors and plain types only: `model_pos` (the state dict), `config` (the fields of
`PoseFormerConfig`), `epoch`, `optimizer` and whatever training adds. Published ones hold `epoch`,
`lr`, `random_state`, `optimizer`, `model_pos`, `min_loss` and `wandb_id`; `random_state` is a
pickled NumPy `RandomState`, and every key of `model_pos` starts with `module.` where the training
ran on a GPU. Both are read by `common.safe_load`, which runs no code from the file.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.console import (
    CHECKPOINT_DIR,
    InputError,
    Kind,
    listing,
    non_negative_float,
    non_negative_int,
    shown,
    warn,
    yes_or_no,
)
from common.files import atomic_output
from common.model_poseformer import NUM_JOINTS, PoseFormerV2
from common.run_log import checked_record
from common.safe_load import read_torch_file
from common.train_step import load_optimizer_state
from common.training import TrainingState

_DATA_PARALLEL_PREFIX = "module."
_MAX_KEYS = 5  # of a place within a checkpoint, in a message
_PLAIN_TYPES = (bool, int, float, str, type(None))
# What a checkpoint keeps of the epoch that is under way: fields of `TrainingState`.
_PROGRESS = {
    "step": non_negative_int,
    "samples": non_negative_int,
    "loss_sum": non_negative_float,
    "is_best": yes_or_no,
}
_min_loss = Kind(float, lambda x: x >= 0, "an error in mm")
_CUDA_RANDOM_STATE_BYTES = 16


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; if that fails, an earlier file stays as it was.

    Args:
        path: the file.
        state: as for `checkpoint_bytes`.

    Raises:
        TypeError: if `state` holds what could not be read.
        OSError: if the file cannot be written, as on a full disk.
    """
    content = checkpoint_bytes(state)
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)


def checkpoint_bytes(state: dict[str, Any]) -> bytes:
    """Return a checkpoint as it is written.

    Args:
        state: tensors, numbers, strings, None, and dicts, lists and tuples of these.

    Raises:
        TypeError: if `state` holds anything else, which `torch.load(weights_only=True)` would
            refuse to read.
    """
    foreign = _first_foreign(state)
    if foreign:
        raise TypeError(f"cannot save {foreign}")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read one of our or of the published checkpoints on the CPU, without running code from it.

    Of a published file, `random_state` and `optimizer` are left out: they belong to other
    versions of NumPy and PyTorch.

    Args:
        path: the file, in PyTorch's zip format or in the older one.

    Returns:
        A dict of tensors and plain types with at least `model_pos`, a dict of dense tensors.

    Raises:
        InputError: if the file is missing, damaged, unsafe or no checkpoint of a model.
    """
    path = Path(path)
    return _checked(read_torch_file(path), path)


def model_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return a loaded checkpoint's weights under the model's own names, without `module.`."""
    state = checkpoint["model_pos"]
    if all(key.startswith(_DATA_PARALLEL_PREFIX) for key in state):
        return {key.removeprefix(_DATA_PARALLEL_PREFIX): value for key, value in state.items()}
    return state


def contents(
    model: PoseFormerV2,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    recipe: dict[str, Any],
    mean_pose: np.ndarray,
) -> dict[str, Any]:
    """Return what a checkpoint of ours holds: tensors and plain types under published names.

    Args:
        model: weights and configuration.
        optimizer: of `build_optimizer`.
        state: where the training is.
        recipe: {flag: value}, plain types; what a resume goes on with.
        mean_pose: (17, 3) of the training data, metres, which evaluation compares with.
    """
    return {
        "epoch": state.epoch,
        "lr": float(optimizer.param_groups[0]["lr"]),
        "optimizer": optimizer.state_dict(),
        "model_pos": model.state_dict(),
        "min_loss": state.min_loss,
        "wandb_id": state.wandb_id,
        "log": state.log,
        "config": asdict(model.config),
        "recipe": recipe,
        "progress": {name: getattr(state, name) for name in (*_PROGRESS, "random_state")},
        "mean_pose": torch.from_numpy(mean_pose),
    }


def restore(
    model: PoseFormerV2,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    checkpoint: dict[str, Any],
    path: Path,
    is_main: bool = True,
) -> None:
    """Put model, optimizer and state where a checkpoint left them.

    A published checkpoint goes on after its last whole epoch, without its optimizer.

    Args:
        model: gets the weights.
        optimizer: of `build_optimizer`.
        state: gets everything else.
        checkpoint: from `load_checkpoint`.
        path: its file, for messages.
        is_main: whether this process, of several, takes on the sum of the losses.

    Raises:
        InputError: if weights or optimizer do not fit the model, or it does not say where it
            stopped.
    """
    load_into(model, model_state(checkpoint), path)
    if "optimizer" in checkpoint:
        try:
            _check_optimizer(checkpoint["optimizer"])
            load_optimizer_state(optimizer, checkpoint["optimizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: {error}; resume from another checkpoint") from error
    elif is_main:
        warn(f"{path}: has no optimizer that fits; its moments start at zero")
    try:
        _restore_place(state, checkpoint)
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: does not say where its training stopped ({error}); evaluate it, or "
            "resume from another checkpoint"
        ) from error
    if not is_main:
        state.loss_sum = 0.0


def _restore_place(state: TrainingState, checkpoint: dict[str, Any]) -> None:
    """Take over how far a checkpoint's training has come.

    Raises:
        InputError, KeyError or TypeError: if something is missing or of another kind.
    """
    state.epoch = non_negative_int.check(checkpoint["epoch"], "its epoch")
    wandb_id = checkpoint.get("wandb_id")
    state.wandb_id = wandb_id if isinstance(wandb_id, str) else None
    if "progress" not in checkpoint:  # published files do not say in which unit the loss is
        return
    state.min_loss = _min_loss.check(checkpoint["min_loss"], "its min_loss")
    progress = {"is_best": False} | checkpoint["progress"]  # earlier versions did not tell
    for name, kind in _PROGRESS.items():
        setattr(state, name, kind.check(progress[name], f"its {name}"))
    if not _is_random_state(progress["random_state"]):
        raise InputError("its random_state is not one of PyTorch's")
    state.random_state = progress["random_state"]
    log = checkpoint.get("log", [])
    if not isinstance(log, list):
        raise InputError(f"its log is {shown(log)}, not a list")
    state.log = [checked_record(record, "a record of its log") for record in log]


def _is_random_state(states: Any) -> bool:
    """Tell whether generators take these states: of the CPU and, on a GPU, of that; or None."""
    if states is None:
        return True
    if not isinstance(states, list) or not 1 <= len(states) <= 2:
        return False
    if not all(isinstance(s, Tensor) and s.dtype == torch.uint8 and s.ndim == 1 for s in states):
        return False
    try:
        torch.Generator().set_state(states[0])
    except RuntimeError:
        return False
    return len(states) == 1 or len(states[1]) == _CUDA_RANDOM_STATE_BYTES


def _check_optimizer(saved: Any) -> None:
    """Refuse an optimizer's state that is not made as those of `build_optimizer`.

    Raises:
        ValueError: saying what is wrong; whether the shapes fit is seen when it is loaded.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError("its optimizer has no state")
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("its optimizer has no groups of parameters")
    lists = [group.get("params") for group in groups]
    if not all(isinstance(p, list) and all(type(i) is int for i in p) for p in lists):
        raise ValueError("its optimizer's groups do not list their parameters")
    for moments in saved["state"].values():
        for name, value in dict(moments).items():
            value = torch.as_tensor(value)
            if not (_is_dense(value) and value.isfinite().all()):
                raise ValueError(f"the optimizer's {shown(name)} are not finite numbers")
            if name != "exp_avg" and (value < 0).any():
                raise ValueError(f"the optimizer's {shown(name)} are negative")


def mean_pose(checkpoint: dict[str, Any]) -> np.ndarray | None:
    """Return the training data's mean pose (17, 3), metres; None for published checkpoints."""
    pose = checkpoint.get("mean_pose")
    is_pose = isinstance(pose, Tensor) and pose.shape == (NUM_JOINTS, 3)
    return pose.numpy() if is_pose else None


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy weights into a model, every one of them.

    Args:
        model: the model, on any device; unchanged if this fails.
        state: from `model_state`.
        path: the checkpoint's file, for messages.

    Raises:
        InputError: naming the keys that are missing or surplus, have another shape or type, or
            hold NaN or infinite numbers.
    """
    expected = model.state_dict()
    problems = [
        ("lacks keys", [repr(key) for key in expected if key not in state]),
        ("has surplus keys", [repr(key) for key in state if key not in expected]),
        ("has other shapes or types:", _mismatches(state, expected)),
        ("has NaN or infinite numbers in", _not_finite(state)),
    ]
    found = [f"{problem} {listing(names)}" for problem, names in problems if names]
    if found:
        raise InputError(f"{path}: does not fit the model: it {'; it '.join(found)}")
    model.load_state_dict(state, strict=True)


def find_checkpoint(name: str, checkpoint_dir: Path) -> Path:
    """Find a checkpoint by path, under `checkpoint_dir`, or in the repository's `checkpoint/`.

    Args:
        name: a path, or a file's name.
        checkpoint_dir: the folder of this run, `-c`.

    Raises:
        InputError: if it is in none of these places; the message lists them.
    """
    # A set without order would shuffle the message; an absolute name gives the same path thrice.
    candidates = dict.fromkeys([Path(name), Path(checkpoint_dir) / name, CHECKPOINT_DIR / name])
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"{name}: no such checkpoint; looked for {', '.join(map(str, candidates))}")


def _checked(checkpoint: Any, path: Path) -> dict[str, Any]:
    """Return the part of an unpickled checkpoint that this project uses, or refuse it."""
    if not isinstance(checkpoint, dict) or "model_pos" not in checkpoint:
        raise InputError(f"{path}: no checkpoint of a model: it holds no dict with 'model_pos'")
    unused = {"random_state"} if "config" in checkpoint else {"random_state", "optimizer"}
    checkpoint = {key: value for key, value in checkpoint.items() if key not in unused}
    foreign = _first_foreign(checkpoint)
    if foreign:
        raise InputError(f"{path}: refused, because it holds {foreign}")
    return {**checkpoint, "model_pos": _checked_weights(checkpoint["model_pos"], path)}


def _checked_weights(state: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        # The class's own method: a pickle can give a tensor attributes that hide its methods.
        weights = {key: Tensor.detach(value) for key, value in state.items()}
        if weights and all(isinstance(key, str) and _is_dense(w) for key, w in weights.items()):
            return weights
    raise InputError(f"{path}: its 'model_pos' is not a dict of named, dense tensors")


def _is_dense(weight: Tensor) -> bool:
    """Tell whether all numbers of a tensor are in memory.

    A few bytes can describe a tensor of any size, by strides of zero or on no device; a model
    built by its shape would fill the memory.
    """
    return (
        weight.layout == torch.strided
        and weight.device.type == "cpu"
        and weight.is_floating_point()
        and weight.is_contiguous()
    )


def _first_foreign(value: Any) -> str | None:
    """Name something in nested containers that is neither a tensor nor plain, or return None."""
    pending, seen = [((), value)], set()
    while pending:
        place, value = pending.pop()
        if id(value) in seen:  # containers of strangers may hold themselves
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            foreign_key = next((key for key in value if type(key) not in _PLAIN_TYPES), None)
            if foreign_key is not None:
                return f"{_where(place)}, a {type(foreign_key).__name__} as a key"
            pending += [((place, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [((place, i), item) for i, item in enumerate(value)]
        # Exact types: np.float64 is a float too, but is pickled as a NumPy object.
        elif not isinstance(value, Tensor) and type(value) not in _PLAIN_TYPES:
            return f"{_where(place)}, a {type(value).__name__}"
    return None


def _where(place: tuple) -> str:
    """Describe a place within a checkpoint, given as (place of the container, key there)."""
    keys = []
    while place and len(keys) < _MAX_KEYS:
        place, key = place
        keys.append(f"[{shown(key)}]")
    return f"the checkpoint{'…' if place else ''}{''.join(reversed(keys))}"


def _mismatches(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{key!r} is {_description(state[key])}, not {_description(weight)}"
        for key, weight in expected.items()
        if key in state and _description(state[key]) != _description(weight)
    ]


def _description(weight: Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}"


def _not_finite(state: Mapping[str, Tensor]) -> list[str]:
    return [repr(key) for key, weight in state.items() if not weight.float().isfinite().all()]
