"""The same people in several estimators' files of one recording."""

from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.files.console import InputError
from common.fusion.mixtures import person_sizes
from common.h36m_dataset import FPS

# Mean distance of the joints in mean bones, about 25 cm each; beyond it, it is another one.
_OTHER_PERSON = 0.8


class _Person(NamedTuple):
    name: str  # the estimator's number of the person
    about: dict[str, Any]  # metadata of the first sequence
    numbers: np.ndarray  # (found,), of the frames
    keypoints: np.ndarray  # (found, 17, 2 or 3), pixels


class SameSequence(NamedTuple):
    """Frames of one person, one after the other, that all files have."""

    name: str
    about: dict[str, Any]  # metadata for `write_custom_2d`
    estimates: list[np.ndarray]  # the files' arrays (frames, 17, 2 or 3)


def same_people(
    files: dict[Path, tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]], name: str
) -> list[SameSequence]:
    """Find the people whom all files have, in the frames that all have.

    Estimators number people as they like, so the place tells: of two files those belong together
    who are each other's nearest in the frames that both have. A file may hold a person as several,
    one after the other; in frames that several of them have, the first counts.

    `files` are {path: what `read_custom_2d` gives}, the sequences' names begin with `name`. Raises
    InputError if pictures or frame rates differ, or nobody is in all files.
    """
    recordings = {
        f"{about['w']}x{about['h']} at {about.get('fps', FPS):g} a second": path
        for path, (_, metadata) in files.items()
        for about in metadata.values()
    }
    advice = "give keypoints of the same recording"
    if len(recordings) > 1:
        told = ", ".join(f"{told} in {path}" for told, path in recordings.items())
        raise InputError(f"pictures differ: {told}; {advice}")
    everybody = [_people(*file) for file in files.values()]
    same = [[[person]] for person in everybody[0]]
    for people in everybody[1:]:
        distances = np.array([[_distance(a, b) for b in people] for a in everybody[0]])
        rivals, others = map(_at_one_time, (everybody[0], people))
        for a, found in enumerate(same):
            nearest = [
                person
                for b, person in enumerate(people)
                if distances[a, b] < _OTHER_PERSON
                and distances[a, b] == distances[rivals[a], b].min()
                and distances[a, b] == distances[a, others[b]].min()
            ]
            found += [nearest] if nearest else []
    same = [found for found in same if len(found) == len(files)]
    for path, people, found in zip(files, everybody, zip(*same)):
        if left_out := len(people) - len({person.name for parts in found for person in parts}):
            print(f"{path}: left out {left_out} people whom not all files have")
    same = [[_joined(parts) for parts in found] for found in same]
    sequences = []
    for people in same:
        numbers = reduce(np.intersect1d, (person.numbers for person in people))
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
        person = f"{name}_person{people[0].name}" if len(same) > 1 else name
        for part, run in enumerate(runs if len(numbers) else [], start=1):
            about = {k: v for k, v in people[0].about.items() if k != "source"}
            sequences.append(
                SameSequence(
                    f"{person}_part{part}" if len(runs) > 1 else person,
                    about | {"first_frame": int(run[0])},
                    [p.keypoints[np.isin(p.numbers, run)] for p in people],
                )
            )
    if not sequences:
        listed = ", ".join(map(str, files))
        raise InputError(f"{listed}: nobody is in the same place in the same frames; {advice}")
    return sequences


def _people(positions: dict[str, np.ndarray], metadata: dict[str, dict[str, Any]]) -> list[_Person]:
    """Return the people of a file; of one without numbers of people, each sequence is one."""
    parts: dict[str, list[_Person]] = {}
    for name, keypoints in positions.items():
        about = metadata[name]
        numbers = about.get("first_frame", 0) + np.arange(len(keypoints))
        part = _Person(str(about.get("person", name)), about, numbers, keypoints)
        parts.setdefault(part.name, []).append(part)
    return list(map(_joined, parts.values()))


def _joined(parts: list[_Person]) -> _Person:
    """Return one person of several; of a frame that more than one has, the first one's."""
    keypoints = np.concatenate([part.keypoints for part in parts])
    numbers, first = np.unique(np.concatenate([p.numbers for p in parts]), return_index=True)
    return parts[0]._replace(numbers=numbers, keypoints=keypoints[first])


def _at_one_time(people: list[_Person]) -> np.ndarray:
    """Return which people of a file are in a frame together, or the same, (people, people) bool."""
    return np.array([[np.isin(a.numbers, b.numbers).any() for b in people] for a in people])


def _distance(a: _Person, b: _Person) -> float:
    """Return how far two people are from each other, in units of the mean bone."""
    _, in_a, in_b = np.intersect1d(a.numbers, b.numbers, return_indices=True)
    if not len(in_a):
        return np.inf
    one, other = a.keypoints[in_a, :, :2], b.keypoints[in_b, :, :2]
    distances = np.linalg.norm(one - other, axis=-1).mean(axis=1)
    return float(np.median(distances) / person_sizes(one[None], np.array([len(one)]))[0, 0, 0])
