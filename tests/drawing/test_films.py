from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from PIL import Image
from test_motion import BODY
from test_video import decode, decode_gif

from common.camera import load_cameras, project, world_to_camera
from common.drawing.figures import COLORS
from common.drawing.films import Film, Scene, render_film, save_strip, together
from common.drawing.panels import SIDE_COLORS, View, equal_scales, image_limits
from common.files.console import InputError
from common.files.video import write_video
from common.skeleton import JOINT_NAMES, SIDES
from common.training import run_log
from data.visualize import save_errors

CAMERA = load_cameras()["S9"][1]
IMAGE_SIZE = (CAMERA.width, CAMERA.height)


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


RGB = {side: rgb(color) for side, color in SIDE_COLORS.items()}


@pytest.fixture(scope="module")
def walk():
    """A person walking on a curve: (frames, 17, 3) in metres in the world, and in pixels."""
    pose = np.stack([BODY[:, 0], np.zeros(17), BODY[:, 1] + 0.95], axis=-1)
    t = np.linspace(0, 1, 20)[:, None, None]
    shift = np.concatenate([0.8 * t - 0.4, 0.5 * np.sin(3 * t), 0 * t], axis=-1)
    world = pose + shift
    camera = world_to_camera(world, CAMERA.orientation, CAMERA.translation_m)
    return world.astype(np.float32), project(camera, CAMERA.intrinsics).astype(np.float32)


