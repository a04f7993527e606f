"""What a training and an evaluation see: the data set that the flags choose, cut into windows."""

import argparse
from dataclasses import replace

import numpy as np
import torch

from common.augmentation import AugmentedWindows
from common.data_check import check_data
from common.files.console import InputError, split_names
from common.generators import WindowGenerator, with_noise
from common.h36m_dataset import (
    Sequence2d3d,
    downsample,
    estimator_names,
    keypoints_path,
    load_sequences,
    parse_subjects,
    pixels_to_normalized,
    positions_3d_path,
    subset,
)
from common.lifters import LifterConfig
from common.synthetic.filming import VALIDATION_SEED, FilmedWindows, filmed_sequences
from common.training.processes import World
from common.training.recipe import Recipe


def training_windows(
    train_set: list[Sequence2d3d], config: LifterConfig, recipe: Recipe, world: World
) -> WindowGenerator:
    """Put the training sequences on the device, cut into windows.

    Raises:
        InputError: if every sequence is shorter than a clip.
    """
    longest = max(len(sequence.keypoints) for sequence in train_set)
    if config.gives_all_frames and longest < config.number_of_frames:
        raise InputError(
            f"a clip of {config.number_of_frames} frames is longer than every sequence; choose "
            f"-frame {longest - 1 + longest % 2} or less"
        )
    options = {
        "device": world.device,
        "augment": not recipe.no_data_augmentation,
        "stride": recipe.stride,
        "all_frames": config.gives_all_frames,
    }
    if recipe.people:
        return FilmedWindows(recipe.people, config.number_of_frames, **options)
    if recipe.makes_scenes:
        return AugmentedWindows(
            train_set,
            config.number_of_frames,
            turn_degrees=recipe.turn,
            resize=recipe.resize,
            exchange_limbs=recipe.exchange_limbs,
            exchange_epochs=recipe.exchange_until * recipe.epochs,
            **options,
        )
    keypoints, poses = [s.keypoints for s in train_set], [s.poses for s in train_set]
    options["confidences"] = config.confidence_chans
    return WindowGenerator(keypoints, poses, config.number_of_frames, **options)


def load_training_data(
    arguments: argparse.Namespace, recipe: Recipe, world: World
) -> tuple[list[Sequence2d3d], list[Sequence2d3d]]:
    """Return the training and, unless --no-eval, the validation sequences."""
    if recipe.people:  # some to begin with, as `FilmedWindows` makes its own, and others
        test_set = [] if arguments.no_eval else filmed_sequences(VALIDATION_SEED)
        return filmed_sequences(recipe.seed), test_set
    train_subjects = parse_subjects(recipe.subjects_train)
    test_subjects = () if arguments.no_eval else parse_subjects(recipe.subjects_test)
    subjects = list(dict.fromkeys(train_subjects + test_subjects))
    sequences = load_data(arguments, recipe, subjects, world)
    train_set = [s for s in sequences if s.subject in train_subjects]
    test_set = [s for s in sequences if s.subject in test_subjects]
    return subset(train_set, recipe.subset, recipe.seed), noisy(test_set, recipe)


def load_data(
    arguments: argparse.Namespace, recipe: Recipe, subjects: list[str], world: World
) -> list[Sequence2d3d]:
    """Return the sequences of these subjects, as the data flags choose them, checked."""
    data_dir, dataset = arguments.data_dir, arguments.dataset
    names = estimator_names(recipe.keypoints)
    sequences = load_sequences(
        positions_3d_path(data_dir, dataset),
        [keypoints_path(data_dir, dataset, n) for n in names],
        subjects,
        None if recipe.actions == "*" else split_names(recipe.actions),
    )
    check_data(sequences, names, arguments.trust_data, quiet=not world.is_main)
    return downsample(sequences, recipe.downsample)


def noisy(sequences: list[Sequence2d3d], recipe: Recipe) -> list[Sequence2d3d]:
    """Return test sequences with the recipe's Gaussian noise, the same for each epoch."""
    if recipe.std == 0:
        return sequences
    random = torch.Generator().manual_seed(recipe.seed)

    def keypoints(s: Sequence2d3d) -> np.ndarray:
        std = recipe.std * pixels_to_normalized(s.subject, s.camera)
        return with_noise(torch.from_numpy(s.keypoints), std, random, s.confidences).numpy()

    return [replace(s, keypoints=keypoints(s)) for s in sequences]
