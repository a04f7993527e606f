"""Reading checkpoints, ours, published ones and strangers', and putting them into a model."""

import math
import re
from argparse import Namespace
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import common.training.checkpoint
from common.files.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.checkpoint import Checkpoint, checkpoint_bytes, find_checkpoint
from common.training.epoch import TrainingState
from common.training.optimizer import build_optimizer
from common.training.recipe import Recipe

CONFIG = PoseFormerConfig(
    number_of_frames=9, number_of_kept_frames=3, number_of_kept_coeffs=5, embed_dim_ratio=8, depth=2
)
FORMATS = {"zip": True, "legacy": False}


def make_model(seed=0):
    torch.manual_seed(seed)
    return PoseFormerV2(CONFIG)


def trained():
    """Return model, optimizer and state within an epoch, as a training has them."""
    model = make_model()
    optimizer = build_optimizer(model, Recipe())
    model(torch.rand(2, 9, 17, 2)).square().mean().backward()
    optimizer.step()
    log = [{"epoch": 1, "valid_mpjpe_mm": 45.25}]
    state = TrainingState(1, 2, 64, 3.5, 0.1, 45.25, "id", [torch.get_rng_state()], True, log)
    return model, optimizer, state


def ours(path, change=lambda content: None):
    """Write our own checkpoint after `change`; return its path."""
    path.write_bytes(checkpoint_bytes(*trained(), Recipe(), np.ones((17, 3), np.float32)))
    content = torch.load(path, weights_only=True)
    change(content)
    return write(path, content)


def published(model, **changes):
    """Return what the published code passes to torch.save after training on a GPU."""
    return {
        "epoch": 137,
        "lr": 1e-4 * 0.99**137,
        "random_state": np.random.RandomState(1234),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "model_pos": {f"module.{key}": value for key, value in model.state_dict().items()},
        "min_loss": np.float64(45.25),
        "wandb_id": "6mr5twid",
    } | changes


def write(path, content, zip_format=True):
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    return path


def assert_same_weights(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_ours_come_back_and_need_nothing_but_plain_pytorch(tmp_path):
    model, optimizer, state = trained()
    path = ours(tmp_path / "a.bin")
    checkpoint = Checkpoint.load(path)
    assert (checkpoint.config, Recipe(**checkpoint.recipe)) == (CONFIG, Recipe())
    assert checkpoint.mean_pose().tolist() == np.ones((17, 3)).tolist()
    other, found = make_model(seed=1), TrainingState()
    other_optimizer = build_optimizer(other, Recipe())
    checkpoint.resume(other, other_optimizer, found)
    assert_same_weights(other.state_dict(), model.state_dict())
    for p, q in zip(model.parameters(), other.parameters()):
        assert_same_weights(other_optimizer.state[q], optimizer.state[p])
    lr = state.lr  # is that of the next step
    assert torch.equal(found.random_state[0], torch.load(path)["progress"]["random_state"][0])
    assert replace(found, random_state=None, lr=lr) == replace(state, random_state=None)


@pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("prefix", ["module.", ""], ids=["of a GPU", "of a CPU"])
def test_published_checkpoints_load(tmp_path, zip_format, prefix, capsys):
    model = make_model()
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    path = write(tmp_path / "p.bin", published(model, model_pos=weights), zip_format)
    genuine = torch.load(path, weights_only=False)
    assert isinstance(genuine["random_state"], np.random.RandomState)
    checkpoint = Checkpoint.load(path, number_of_frames=9)
    assert checkpoint.config == CONFIG  # from the shapes of the weights
    x = torch.rand(2, 9, 17, 2)
    loaded = checkpoint.build_model("cpu")
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-5, atol=1e-5)
    assert capsys.readouterr().err == ""
    assert Checkpoint.load(path).config.number_of_frames == 27
    assert "--number-of-frames" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"number_of_kept_coeffs .* 3, not 5.*number-of-frames"):
        Checkpoint.load(path, number_of_frames=3)
    state = TrainingState()
    checkpoint.resume(model, build_optimizer(model, Recipe()), state)
    assert (state.epoch, state.min_loss) == (137, math.inf)
    assert "moments start at zero" in capsys.readouterr().err


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


OTHER = {key: value + 1 for key, value in make_model(seed=1).state_dict().items()}
FORMS = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "config": {"a": 1}},
    "model, and the script's flags": lambda w: {"model": w, "args": Namespace(lr=1e-3)},
    "torch.compile": lambda w: {"model_pos": prefixed("_orig_mod.", w)},
    "of two wrappers": lambda w: {"model": prefixed("module._orig_mod.", w)},
    "Lightning": lambda w: {"state_dict": prefixed("model.", w) | {"loss.w": torch.ones(1)}},
    "half": lambda w: {"model_pos": {key: value.half() for key, value in w.items()}},
    "bfloat16, bare": lambda w: {key: value.bfloat16() for key, value in w.items()},
    "EMA beside the weights": lambda w: {"model": OTHER, "state": {"ema": w}},
    "EMA by PyTorch": lambda w: prefixed("module.", w) | {"n_averaged": torch.tensor(5)},
    "EMA in one dict": lambda w: prefixed("online.", OTHER) | prefixed("ema_model.", w),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_load_as_people_save_them(tmp_path, form, capsys):
    weights = make_model().state_dict()
    path = write(tmp_path / "p.bin", FORMS[form](weights))
    loaded = Checkpoint.load(path, number_of_frames=9).build_model("cpu").state_dict()
    for key, value in weights.items():
        rounded = {"half": value.half(), "bfloat16, bare": value.bfloat16()}.get(form, value)
        assert torch.equal(loaded[key], rounded.float()), key
    told = capsys.readouterr().err
    assert ("taking those in" in told) == (form in ("EMA beside the weights", "EMA in one dict"))


