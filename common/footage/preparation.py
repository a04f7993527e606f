"""An estimator's keypoints of a video, in any known form, to data_2d_custom_<name>.npz."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.files import console
from common.files.console import DATA_DIR, InputError, warn
from common.files.npz import write_custom_2d
from common.files.output import check_distinct
from common.files.video import count_frames, pixel_shape, probe_video, promised_frames
from common.footage.doubtful import default_min_confidence, jumps, without_unsure
from common.footage.layouts import KEYPOINT_NAMES, POINT_PARENTS, to_h36m
from common.footage.people import People, read_people
from common.footage.plausibility import contradictions
from common.footage.recording import (
    as_shown,
    at_even_times,
    is_stored_size,
    same_shape,
    uneven_times,
)
from common.footage.sides import find_exchanges, reorder
from common.footage.tracks import Piece, Track, cut_at_gaps, fill_gaps, follow

# Coordinates up to this are shares of the picture, as MediaPipe's, and no pixels.
MAX_SHARE = 2.0
# Videos' own counts of their frames are often off by one or two.
TOLERATED_FRAMES = 2
TOLERATED_STRETCH = 0.02  # of pixels that are not square
# Of the points that an estimator is sure of, if it tells; the others may be anywhere.
MAX_OUTSIDE, MAX_OUTSIDE_GIVEN, SURE = 0.2, 0.5, 0.5
MAX_BELOW, TRUNCATED = 0.5, 0.5  # of the confidences; of the frames that a video promises


@dataclass(frozen=True)
class Preparation:
    """What is prepared and how: the flags of data/prepare_2d_custom.py, by their names."""

    input: Path
    name: str
    video: Path | None = None
    size: tuple[int, int] | None = None  # (width, height) in pixels
    fps: float | None = None
    layout: str | None = None
    person: str | None = None
    min_frames: int = 10
    max_gap: int = 20
    fill_gaps: bool = False
    keep_conf: bool | None = False  # None: where there are any, and the name stays as it is
    keep_sides: bool = False
    min_confidence: float | None = None
    first_frame: int = 0
    data_dir: Path = DATA_DIR
    source: str | None = None  # what the input was made from, kept in the file's metadata


def prepare(how: Preparation) -> Path:
    """Read, follow people, fill gaps, convert, write; return the npz file's path."""
    suffix = "_w_conf" if how.keep_conf else ""
    output = how.data_dir / f"data_2d_custom_{how.name}{suffix}.npz"
    check_distinct([output], filter(None, [how.input, how.video]))
    people = read_people(how.input, how.layout, how.first_frame)
    counts = f"{len(people.frames):,} detections in {people.num_frames:,} frames"
    print(f"{how.input}: {people.source}, {counts}")
    how = replace(how, min_confidence=least_confidence(people, how))
    people = without_unsure(people, how.min_confidence)
    size, fps = settle_recording(how, people.size)
    if how.video:
        people = as_shown(people, how.video, size)
    people = in_pixels(people, size, how.input, given=bool(how.size))
    uneven = uneven_times(how.video) if how.video and not how.fps else None
    if uneven:
        fps = uneven[1]
        told = "the frame rate varies; the keypoints are brought to even times"
        print(f"{how.video}: {told}, {fps:g} a second")
    if how.video:
        check_length(people.num_frames, how.video, how.input)
    if how.keep_conf and people.keypoints.shape[-1] == 2:
        raise InputError(f"{how.input}: holds no confidences; run without --keep-conf")
    tracks, notes = follow(people)
    for note in notes:
        warn(f"{how.input}: {note}")
    max_gap = float("inf") if how.fill_gaps else how.max_gap
    positions, metadata = {}, {}
    chosen = choose(tracks, how.person, how.min_frames)
    for track in chosen:
        parts = without_fragments(cut_at_gaps(track, max_gap), how.min_frames)
        for number, part in enumerate(parts, start=1):
            name = how.name
            name += f"_person{track.person}" if len(chosen) > 1 else ""
            name += f"_part{number}" if len(parts) > 1 else ""
            part, repairs = repair(part, people.layout, how, name)
            piece = fill_gaps(part, POINT_PARENTS[people.layout])
            piece = at_even_times(piece, *uneven) if uneven else piece
            channels = 2 if how.keep_conf is False else 3
            joints = to_h36m(piece.keypoints, people.layout)[..., :channels]
            positions[name] = {"custom": [np.ascontiguousarray(joints, dtype=np.float32)]}
            about = {"w": size[0], "h": size[1], "fps": fps}
            about |= {"source": how.source} if how.source else {}
            about |= {"person": track.person, "first_frame": piece.first_frame}
            metadata[name] = about | ({"even_times": True} if uneven else {})
            report(name, piece, people.layout, repairs)
    write_custom_2d(output, positions, metadata)
    print(f"wrote {output} ({len(positions)} sequence{'s' * (len(positions) > 1)})")
    return output


