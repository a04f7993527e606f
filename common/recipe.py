"""The recipe of a training: what it is told, its named defaults, its learning rates."""

import math
from dataclasses import dataclass, field
from typing import Any

from common.console import (
    InputError,
    Kind,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    rate,
    yes_or_no,
)
from common.device import PRECISIONS
from common.h36m_dataset import SUBJECTS, TEST_SUBJECTS, TRAIN_SUBJECTS, parse_subjects

SCHEDULES = ("published", "linear", "cosine")
INITS = ("published", "mean_pose")
OPTIMIZERS = ("adamw", "muon")


def _are_subjects(text: str) -> bool:
    try:
        return bool(parse_subjects(text))
    except InputError:
        return False


def one_of(names: tuple[str, ...]) -> Kind:
    """Return the kind of values that are one of these words."""
    return Kind(str, lambda text: text in names, f"one of {', '.join(names)}")


_names = Kind(str, lambda text: 0 < len(text) <= 1000, "a list of names")
_subject_names = Kind(str, _are_subjects, f"a list of subjects among {', '.join(SUBJECTS)}")
_estimators = Kind(str, lambda t: "" not in t.split("+") and len(t) <= 1000, "names of estimators")
_fraction = Kind(float, lambda x: 0 < x <= 1, "a part between 0 and 1")
_probability = Kind(float, lambda x: 0 <= x <= 1, "a probability from 0 to 1")
_degrees = Kind(float, lambda x: 0 <= x <= 180, "an angle from 0 to 180")
_steps = Kind(
    float,
    lambda x: 0 <= x < 1 or (x < float("inf") and x == int(x)),
    "a number of steps, or a part of an epoch below 1",
)


def _is(kind: Kind, default: Any) -> Any:
    """Return a dataclass field of this kind."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Recipe:
    """What a training does, but for the network; checkpoints keep it.

    Each field is a flag of the same name. The defaults are those of the recipe "default";
    `RECIPES` holds the named ones.
    """

    recipe: str = _is(one_of(("default", "published")), "default")
    epochs: int = _is(non_negative_int, 40)
    batch_size: int = _is(positive_int, 128)
    learning_rate: float = _is(positive_float, 3e-3)
    schedule: str = _is(one_of(SCHEDULES), "linear")
    warmup: float = _is(_steps, 0.1)
    lr_decay: float = _is(positive_float, 0.99)
    optimizer: str = _is(one_of(OPTIMIZERS), "muon")
    beta2: float = _is(rate, 0.99)
    init: str = _is(one_of(INITS), "mean_pose")
    dropout: float = _is(rate, 0.0)
    drop_path: float = _is(rate, 0.0)
    keypoints: str = _is(_estimators, "vitpose")
    subjects_train: str = _is(_subject_names, ",".join(TRAIN_SUBJECTS))
    subjects_test: str = _is(_subject_names, ",".join(TEST_SUBJECTS))
    actions: str = _is(_names, "*")
    stride: int = _is(positive_int, 1)
    subset: float = _is(_fraction, 1.0)
    downsample: int = _is(positive_int, 1)
    std: float = _is(non_negative_float, 0.0)
    turn: float = _is(_degrees, 180.0)
    resize: float = _is(rate, 0.05)
    exchange_limbs: float = _is(_probability, 0.5)
    no_data_augmentation: bool = _is(yes_or_no, False)
    seed: int = _is(non_negative_int, 0)
    precision: str = _is(one_of(PRECISIONS), "auto")

    @property
    def scenes(self) -> dict[str, float]:
        """What `NewScenes` is told."""
        return {
            "turn_degrees": self.turn,
            "resize": self.resize,
            "exchange_limbs": self.exchange_limbs,
        }


RECIPES = {
    "default": Recipe(),
    # Mehraban et al., FG 2024; the weight decay of 0.1 is everyone's.
    "published": Recipe(
        recipe="published",
        epochs=200,
        batch_size=16,
        learning_rate=5e-4,
        schedule="published",
        warmup=0.0,
        optimizer="adamw",
        beta2=0.999,
        init="published",
        turn=0.0,
        resize=0.0,
        exchange_limbs=0.0,
    ),
}


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of each step of a training, which depends on the step's number alone.

    After `warmup` steps, in which it rises in equal parts, the rate is that of the schedule:
    "linear" and "cosine" fall from `learning_rate` to zero, which the step behind the last one
    would reach; "published" multiplies it by `lr_decay` after each epoch.

    Args:
        recipe: of the training.
        steps_per_epoch: of all processes together.

    Raises:
        InputError: if the warm-up is longer than the training.
    """

    recipe: Recipe
    steps_per_epoch: int

    def __post_init__(self) -> None:
        if self.recipe.epochs and self._warmup > self._total:
            raise InputError(
                f"--warmup {self.recipe.warmup:g}: longer than the training, which has "
                f"{self._total} steps ({self.recipe.epochs} epochs of {self.steps_per_epoch})"
            )

    @property
    def _total(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def _warmup(self) -> int:
        warmup = self.recipe.warmup
        return round(warmup * self.steps_per_epoch if warmup < 1 else warmup)

    def __getitem__(self, step: int) -> float:
        """Return the rate of a step; the first of the training is 0."""
        recipe = self.recipe
        if step < self._warmup:
            return recipe.learning_rate * (step + 1) / self._warmup
        if recipe.schedule == "published":
            return recipe.learning_rate * recipe.lr_decay ** (step // self.steps_per_epoch)
        done = (step - self._warmup) / (self._total - self._warmup)
        left = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return recipe.learning_rate * left

    def at_end_of(self, epoch: int) -> float:
        """Return the rate of an epoch's last step; the first epoch is 1."""
        return self[epoch * self.steps_per_epoch - 1]