def test_the_architecture_follows_from_golden_shapes(golden_spec, tmp_path):
    numbers = torch.ones(4096 * 4096)  # one storage, of which every weight is a view
    for spec in golden_spec["configs"]:
        state = {
            f"module.{key}": numbers[: math.prod(shape)].view(shape)
            for key, shape in spec["state_dict"].items()
        }
        path = write(tmp_path / "p.bin", {"model_pos": state})
        checkpoint = Checkpoint.load(path, spec["number_of_frames"])
        for name in set(asdict(checkpoint.config)) & set(spec):
            assert getattr(checkpoint.config, name) == spec[name]
        with torch.device("meta"):
            model = PoseFormerV2(checkpoint.config)
        shapes = {key: weight.shape for key, weight in checkpoint.weights.items()}
        assert shapes == {key: weight.shape for key, weight in model.state_dict().items()}


# What does not fit. Changes of a checkpoint's content, and part of the message.


def put(*keys, value):
    def change(content):
        *parents, last = keys
        for key in parents:
            content = content[key]
        content[last] = value

    return change


BIAS = ("model_pos", "head.1.bias")
REFUSED = {
    "no weights": (lambda c: c.pop("model_pos"), "holds no dict with 'model_pos'"),
    "weights of text": (put(*BIAS, value="x"), "not a dict of named tensors"),
    "another network": (put("model_pos", value={"a": torch.ones(1)}), "not the weights of a Pose"),
    "missing": (
        lambda c: c["model_pos"].pop(BIAS[1]),
        'Missing key(s) in state_dict: "head.1.bias"',
    ),
    "surplus": (put("model_pos", "b", value=torch.ones(1)), 'Unexpected key(s) in state_dict: "b"'),
    "shape": (put(*BIAS, value=torch.ones(51, 1)), "size mismatch for head.1.bias"),
    "NaN": (put(*BIAS, value=torch.full((51,), math.nan)), "infinite numbers in 'head.1.bias'"),
    "depth": (put("config", "depth", value=1), "says depth = 1 and its weights say 2"),
    "unknown field": (put("config", "surprise", value=1), "an unknown field 'surprise'"),
    "rate": (put("config", "drop_rate", value=2.0), "drop_rate must lie in [0, 1), not 2.0"),
    "batch size": (put("recipe", "batch_size", value=0), "its batch_size is 0, not a positive"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_fits_no_model_is_refused_in_a_line(tmp_path, change, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Checkpoint.load(ours(tmp_path / "a.bin", change)).build_model("cpu")
    assert "a.bin" in str(error.value) and len(str(error.value)) < 600


SPOILED = {
    "no epoch": lambda content: content.pop("epoch"),
    "progress": put("progress", value=[1]),
    "moment of another shape": put("optimizer", "state", 0, "exp_avg", value=torch.zeros(3)),
    "optimizer": put("optimizer", value=[1]),
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
def test_a_resume_names_a_checkpoint_that_lacks_something(tmp_path, change):
    checkpoint, model = Checkpoint.load(ours(tmp_path / "a.bin", change)), make_model()
    with pytest.raises(InputError, match=r"a\.bin: .*resume from another checkpoint"):
        checkpoint.resume(model, build_optimizer(model, Recipe()), TrainingState())


def test_find_checkpoint_by_path_then_folder_then_repository(tmp_path, monkeypatch):
    run, repository = tmp_path / "run", tmp_path / "repository"
    monkeypatch.setattr(common.training.checkpoint, "CHECKPOINT_DIR", repository)
    monkeypatch.chdir(tmp_path)
    places = [folder / "b" / "a.bin" for folder in (tmp_path, run, repository)]
    with pytest.raises(InputError) as error:
        find_checkpoint("b/a.bin", run)
    looked = ", ".join(map(str, places[1:]))
    assert str(error.value) == f"b/a.bin: no such checkpoint; looked for b/a.bin, {looked}"
    for place in reversed(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        assert find_checkpoint("b/a.bin", run).resolve() == place
    (tmp_path / "c.bin").touch()
    assert find_checkpoint("c.bin").resolve() == tmp_path / "c.bin"
    says = rf"looked for {run / 'c.bin'}; give \./c\.bin for the present folder$"
    with pytest.raises(InputError, match=says):
        find_checkpoint("c.bin", run)
    assert find_checkpoint("./c.bin", run).resolve() == tmp_path / "c.bin"
    with pytest.raises(InputError, match=r"looked for /no/such.bin$"):
        find_checkpoint("/no/such.bin", run)
