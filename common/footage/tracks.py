"""Following people from frame to frame, and sequences without gaps from what was found of them."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.files.console import progress
from common.footage.missing import interpolated
from common.footage.people import NO_IDENTITY, People, best_of_each_frame

# A person who is not found in so many frames in succession is a new one afterwards.
MAX_LOST_FRAMES = 60
# How far ahead a person's last velocity is trusted, in frames.
_PREDICTED_FRAMES = 5
_MIN_OVERLAP, _MAX_DISTANCE = 0.1, 0.5
# Nobody moves so far, in units of the box, from where the motion of the last frames leads; of who
# was seen only once, no motion is known.
_MAX_JUMP, _MAX_FIRST_JUMP, _FRESH_FRAMES = 0.3, 0.6, 3
# Identities are not believed if so many people, in relation to the frames, are twice in one.
_MAX_TWICE = 0.1


class Track(NamedTuple):
    """One person through the video."""

    person: int  # the file's identity, or else a number, 1 for the main person
    frames: np.ndarray  # (found,), increasing
    keypoints: np.ndarray  # (found, points, 2 or 3), NaN for a point that was not found
    room_px: float  # sum over the frames of the box's mean side: main persons take most room


class Piece(NamedTuple):
    """A person's keypoints in every frame of a part of the video."""

    first_frame: int  # its number in the video
    keypoints: np.ndarray  # (frames, points, 2 or 3)
    filled_frames: int  # in which the person was not found
    longest_gap: int  # such frames in succession, at most
    filled_points: int = 0  # that were not found in the other frames
    never_found: Sequence[int] = ()  # indices of points that were found in no frame


def follow(people: People) -> tuple[list[Track], list[str]]:
    """Tell who is who: by the file's identities, if all have credible ones, else by overlap.

    Returns the tracks, who takes most room in most frames first, and what to warn of.
    """
    identities, notes = people.identities, []
    in_file = (identities != NO_IDENTITY).all()
    if in_file and (told := _contradictions(people)):
        notes.append(f"the file's identities contradict themselves ({told}); not used")
        in_file = False
    if not in_file:
        identities = follow_by_overlap(people)
    sides = (people.boxes[:, 2:] - people.boxes[:, :2]).mean(axis=1)
    tracks = []
    for person in np.unique(identities).tolist():
        rows = np.flatnonzero(identities == person)
        rows = rows[best_of_each_frame(people.frames[rows], people.scores[rows])]
        room_px = float(sides[rows].sum())
        tracks.append(Track(person, people.frames[rows], people.keypoints[rows], room_px))
    tracks.sort(key=lambda track: -track.room_px)
    if not in_file:
        tracks = [track._replace(person=number) for number, track in enumerate(tracks, start=1)]
    twice = len(people.frames) - sum(len(track.frames) for track in tracks)
    if twice:
        notes.append(f"{twice} people are twice in a frame; took the higher score")
    jumps = _jumps_between_people(people.frames, identities)
    if len(jumps):
        told = f"{len(jumps)} times, at first in frame {jumps[0]}; each is a sequence of its own"
        notes.append(f"the estimator jumps from one person to another {told}")
    return tracks, notes


def _contradictions(people: People) -> str:
    """Return how the file's identities contradict themselves, or nothing."""
    in_frame = np.stack([people.frames, people.identities])
    twice = in_frame.shape[1] - np.unique(in_frame, axis=1).shape[1]
    if twice > _MAX_TWICE * people.num_frames:
        return f"{twice} people are twice in a frame"
    leaps = 0
    for identity in np.unique(people.identities):
        rows = np.flatnonzero(people.identities == identity)
        rows = rows[best_of_each_frame(people.frames[rows], people.scores[rows])]
        passed, points = np.diff(people.frames[rows]), people.keypoints[rows, :, :2]
        steps = _shift(points[:-1], points[1:])
        change = np.diff(steps, axis=0, prepend=steps[:1])
        nearest = np.linalg.norm([steps, change], axis=-1).min(axis=0)
        side = (people.boxes[rows, 2:] - people.boxes[rows, :2]).mean(axis=1)[1:]
        is_leap = (nearest > _MAX_JUMP * side) & (passed <= _FRESH_FRAMES)
        leaps += int(is_leap.sum())
    return f"{leaps} jumps from one place to another" if leaps else ""


