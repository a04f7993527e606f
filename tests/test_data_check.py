"""2D that does not belong to its 3D: each fault is made here, and the check names it."""

import numpy as np
import pytest
import torch
from raw_trees import assert_one_line_error, call

import run_poseformer
from common.camera import CAMERA_IDS, load_cameras, project, world_to_camera
from common.data_check import check_data
from common.files.console import InputError
from common.files.npz import write_npz, write_positions_2d, write_positions_3d
from common.h36m_dataset import estimator_names, load_sequences
from common.skeleton import JOINTS_32_TO_17, coco_to_h36m

SUBJECTS, ACTIONS, FRAMES = ("S1", "S9"), ("Sitting", "Walking 1"), 12
NOISE = np.random.default_rng(1).normal(0, 6, (len(CAMERA_IDS), FRAMES, 17, 2))
SWAP = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]


def coco_body(seed):
    """Return COCO's points of a body that sways, (frames, 17, 3), metres, world."""
    random = np.random.default_rng(seed)
    phase = np.linspace(0, 3, FRAMES)[:, None, None] + random.uniform(0, 6, (17, 3))
    return random.normal(0, 0.35, (17, 3)) + (0, 0, 1) + 0.1 * np.sin(phase)


BODIES = {
    s: {a: coco_body(10 * i + j) for j, a in enumerate(ACTIONS)} for i, s in enumerate(SUBJECTS)
}


def in_cameras(points, subject):
    return [
        world_to_camera(points, camera.orientation, camera.translation_m)
        for camera in load_cameras()[subject]
    ]


def pictures(points, subject):
    """Return what the four cameras see of points in the world, with the estimator's noise."""
    cameras = zip(in_cameras(points, subject), load_cameras()[subject], NOISE)
    return [(project(p, camera.intrinsics) + n).astype(np.float32) for p, camera, n in cameras]


def joints_32(joints):
    every = np.zeros((len(joints), 32, 3), np.float32)
    every[:, JOINTS_32_TO_17] = joints
    return every


def sequences(folder, change=lambda views: views, unit=1, per_camera=False, layout="h36m"):
    """Write 3D, and 2D after a change of each sequence's four views; load them."""

    def positions_3d(coco, subject):
        joints = coco_to_h36m(coco) * unit
        if not per_camera:
            return joints_32(joints)
        return [joints_32(p * unit) for p in in_cameras(joints / unit, subject)]

    def positions_2d(coco, subject):
        return change(pictures(coco_to_h36m(coco) if layout == "h36m" else coco, subject))

    def of_all(make):
        return {s: {a: make(body, s) for a, body in of.items()} for s, of in BODIES.items()}

    write_positions_3d(folder / "data_3d_h36m.npz", of_all(positions_3d))
    write_positions_2d(folder / "data_2d_h36m_mine.npz", of_all(positions_2d))
    return load_sequences(folder / "data_3d_h36m.npz", [folder / "data_2d_h36m_mine.npz"], SUBJECTS)


@pytest.mark.parametrize("per_camera", [False, True], ids=["world", "per camera"])
def test_what_fits_gives_one_line_and_draws_no_random_number(tmp_path, capsys, per_camera):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_data(sequences(tmp_path, per_camera=per_camera), ["mine"])
    assert torch.equal(torch.get_rng_state(), before)
    expected = np.linalg.norm(NOISE, axis=-1).mean()
    captured = capsys.readouterr()
    assert captured.out == f"mine: {expected:.1f} px from the projected 3D\n"
    assert captured.err == ""


def each(function):
    return lambda views: [function(view) for view in views]


FAULTS = {
    "this is what 55011271 sees": lambda views: [views[i] for i in (1, 2, 0, 3)],
    "left and right are exchanged": each(lambda v: v[:, SWAP]),
    "the coordinates are normalised already, -1 to 1": each(lambda v: v / 500 - 1),
    "the coordinates are parts of the picture, 0 to 1": each(lambda v: v / 1000),
    "the picture had 25": each(lambda v: v * 0.256),
    "y points up": each(lambda v: np.stack([v[..., 0], 1000 - v[..., 1]], -1)),
    "x and y are exchanged": each(lambda v: v[..., ::-1]),
    "the picture is mirrored": each(lambda v: np.stack([1000 - v[..., 0], v[..., 1]], -1)),
    "are 2D and 3D of the same sequences?": each(lambda v: NOISE[0] * 10 + (200, 800)),
}


@pytest.mark.parametrize("cause", [*FAULTS, "the joints are COCO's"])
def test_the_likely_cause_is_named(tmp_path, capsys, cause):
    coco = {} if cause in FAULTS else {"layout": "coco"}
    wrong = sequences(tmp_path, FAULTS.get(cause, list), **coco)
    with pytest.raises(InputError, match=r"mine: S1, camera .*--trust-data goes on") as error:
        check_data(wrong, ["mine"])
    assert cause in str(error.value)
    check_data(wrong, ["mine"], trust=True)
    assert cause in capsys.readouterr().err


def test_one_wrong_camera_of_one_subject_is_found(tmp_path):
    views = sequences(tmp_path, each(lambda v: v[:, SWAP]))
    right = sequences(tmp_path)
    mixed = [b if (b.subject, b.camera) != ("S9", 2) else a for a, b in zip(views, right)]
    with pytest.raises(InputError, match=r"S9, camera 58860488: .* exchanged \(so in 1 of 8 views"):
        check_data(mixed, ["mine"])


@pytest.mark.parametrize(("name", "unit"), [("millimetres", 1000), ("centimetres", 100)])
def test_another_unit_of_the_3d_is_named(tmp_path, name, unit):
    with pytest.raises(InputError, match=f"the 3D is in {name}, not in metres"):
        check_data(sequences(tmp_path, unit=unit, per_camera=unit == 100), ["mine"])


def test_points_at_zero_are_counted_and_not_measured(tmp_path, capsys):
    def lose_a_wrist(view):
        view[::2, 16] = 0
        return view

    check_data(sequences(tmp_path, each(lose_a_wrist)), ["mine"])
    captured = capsys.readouterr()
    assert "mine: 2.9% of its points are at (0, 0)" in captured.err  # half of one joint of 17
    assert 6 < float(captured.out.split()[1]) < 9


def test_no_training_starts_on_wrong_data(tmp_path):
    sequences(tmp_path, FAULTS["left and right are exchanged"])
    write_npz(
        tmp_path / "data_2d_h36m_sides.npz",
        positions_2d={"S1": {}},
        metadata={"keypoints_symmetry": [[1, 2, 3, 14, 15, 16], [4, 5, 6, 11, 12, 13]]},
    )
    folders = ("--data-dir", tmp_path, "-c", tmp_path / "run")
    flags = (*folders, "-str", "S1", "-ste", "S9", "-g", "cpu")
    result = call(run_poseformer.main, *flags, "-k", "mine")
    assert_one_line_error(result, "left and right are exchanged", "--trust-data")
    assert_one_line_error(call(run_poseformer.main, *flags, "-k", "sides"), "left and right joints")
    assert not (tmp_path / "run").exists()


def test_real_estimates_pass_each_with_a_line(real_chain, capsys):
    data_dir, _ = real_chain
    names = estimator_names("vitpose+pct+moganet+transpose")
    paths = [data_dir / f"data_2d_h36m_{name}.npz" for name in names]
    check_data(load_sequences(data_dir / "data_3d_h36m.npz", paths, SUBJECTS), names)
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == names
    assert captured.err == ""
