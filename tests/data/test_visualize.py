import numpy as np
import pytest
from PIL import Image
from raw_trees import assert_one_line_error, call, untouched
from test_video import decode

from common.camera import load_cameras, project, world_to_camera
from common.files.npz import write_positions_2d, write_positions_3d
from common.files.video import probe_video
from common.skeleton import JOINTS_32_TO_17
from data import visualize

FRAMES = 12
SMALL = ("--size", "640x240")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with two subjects; `pct` is two frames longer and lacks an action."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    poses, truth, vitpose, pct, views = ({"S1": {}, "S9": {}} for _ in range(5))
    for subject, cameras in ((name, load_cameras()[name]) for name in poses):
        for action in ("Walking", "Photo 1"):
            body = rng.uniform((-0.4, -0.4, 0.1), (0.4, 0.4, 1.7), (32, 3))
            body = (body + np.linspace(0, 0.5, FRAMES)[:, None, None] * [1, 0, 0]).astype("f4")
            seen = [world_to_camera(body, c.orientation, c.translation_m) for c in cameras]
            pixels = [project(s[:, JOINTS_32_TO_17], c.intrinsics) for s, c in zip(seen, cameras)]
            pixels = [px.astype(np.float32) for px in pixels]
            poses[subject][action], truth[subject][action] = body, pixels
            views[subject][action] = [view.astype(np.float32) for view in seen]
            vitpose[subject][action] = [px + np.float32([3, 4]) for px in pixels]
            pct[subject][action] = [np.insert([*px, *px[-2:]], 2, 1, axis=-1) for px in pixels]
    del pct["S1"]["Photo 1"]
    for name, content in {"data_3d_h36m": poses, "per_camera": views}.items():
        write_positions_3d(folder / f"{name}.npz", content)
    for name, content in {"gt": truth, "vitpose": vitpose, "pct_w_conf": pct}.items():
        write_positions_2d(folder / f"data_2d_h36m_{name}.npz", content)
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(visualize.main, "--data-dir", data, *arguments)


def test_the_defaults_draw_the_sequence_into_the_working_directory(data, tmp_path, run_script):
    result = run_script("data/visualize.py", "--data-dir", data, "--debug", cwd=tmp_path)
    output = tmp_path / "S1_Walking_55011271.mp4"
    assert list(tmp_path.iterdir()) == [output]
    assert f"{output.name} ({FRAMES} frames" in result.stdout
    assert result.stderr == ""
    assert probe_video(output) == ((1700, 400), 50)


def test_estimators_side_by_side_as_gif_with_errors(run, data, tmp_path):
    files = ("data_2d_h36m_vitpose.npz", data / "data_2d_h36m_pct_w_conf.npz")
    arguments = ("--dir-2d", *files, "--camera", 3, "--subject", "S9", "--errors")
    arguments += ("--action", "TakingPhoto 1", "--skip", 2, "--limit", 5)
    result = run(*arguments, "--output", "a.gif", *SMALL)
    assert "unequal lengths, cut to 12 frames" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.gif", "a_errors.png"}
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (5, (640, 240), 20)


def test_poses_in_camera_coordinates_give_the_same_picture(run, tmp_path):
    arguments = ("--camera", "60457274", "--limit", 2, *SMALL)
    run(*arguments, "--output", "world.mp4")
    run(*arguments, "--dir-3d", "per_camera.npz", "--output", "camera.mp4")
    world, camera = (decode(tmp_path / f"{name}.mp4", (640, 240)) for name in ("world", "camera"))
    difference = world - camera
    assert np.abs(difference).max() < 40
    assert np.abs(difference).mean() < 0.1


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--subject", "S5"], ["no subject 'S5'", "S1, S9"]),
        (["--action", "Walk"], ["S1: no action 'Walk'", "Photo 1, Walking"]),
        (["--camera", "4"], ["no camera '4'", "54138969, 55011271, 58860488, 60457274"]),
        (["--dir-2d", "data_2d_h36m_pct.npz"], ["no such file", "data_2d_h36m_vitpose.npz"]),
        (["--dir-2d", "data_2d_h36m_pct_w_conf.npz", "--action", "Photo 1"],
         ["pct_w_conf.npz: S1: no action 'Photo 1'", "there are: Walking"]),
        (["--output", "a.avi"], ["a.avi", ".mp4 or .gif"]),
        (["--skip", "12"], ["--skip 12: the sequence has 12 frames, so none is left"]),
        (["--size", "333x200"], ["must be even"]),
        (["--fps", "100", "--output", "a.gif"], ["at most 50 frames a second"]),
        (["--dir-3d", "data_2d_h36m_gt.npz"], ["no array 'positions_3d'"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(run, tmp_path, arguments, messages):
    with untouched(tmp_path):
        assert_one_line_error(run(*arguments), *messages)
