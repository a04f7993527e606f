"""The recipe of a training: its hyper-parameters, its named defaults, its learning rates.

A further hyper-parameter is one line in `Recipe`: it becomes a flag of run_poseformer.py, is
checked, saved in the checkpoint, and taken up by --resume.
"""

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


def one_of(*names: str) -> Kind:
    """Return the kind of values that are one of these words."""
    return Kind(str, lambda text: text in names, f"one of {', '.join(names)}")


def parameter(group: str, names: str, default: Any, kind: Kind, help: str) -> Any:
    """Return a field of `Recipe` that is also a flag.

    Args:
        group: of flags: "data" for those that an evaluation reads too, "run" or "training".
        names: the flag's short name, if any, and what stands for its value in the help.
        default: of the default recipe.
        kind: what the value may be.
        help: of the flag.
    """
    return field(
        default=default,
        metadata={"group": group, "names": names.split(), "kind": kind, "help": help},
    )


_actions = Kind(str, lambda text: 0 < len(text) <= 1000, "a list of names")
_subjects = Kind(str, lambda text: bool(parse_subjects(text)), "a list of subjects")
_estimators = Kind(str, lambda t: "" not in t.split("+") and len(t) <= 1000, "names of estimators")
_fraction = Kind(float, lambda x: 0 < x <= 1, "a part between 0 and 1")
_probability = Kind(float, lambda x: 0 <= x <= 1, "a probability from 0 to 1")
_degrees = Kind(float, lambda x: 0 <= x <= 180, "an angle from 0 to 180")
_steps = Kind(
    float,
    lambda x: 0 <= x < 1 or (x < math.inf and x == int(x)),
    "a number of steps, or a part of an epoch below 1",
)
_among = f"among {', '.join(SUBJECTS)}"


@dataclass(frozen=True)
class Recipe:
    """What a training does, but for the network; checkpoints keep it.

    Each field is a flag of the same name. The defaults are those of the recipe "default";
    `RECIPES` holds the named ones.
    """

    recipe: str = parameter(
        "training",
        "default|published",
        "default",
        one_of("default", "published"),
        "gives the defaults of the other flags; this help shows those of 'default'",
    )
    epochs: int = parameter(
        "training", "-e N", 40, non_negative_int, "in all; the learning rate falls over them"
    )
    batch_size: int = parameter(
        "training", "-b N", 128, positive_int, "windows a step, over all processes"
    )
    learning_rate: float = parameter("training", "-lr LR", 3e-3, positive_float, "the highest")
    schedule: str = parameter(
        "training",
        "published|linear|cosine",
        "linear",
        one_of("published", "linear", "cosine"),
        "how the learning rate falls: to zero, or published: by --lr-decay after each epoch",
    )
    warmup: float = parameter(
        "training",
        "N",
        0.1,
        _steps,
        "steps over which the learning rate rises at first, or, below 1, part of an epoch",
    )
    lr_decay: float = parameter(
        "training",
        "-lrd FACTOR",
        0.99,
        positive_float,
        "the published schedule multiplies the learning rate by it after each epoch",
    )
    optimizer: str = parameter(
        "training",
        "adamw|muon",
        "muon",
        one_of("adamw", "muon"),
        "of the blocks' matrices; AdamW updates all other weights",
    )
    beta2: float = parameter(
        "training",
        "BETA",
        0.99,
        rate,
        "how long AdamW averages the squares of gradients: 1 / (1 - BETA) steps",
    )
    init: str = parameter(
        "training",
        "published|mean_pose",
        "mean_pose",
        one_of("published", "mean_pose"),
        "what a new network answers: noise, as published, or the training data's mean pose",
    )
    dropout: float = parameter("training", "-drop P", 0.0, rate, "dropout")
    drop_path: float = parameter("training", "P", 0.0, rate, "drop path of the last block")
    keypoints: str = parameter(
        "data",
        "-k NAME",
        "vitpose",
        _estimators,
        "2D estimator: vitpose, gt, merge_average, any npz's name, ending in _w_conf to give the "
        "network confidences too; a+b+c concatenates, and concatenate is vitpose+pct+moganet "
        "(default: the checkpoint's, else vitpose)",
    )
    subjects_train: str = parameter(
        "training",
        "-str S1,S5,…",
        ",".join(TRAIN_SUBJECTS),
        _subjects,
        f"training subjects, {_among}",
    )
    subjects_test: str = parameter(
        "data", "-ste S9,…", ",".join(TEST_SUBJECTS), _subjects, f"test subjects, {_among}"
    )
    actions: str = parameter(
        "data",
        "-a A,B",
        "*",
        _actions,
        "exact action names, * for all; 'Sitting' takes both of its takes, 'Sitting 1' that one",
    )
    stride: int = parameter(
        "training", "-s N", 1, positive_int, "frames from one training window to the next"
    )
    subset: float = parameter(
        "training",
        "PART",
        1.0,
        _fraction,
        "train on this part of each sequence, chosen by the seed",
    )
    downsample: int = parameter(
        "data",
        "N",
        1,
        positive_int,
        "keep every N-th frame of the 50 Hz, in training and evaluation",
    )
    std: float = parameter(
        "data",
        "-std PX",
        0.0,
        non_negative_float,
        "add Gaussian noise of this standard deviation to the 2D of training and evaluation, in "
        "pixels",
    )
    turn: float = parameter(
        "training",
        "DEGREES",
        180.0,
        _degrees,
        "turn each training window's motion by up to this angle, and project it again",
    )
    resize: float = parameter(
        "training", "PART", 0.05, rate, "resize the body of each training window by up to this part"
    )
    exchange_limbs: float = parameter(
        "training",
        "P",
        0.5,
        _probability,
        "probability that a training window's legs move as in another window, and that an arm does",
    )
    no_data_augmentation: bool = parameter(
        "training",
        "-no-da",
        False,
        yes_or_no,
        "train on the windows as they are: neither mirrored nor turned, resized, exchanged",
    )
    seed: int = parameter("run", "", 0, non_negative_int, "of weights, shuffling and --std")
    precision: str = parameter(
        "run",
        "|".join(PRECISIONS),
        "auto",
        one_of(*PRECISIONS),
        "of matrix products; auto is bf16 where the processor has it",
    )

    @property
    def makes_scenes(self) -> bool:
        """Whether training windows are turned, resized, or given another window's limbs."""
        changes = self.turn, self.resize, self.exchange_limbs
        return any(changes) and not self.no_data_augmentation


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