def least_confidence(people: People, how: Preparation) -> float:
    """Return the confidence below which points are left out: none if most are below the default."""
    threshold, confidences = how.min_confidence, people.keypoints[..., 2:]
    if threshold and not confidences.size:
        raise InputError(f"{how.input}: holds no confidences; run without --min-confidence")
    if threshold is not None:
        return threshold
    threshold = default_min_confidence(people.source)
    if confidences.size and np.mean(confidences < threshold) > MAX_BELOW:
        told = f"most confidences are below {threshold:g}; using all points"
        warn(f"{how.input}: {told}, unless --min-confidence is given")
        return -np.inf
    return threshold


def settle_recording(
    how: Preparation, size_in_file: tuple[int, int] | None
) -> tuple[tuple[int, int], float]:
    """Return size and frame rate from the video, the flags, or the keypoints' own file."""
    video = how.video
    size, video_fps = probe_video(video) if video else (None, None)
    if video and abs((shape := pixel_shape(video)) - 1) > TOLERATED_STRETCH:
        warn(
            f"{video}: its pixels are {shape:.3g} times as wide as high, which distorts the poses; "
            'convert it first: ffmpeg -i VIDEO -vf "scale=trunc(iw*sar/2)*2:ih,setsar=1" NEW.mp4'
        )
    sizes = {video: size, "--size": how.size, how.input: size_in_file}
    sizes = {source: size for source, size in sizes.items() if size}
    if not sizes:
        raise InputError("the picture's size is not known; give --video, or --size and --fps")
    if video and how.input in sizes and is_stored_size(video, size, size_in_file):
        del sizes[how.input]  # `as_shown` turns what was found in the stored pictures
    taken, *others = dict.fromkeys(sizes.values())
    if others and same_shape(*sizes.values()):
        # Only the shape matters for a network: the size that keypoints were found in is taken.
        taken = size_in_file or how.size
        print(f"{video}: taken as {taken[0]}x{taken[1]}, the size that the keypoints were found in")
    elif others:
        told = ", ".join(f"{width}x{height} by {name}" for name, (width, height) in sizes.items())
        raise InputError(f"pictures of different sizes: {told}; give what belongs together")
    fps = how.fps or video_fps
    if fps is None:
        raise InputError("the frame rate is not known; give --video, or --fps")
    return taken, fps


def in_pixels(people: People, size: tuple[int, int], path: Path, given: bool = False) -> People:
    """Turn shares of the picture into pixels; refuse keypoints outside of the picture.

    More may lie outside where the size was `given` for them by hand.
    """
    keypoints, boxes = people.keypoints.copy(), people.boxes
    # Of most of them: single ones may lie far outside.
    if np.nanmedian(np.abs(keypoints[..., :2])) <= MAX_SHARE:
        print(f"{path}: coordinates are shares of the picture, {size[0]}x{size[1]}")
        keypoints[..., :2] *= size
        boxes = boxes * np.tile(size, 2)
    found = np.isfinite(keypoints[..., 0])
    if keypoints.shape[-1] > 2 and (found & (keypoints[..., 2] >= SURE)).any():
        found &= keypoints[..., 2] >= SURE
    points, half = keypoints[found][:, :2], np.divide(size, 2)
    outside = float((np.abs(points - half) > 1.1 * half).any(axis=-1).mean())
    told = f"{path}: {outside:.0%} of the keypoints lie outside of the {size[0]}x{size[1]} picture"
    if outside > (MAX_OUTSIDE_GIVEN if given else MAX_OUTSIDE):
        raise InputError(f"{told}; give the size of the video that they were found in")
    if outside > 0.05:
        warn(told)
    if (points < half).all():
        warn(
            f"{path}: all keypoints lie in the upper left quarter of the {size[0]}x{size[1]} "
            "picture; if they were found in a smaller one, give its size with --size"
        )
    return people._replace(keypoints=keypoints, boxes=boxes)