def panels_of(picture):
    """Find the panels' frames in a picture: (left, top, right, bottom) each, in pixels."""
    height = len(picture)
    line = picture.max(axis=-1) < 225
    columns = np.flatnonzero(line[height // 4 : 3 * height // 4].mean(axis=0) > 0.95)
    columns = columns[np.r_[True, np.diff(columns) > 1]]  # a line can be two pixels wide
    assert len(columns) % 2 == 0
    boxes = []
    for left, right in columns.reshape(-1, 2):
        rows = np.flatnonzero(line[:, left + 5 : right - 5].mean(axis=1) > 0.95)
        boxes.append((left, rows[0], right, rows[-1]))
    return boxes


def expected_pixel(point, limits, box, image_size=IMAGE_SIZE):
    """Return where a panel, drawn into a box, shows a point."""
    left, top, right, bottom = box
    limits = equal_scales(limits, (right - left) / (bottom - top), image_size)
    share_x = (point[0] - limits[0]) / (limits[1] - limits[0])
    share_y = (point[1] - limits[3]) / (limits[2] - limits[3])
    return left + share_x * (right - left), top + share_y * (bottom - top)


def nearest_side(picture, x, y):
    """Return the side whose colour is found within a pixel of (x, y), and its distance."""
    x, y = round(x), round(y)
    patch = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
    distances = {s: np.linalg.norm(patch - rgb, axis=-1).min() for s, rgb in RGB.items()}
    side = min(distances, key=distances.get)
    return side, distances[side]


def film_of(walk, estimates=None, **settings):
    """What `visualize.py` draws with `truth_px`, and `lift.py` without."""
    world, pixels = walk
    how = {"azimuth": CAMERA.azimuth, "frame_numbers": range(len(world)), "fps": 25}
    how |= {"truth_m": world, **settings}
    return Film("S9 · Walking", estimates or {"ViTPose": pixels}, IMAGE_SIZE, **how)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_joints_of_each_side_lie_where_the_keypoints_are(walk, tmp_path, suffix):
    pixels, path = walk[1], tmp_path / f"walk{suffix}"
    render_film(path, film_of(walk, {"ViTPose": pixels + 6}, truth_px=pixels).at(range(8)))
    frames = decode(path, (1700, 400)) if suffix == ".mp4" else decode_gif(path)[0]
    assert frames.shape == (8, 400, 1700, 3)
    limits = image_limits([pixels[:8], pixels[:8] + 6])
    view = View([walk[0][:8]], CAMERA.azimuth, follow_frames=0.5 * 25)
    for frame in (0, 6):
        boxes = panels_of(frames[frame])
        in_3d, _ = view.project(walk[0][frame], view.targets_m[frame])
        in_2d = (pixels[frame] + 6, limits, boxes[0]), (pixels[frame], limits, boxes[1])
        for points, *place in (*in_2d, (in_3d, view.limits, boxes[2], None)):
            for joint, point in enumerate(points):
                side, distance = nearest_side(frames[frame], *expected_pixel(point, *place))
                assert (side, distance < 70) == (SIDES[joint], True), JOINT_NAMES[joint]


def test_people_of_one_film_are_drawn_in_their_colours_where_and_while_they_are_there(walk):
    (world, pixels), numbers = walk, np.arange(30)
    there = {"1": [range(10), range(20, 30)], "2": [range(5, 15)]}  # the first comes back
    shift_m, shift_px = {"1": 0, "2": (1.5, 0, 0)}, {"1": 0, "2": (120, 0)}
    films = [
        replace(
            film_of((world, pixels + shift_px[who]), truth_m=None, frame_numbers=frames),
            predicted_m=world[: len(frames)] + shift_m[who],
            people=[who],
        ).at(range(len(frames)))
        for who, parts in there.items()
        for frames in parts
    ]
    film = together(films, "Two", numbers)
    scene = Scene(film)
    boxes = panels_of(scene._background[..., :3].astype(int))
    view = View([film.predicted_m], CAMERA.azimuth, 0)
    limits = image_limits(film.keypoints_px.values())
    for frame in (2, 7, 12, 16, 25):
        picture = scene.draw(frame, f"frame {frame}")[boxes[0][1] :, :, :3].astype(int)
        for (who, parts), color in zip(there.items(), COLORS):
            drawn = np.linalg.norm(picture - rgb(color), axis=-1) < 30
            (row,) = [part.index(frame) for part in parts if frame in part] or [None]
            assert drawn.any() == (row is not None)
            if row is not None:
                in_3d, _ = view.project(world[row] + shift_m[who], view.targets_m[frame])
                feet = expected_pixel(in_3d[3], view.limits, boxes[1], None)
                head = expected_pixel((pixels[row] + shift_px[who])[10], limits, boxes[0])
                for x, y in (feet, head):
                    assert drawn[round(y - boxes[0][1]), round(x)]
    at_origin = [replace(f, predicted_m=f.predicted_m * 0) for f in films]
    placed = together(at_origin, "Two", numbers).predicted_m[7, [0, 17], 0]
    assert np.diff(placed) > 0.5  # side by side


def test_the_view_agrees_with_every_camera_of_every_subject(walk):
    target = np.array([0, 0, 0.9])
    for camera in chain(*load_cameras().values()):
        view = View([walk[0]], camera.azimuth, follow_frames=5)
        right_of_camera = world_to_camera(np.eye(3), camera.orientation, np.zeros(3))[:, 0]
        (x, _), _ = view.project(target + 0.1 * right_of_camera, target)
        assert x > 0.09
        (x, y), _ = view.project(target + np.array([0, 0, 0.1]), target)
        assert abs(x) < 1e-9 and y > 0.09
        towards = camera.translation_m * [1, 1, 0]
        near = view.project(target + 0.1 * towards / np.linalg.norm(towards), target)[1]
        assert near > 0.09


def test_the_view_follows_smoothly_and_the_floor_stands_still(walk):
    rng = np.random.default_rng(0)
    path = np.linspace(0, 2, 200)[:, None, None] * [1, 0.5, 0]
    poses = walk[0][:1] + path + rng.normal(0, 0.02, (200, 1, 3)) * [1, 1, 0]
    view = View([poses], CAMERA.azimuth, follow_frames=10)
    steps = np.linalg.norm(np.diff(view.targets_m, axis=0), axis=-1)
    assert steps.max() < 2 * steps[20:-20].mean()
    assert np.ptp(view.targets_m[:, 2]) == 0


def test_all_that_moves_stays_in_the_panels(walk):
    world, pixels = walk
    stray = np.where(np.arange(20)[:, None, None] == 10, 5000, 0)
    far = world + np.where(np.arange(20) == 10, 40, 0)[:, None, None]
    scene = Scene(film_of(walk, {"a": pixels + stray}, predicted_m=far, truth_px=pixels))
    before, after = (scene.draw(f, "frame")[..., :3].astype(int) for f in (0, 10))
    changed = np.any(before != after, axis=-1)
    boxes = panels_of(scene._background[..., :3].astype(int))
    for left, top, right, bottom in boxes:
        assert changed[top : bottom + 1, left : right + 1].any()
        changed[top : bottom + 1, left : right + 1] = False
    assert not changed[boxes[0][1] :].any()


def test_readings_are_the_mean_distances(walk):
    world, pixels = walk
    rng = np.random.default_rng(1)
    noisy_px = pixels + rng.normal(0, 5, pixels.shape)
    noisy_m = world + rng.normal(0, 0.02, world.shape)
    film = film_of(walk, {"a": noisy_px}, predicted_m=noisy_m, truth_px=pixels)
    px = np.hypot(*(noisy_px - pixels)[3].T).mean()
    mm = 1000 * np.sqrt(np.sum((noisy_m - world)[3] ** 2, axis=-1)).mean()
    readings = [panel.reading(3) for panel in film.panels()]
    assert readings == [f"mean error {px:.1f} px", "", f"MPJPE {mm:.1f} mm", ""]


def make_footage(path, size, fps):
    """Write a video: the halves of each frame in two colours, which tell its number."""
    frames = np.zeros((20, size[1], size[0], 4), np.uint8)
    frames[..., :3] = 40, 0, 80
    frames[:, :, size[0] // 2 :, 0] = 200
    frames[..., 1] = 12 * np.arange(20)[:, None, None]
    write_video(path, frames, fps=fps)


@pytest.mark.parametrize(
    ("size", "fps", "recorded_fps", "shown"),
    [
        ((500, 500), 25, None, [2, 5, 8, 9]),  # the numbers count the video's own frames
        ((500, 500), 25, 50, [1, 2, 4, 4]),
        ((250, 250), 50, 50.4, [2, 5, 8, 9]),  # 30 and 29.97 are meant to be the same
        ((1100, 1100), 120, 60, [4, 10, 16, 18]),
    ],
)
def test_prediction_over_the_frames_of_a_video(walk, tmp_path, size, fps, recorded_fps, shown):
    make_footage(tmp_path / "footage.mp4", size, fps)
    video = {"video": tmp_path / "footage.mp4", "recorded_fps": recorded_fps}
    world, pixels = (array[:4] for array in walk)
    film = film_of((world, pixels), predicted_m=world, frame_numbers=[2, 5, 8, 9])
    render_film(tmp_path / "out.mp4", film, size=(1200, 400), **video)
    frames = decode(tmp_path / "out.mp4", (1200, 400))
    assert len(frames) == 4
    blank = Scene(film, (1200, 400))
    first = panels_of(blank._background[..., :3].astype(int))[0]
    for frame, number in zip(frames, shown):
        for x, color in ((480, (40, 12 * number, 80)), (520, (200, 12 * number, 80))):
            column, _ = expected_pixel((x, 0), image_limits([pixels]), first)
            found = frame[first[1] + 6 : first[3] - 6, round(column)]
            assert np.abs(np.median(found, axis=0) - color).max() < 12


def test_videos_that_do_not_fit_the_keypoints(walk, tmp_path):
    make_footage(tmp_path / "own.mp4", (100, 100), 50)
    make_footage(tmp_path / "wide.mp4", (160, 90), 50)
    film = film_of([array[:3] for array in walk], frame_numbers=[2, 5, 20])
    for video, shift, message in (
        ("own.mp4", 0, r"own\.mp4: ends before frame 20; draw fewer"),
        ("own.mp4", 3000, "no keypoint lies in its picture"),
        ("wide.mp4", 0, r"wide\.mp4: its frames are 160x90 pixels.* is 1000x1000"),
    ):
        shifted = replace(film, keypoints_px={"a": film.keypoints_px["ViTPose"] + shift})
        with pytest.raises(InputError, match=message):
            render_film(tmp_path / "out.mp4", shifted, video=tmp_path / video)
    assert not (tmp_path / "out.mp4").exists()


def test_a_view_shows_the_picture_rather_than_what_lies_beyond_it():
    # A person at the right edge of a wide picture, one in its middle, one half outside.
    assert equal_scales((800, 980, 700, 300), 2, (1000, 1000)) == (200, 1000, 700, 300)
    assert equal_scales((400, 580, 700, 300), 2, (1000, 1000)) == (90, 890, 700, 300)
    assert equal_scales((900, 1100, 700, 300), 2, (1000, 1000)) == (300, 1100, 700, 300)
    # A view larger than the picture shows the whole picture.
    assert equal_scales((900, 950, 900, 0), 2, (1000, 1000)) == (0, 1800, 900, 0)


def test_training_curves_mark_the_best_epoch(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(run_log, "save_figure", lambda figure, _: figures.append(figure))
    for valid in ([95, 88, 50, 74], [None] * 4):
        fixed = {"train_mpjpe_mm": 90.0, "lr": 1e-3}
        records = [{"epoch": e, "valid_mpjpe_mm": v, **fixed} for e, v in enumerate(valid, 1)]
        run_log.save_training_curves(records, tmp_path / "curves.png")
    best, none = ([tuple(line.get_xydata()[0]) for line in f.axes[0].lines] for f in figures)
    assert (3, 50) in best and (3, 50) not in none


def test_strip_and_errors_are_drawn(walk, tmp_path):
    world, pixels = walk
    still = film_of(walk, predicted_m=world + 0.01).at(range(3))
    save_strip(tmp_path / "strip.png", still)
    strip = np.array(Image.open(tmp_path / "strip.png").convert("RGB")).astype(int)
    for column in np.array_split(strip[:, int(0.035 * strip.shape[1]) :], 3, axis=1):
        for row in np.array_split(column[int(0.06 * len(column)) :], 3):
            for rgb in RGB.values():
                assert (np.linalg.norm(row - rgb, axis=-1) < 30).sum() > 100
    film = film_of(walk, {"a": pixels + [3, 0], "b": pixels - [0, 6]}, truth_px=pixels)
    save_errors(tmp_path / "errors.png", film)
    picture = np.array(Image.open(tmp_path / "errors.png").convert("RGB"))[:, : 2200 // 2]
    # A curve is the row with the most of its colour.
    colors = (np.linalg.norm(picture - RGB[side], axis=-1) for side in ("left", "right"))
    a, b = ((distance < 30).sum(axis=1).argmax() for distance in colors)
    bottom = np.flatnonzero((picture.max(axis=-1) < 150).mean(axis=1) > 0.7)[-1]
    assert abs((bottom - b) / (bottom - a) - 2) < 0.05
