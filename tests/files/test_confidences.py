"""Confidence as a third input channel: read, scaled, mirrored, spared by noise, remembered."""

import numpy as np
import pytest
import torch
from raw_trees import assert_one_line_error
from small_training import EXTENDABLE, data_dir, evaluate, log_figures, train  # noqa: F401

from common.files.confidences import scale_logits
from common.files.console import InputError
from common.files.npz import read_positions_2d, write_positions_2d
from common.footage.lifting import load_lifter
from common.generators import WindowGenerator, flip_keypoints, with_noise
from common.h36m_dataset import load_sequences
from common.skeleton import LEFT_JOINTS, RIGHT_JOINTS
from common.training.checkpoint import Checkpoint


@pytest.fixture
def confident(data_dir):
    """The small data set's files with confidences; pct's are logits, some of them negative."""
    random = np.random.default_rng(5)

    def told(view, low, high):
        confidence = random.uniform(low, high, (*view.shape[:2], 1)).astype(np.float32)
        return np.concatenate([view, confidence], axis=-1)

    for name, limits in (("vitpose", (0.0, 1.0)), ("pct", (-2.0, 9.0))):
        positions = read_positions_2d(data_dir / f"data_2d_h36m_{name}.npz")
        for actions in positions.values():
            for views in actions.values():
                views[:] = [told(view, *limits) for view in views]
        write_positions_2d(data_dir / f"data_2d_h36m_{name}_w_conf.npz", positions)
    return data_dir


def sequences(folder, *names):
    paths = [folder / f"data_2d_h36m_{name}.npz" for name in names]
    return load_sequences(folder / "data_3d_h36m.npz", paths, ["S1"])


def test_coordinates_come_first_and_logits_are_scaled_as_in_the_merge(confident):
    other = confident / "data_2d_h36m_other.npz"  # has confidences, which its name does not say
    other.write_bytes((confident / "data_2d_h36m_vitpose_w_conf.npz").read_bytes())
    found = sequences(confident, "vitpose_w_conf", "other", "pct_w_conf")[1]
    other.unlink()
    plain = sequences(confident, "vitpose", "vitpose", "pct")[1]
    assert found.keypoints.shape[1:] == (17, 8)
    assert found.keypoints.dtype == np.float32
    np.testing.assert_array_equal(found.keypoints[..., :6], plain.keypoints)
    vitpose, pct = (
        read_positions_2d(confident / f"data_2d_h36m_{n}_w_conf.npz")["S1"][found.action][1][..., 2]
        for n in ("vitpose", "pct")
    )
    np.testing.assert_array_equal(found.keypoints[..., 6], vitpose)
    np.testing.assert_array_equal(found.keypoints[..., 7], scale_logits(pct))
    assert found.keypoints[..., 6:].min() == 0
    assert found.keypoints[..., 6:].max() == 1


def test_mirroring_and_noise_leave_confidence_alone():
    keypoints = torch.randn(3, 17, 6)
    flipped = flip_keypoints(keypoints, confidences=2)
    left, right = list(LEFT_JOINTS), list(RIGHT_JOINTS)
    assert torch.equal(flipped[:, left, 4:], keypoints[:, right, 4:])
    assert torch.equal(flipped[:, right][..., [0, 2]], -keypoints[:, left][..., [0, 2]])
    assert torch.equal(flipped[:, right][..., [1, 3]], keypoints[:, left][..., [1, 3]])
    assert torch.equal(flip_keypoints(flipped, confidences=2), keypoints)
    how = {"device": "cpu", "augment": True, "confidences": 2}
    batch, _ = WindowGenerator([keypoints.numpy()], None, 1, **how).gather(torch.arange(6))
    assert torch.equal(batch[3:, 0], flipped)
    changed = (with_noise(keypoints, 0.1, confidences=2) != keypoints).flatten(0, 1).any(dim=0)
    assert changed.tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("keypoints", "channels", "confidences"),
    [("vitpose_w_conf", 3, 1), ("vitpose_w_conf+pct_w_conf", 6, 2)],
)
def test_a_checkpoint_remembers_its_confidences(
    train, evaluate, confident, keypoints, channels, confidences
):
    _, folder = train("-e", "1", "--keypoints", keypoints, "-std", "1", *EXTENDABLE)
    config = Checkpoint.load(folder / "last_epoch.bin").config
    assert (config.in_chans, config.confidence_chans) == (channels, confidences)
    result, _ = train("-e", "2", "--resume", "last_epoch.bin")
    assert result.status == 0, result.stderr
    _, found = evaluate(folder / "last_epoch.bin", "-std", "1")
    valid = log_figures(folder)[-1]["valid_mpjpe_mm"]
    assert found["keypoints"] == keypoints
    assert found["average_over_actions"]["mpjpe_mm"] == pytest.approx(valid, rel=1e-5)
    result, _ = evaluate(folder / "last_epoch.bin", "--keypoints", "vitpose_w_conf+pct")
    assert_one_line_error(result, "last_epoch.bin", "was trained with")
    with pytest.raises(InputError, match="trained with"):  # own footage has coordinates alone
        load_lifter(folder / "last_epoch.bin")


def test_missing_confidences_are_named(train, confident):
    path = confident / "data_2d_h36m_vitpose_w_conf.npz"
    path.write_bytes((confident / "data_2d_h36m_vitpose.npz").read_bytes())
    result, folder = train("-e", "1", "--keypoints", "vitpose_w_conf")
    assert_one_line_error(result, f"{path}: holds no confidences", "--detector vitpose --keep-conf")
    assert not folder.exists()
