import json

import numpy as np
import pytest
from PIL import Image
from test_motion import BODY
from test_video import decode, decode_gif

from common.camera import load_cameras, project, world_to_camera
from common.drawing.films import Film, Scene, choose_frames, render_film, save_strip
from common.drawing.panels import SIDE_COLORS, View, equal_scales, image_limits
from common.files.console import InputError
from common.files.video import write_video
from common.skeleton import JOINT_NAMES, SIDES
from common.training import run_log
from data.visualize import save_errors

CAMERA = load_cameras()["S9"][1]
IMAGE_SIZE = (CAMERA.width, CAMERA.height)
RGB = {
    side: np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    for side, color in SIDE_COLORS.items()
}


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


def film_of(walk, estimates=None, numbers=None, **settings):
    """What `visualize.py` draws with `truth_px`, and `lift.py` without."""
    world, pixels = walk
    estimates = estimates or {"ViTPose": pixels}
    numbers = range(len(world)) if numbers is None else numbers
    how = {"azimuth": CAMERA.azimuth, "frame_numbers": numbers, "fps": 25, "truth_m": world}
    return Film("S9 · Walking", estimates, IMAGE_SIZE, **how | settings)


@pytest.fixture(scope="module")
def drawn(walk, tmp_path_factory):
    """A film of keypoints that are 6 px off, as mp4 and as gif."""
    folder = tmp_path_factory.mktemp("film")
    for suffix in (".mp4", ".gif"):
        film = film_of(walk, {"ViTPose": walk[1] + 6}, truth_px=walk[1])
        render_film(folder / f"walk{suffix}", film)
    return {
        ".mp4": decode(folder / "walk.mp4", (1700, 400)),
        ".gif": decode_gif(folder / "walk.gif")[0],
    }


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_joints_of_each_side_lie_where_the_keypoints_are(walk, drawn, suffix):
    frames = drawn[suffix]
    assert frames.shape == (20, 400, 1700, 3)
    pixels = walk[1]
    limits = image_limits([pixels, pixels + 6])
    view = View([walk[0]], CAMERA.azimuth, follow_frames=0.5 * 25)
    for frame in range(0, 20, 6):
        boxes = panels_of(frames[frame])
        in_3d, _ = view.project(walk[0][frame], view.targets_m[frame])
        drawn_in = (
            (pixels[frame] + 6, limits, boxes[0]),
            (pixels[frame], limits, boxes[1]),
            (in_3d, view.limits, boxes[2], None),
        )
        for points, *place in drawn_in:
            for joint, point in enumerate(points):
                side, distance = nearest_side(frames[frame], *expected_pixel(point, *place))
                assert (side, distance < 70) == (SIDES[joint], True), JOINT_NAMES[joint]


def test_the_view_agrees_with_every_camera_of_every_subject(walk):
    for cameras in load_cameras().values():
        for camera in cameras:
            view = View([walk[0]], camera.azimuth, follow_frames=5)
            target = np.array([0, 0, 0.9])
            right_of_camera = world_to_camera(np.eye(3), camera.orientation, np.zeros(3))[:, 0]
            (x, _), _ = view.project(target + 0.1 * right_of_camera, target)
            assert x > 0.09
            (x, y), _ = view.project(target + np.array([0, 0, 0.1]), target)
            assert abs(x) < 1e-9
            assert y > 0.09
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
    # A step of one cell shows the same grid, a step of half a cell another.
    target = np.array([0.1, 0.2, 0.9])
    assert np.allclose(view.floor_grid(target), view.floor_grid(target + np.array([0.5, -0.5, 0])))
    assert not np.allclose(
        view.floor_grid(target), view.floor_grid(target + np.array([0.25, 0, 0]))
    )


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
    # Above the panels, only the grey letters of the errors change.
    for picture in (before, after):
        assert np.ptp(picture[changed], axis=-1).max() <= 3


