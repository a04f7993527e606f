import copy
import dataclasses
import functools
import math
import os
import pickle
import re
import resource
import tracemalloc
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common.architecture import (
    infer_config,
)
from common.flags import Recipe

import common.checkpoint
from common.arguments import (
    check_flags,
    stored_recipe,
)
from common.checkpoint import (
    contents,
    find_checkpoint,
    load_checkpoint,
    load_into,
    model_state,
    restore,
    save_checkpoint,
)
from common.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.train_step import build_optimizer
from common.training import TrainingState

CONFIG = PoseFormerConfig(
    number_of_frames=9, number_of_kept_frames=3, number_of_kept_coeffs=5, embed_dim_ratio=8, depth=2
)
FORMATS = {"zip": True, "legacy": False}


def make_model(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return PoseFormerV2(config)


@functools.cache
def optimizer_state():
    """Return the optimizer's state after one step of training."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    model(torch.rand(2, CONFIG.number_of_frames, 17, 2)).square().mean().backward()
    optimizer.step()
    return optimizer.state_dict()


def our_checkpoint(model):
    return {
        "epoch": 3,
        "optimizer": optimizer_state(),
        "model_pos": model.state_dict(),
        "config": asdict(model.config),
        "wandb_id": None,
        "rng": [torch.get_rng_state()],
    }


def published_checkpoint(model, **changes):
    """Return what the published code passes to torch.save after training on a GPU."""
    return {
        "epoch": 137,
        "lr": 1e-4 * 0.99**137,
        "random_state": np.random.RandomState(1234),
        "optimizer": optimizer_state(),
        "model_pos": {f"module.{key}": value for key, value in model.state_dict().items()},
        "min_loss": np.float64(45.25),
        "wandb_id": "6mr5twid",
    } | changes


def write(path, state, zip_format=True):
    torch.save(state, path, _use_new_zipfile_serialization=zip_format)
    return path


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / "published.bin", published_checkpoint(make_model()))


def assert_same_weights(state, model):
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    for key, value in state.items():
        assert torch.equal(value, expected[key])


# Our own files


def test_our_checkpoint_comes_back(tmp_path):
    model = make_model()
    saved = our_checkpoint(model)
    path = tmp_path / "new" / "last_epoch.bin"
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert loaded.keys() == saved.keys()
    assert loaded["epoch"] == 3
    assert loaded["config"] == asdict(CONFIG)
    assert torch.equal(loaded["rng"][0], saved["rng"][0])
    assert_same_weights(model_state(loaded), model)
    assert infer_config(loaded, path) == CONFIG
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(loaded["optimizer"])
    assert optimizer.state_dict()["param_groups"] == saved["optimizer"]["param_groups"]
    for index, moments in saved["optimizer"]["state"].items():
        assert torch.equal(optimizer.state_dict()["state"][index]["exp_avg"], moments["exp_avg"])


def test_our_checkpoint_needs_nothing_but_plain_pytorch(tmp_path):
    save_checkpoint(tmp_path / "a.bin", our_checkpoint(make_model()))
    loaded = torch.load(tmp_path / "a.bin", weights_only=True)
    assert loaded["config"]["number_of_kept_coeffs"] == 5
    assert all(not key.startswith("module.") for key in loaded["model_pos"])


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), CONFIG, {1, 2}, [b"bytes"]])
def test_save_refuses_what_could_not_be_loaded(tmp_path, value):
    with pytest.raises(TypeError, match=r"cannot save the checkpoint\['extra'\]"):
        save_checkpoint(tmp_path / "a.bin", {"extra": value})
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_earlier_checkpoint(tmp_path):
    path = tmp_path / "last_epoch.bin"
    save_checkpoint(path, {"epoch": 1, "model_pos": {"a": torch.zeros(1)}})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(str(path))):
            save_checkpoint(path, our_checkpoint(make_model()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Published files


@pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
def test_published_checkpoint_loads(tmp_path, zip_format):
    model = make_model()
    path = write(tmp_path / "p.bin", published_checkpoint(model), zip_format)
    genuine = torch.load(path, weights_only=False)
    assert isinstance(genuine["random_state"], np.random.RandomState)

    loaded = load_checkpoint(path)
    assert loaded.keys() == {"epoch", "lr", "model_pos", "min_loss", "wandb_id"}
    assert loaded["min_loss"] == 45.25
    assert type(loaded["min_loss"]) is float
    other = make_model(seed=1)
    load_into(other, model_state(loaded), path)
    assert_same_weights(other.state_dict(), model)
    x = torch.rand(2, 9, 17, 2)
    assert torch.equal(other.eval()(x), model.eval()(x))


class RandomStateBeforeNumpy117:
    """Pickles as a RandomState did before NumPy 1.17."""

    def __reduce__(self):
        constructor = vars(np.random)["__RandomState_ctor"]
        return constructor, (), np.random.RandomState(1234).get_state(legacy=True)


@pytest.mark.parametrize(
    "random_state", [np.random.RandomState(), RandomStateBeforeNumpy117()], ids=["seedless", "1.16"]
)
def test_random_states_of_other_ages(tmp_path, random_state):
    contents = published_checkpoint(make_model(), random_state=random_state)
    path = write(tmp_path / "p.bin", contents)
    assert isinstance(torch.load(path, weights_only=False)["random_state"], np.random.RandomState)
    assert load_checkpoint(path)["epoch"] == 137


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_numpy_objects_under_both_of_numpys_module_names(tmp_path, core):
    path = write(tmp_path / "p.bin", published_checkpoint(make_model()), zip_format=False)
    content = re.sub(rb"cnumpy\._?core\.", b"c" + core + b".", path.read_bytes())
    assert b"c" + core + b".multiarray\n" in content
    path.write_bytes(content)
    assert load_checkpoint(path)["min_loss"] == 45.25


@pytest.mark.parametrize(
    "number", [np.float32(0.1), np.float64(-1e300), np.int32(-7), np.int64(2**40), np.bool_(True)]
)
def test_numpy_numbers_become_plain_ones(tmp_path, number):
    path = write(tmp_path / "p.bin", published_checkpoint(make_model(), min_loss=number))
    value = load_checkpoint(path)["min_loss"]
    assert type(value) is type(number.item())
    assert value == number.item()


def test_published_checkpoint_of_a_cpu_has_no_prefix(tmp_path):
    model = make_model()
    contents = published_checkpoint(model, model_pos=model.state_dict(), wandb_id=None)
    assert_same_weights(model_state(load_checkpoint(write(tmp_path / "p.bin", contents))), model)


def test_golden_parameters_name_and_shape_every_weight(golden_spec, tmp_path):
    for spec in golden_spec["configs"]:
        state = {f"module.{k}": torch.ones(shape) for k, shape in spec["state_dict"].items()}
        path = write(tmp_path / "p.bin", {"model_pos": state})
        loaded = load_checkpoint(path)
        config = infer_config(loaded, path, number_of_frames=spec["number_of_frames"])
        for name in set(asdict(config)) & set(spec):
            assert getattr(config, name) == spec[name]
        load_into(PoseFormerV2(config), model_state(loaded), path)


# Files of strangers


class Malicious:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def evil_objects(marker):
    return {
        "posix.system": Malicious(os.system, f"touch {marker}"),
        "eval": Malicious(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Malicious(exec, f"open({str(marker)!r}, 'w')"),
        "io.open": Malicious(open, str(marker), "w"),
        "numpy.load": Malicious(np.load, str(marker)),
        "torch.serialization.load": Malicious(torch.load, str(marker)),
    }


@pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", evil_objects(""))
@pytest.mark.parametrize("place", ["random_state", "min_loss", "model_pos"])
def test_malicious_pickle_is_refused_by_name(tmp_path, name, place, zip_format):
    marker = tmp_path / "marker"
    contents = published_checkpoint(make_model(), **{place: evil_objects(marker)[name]})
    path = write(tmp_path / "evil.bin", contents, zip_format)
    with pytest.raises(InputError, match=rf"refused, because it holds \S*{name}") as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_malicious_pickle_does_not_run(tmp_path, protocol):
    marker = tmp_path / "marker"
    path = tmp_path / "evil.bin"
    path.write_bytes(pickle.dumps(evil_objects(marker)["posix.system"], protocol=protocol))
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"min_loss": np.zeros(3)},
        {"wandb_id": np.random.RandomState(0)},
        {"lr": {1, 2}},
        {"model_pos": {"a": np.zeros(3)}},
        {"model_pos": {"a": 1.0}},
        {"model_pos": {}},
        {"model_pos": [torch.zeros(1)]},
        {"model_pos": {1: torch.zeros(1)}},
        {"model_pos": {"a": torch.zeros(1).expand(1 << 40)}},
        {"model_pos": {"a": torch.zeros(3, dtype=torch.int64)}},
        {"model_pos": {"a": torch.zeros(3, 3).to_sparse()}},
        {"model_pos": {"a": torch.zeros(3, device="meta")}},
    ],
)
def test_anything_but_dense_tensors_and_plain_types_is_refused(tmp_path, change):
    path = write(tmp_path / "p.bin", published_checkpoint(make_model(), **change))
    with pytest.raises(InputError, match=r"it holds|is not a dict of named, dense tensors"):
        load_checkpoint(path)


def test_containers_that_hold_themselves_end(tmp_path):
    knot = []
    knot.append(knot)
    path = write(tmp_path / "p.bin", published_checkpoint(make_model(), lr=knot))
    assert load_checkpoint(path)["epoch"] == 137


def test_long_keys_cost_no_memory(tmp_path):
    """Names of all places, each with the long key, once took a gigabyte for this megabyte."""
    content = {"model_pos": {"a": torch.zeros(1)}, "x" * 10**6: dict.fromkeys(range(1000))}
    path = write(tmp_path / "p.bin", content)
    tracemalloc.start()
    load_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 10**6
    content["x" * 10**6][5] = {1, 2}
    with pytest.raises(InputError) as error:
        load_checkpoint(write(path, content))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", ["[[[", 5, "x" * 10**6])
def test_a_field_of_the_configuration_is_shown_in_part_of_a_line(tmp_path, value):
    if value == "[[[":
        for _ in range(9):
            value = [value] * 10
    contents = our_checkpoint(make_model())
    contents["config"]["drop_rate" if value == 5 else "depth"] = value
    path = write(tmp_path / "p.bin", contents)
    with pytest.raises(InputError) as error:
        infer_config(load_checkpoint(path), path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("part", [0, 0.0001, 0.01, 0.1, 0.5, 0.9, 0.999, -1])
def test_truncated_file(tmp_path, zip_format, part):
    path = write(tmp_path / "p.bin", published_checkpoint(make_model()), zip_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if part >= 0 else -1])
    with pytest.raises(InputError, match="damaged, truncated or no checkpoint") as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)


def test_one_wrong_bit_in_the_weights_is_found(tmp_path):
    weight = torch.rand(1000)
    path = write(tmp_path / "p.bin", {"model_pos": {"a": weight}})
    content = bytearray(path.read_bytes())
    position = content.index(weight.numpy().tobytes()) + 2000
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("zip_format", FORMATS.values(), ids=FORMATS)
def test_damaged_bytes_never_give_anything_but_an_input_error(tmp_path, zip_format):
    contents = {
        "model_pos": {"a": torch.arange(4.0)},
        "random_state": np.random.RandomState(0),
        "min_loss": np.float64(1),
    }
    path = write(tmp_path / "p.bin", contents, zip_format)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    failures = 0
    for position in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except InputError:
            failures += 1
    assert failures > 30


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"not a checkpoint\n", b"\x80\x02.", b"\0" * 4096]
)
def test_foreign_file(tmp_path, content):
    path = tmp_path / "p.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged, truncated or no checkpoint"):
        load_checkpoint(path)


def test_foreign_zip_and_foreign_checkpoints(tmp_path):
    path = tmp_path / "p.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(path)
    for other in ([1, 2], {"state_dict": {}}, torch.zeros(3)):
        with pytest.raises(InputError, match="holds no dict with 'model_pos'"):
            load_checkpoint(write(path, other))
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path)


# Fitting the model


def failing_load(state, config=CONFIG):
    model = make_model(config, seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_into(model, state, "p.bin")
    assert_same_weights(before, model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_surplus_keys_are_named():
    state = dict(make_model().state_dict())
    state["head.2.bias"] = state.pop("head.1.bias")
    message = failing_load(state)
    assert "p.bin: " in message
    assert "lacks keys 'head.1.bias'" in message
    assert "surplus keys 'head.2.bias'" in message


def test_partly_prefixed_keys_are_surplus(tmp_path):
    state = dict(make_model().state_dict())
    state["module.head.1.bias"] = state.pop("head.1.bias")
    loaded = load_checkpoint(write(tmp_path / "p.bin", {"model_pos": state}))
    assert "'module.head.1.bias'" in failing_load(model_state(loaded))


def test_other_shapes_and_types_are_named():
    state = dict(make_model().state_dict())
    state["head.1.bias"] = torch.zeros(51, 1)
    state["head.0.bias"] = state["head.0.bias"].double()
    message = failing_load(state)
    assert "'head.1.bias' is float32 (51, 1), not float32 (51,)" in message
    assert "'head.0.bias' is float64 (272,), not float32 (272,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    state = {key: weight.clone() for key, weight in make_model().state_dict().items()}
    state["head.1.bias"][7] = value
    assert "NaN or infinite numbers in 'head.1.bias'" in failing_load(state)


def test_long_lists_are_cut():
    message = failing_load({"a": torch.zeros(1)})
    assert re.search(r"lacks keys ('\S+', ){4}'\S+' and \d+ more", message)


# The architecture


def test_architecture_of_a_published_file_comes_from_its_shapes(published, capsys):
    checkpoint = load_checkpoint(published)
    assert infer_config(checkpoint, published, number_of_frames=9) == CONFIG
    assert capsys.readouterr().err == ""
    assert infer_config(checkpoint, published) == replace(CONFIG, number_of_frames=27)
    assert "--number-of-frames" in capsys.readouterr().err


def test_window_shorter_than_the_kept_frames_is_refused(published):
    with pytest.raises(InputError, match=r"number_of_kept_coeffs .* 3, not 5.*number-of-frames"):
        infer_config(load_checkpoint(published), published, number_of_frames=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 1}, "says depth = 1 and its weights say 2"),
        ({"embed_dim_ratio": 1 << 10}, "its weights say 8"),
        ({"embed_dim_ratio": 1 << 20}, "not a whole number from 1 to 4096"),
        ({"number_of_frames": 30001}, "not a whole number from 1 to 4095"),
        ({"depth": "2"}, "its depth is '2', not a whole number"),
        ({"drop_rate": None}, "its drop_rate is None, not a rate"),
        ({"drop_rate": 2.0}, "its drop_rate is 2.0, not a rate"),
        ({"surprise": 1}, "does not have the fields"),
    ],
)
def test_stored_configuration_is_checked(tmp_path, change, message):
    path = tmp_path / "ours.bin"
    contents = our_checkpoint(make_model())
    contents["config"] |= change
    save_checkpoint(path, contents)
    with pytest.raises(InputError, match=message):
        infer_config(load_checkpoint(path), path)


def test_weights_of_another_network_are_refused(tmp_path):
    path = write(tmp_path / "p.bin", {"model_pos": {"fc.weight": torch.zeros(2, 2)}})
    with pytest.raises(InputError, match=r"not the weights of a PoseFormerV2.*'fc.weight'"):
        infer_config(load_checkpoint(path), path, number_of_frames=27)


def test_flags_that_agree_or_are_absent_pass():
    check_flags(CONFIG, {"number_of_frames": 9, "in_chans": 2}, "p.bin")


def test_flag_that_contradicts_is_named_with_both_values():
    with pytest.raises(InputError, match=r"--number-of-frames 27: contradicts p.bin.* has 9"):
        check_flags(CONFIG, {"depth": 2, "number_of_frames": 27}, "p.bin")
    with pytest.raises(InputError, match=r"--keypoints: 6 channels, but p.bin .* with 2"):
        check_flags(CONFIG, {"in_chans": 6}, "p.bin")


# Finding the file


def test_find_checkpoint_by_path_then_folder_then_repository(tmp_path, monkeypatch):
    run, repository = tmp_path / "run", tmp_path / "repository"
    monkeypatch.setattr(common.checkpoint, "CHECKPOINT_DIR", repository)
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / "a.bin", run / "a.bin", repository / "a.bin"]
    with pytest.raises(InputError) as error:
        find_checkpoint("a.bin", run)
    assert str(error.value) == (
        f"a.bin: no such checkpoint; looked for a.bin, {run / 'a.bin'}, {repository / 'a.bin'}"
    )
    for place in reversed(places):
        place.parent.mkdir(exist_ok=True)
        place.touch()
        assert find_checkpoint("a.bin", run).resolve() == place
    assert find_checkpoint(str(run / "a.bin"), tmp_path / "other") == run / "a.bin"
    with pytest.raises(InputError, match=r"looked for /no/such.bin$"):
        find_checkpoint("/no/such.bin", run)


@pytest.mark.parametrize("kind", ["a wide embedding", "many blocks"])
def test_a_small_file_that_describes_a_huge_network_is_refused_at_once(tmp_path, kind):
    """Without a configuration, shapes and names of weights alone describe the network."""
    weights = make_model().state_dict()
    if kind == "a wide embedding":
        weights["Joint_embedding.weight"] = torch.zeros(1024, 2)
    else:
        weights |= {f"Spatial_blocks.{i}.norm1.weight": torch.zeros(1) for i in range(900)}
    path = write(tmp_path / "p.bin", {"model_pos": weights})
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, limits[1]))
    try:
        with pytest.raises(InputError, match=r"describes a network of .* weights"):
            infer_config(load_checkpoint(path), path, number_of_frames=9)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def changed(**changes):
    return lambda checkpoint: checkpoint.update(changes)


def in_progress(**changes):
    return lambda checkpoint: checkpoint["progress"].update(changes)


def in_optimizer(name, value):
    return lambda checkpoint: checkpoint["optimizer"]["state"][0].update({name: value})


SPOILED = {
    "epoch -1": changed(epoch=-1),
    "epoch inf": changed(epoch=math.inf),
    "epoch text": changed(epoch="3"),
    "min_loss NaN": changed(min_loss=math.nan),
    "no min_loss": lambda checkpoint: checkpoint.pop("min_loss"),
    "progress a list": changed(progress=[1]),
    "step -1": in_progress(step=-1),
    "step a tensor": in_progress(step=torch.ones(3)),
    "step huge": in_progress(step=10**20),
    "loss NaN": in_progress(loss_sum=math.nan),
    "random state short": in_progress(random_state=[torch.zeros(3, dtype=torch.uint8)]),
    "random state of ones": in_progress(random_state=[torch.ones(5056, dtype=torch.uint8)]),
    "random state text": in_progress(random_state="x"),
    "is_best 1": in_progress(is_best=1),
    "log a text": changed(log="x"),
    "log of texts": changed(log=["x"]),
    "log's epoch inf": changed(log=[{"epoch": math.inf}]),
    "moment a text": in_optimizer("exp_avg", "x"),
    "moment of integers": in_optimizer("exp_avg", torch.ones(8, 2, dtype=torch.int64)),
    "moment NaN": in_optimizer("exp_avg", torch.full((8, 2), math.nan)),
    "moment negative": in_optimizer("exp_avg_sq", torch.full((8, 2), -1.0)),
    "moment of another shape": in_optimizer("exp_avg", torch.zeros(3)),
    "step count negative": in_optimizer("step", torch.tensor(-1.0)),
    "moments a list": lambda checkpoint: checkpoint["optimizer"]["state"].update({0: [1]}),
    "optimizer a list": changed(optimizer=[1]),
    "groups a dict": lambda checkpoint: checkpoint["optimizer"].update(param_groups={}),
    "group without parameters": lambda checkpoint: checkpoint["optimizer"].update(
        param_groups=[{}]
    ),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_a_resume_takes_from_a_checkpoint_is_checked(tmp_path, spoil):
    model = make_model()
    optimizer = build_optimizer(model, 1e-4)
    checkpoint = contents(model, optimizer, TrainingState(epoch=3), {}, np.zeros((17, 3)))
    checkpoint["progress"]["random_state"] = [torch.get_rng_state()]
    copied = functools.partial(copy.deepcopy, checkpoint)
    restore(model, optimizer, TrainingState(), copied(), tmp_path)
    spoiled = copied()
    spoil(spoiled)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        restore(model, optimizer, TrainingState(), spoiled, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch_size", n) for n in (0, -1, 2**40, 1.5, True, "16", None)),
        *(("lr_decay", x) for x in (-0.99, 0, math.nan, math.inf)),
        *(("dropout", 5), ("learning_rate", math.nan), ("seed", -1), ("std", -1.0)),
        *(("precision", "fp8"), ("keypoints", "a++b"), ("subjects_train", "S99")),
        *(("no_data_augmentation", 1), ("subset", 2.0), ("stride", 0), ("actions", "")),
    ],
)
def test_a_stored_recipe_passes_the_checks_of_the_flags(tmp_path, name, value):
    good = dataclasses.asdict(Recipe())
    assert stored_recipe({"recipe": good}, tmp_path) == good
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}: its {name} is"):
        stored_recipe({"recipe": good | {name: value}}, tmp_path)