def check_length(num_frames: int, video: Path, path: Path) -> None:
    """Refuse more frames of keypoints than the video has, and warn of fewer."""
    in_video, promised = count_frames(video), promised_frames(video)
    if in_video < TRUNCATED * promised:
        warn(f"{video}: ends after {in_video} of about {promised} frames; copy it again")
    if num_frames > in_video + TOLERATED_FRAMES:
        raise InputError(
            f"{path}: {num_frames} frames of keypoints, but the video has {in_video}; "
            "give the video that they were found in, or --first-frame"
        )
    if num_frames < in_video - TOLERATED_FRAMES:
        warn(f"{path}: the keypoints end {in_video - num_frames} frames before the video does")


def choose(tracks: list[Track], persons: str | None, min_frames: int) -> list[Track]:
    """Return the people that are wanted, and print who there is."""
    there = {str(track.person): track for track in tracks}
    kept = {person: track for person, track in there.items() if len(track.frames) >= min_frames}
    kept = kept or {str(tracks[0].person): tracks[0]}
    if persons is not None:
        wanted = console.split_names(persons)
        if not wanted or not set(wanted) <= set(there):
            listed = ", ".join(list(there)[:20])
            raise InputError(f"--person {persons}: no such person; there are {listed}")
        kept = {person: there[person] for person in wanted}
    print(f"{len(tracks)} {'person' if len(tracks) == 1 else 'people'}, the main one first:")
    for track in kept.values():
        first, last = track.frames[[0, -1]]
        print(f"  person {track.person}: {len(track.frames)} of the frames {first} to {last}")
    left_out = [len(track.frames) for person, track in there.items() if person not in kept]
    if left_out:
        print(f"  left out: {len(left_out)}, who are found in {max(left_out)} frames at most")
    return list(kept.values())


def without_fragments(parts: list[Track], min_frames: int) -> list[Track]:
    """Leave out parts in which the person is found in fewer frames, unless nothing is left."""
    kept = [part for part in parts if len(part.frames) >= min_frames]
    kept = kept or [max(parts, key=lambda part: len(part.frames))]
    if less := len(parts) - len(kept):
        told = f"left out {less} parts of fewer than {min_frames} frames"
        print(f"  person {parts[0].person}: {told}")
    return kept


def repair(part: Track, layout: str, how: Preparation, name: str) -> tuple[Track, list[str]]:
    """Exchange left and right back, leave out points that jump; return what was done in words, too.

    Also what was done before: unsure points are NaN with a confidence.
    """
    unsure = (np.isnan(part.keypoints[..., :1]) & np.isfinite(part.keypoints[..., 2:])).sum()
    told = f"left out {unsure:,} points of a confidence below {how.min_confidence:g}"
    told = [told] if unsure else []
    found = find_exchanges(part.frames, part.keypoints, layout)
    kinds = {"the whole body": found.whole, "the arms": found.arms, "the legs": found.legs}
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.items() if count)
    listed = f"{sum(kinds.values())} of {len(part.frames)} frames ({listed})"
    exchanged = f"{name}: left and right are exchanged between {listed} and the others"
    if found.is_open:
        warn(f"{exchanged}; left as they are, because which of them are right is not clear")
        return part, told
    keypoints = reorder(part.keypoints, found.order)
    is_jump = jumps(part.frames, keypoints) & (how.min_confidence != 0)
    keypoints[is_jump] = np.nan
    if is_jump.any():
        told.append(f"left out {is_jump.sum():,} points that jump and come back")
    if any(kinds.values()) and how.keep_sides:
        warn(f"{exchanged}; left as they are (--keep-sides)")
    elif any(kinds.values()):
        told.append(f"put left and right right in {listed}")
    keypoints = reorder(keypoints, found.order) if how.keep_sides else keypoints
    return part._replace(keypoints=keypoints), told


def report(name: str, piece: Piece, layout: str, repaired: list[str]) -> None:
    """Print what a sequence is and what was filled in it; warn of what is doubtful in it."""
    told = f"{name}: frames {piece.first_frame} to {piece.first_frame + len(piece.keypoints) - 1}"
    if piece.filled_frames:
        told += f", filled {piece.filled_frames} of them, longest gap {piece.longest_gap}"
    if piece.filled_points:
        told += f", filled {piece.filled_points:,} points in the others"
    print("; ".join([told, *repaired]))
    if piece.never_found:
        listed = ", ".join(KEYPOINT_NAMES[layout][point] for point in piece.never_found)
        warn(f"{name}: never found: {listed}; the 3D of what hangs on them means nothing")
    for what in contradictions(piece.keypoints, layout):
        warn(f"{name}: {what}")