def _jumps_between_people(frames: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Return the frames in which the only person found is another than just before."""
    alone = np.flatnonzero(np.bincount(frames)[frames] == 1)
    is_next = np.diff(frames[alone]) <= _FRESH_FRAMES
    return frames[alone][1:][is_next & (np.diff(identities[alone]) != 0)]


def _shift(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return how most of the points (..., points, 2) moved, (..., 2); 0 where none is in both.

    The median is not moved by points that exchange their places.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of no points in common
        return np.nan_to_num(np.nanmedian(found - points, axis=-2))


def follow_by_overlap(people: People) -> np.ndarray:
    """Number people from 1 by the overlap of their boxes and by where their points are expected.

    Each person is expected where the last velocity leads. Pairs of an expected and a found person
    are formed in the order of their likeness: the overlap of the boxes (intersection over union)
    less the median distance of the points, in units of the box. Returns (people,).
    """
    frames, boxes, points = people.frames, people.boxes, people.keypoints[..., :2]
    numbers = np.zeros(len(frames), dtype=np.int64)
    last = np.empty(0, dtype=np.int64)  # the row in which each known person was found last
    velocity = np.empty((0, 2))  # of each known person, pixels a frame
    starts = np.flatnonzero(np.diff(frames, prepend=-1))
    for rows in progress(np.split(np.arange(len(frames)), starts[1:]), desc="following people"):
        is_known = frames[rows[0]] - frames[last] <= MAX_LOST_FRAMES
        last, velocity = last[is_known], velocity[is_known]
        passed = frames[rows[0]] - frames[last]
        shift = velocity * np.minimum(passed, _PREDICTED_FRAMES)[:, None]
        expected = boxes[last] + np.tile(shift, 2), points[last] + shift[:, None]
        likeness = _likeness(*expected, boxes[rows], points[rows])
        shifts = np.linalg.norm(_shift(expected[1][:, None], points[rows]), axis=-1)
        side = (boxes[last, 2:] - boxes[last, :2]).mean(axis=1)
        farthest = side * np.where(velocity.any(axis=1), _MAX_JUMP, _MAX_FIRST_JUMP)
        is_jump = (shifts > farthest[:, None]) & (passed <= _FRESH_FRAMES)[:, None]
        likeness = np.where(is_jump, -np.inf, likeness)
        while likeness.size and likeness.max() > -np.inf:
            person, column = np.unravel_index(likeness.argmax(), likeness.shape)
            row, before = rows[column], last[person]
            step = _shift(points[before], points[row]) / passed[person]
            velocity[person] = (velocity[person] + step) / 2
            numbers[row], last[person] = numbers[before], row
            likeness[person], likeness[:, column] = -np.inf, -np.inf
        new = rows[numbers[rows] == 0]
        numbers[new] = 1 + numbers.max() + np.arange(len(new))
        last = np.append(last, new)
        velocity = np.concatenate([velocity, np.zeros((len(new), 2))])
    return numbers


def _likeness(
    boxes: np.ndarray, points: np.ndarray, found_boxes: np.ndarray, found_points: np.ndarray
) -> np.ndarray:
    """Return (expected, found): overlap less distance, -infinity for those who are too unlike.

    Takes boxes (expected, 4), points (expected, 17, 2), and the same of those who were found.
    """
    boxes, points = boxes[:, None], points[:, None]
    sides = np.minimum(boxes[..., 2:], found_boxes[:, 2:])
    sides = sides - np.maximum(boxes[..., :2], found_boxes[:, :2])
    common = np.maximum(sides, 0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (boxes, found_boxes)]
    overlaps = common / np.maximum(areas[0] + areas[1] - common, 1e-9)
    distances = np.linalg.norm(found_points - points, axis=-1)
    is_found = np.isfinite(distances).any(axis=-1)
    distances = np.nanmedian(np.where(is_found[..., None], distances, 0), axis=-1)
    distances /= np.maximum((boxes[..., 2:] - boxes[..., :2]).mean(axis=-1), 1e-9)
    is_alike = (overlaps > _MIN_OVERLAP) | (distances < _MAX_DISTANCE)
    return np.where(is_alike, overlaps - distances, -np.inf)


def hold_gaps(frames: np.ndarray, keypoints: np.ndarray, num_frames: int) -> Piece:
    """Give frames without a detection the previous one's keypoints, leading frames the first's.

    Takes the numbers of the frames (found,), increasing, and their keypoints (found, points, C).
    """
    previous = np.searchsorted(frames, np.arange(num_frames), side="right") - 1
    gaps = np.diff(frames, prepend=-1, append=num_frames) - 1
    return Piece(0, keypoints[np.maximum(previous, 0)], int(gaps.sum()), int(gaps.max()))


def cut_at_gaps(track: Track, max_gap: float) -> list[Track]:
    """Cut a track where the person is missing for more than `max_gap` frames."""
    cuts = np.flatnonzero(np.diff(track.frames) - 1 > max_gap) + 1
    parts = zip(np.split(track.frames, cuts), np.split(track.keypoints, cuts))
    return [track._replace(frames=frames, keypoints=keypoints) for frames, keypoints in parts]


def fill_gaps(track: Track, parents: Sequence[int]) -> Piece:
    """Fill the frames and points that were not found, as `interpolated` does.

    A point that is never found is put on the next one towards the root. The confidence of what was
    filled is 0. `parents` are those of each point, -1 for the root.
    """
    frames, found = track.frames, track.keypoints
    every = np.arange(frames[0], frames[-1] + 1)
    keypoints = np.zeros((len(every), *found.shape[1:]))
    is_found = np.isfinite(found[..., 0])
    never = np.flatnonzero(~is_found.any(axis=0)).tolist()
    keypoints[..., :2] = interpolated(found[..., :2], frames, every)
    keypoints[frames - frames[0], :, 2:] = np.where(is_found[..., None], found[..., 2:], 0)
    for point in never:
        stand_in = point
        while stand_in in never:
            stand_in = parents[stand_in]
        others = [stand_in] if stand_in >= 0 else np.flatnonzero(is_found.any(axis=0))
        keypoints[:, point, :2] = keypoints[:, others, :2].mean(axis=1)
    missing, gap = len(every) - len(frames), int(np.diff(frames).max(initial=1)) - 1
    piece = Piece(int(frames[0]), keypoints, filled_frames=missing, longest_gap=gap)
    return piece._replace(filled_points=int((~is_found).sum()), never_found=never)
