import numpy as np
import pytest
import torch
from test_skeleton import MIRRORED

from common.generators import WindowGenerator


def sequences(lengths, channels=2):
    random = np.random.RandomState(0)
    keypoints = [random.uniform(-1, 1, (n, 17, channels)).astype(np.float32) for n in lengths]
    poses = [random.uniform(-1, 1, (n, 17, 3)).astype(np.float32) for n in lengths]
    return keypoints, poses


def brute_force(keypoints, poses, frames, stride):
    """Every window by a loop, as (window, target) pairs in order."""
    for sequence, targets in zip(keypoints, poses):
        padded = np.pad(sequence, ((frames // 2, frames // 2), (0, 0), (0, 0)), mode="edge")
        for t in range(0, len(sequence), stride):
            yield padded[t : t + frames], targets[t]


def mirror(points, x_channels):
    flipped = points[..., MIRRORED, :].copy()
    flipped[..., x_channels] *= -1
    return flipped


@pytest.mark.parametrize(("stride", "channels"), [(1, 2), (3, 2), (1, 6)])
def test_windows_and_their_mirror_images_are_those_of_a_loop(stride, channels):
    keypoints, poses = sequences([5, 1, 12, 30], channels)
    generator = WindowGenerator(keypoints, poses, 9, device="cpu", augment=True, stride=stride)
    windows, targets = map(np.stack, zip(*brute_force(keypoints, poses, 9, stride)))
    windows = np.concatenate([windows, mirror(windows, list(range(0, channels, 2)))])
    targets = np.concatenate([targets, mirror(targets, [0])])
    assert len(generator) == len(windows)

    shuffled = torch.randperm(len(generator), generator=torch.manual_seed(0))
    inputs, outputs = generator.gather(shuffled)
    np.testing.assert_array_equal(inputs, windows[shuffled])
    np.testing.assert_array_equal(outputs, targets[shuffled])


def test_order_is_a_permutation_of_seed_and_epoch_alone():
    keypoints, poses = sequences([50])
    generator = WindowGenerator(keypoints, poses, 3, device="cpu", augment=True)
    again = WindowGenerator(keypoints, poses, 9, device="cpu", augment=True)
    order = generator.start_epoch(1, 2)
    torch.rand(3)
    assert torch.equal(order, again.start_epoch(1, 2))
    assert torch.equal(order.sort().values, torch.arange(100))
    assert not torch.equal(order, generator.start_epoch(1, 3))
    assert not torch.equal(order, generator.start_epoch(2, 2))


def test_sequences_that_do_not_fit_are_refused():
    for keypoints, says in (([], "no frame"), ([np.zeros((3, 17, 2))], "differ in their numbers")):
        with pytest.raises(ValueError, match=says):
            WindowGenerator(keypoints, [np.zeros((2, 17, 3))], 3, device="cpu")
