"""Recipes, their flags and their learning rates."""

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch

from common.arguments import parse_arguments, training_recipe
from common.files.console import InputError
from common.model_motionagformer import MotionAGFormerConfig
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.checkpoint import Checkpoint
from common.training.optimizer import init_at_mean_pose
from common.training.recipe import RECIPES, LearningRates, Recipe


def another_value(field):
    """Return some value of a field other than its default."""
    kind = field.metadata["kind"]
    candidates = [True, 7, 0.25, "S7", *kind.what.removeprefix("one of ").split(", ")]
    return next(x for x in candidates if x != field.default and kind.admits(x))


@pytest.mark.parametrize("field", fields(Recipe), ids=lambda field: field.name)
def test_each_field_is_a_flag_that_a_checkpoint_keeps(field):
    value = another_value(field)
    name = f"--{field.name.replace('_', '-')}"
    flag = [name] if value is True else [name, str(value)]
    others = ["--schedule", "published"] if field.name == "lr_decay" else []
    chosen = training_recipe(parse_arguments([*flag, *others]), None)
    assert getattr(chosen, field.name) == value

    checkpoint = Checkpoint(Path("a.bin"), {}, PoseFormerConfig(), asdict(chosen), {})
    assert training_recipe(parse_arguments([]), checkpoint) == chosen
    assert training_recipe(parse_arguments(flag), checkpoint) == chosen
    stored = asdict(chosen) | {field.name: field.default}
    checkpoint = Checkpoint(Path("a.bin"), {}, PoseFormerConfig(), stored, {})
    with pytest.raises(InputError, match=rf"{name} .*: a\.bin was trained with"):
        training_recipe(parse_arguments(flag), checkpoint)


def test_a_training_from_other_weights_takes_the_recipe_of_their_network():
    initial = Checkpoint(Path("a.bin"), {}, MotionAGFormerConfig(), {}, {})
    assert training_recipe(parse_arguments([]), None, initial) == RECIPES["motionagformer"]


@pytest.mark.parametrize(
    "change", [{"schedule": "linear"}, {"velocity": 1.0}, {"exchange_limbs": 0.5, "turn": 9.0}]
)
def test_more_epochs_only_where_steps_do_not_depend_on_them(change):
    longer = parse_arguments(["--epochs", "300"])
    checkpoint = Checkpoint(Path("a.bin"), {}, PoseFormerConfig(), asdict(RECIPES["published"]), {})
    assert training_recipe(longer, checkpoint).epochs == 300
    checkpoint.recipe.update({"exchange_until": 0.5} | change)
    with pytest.raises(InputError, match=r"--epochs 300: a\.bin was trained with 200"):
        training_recipe(longer, checkpoint)


@pytest.mark.parametrize("flag", ["--std", "--turn", "--exchange-until", "--subset", "--actions"])
def test_what_synthetic_people_do_not_have_is_refused(flag):
    with pytest.raises(InputError, match=f"{flag}: is for a data set"):
        training_recipe(parse_arguments(["--recipe", "footage", flag, "0.5"]), None)
    with pytest.raises(InputError, match="--downsample: is for a data set"):
        training_recipe(parse_arguments(["--people", "9", "--downsample", "5"]), None)


def rates(steps_per_epoch=10, **recipe):
    chosen = LearningRates(Recipe(**{"epochs": 3, "learning_rate": 2.0, **recipe}), steps_per_epoch)
    return np.array([chosen[step] for step in range(3 * steps_per_epoch)])


def by_pytorch(kind, total, warmup):
    """PyTorch's own schedules: warm-up, then the fall to zero."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedules = torch.optim.lr_scheduler
    rise = schedules.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    if kind == "linear":
        fall = schedules.LinearLR(optimizer, 1.0, 0.0, total - warmup)
    else:
        fall = schedules.CosineAnnealingLR(optimizer, total - warmup)
    both = schedules.SequentialLR(optimizer, [rise, fall], [warmup])
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    return np.array(found)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [4, 0.5])
def test_linear_and_cosine_are_pytorchs(kind, warmup):
    steps = 5 if warmup < 1 else warmup
    found = rates(schedule=kind, warmup=warmup)
    np.testing.assert_allclose(found, by_pytorch(kind, 30, steps), atol=1e-12)
    assert found.max() == 2.0 and 0 < found[-1] < 0.1


def test_the_published_rate_falls_after_each_epoch():
    found = rates(schedule="published", warmup=0, lr_decay=0.5)
    np.testing.assert_array_equal(found, np.repeat([2.0, 1.0, 0.5], 10))


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(InputError, match="--warmup 31: longer than the training, which has 30"):
        rates(warmup=31)
    rates(warmup=30)
    LearningRates(Recipe(epochs=0), 10)  # nothing is to be trained


@pytest.mark.parametrize(
    ("name", "published"),
    [("published", (200, 16, 5e-4, 0.1)), ("motionagformer", (60, 16, 5e-4, 0.01))],
)
def test_the_published_recipes_are_the_published_ones(name, published):
    r = RECIPES[name]
    assert (r.epochs, r.batch_size, r.learning_rate, r.weight_decay) == published
    assert (r.schedule, r.lr_decay, r.warmup, r.init) == ("published", 0.99, 0, "published")
    assert (r.optimizer, r.beta2, r.dropout, r.drop_path) == ("adamw", 0.999, 0, 0)
    assert not r.makes_scenes


def test_a_new_network_answers_the_mean_pose():
    pose = np.random.default_rng(0).normal(0, 0.3, (17, 3)).astype(np.float32)
    inputs = torch.rand(40, 9, 17, 2) * 2 - 1
    model = PoseFormerV2(PoseFormerConfig(9, 3, 3, embed_dim_ratio=16))

    def distance():
        return (model(inputs)[:, 0] - torch.from_numpy(pose)).norm(dim=-1).mean()

    before = distance()
    init_at_mean_pose(model, pose)
    assert distance() < 0.2 * before
    distance().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
