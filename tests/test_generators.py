import numpy as np
import pytest
import torch

from common.generators import WindowGenerator, flip_keypoints, flip_poses
from common.skeleton import JOINT_NAMES

MIRRORED = [  # of the field's joint order, written out by name
    JOINT_NAMES.index({"R": "L", "L": "R"}.get(name[0], name[0]) + name[1:]) for name in JOINT_NAMES
]


def sequences(lengths, channels=2, seed=0):
    random = np.random.RandomState(seed)
    keypoints = [random.uniform(-1, 1, (n, 17, channels)).astype(np.float32) for n in lengths]
    poses = [random.uniform(-1, 1, (n, 17, 3)).astype(np.float32) for n in lengths]
    return keypoints, poses


def brute_force(keypoints, poses, frames, stride=1):
    """Every window by a loop, as (window, target) pairs in order."""
    for sequence, targets in zip(keypoints, poses):
        padded = np.pad(sequence, ((frames // 2, frames // 2), (0, 0), (0, 0)), mode="edge")
        for t in range(0, len(sequence), stride):
            yield padded[t : t + frames], targets[t]


def mirror(points, x_channels):
    flipped = points[..., MIRRORED, :].copy()
    flipped[..., x_channels] *= -1
    return flipped


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("channels", [2, 6])
def test_windows_and_their_mirror_images_are_those_of_a_loop(stride, channels):
    keypoints, poses = sequences([5, 1, 12, 30], channels)
    generator = WindowGenerator(keypoints, poses, 9, device="cpu", augment=True, stride=stride)
    expected = list(brute_force(keypoints, poses, 9, stride))
    windows, targets = (np.stack(part) for part in zip(*expected))
    windows = np.concatenate([windows, mirror(windows, list(range(0, channels, 2)))])
    targets = np.concatenate([targets, mirror(targets, [0])])
    assert len(generator) == len(windows)

    shuffled = torch.randperm(len(generator), generator=torch.manual_seed(0))
    inputs, outputs = generator.gather(shuffled)
    np.testing.assert_array_equal(inputs, windows[shuffled])
    np.testing.assert_array_equal(outputs, targets[shuffled])


def test_without_poses_and_augmentation():
    keypoints, poses = sequences([7])
    generator = WindowGenerator(keypoints, None, 3, device="cpu")
    inputs, targets = generator.gather(torch.arange(7))
    assert len(generator) == 7 and targets is None
    expected = [window for window, _ in brute_force(keypoints, poses, 3)]
    np.testing.assert_array_equal(inputs, np.stack(expected))


def test_frame_numbers_are_the_central_frames():
    keypoints, _ = sequences([4, 6])
    generator = WindowGenerator(keypoints, None, 9, device="cpu")
    numbers = generator.frame_numbers(torch.tensor([0, 3, 4, 9]), 3)
    assert numbers.tolist() == [[0, 0, 1], [2, 3, 3], [4, 4, 5], [8, 9, 9]]
    np.testing.assert_array_equal(
        generator.frames(numbers), np.concatenate(keypoints)[numbers.numpy()]
    )


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


def test_flips_are_their_own_inverse_and_leave_their_argument():
    keypoints, poses = (torch.from_numpy(part[0]) for part in sequences([5], channels=6))
    before = keypoints.clone(), poses.clone()
    assert torch.equal(flip_keypoints(flip_keypoints(keypoints)), keypoints)
    assert torch.equal(flip_poses(flip_poses(poses)), poses)
    assert torch.equal(keypoints, before[0]) and torch.equal(poses, before[1])


def test_memory_is_that_of_the_sequences():
    keypoints, poses = sequences([1000])
    generator = WindowGenerator(keypoints, poses, 243, device="cpu", augment=True)
    tensors = [value for value in vars(generator).values() if isinstance(value, torch.Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) == 1000 * ((34 + 51) * 4 + 32)


@pytest.mark.parametrize(
    ("keypoints", "poses", "says"),
    [
        ([], None, "there is no frame"),
        ([np.zeros((0, 17, 2))], None, "there is no frame"),
        ([np.zeros((3, 17, 2))], [np.zeros((2, 17, 3))], "differ in their numbers of frames"),
        ([np.zeros((3, 17, 2))], [], "differ in their numbers of frames"),
        ([np.zeros((3, 17, 2)), np.zeros((3, 17, 4))], None, "differ in their joints or channels"),
    ],
)
def test_refuses_sequences_that_do_not_fit(keypoints, poses, says):
    with pytest.raises(ValueError, match=says):
        WindowGenerator(keypoints, poses, 3, device="cpu")
