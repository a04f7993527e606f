"""People are matched by where they are, whatever number an estimator gives them."""

from pathlib import Path

import numpy as np
import pytest
from test_fusion import people

from common.files.console import InputError
from common.fusion.same_people import same_people

LEFT, RIGHT = people(views=1, frames=60)[0], people(views=1, frames=60, seed=1)[0] + [700, 0]


def of(*sequences, width=1920, fps=30):
    """A file as `read_custom_2d` gives it, of (person, first frame, keypoints)."""
    positions, metadata = {}, {}
    video = {"w": width, "h": 1080, "fps": fps, "source": "a.json"}
    for i, (person, first, keypoints) in enumerate(sequences):
        positions[f"s{i}"] = keypoints[first:].astype(np.float32)
        metadata[f"s{i}"] = video | {"person": person, "first_frame": first}
    return positions, metadata


def match(*files):
    return same_people({Path(f"{i}.npz"): file for i, file in enumerate(files)}, "mix")


def test_people_are_matched_by_their_place_and_cut_to_the_frames_of_all():
    one = of((1, 0, LEFT), (2, 10, RIGHT))
    two = of((1, 5, RIGHT + 3), (2, 0, LEFT[:20] + 3), (2, 25, LEFT + 3), (3, 0, LEFT + [900, 0]))
    found = match(one, two)
    frames = {"mix_person1_part1": (0, 20), "mix_person1_part2": (25, 60), "mix_person2": (10, 60)}
    assert [sequence.name for sequence in found] == list(frames)
    for name, about, (a, b) in found:
        (first, end), person = frames[name], int(name[len("mix_person")])
        expected = (LEFT, RIGHT)[person - 1][first:end].astype(np.float32)
        np.testing.assert_array_equal(a, expected)
        np.testing.assert_allclose(b, expected + 3, atol=1e-3)
        video = {"w": 1920, "h": 1080, "fps": 30}
        assert about == video | {"person": person, "first_frame": first}


def test_somebody_whom_one_estimator_misses_is_nobody_else():
    """Not even if the one who is there stands near."""
    beside = LEFT + [40, 0]
    for both in (of((1, 0, LEFT), (2, 0, beside)), of((2, 0, beside), (1, 0, LEFT))):
        for files in ((both, of((7, 0, LEFT + 1))), (of((7, 0, LEFT + 1)), both)):
            (sequence,) = match(*files)
            assert sequence.name == "mix"
            np.testing.assert_allclose(*sequence.estimates, atol=1.01)


def test_a_person_whom_one_estimator_takes_for_two_is_matched_whole(capsys):
    whole = of((1, 0, LEFT), (2, 0, RIGHT))
    split = of((2, 0, RIGHT), (7, 0, LEFT[:20] + 1), (8, 30, LEFT + 1), (9, 0, LEFT + [900, 0]))
    found = match(whole, split, whole)
    frames = {"mix_person1_part1": (0, 20), "mix_person1_part2": (30, 60), "mix_person2": (0, 60)}
    assert [sequence.name for sequence in found] == list(frames)
    for name, about, estimates in found:
        first, end = frames[name]
        assert about["first_frame"] == first and {len(e) for e in estimates} == {end - first}
        np.testing.assert_allclose(estimates[1], estimates[0], atol=1.01)
    assert capsys.readouterr().out == "1.npz: left out 1 people whom not all files have\n"
    copies = of((1, 0, LEFT + 1), (2, 10, LEFT + 1), (2, 0, LEFT[:20] + 1))  # of frames, too
    (sequence,) = match(of((1, 0, LEFT)), copies)
    np.testing.assert_allclose(*sequence.estimates, atol=1.01)
    names = [sequence.name for sequence in match(split, whole)]
    assert names == ["mix_person2", "mix_person7", "mix_person8"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (of((1, 0, LEFT), width=1280), r"1920x1080 at 30 a second in 0.npz, 1280x1080 .* in 1.npz"),
        (of((1, 0, LEFT), fps=25), "pictures differ: .* 1920x1080 at 25 a second in 1.npz"),
        (of((1, 0, RIGHT)), "0.npz, 1.npz: nobody is in the same place in the same frames"),
        (of((1, 30, LEFT)), "nobody is in the same place in the same frames"),
    ],
)
def test_files_of_different_recordings_are_one_line(other, says):
    with pytest.raises(InputError, match=says):
        match(of((1, 0, LEFT[:30])), other)
