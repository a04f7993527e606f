"""Checkpoints: reading ours and published ones without running their code, and writing ours.

Ours hold tensors and plain types only: `model_pos` (the state dict), `config` (the fields of the
lifter's configuration), `recipe`, `epoch`, `optimizer` and where the training stands. Published
ones of PoseFormerV2 hold `epoch`, `lr`, `random_state`, `optimizer`, `model_pos`, `min_loss` and
`wandb_id`; `random_state` is a pickled NumPy `RandomState`, and every key of `model_pos` starts
with `module.` where the training ran on a GPU. Those of MotionAGFormer hold `model` in its place.
Which lifter it is, the names of the weights tell.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.files.console import CHECKPOINT_DIR, InputError, listing, warn
from common.files.safe_load import read_torch_file
from common.h36m_dataset import FPS
from common.lifters import LIFTERS, LifterConfig, build_network, name_of, recognise
from common.training.epoch import TrainingState
from common.training.optimizer import load_optimizer_state
from common.training.recipe import Recipe

# Every network has it; before its name are the prefixes of wrappers: module., _orig_mod., ….
_ANY_WEIGHTS = ("Joint_embedding.weight", "joints_embed.weight")  # one of each lifter
# What a checkpoint keeps of the epoch that is under way: fields of `TrainingState`.
_PROGRESS = ("step", "samples", "loss_sum", "seconds", "is_best", "random_state")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read and checked; `Checkpoint.load` reads one."""

    path: Path
    weights: dict[str, Tensor]  # by the model's own names, on the CPU
    config: LifterConfig  # of the network that the weights belong to
    recipe: dict[str, Any]  # {flag: value} of the training; empty for a published checkpoint
    content: dict[str, Any]  # what else the file holds

    @classmethod
    def load(
        cls, path: Path | str, number_of_frames: int | None = None, model: str | None = None
    ) -> "Checkpoint":
        """Read one of our or of the published checkpoints, in either of PyTorch's formats.

        Of other people's files the weights are taken, and nothing else.

        Args:
            path: the file.
            number_of_frames: the window's length where the file does not tell it; None for the
                default, with a warning.
            model: the name of the lifter that it is to be; None for any.

        Raises:
            InputError: if the file is missing, damaged, unsafe, no checkpoint of a lifter or of
                another one, or contradicts itself.
        """
        path = Path(path)
        content = read_torch_file(path)
        if isinstance(content, dict) and "model_pos" in content:
            weights = _weights(content.pop("model_pos"), path)
        else:
            weights, content = _foreign_weights(content, path), {}
        weights = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
        config = _config(content, weights, path, number_of_frames)
        if model not in (None, name_of(config)):
            raise InputError(
                f"--model {model}: contradicts {path}, which is a {name_of(config)}; leave the "
                "flag out or choose another checkpoint"
            )
        stored = content.get("recipe", {})
        recipe = {
            f.name: f.metadata["kind"].check(stored[f.name], f"{path}: its {f.name}")
            for f in fields(Recipe)
            if f.name in stored
        }
        return cls(path, weights, config, recipe, content)

    def build_model(self, device: torch.device | str) -> nn.Module:
        """Return its network on a device, in evaluation mode.

        Raises:
            InputError: if the weights do not fit the configuration.
        """
        model = build_network(self.config)
        self.load_into(model)
        model.fps = FPS / self.recipe.get("downsample", 1)  # at which it was trained
        return model.to(device).eval()

    def with_frames(self, number_of_frames: int | None) -> "Checkpoint":
        """Return it for windows of another length, for a new training; None for its own.

        Raises:
            InputError: if no network has so many frames.
        """
        if number_of_frames in (None, self.config.number_of_frames):
            return self
        try:
            config = replace(self.config, number_of_frames=number_of_frames)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from error
        return replace(
            self, config=config, weights=self.config.with_frames(self.weights, number_of_frames)
        )

    def check_channels(self, channels: int, confidences: int) -> None:
        """Refuse keypoints of another number of channels than the network was trained on.

        Raises:
            InputError: naming the file and both numbers.
        """
        config = self.config
        for there, trained, what in (
            (channels, config.in_chans, "channels (two for each estimator, and its confidences)"),
            (confidences, config.confidence_chans, "confidences (names that end in _w_conf)"),
        ):
            if there != trained:
                raise InputError(
                    f"--keypoints: {there} {what}, but {self.path} was trained with {trained}; "
                    "give as many estimators as it was trained with"
                )

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights into a model, every one of them.

        Raises:
            InputError: if they hold NaN or infinite numbers, or do not fit.
        """
        bad = [repr(key) for key, weight in self.weights.items() if not weight.isfinite().all()]
        if bad:
            raise InputError(f"{self.path}: has NaN or infinite numbers in {listing(bad)}")
        try:
            model.load_state_dict(self.weights, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:400]
            raise InputError(f"{self.path}: does not fit the model: {reason}") from error

    def mean_pose(self) -> np.ndarray | None:
        """Return the training data's mean pose (17, 3), metres; None for a published checkpoint."""
        pose = self.content.get("mean_pose")
        return None if pose is None else pose.numpy()

    def resume(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        is_main: bool = True,
    ) -> None:
        """Put model, optimizer and state where the training stopped.

        A published checkpoint goes on after its last whole epoch, without its optimizer. Of several
        processes only the main one takes on the sum of the losses.

        Raises:
            InputError: if weights or optimizer do not fit the model, or something is missing.
        """
        self.load_into(model)
        if "config" not in self.content and is_main:
            warn(f"{self.path}: has no optimizer that fits; its moments start at zero")
        try:
            if "config" in self.content:
                load_optimizer_state(optimizer, self.content["optimizer"])
            state.epoch, state.wandb_id = int(self.content["epoch"]), self.content.get("wandb_id")
            if "progress" in self.content:  # else it is not said in which unit the loss is
                state.min_loss = self.content["min_loss"]
                state.log = [dict(record) for record in self.content.get("log", [])]
                for name, value in ({"is_best": False} | self.content["progress"]).items():
                    if name in _PROGRESS:
                        setattr(state, name, value)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: its training cannot go on ({error}); evaluate it, start a new "
                "training from its weights with --init-from, or resume from another checkpoint"
            ) from error
        if not is_main:
            state.loss_sum = 0.0


