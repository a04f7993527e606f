"""The recipe of a training: its hyper-parameters, its named defaults, its learning rates.

A further hyper-parameter is one line in `Recipe`: it becomes a flag of run_poseformer.py, is
checked, saved in the checkpoint, and taken up by --resume.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from common.files.console import (
    Check,
    InputError,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    rate,
    yes_or_no,
)
from common.h36m_dataset import TEST_SUBJECTS, TRAIN_SUBJECTS, parse_subjects
from common.training.device import PRECISIONS


def parameter(group: str, default: Any, kind: Check, names: str, help: str) -> Any:
    """Return a field of `Recipe` that is also a flag.

    `group` is "data" for those that an evaluation reads too; `names` are the flag's short name, if
    any, and what stands for its value in the help.
    """
    metadata = {"group": group, "names": names.split(), "kind": kind, "help": help}
    return field(default=default, metadata=metadata)


data, training, run = (partial(parameter, group) for group in ("data", "training", "run"))


def one_of(*names: str) -> Check:
    """Return the kind of values that are one of these words."""
    return Check(str, lambda text: text in names, f"one of {', '.join(names)}")


_names = Check(str, lambda text: 0 < len(text) <= 1000, "a list of names")
_subjects = Check(str, lambda text: bool(parse_subjects(text)), "a list of subjects")
_estimators = Check(str, lambda t: "" not in t.split("+") and len(t) <= 1000, "names of estimators")
_fraction = Check(float, lambda x: 0 < x <= 1, "a part above 0, up to 1")
_probability = Check(float, lambda x: 0 <= x <= 1, "a probability from 0 to 1")
_degrees = Check(float, lambda x: 0 <= x <= 180, "an angle from 0 to 180")
_steps = Check(
    float,
    lambda x: 0 <= x < 1 or (x < math.inf and x == int(x)),
    "a number of steps, or a part of an epoch below 1",
)


@dataclass(frozen=True)
class Recipe:
    """What a training does, but for the network; checkpoints keep it.

    Each field is a flag of the same name. The defaults are those of the recipe "default";
    `RECIPES` holds the named ones.
    """

    recipe: str = training(
        "default",
        one_of("default", "published", "motionagformer", "footage"),
        "",
        "gives the defaults of the other flags (default: motionagformer for that model)",
    )
    epochs: int = training(40, non_negative_int, "-e N", "in all, with those before a resume")
    batch_size: int = training(128, positive_int, "-b N", "windows a step, over all processes")
    learning_rate: float = training(3e-3, positive_float, "-lr LR", "the highest")
    schedule: str = training(
        "linear",
        one_of("published", "linear", "cosine"),
        "",
        "how the learning rate falls: to zero, or published: by --lr-decay after each epoch",
    )
    warmup: float = training(
        0.1, _steps, "N", "steps over which the learning rate rises; below 1, part of an epoch"
    )
    lr_decay: float = training(
        0.99, positive_float, "-lrd FACTOR", "of the published schedule, after each epoch"
    )
    optimizer: str = training(
        "muon", one_of("adamw", "muon"), "", "of the blocks' matrices; AdamW updates the rest"
    )
    beta2: float = training(
        0.99, rate, "BETA", "AdamW averages squared gradients over 1 / (1 - BETA) steps"
    )
    weight_decay: float = training(
        0.1, non_negative_float, "PART", "by which the optimizer shrinks weights, times the rate"
    )
    init: str = training(
        "mean_pose",
        one_of("published", "mean_pose"),
        "",
        "what a new network answers: noise, as published, or the training data's mean pose",
    )
    dropout: float = training(0.0, rate, "-drop P", "dropout")
    drop_path: float = training(0.0, rate, "P", "drop path of the last block")
    keypoints: str = data(
        "vitpose",
        _estimators,
        "-k NAME",
        "2D estimator: vitpose, gt, merge_average, any npz's name, ending in _w_conf to give the "
        "network confidences too; a+b+c concatenates, and concatenate is vitpose+pct+moganet "
        "(default: the checkpoint's, else vitpose)",
    )
    subjects_train: str = training(
        ",".join(TRAIN_SUBJECTS), _subjects, "-str S1,S5,…", "training subjects"
    )
    subjects_test: str = data(",".join(TEST_SUBJECTS), _subjects, "-ste S9,…", "test subjects")
    actions: str = data(
        "*",
        _names,
        "-a A,B",
        "exact names, * for all; 'Sitting' takes both of its takes, 'Sitting 1' that one",
    )
    stride: int = training(1, positive_int, "-s N", "frames from one training window to the next")
    people: int = training(
        0,
        non_negative_int,
        "CLIPS",
        "train on so many clips of synthetic people, new in each epoch, in place of a data set",
    )
    subset: float = training(
        1.0, _fraction, "PART", "train on this part of each sequence, chosen by the seed"
    )
    downsample: int = data(
        1, positive_int, "N", "keep every N-th frame of the 50 Hz, in training and evaluation"
    )
    std: float = data(
        0.0,
        non_negative_float,
        "-std PX",
        "add Gaussian noise of this many pixels to the 2D of training and evaluation",
    )
    turn: float = training(
        180.0,
        _degrees,
        "DEGREES",
        "turn each training window's motion by up to this angle, and project it again",
    )
    resize: float = training(
        0.05, rate, "PART", "resize the body of each training window by up to this part"
    )
    exchange_limbs: float = training(
        0.5,
        _probability,
        "P",
        "probability that a training window's legs move as in another window, and that an arm does",
    )
    exchange_until: float = training(
        0.75, _fraction, "PART", "of the training, after which no limbs are exchanged"
    )
    velocity: float = training(
        2.0,
        non_negative_float,
        "WEIGHT",
        "of MPJVE in the loss: rises from 0 to this until the end; of poseformerv2",
    )
    no_data_augmentation: bool = training(
        False, yes_or_no, "-no-da", "neither mirror, turn, resize nor exchange in training"
    )
    seed: int = run(0, non_negative_int, "N", "of weights, shuffling and --std")
    precision: str = run(
        "auto", one_of(*PRECISIONS), "", "of products; auto: bf16, on V100 and T4 fp16, else fp32"
    )

    @property
    def depends_on_epochs(self) -> bool:
        """Whether a step depends on how many epochs there will be."""
        exchange_ends = self.exchange_limbs > 0 and self.exchange_until < 1
        return self.schedule != "published" or self.velocity > 0 or exchange_ends

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
        exchange_until=1.0,
        velocity=0.0,
    ),
}
# Mehraban, Adeli, Taati, WACV 2024; a clip every nine frames, a third of the shortest ones.
RECIPES["motionagformer"] = replace(
    RECIPES["published"], recipe="motionagformer", epochs=60, weight_decay=0.01, stride=9
)
# For anybody's video: people who do anything, before any camera.
RECIPES["footage"] = replace(
    RECIPES["default"], recipe="footage", epochs=14, velocity=0.0, people=3000, stride=6
)


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of each step of a training, which depends on the step's number alone.

    After `warmup` steps, in which it rises in equal parts, the rate is that of the schedule:
    "linear" and "cosine" fall from `learning_rate` to zero, which the step behind the last one
    would reach; "published" multiplies it by `lr_decay` after each epoch.

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
