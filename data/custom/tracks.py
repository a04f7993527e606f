"""Following people from frame to frame, and sequences without gaps from what was found of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.console import progress
from data.custom.people import NO_IDENTITY, People

# A person who is not found in so many frames in succession is a new one afterwards.
MAX_LOST_FRAMES = 60
# How far ahead a person's last velocity is trusted, in frames.
_PREDICTED_FRAMES = 5
_MIN_OVERLAP, _MAX_DISTANCE = 0.1, 0.5


class Track(NamedTuple):
    """One person through the video."""

    person: int  # the file's identity, or else a number, 1 for the main person
    frames: np.ndarray  # (found,), increasing
    keypoints: np.ndarray  # (found, points, 2 or 3), NaN for a point that was not found
    room_px: float  # sum over the frames of the box's mean side: main persons take most room


class Piece(NamedTuple):
    """A part of a track without gaps."""

    first_frame: int  # its number in the video
    keypoints: np.ndarray  # (frames, points, 2 or 3); the confidence of what was filled is 0
    filled_frames: int  # in which the person was not found
    longest_gap: int  # such frames in succession, at most
    filled_points: int  # that were not found in the other frames
    never_found: list[int]  # indices of points that were found in no frame


def follow(people: People) -> tuple[list[Track], int]:
    """Tell who is who: by the file's identities if every person has one, else by overlap.

    Returns:
        The tracks, the one that takes most room in most frames first; how many detections were
        left out because their person was in the same frame twice (the lower score is).
    """
    identities = people.identities
    in_file = (identities != NO_IDENTITY).all()
    if not in_file:
        identities = follow_by_overlap(people.frames, people.boxes, people.keypoints[..., :2])
    tracks, twice = [], 0
    for person in np.unique(identities).tolist():
        rows = np.flatnonzero(identities == person)
        # The last of each frame has the highest score.
        rows = rows[np.lexsort((people.scores[rows], people.frames[rows]))]
        is_last = np.diff(people.frames[rows], append=-1) != 0
        twice += int((~is_last).sum())
        rows = rows[is_last]
        sides = (people.boxes[rows, 2:] - people.boxes[rows, :2]).mean(axis=1)
        found = people.frames[rows], people.keypoints[rows]
        tracks.append(Track(person, *found, room_px=float(sides.sum())))
    tracks.sort(key=lambda track: -track.room_px)
    if not in_file:
        tracks = [track._replace(person=number) for number, track in enumerate(tracks, start=1)]
    return tracks, twice


def follow_by_overlap(frames: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Number people from 1 by the overlap of their boxes and by where their points are expected.

    Each person is expected where the last velocity leads. Pairs of an expected and a found person
    are formed in the order of their likeness: the overlap of the boxes (intersection over union)
    less the mean distance of the points, in units of the box.

    Takes `frames`, `boxes` and the `keypoints` of `People` without confidence; returns (people,),
    the same number for the same person.
    """
    numbers = np.zeros(len(frames), dtype=np.int64)
    last: dict[int, int] = {}  # {person: row in which it was found last}
    velocity: dict[int, np.ndarray] = {}  # {person: (2,), pixels a frame}
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    starts = np.flatnonzero(np.diff(frames, prepend=-1))
    for rows in progress(np.split(np.arange(len(frames)), starts[1:]), desc="following people"):
        frame = frames[rows[0]]
        last = {p: row for p, row in last.items() if frame - frames[row] <= MAX_LOST_FRAMES}
        for person, row in _pairs(last, velocity, rows, frames, boxes, points):
            step = (centers[row] - centers[last[person]]) / (frame - frames[last[person]])
            velocity[person] = (velocity[person] + step) / 2
            numbers[row], last[person] = person, row
        for row in rows[numbers[rows] == 0]:
            person = int(numbers.max()) + 1
            numbers[row], last[person], velocity[person] = person, row, np.zeros(2)
    return numbers


def _pairs(
    last: dict[int, int],
    velocity: dict[int, np.ndarray],
    rows: np.ndarray,
    frames: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
) -> list[tuple[int, int]]:
    """Pair people who were found before with the rows of a frame, the most alike first."""
    candidates = []
    for person, before in last.items():
        ahead = min(frames[rows[0]] - frames[before], _PREDICTED_FRAMES)
        shift = velocity[person] * ahead
        overlaps = _overlaps(boxes[before] + np.tile(shift, 2), boxes[rows])
        distances = np.linalg.norm(points[rows] - (points[before] + shift), axis=-1)
        found = np.isfinite(distances)
        distances = np.where(found, distances, 0).sum(axis=1) / np.maximum(found.sum(axis=1), 1)
        distances /= max(float((boxes[before, 2:] - boxes[before, :2]).mean()), 1e-9)
        for row, overlap, distance in zip(rows.tolist(), overlaps, distances):
            if overlap > _MIN_OVERLAP or distance < _MAX_DISTANCE:
                candidates.append((overlap - distance, person, row))
    pairs = {}
    for _, person, row in sorted(candidates, reverse=True):
        if person not in pairs and row not in pairs.values():
            pairs[person] = row
    return list(pairs.items())


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of a box (4,) with others (n, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return common / np.maximum(areas - common, 1e-9)


def pieces_of(track: Track, parents: Sequence[int], max_gap: int, fill_all: bool) -> list[Piece]:
    """Cut a track where the person is missing for more than `max_gap` frames; fill shorter gaps.

    What is missing is interpolated linearly in time; before the first and after the last position,
    these are held. A point that is never found is put on the next one towards the root.

    `parents` are those of each point in the tree of its layout, -1 for the root; with `fill_all`
    every gap is filled, however long.
    """
    gaps = np.diff(track.frames) - 1
    cuts = [] if fill_all else np.flatnonzero(gaps > max_gap) + 1
    parts = zip(np.split(track.frames, cuts), np.split(track.keypoints, cuts))
    return [_fill(frames, found, parents) for frames, found in parts]


def _fill(frames: np.ndarray, found: np.ndarray, parents: Sequence[int]) -> Piece:
    every = np.arange(frames[0], frames[-1] + 1)
    keypoints = np.zeros((len(every), *found.shape[1:]))
    is_found = np.isfinite(found[..., 0])
    never = np.flatnonzero(~is_found.any(axis=0)).tolist()
    for point in range(found.shape[1]):
        rows = is_found[:, point]
        if rows.any():
            for axis in range(2):
                keypoints[:, point, axis] = np.interp(every, frames[rows], found[rows, point, axis])
            keypoints[frames[rows] - frames[0], point, 2:] = found[rows, point, 2:]
    for point in never:
        stand_in = point
        while stand_in in never:
            stand_in = parents[stand_in]
        others = [stand_in] if stand_in >= 0 else np.flatnonzero(is_found.any(axis=0))
        keypoints[:, point, :2] = keypoints[:, others, :2].mean(axis=1)
    return Piece(
        first_frame=int(frames[0]),
        keypoints=keypoints,
        filled_frames=len(every) - len(frames),
        longest_gap=int(np.diff(frames).max(initial=1)) - 1,
        filled_points=int((~is_found).sum()),
        never_found=never,
    )