def checkpoint_bytes(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    recipe: Recipe,
    mean_pose: np.ndarray,
) -> bytes:
    """Return a checkpoint's file: tensors and plain types under published names.

    `mean_pose` (17, 3), metres, is of the training data; evaluation compares with it.
    """
    content = {
        "epoch": state.epoch,
        "lr": state.lr,
        "optimizer": optimizer.state_dict(),
        "model_pos": model.state_dict(),
        "min_loss": state.min_loss,
        "wandb_id": state.wandb_id,
        "launch": state.launch,
        "log": state.log,
        "config": asdict(model.config),
        "recipe": asdict(recipe),
        "progress": {name: getattr(state, name) for name in _PROGRESS},
        "mean_pose": torch.from_numpy(mean_pose),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def find_checkpoint(name: str, folder: Path | None = None) -> Path:
    """Find a checkpoint by path, also under `folder` or the repository's `checkpoint/`.

    A name without a path is that of a file in `folder`, where one is given, and in no other.

    Raises:
        InputError: if it is in none of these places; the message lists them.
    """
    is_bare = folder and Path(name).name == name
    folders = [folder] if is_bare else [Path(), folder, CHECKPOINT_DIR]
    # A set without order would shuffle the message; an absolute name gives the same path thrice.
    candidates = dict.fromkeys(f / name for f in folders if f)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(map(str, candidates))
    looked += f"; give ./{name} for the present folder" if is_bare else ""
    raise InputError(f"{name}: no such checkpoint; looked for {looked}")


def _weights(state: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict's tensors under the model's own names, without prefixes."""
    is_state = isinstance(state, dict) and state and all(isinstance(key, str) for key in state)
    if not (is_state and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"{path}: its 'model_pos' is not a dict of named tensors")
    prefix = next(iter(_prefixes(state)), "")
    if not all(key.startswith(prefix) for key in state):
        prefix = ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _foreign_weights(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights in a file of people's own scripts, wherever they are in it.

    The file is a state dict, or holds one as 'state_dict', 'model', 'ema' or the like, beside
    other things. An average of the weights (EMA) is taken before the weights themselves.
    """
    found = dict(_state_dicts(content))
    if not found:
        raise InputError(
            f"{path}: no checkpoint of a lifter: it holds no dict with 'model_pos', and no other "
            f"dict with {' or '.join(_ANY_WEIGHTS)}"
        )
    where = next((where for where in found if re.search("ema|avg|swa", where.lower())), None)
    where = where or next(iter(found))
    if len(found) > 1:
        warn(f"{path}: holds weights in {listing(found)}; taking those in {where}")
    return found[where]


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return what stands before the names of a lifter's weights, such as "module."."""
    return [k.removesuffix(w) for w in _ANY_WEIGHTS for k in names if k.endswith(w)]


def _state_dicts(content: Any, where: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield where a state dict of the network is in nested dicts, and its tensors."""
    if not isinstance(content, dict):
        return
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for prefix in _prefixes(tensors):
        of_model = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        yield f"{where}{prefix}" or "the file itself", of_model
    for key, value in content.items():
        yield from _state_dicts(value, f"{where}{key}.")


def _config(
    content: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    path: Path,
    number_of_frames: int | None,
) -> LifterConfig:
    """Return the network that the weights belong to.

    Their shapes tell all but the window's length of PoseFormerV2, as the DCT has no parameters: it
    comes from the configuration in our own files, and otherwise from the user.
    """
    known = recognise(weights)
    if known is None:
        names = " or ".join(kind.network.__name__ for kind in LIFTERS.values())
        raise InputError(
            f"{path}: not the weights of a {names}: the embeddings are missing or have other "
            f"dimensions; it holds {listing([repr(key) for key in weights])}"
        )
    lifter, from_shapes = known
    is_told = "config" in content or "number_of_frames" in from_shapes
    if not is_told and number_of_frames is None:
        number_of_frames = lifter.config.number_of_frames
        warn(
            f"{path}: does not tell its number of frames; taking {number_of_frames} "
            "(if it was trained with another, give --number-of-frames)"
        )
    # Two channels for each estimator; a third one of a published network is a confidence.
    published = {"confidence_chans": from_shapes["in_chans"] % 2}
    published |= {"number_of_frames": number_of_frames} | from_shapes
    stored = content.get("config", published)
    try:
        names = {f.name: type(f.default) for f in fields(lifter.config)}
        config = lifter.config(**{n: names[n](value) for n, value in stored.items()})
    except KeyError as error:
        raise InputError(f"{path}: its configuration has an unknown field {error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: {error}; give another --number-of-frames or choose another file"
        ) from error
    for name, value in from_shapes.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{path}: damaged, because its configuration says {name} = "
                f"{getattr(config, name)} and its weights say {value}; create it again"
            )
    return config