def test_readings_are_the_mean_distances(walk):
    world, pixels = walk
    rng = np.random.default_rng(1)
    noisy_px = pixels + rng.normal(0, 5, pixels.shape)
    noisy_m = world + rng.normal(0, 0.02, world.shape)
    film = film_of(walk, {"a": noisy_px}, predicted_m=noisy_m, truth_px=pixels)
    px = sum(np.hypot(*(noisy_px[3, j] - pixels[3, j])) for j in range(17)) / 17
    mm = sum(1000 * np.sqrt(np.sum((noisy_m[3, j] - world[3, j]) ** 2)) for j in range(17)) / 17
    readings = [panel.reading(3) for panel in film.panels()]
    assert readings == [f"mean error {px:.1f} px", "", f"MPJPE {mm:.1f} mm", ""]


def test_the_choice_of_frames():
    assert list(choose_frames(10, 2, 3)) == [2, 5, 8]
    assert list(choose_frames(10, 0, 4, limit=2)) == [0, 4]
    with pytest.raises(InputError, match="--skip 10: the sequence has 10 frames"):
        choose_frames(10, 10)


def make_footage(path, colors, size=IMAGE_SIZE, fps=50):
    """Write a video: the halves of each frame in two colours."""

    def frames():
        frame = np.zeros((size[1], size[0], 4), np.uint8)
        for left, right in colors:
            frame[:, : size[0] // 2, :3] = left
            frame[:, size[0] // 2 :, :3] = right
            yield frame

    write_video(path, frames(), fps=fps)


def render_over(walk, tmp_path, numbers, recorded_fps=None, footage="footage.mp4"):
    """Draw frames of the walk over a video; return them, (frames, 400, 1200, 3)."""
    shown = [array[: len(numbers)] for array in walk]
    video = {"video": tmp_path / footage, "recorded_fps": recorded_fps}
    film = film_of(shown, predicted_m=shown[0], numbers=numbers)
    render_film(tmp_path / "out.mp4", film, size=(1200, 400), **video)
    return decode(tmp_path / "out.mp4", (1200, 400))


@pytest.mark.parametrize(
    ("size", "fps", "recorded_fps", "shown"),
    [
        (IMAGE_SIZE, 50, None, [2, 5, 8, 9]),
        (IMAGE_SIZE, 25, None, [2, 5, 8, 9]),  # the numbers count the video's own frames
        ((500, 500), 25, 50, [1, 2, 4, 4]),
        ((250, 250), 50, 50.4, [2, 5, 8, 9]),  # 30 and 29.97 are meant to be the same
        ((1500, 1500), 120, 60, [4, 10, 16, 18]),
    ],
)
def test_prediction_over_the_frames_of_a_video(walk, tmp_path, size, fps, recorded_fps, shown):
    colors = [((40, 12 * i, 80), (200, 12 * i, 80)) for i in range(20)]
    make_footage(tmp_path / "footage.mp4", colors, size, fps)
    frames = render_over(walk, tmp_path, [2, 5, 8, 9], recorded_fps)
    assert len(frames) == 4
    limits = image_limits([walk[1][:4]])
    blank = Scene(film_of([array[:4] for array in walk], predicted_m=walk[0][:4]), (1200, 400))
    first = panels_of(blank._background[..., :3].astype(int))[0]
    for frame, number in zip(frames, shown):
        for x, color in ((480, colors[number][0]), (520, colors[number][1])):
            column, _ = expected_pixel((x, 0), limits, first)
            found = frame[first[1] + 6 : first[3] - 6, round(column)]
            assert np.abs(np.median(found, axis=0) - color).max() < 12


@pytest.mark.parametrize(
    ("footage", "numbers", "message"),
    [
        ("footage.mp4", [2, 5, 10], r"footage\.mp4: ends before frame 10; draw fewer"),
        ("wide.mp4", [2], r"wide\.mp4: its frames are 1280x720 pixels.* is 1000x1000"),
        ("text.mp4", [2], r"text\.mp4: ffmpeg failed"),
        ("none.mp4", [2], r"none\.mp4: no such file"),
    ],
)
def test_videos_that_do_not_fit_the_keypoints(walk, tmp_path, footage, numbers, message):
    make_footage(tmp_path / "footage.mp4", [((0, 0, 0), (9, 9, 9))] * 10)
    make_footage(tmp_path / "wide.mp4", [((0, 0, 0), (9, 9, 9))] * 10, (1280, 720))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=message):
        render_over(walk, tmp_path, numbers, footage=footage)
    with pytest.raises(InputError, match="no keypoint lies in its picture"):
        render_over((walk[0], walk[1] + 3000), tmp_path, [2])
    assert not (tmp_path / "out.mp4").exists()


def test_a_view_shows_the_picture_rather_than_what_lies_beyond_it():
    # A person at the right edge of a wide picture, one in its middle, one half outside.
    assert equal_scales((800, 980, 700, 300), 2, (1000, 1000)) == (200, 1000, 700, 300)
    assert equal_scales((400, 580, 700, 300), 2, (1000, 1000)) == (90, 890, 700, 300)
    assert equal_scales((900, 1100, 700, 300), 2, (1000, 1000)) == (300, 1100, 700, 300)
    # A view larger than the picture shows the whole picture.
    assert equal_scales((900, 950, 900, 0), 2, (1000, 1000)) == (0, 1800, 900, 0)


def read_png(path):
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def test_training_curves_mark_the_best_epoch(tmp_path, monkeypatch):
    log, figures = tmp_path / "log.jsonl", []
    monkeypatch.setattr(run_log, "save_figure", lambda figure, _: figures.append(figure))
    for valid in ([95, 88, 50, 74], [None] * 4):
        records = [
            {"epoch": e, "train_mpjpe_mm": 90.0 - e, "valid_mpjpe_mm": v, "lr": 1e-3}
            for e, v in enumerate(valid, 1)
        ]
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        run_log.save_training_curves(log, tmp_path / "curves.png")
    points = [[list(line.get_xydata()[0]) for line in figure.axes[0].lines] for figure in figures]
    assert [3, 50] in points[0] and [3, 50] not in points[1]
    ticks = figures[0].axes[0].get_xticks()
    np.testing.assert_array_equal(ticks, np.round(ticks))
    for text in ("", "{broken", '{"lr": 1}\n', '{"epoch": 1, "train_mpjpe_mm": "x"}\n', "[1]\n"):
        log.write_text(text)
        with pytest.raises(InputError, match=r"log\.jsonl"):
            run_log.save_training_curves(log, tmp_path / "curves.png")


def test_strip_and_errors_are_drawn(walk, tmp_path):
    world, pixels = walk
    save_strip(tmp_path / "strip.png", film_of(walk, predicted_m=world + 0.01), columns=4)
    strip = read_png(tmp_path / "strip.png")
    quarters = np.array_split(strip[:, int(0.035 * strip.shape[1]) :], 4, axis=1)
    for quarter in quarters:
        for row in np.array_split(quarter[int(0.06 * len(quarter)) :], 3):
            for rgb in RGB.values():
                assert (np.linalg.norm(row - rgb, axis=-1) < 30).sum() > 100
    film = film_of(walk, {"a": pixels + [3, 0], "b": pixels - [0, 6]}, truth_px=pixels)
    save_errors(tmp_path / "errors.png", film)
    picture = read_png(tmp_path / "errors.png")[:, : 2200 // 2]
    rows = {}
    for name, side in (("a", "left"), ("b", "right")):
        # The curve is the row with the most of the colour.
        rows[name] = (np.linalg.norm(picture - RGB[side], axis=-1) < 30).sum(axis=1).argmax()
    bottom = np.flatnonzero((picture.max(axis=-1) < 150).mean(axis=1) > 0.7)[-1]
    assert abs((bottom - rows["b"]) / (bottom - rows["a"]) - 2) < 0.05
