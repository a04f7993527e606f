"""Own footage through the room, upright, in time, and with nobody in the picture."""

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import REPOSITORY
from test_lifting import SIZE, moving, random_model
from test_motion import standing

from common.camera import quaternion_rotate
from common.files.video import (
    frame_times,
    probe_video,
    read_video,
    small_mp4,
    stored_rotation,
    write_video,
)
from common.footage.lifting import StreamingLifter, lift
from common.footage.people import read_people
from common.footage.preparation import Preparation, settle_recording
from common.footage.recording import as_shown, at_even_times, uneven_times
from common.footage.sequences import Footage, lift_footage, place_together
from common.footage.tracks import Piece
from common.footage.trajectory import focal_length_px, hip_path
from common.motion import LEVEL_CAMERA, orientation_of_camera
from common.skeleton import coco_to_h36m

REAL = REPOSITORY / "tests" / "data" / "real_footage"
REAL = REAL if REAL.is_dir() else REPOSITORY.parent / "shared" / "real_footage"
PICTURE, FOCAL, FPS = (1280, 720), 1000.0, 30


def project(points):
    return points[..., :2] / points[..., 2:] * FOCAL + np.divide(PICTURE, 2)


def footage_of(poses):
    pixels = project(poses)
    return Footage("p", "p", pixels.astype(np.float32), {"Keypoints": pixels}, PICTURE, FPS)


def test_the_hip_is_exact_with_true_poses_and_focal_length():
    assert focal_length_px((1080, 1920), 90) == pytest.approx(960)
    seconds = np.arange(90) / FPS
    hip = np.stack([0.5 * seconds - 1, 0.1 + 0 * seconds, 4 + seconds], axis=-1)
    poses = standing(90)
    poses[..., 2] += 0.3 * poses[..., 0]  # not parallel to the picture
    keypoints = project(poses + hip[:, None])
    found = hip_path(poses, keypoints, PICTURE, FOCAL, fps=FPS)
    np.testing.assert_allclose(found, hip, atol=1e-9)
    confidences = np.ones((90, 17))
    confidences[:, 13], keypoints[:, 13] = 0, 5  # a wrist that was not found
    found = hip_path(poses, keypoints, PICTURE, FOCAL, fps=FPS, confidences=confidences)
    assert np.abs(found - hip).max() < 0.1
    assert np.abs(hip_path(poses, keypoints, PICTURE, FOCAL, fps=FPS) - hip).max() > 0.3


@pytest.mark.skipif(not REAL.is_dir(), reason="no real footage")
@pytest.mark.parametrize("camera", ["cam01", "cam02", "cam03"])
def test_real_keypoints_and_true_poses_give_the_true_distance(camera):
    with np.load(REAL / f"{camera}_truth.npz") as truth:
        size, poses, focal = truth["size"].tolist(), truth["camera_m"], truth["focal_px"].mean()
    results = json.loads((REAL / f"{camera}_thunder.json").read_text())
    results = sorted(results, key=lambda result: result["image_id"])
    keypoints = np.array([result["keypoints"] for result in results]).reshape(-1, 17, 3)
    hip, keypoints = poses[:, :1], coco_to_h36m(keypoints)
    how = {"fps": 60, "confidences": keypoints[..., 2]}
    found = hip_path(poses - hip, keypoints[..., :2], size, focal, **how)
    error = np.linalg.norm(found - hip[:, 0], axis=-1) / np.linalg.norm(hip[:, 0], axis=-1)
    assert error.mean() < 0.03


def in_front(poses, hip):
    return poses + np.reshape(hip, (-1, 1, 3))


def test_people_of_one_video_stand_in_one_scene_on_one_floor_and_jump():
    seconds = np.arange(90) / FPS
    jump = np.where(np.abs(seconds - 1.5) < 0.3, 0.3, 0)
    walk = np.stack([0.5 * seconds, 0.2 - jump, 4 + 0 * seconds], axis=-1)
    poses = [in_front(standing(90), walk), in_front(standing(90), (2, 0.2, 6))]
    placed, _, what = place_together(poses, [footage_of(p) for p in poses], "auto")
    feet = [p[..., 2].min(axis=1) for p in placed]
    assert feet[0][45] == pytest.approx(0.3, abs=0.02) and "first person" in what
    np.testing.assert_allclose(feet[0][[0, 20, 89]], 0, atol=1e-3)
    np.testing.assert_allclose(feet[1], 0, atol=1e-3)
    np.testing.assert_allclose(placed[0][-1, 0, :2] - placed[0][0, 0, :2], [0.5 * 89 / 30, 0])
    np.testing.assert_allclose(placed[1][0, 0, :2] - placed[0][0, 0, :2], [2, 2], atol=1e-6)


def turned(poses, degrees, axes=(0, 1)):
    """Turn poses in the plane of two axes."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    result = poses.copy()
    result[..., axes] = poses[..., axes] @ np.array([[cosine, sine], [-sine, cosine]])
    return result


@pytest.mark.parametrize(
    ("degrees", "axes", "is_level"),
    [(20, (0, 1), False), (30, (1, 2), False), (85, (0, 1), True), (80, (1, 2), True)],
)
def test_a_tilted_camera_is_found_but_who_lies_stays_lying(degrees, axes, is_level, capsys):
    poses = turned(standing(), degrees, axes)
    (placed,), *_ = place_together([poses], [footage_of(in_front(poses, (0, 0, 5)))], "auto")
    assert ("--up level" in capsys.readouterr().err) == is_level
    up = turned(np.array([[[0.0, -1, 0]]]), degrees, axes)[0, 0]
    orientation = LEVEL_CAMERA if is_level else orientation_of_camera(up)
    expected = quaternion_rotate(orientation, poses)
    np.testing.assert_allclose(placed - placed[:, :1], expected, atol=1e-6)


def test_frames_in_which_a_person_sits_do_not_tilt_the_floor(capsys):
    sitting = standing(20)
    for knee, foot in ((2, 3), (5, 6)):
        sitting[:, knee] = sitting[:, knee - 1] + (0, 0, -0.45)
        sitting[:, foot] = sitting[:, knee] + (0, 0, -0.45)
    for poses, warns in ((sitting, True), (np.concatenate([sitting, standing(5)]), False)):
        (placed,), *_ = place_together([poses], [footage_of(in_front(poses, (0, 0, 5)))])
        trunk = placed[0, 8] - placed[0, 0]
        np.testing.assert_allclose(trunk, [0, 0, 0.47], atol=1e-6)
        assert bool(capsys.readouterr().err) == warns


def test_who_lies_is_turned_for_the_network_and_back():
    model = random_model(number_of_frames=9)
    upright = project(in_front(standing(), (0, 0, 5)))
    lying = turned(upright - np.divide(PICTURE, 2), 90) + np.divide(PICTURE, 2)
    poses, how = [], {"resample": True, "smooth_hz": None, "causal": False, "device": "cpu"}
    for pixels in (upright, lying):
        inputs = (pixels / PICTURE[0] * 2 - [1, PICTURE[1] / PICTURE[0]]).astype(np.float32)
        footage = Footage("p", "p", inputs, {"Keypoints": pixels}, PICTURE, FPS)
        poses.append(lift_footage(footage, model, **how))
    np.testing.assert_allclose(poses[1], turned(poses[0], 90), atol=1e-4)


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def test_a_varying_frame_rate_is_brought_to_even_times(tmp_path):
    steady, varying = tmp_path / "steady.mp4", tmp_path / "varying.mp4"
    pictures = [np.full((48, 64, 4), 4 * i, np.uint8) for i in range(60)]
    write_video(steady, pictures, fps=30)
    # Of the second second every third frame; frames that depend on later ones, as cameras write.
    coding = ("-c:v", "libx264", "-bf", 2, "-fps_mode", "vfr")
    ffmpeg("-i", steady, "-vf", "select='lt(t,1)+not(mod(n,3))'", *coding, varying)
    expected = np.array([*range(30), *range(30, 60, 3)]) / 30
    times = frame_times(varying)
    np.testing.assert_allclose(times, expected, atol=1e-3)
    assert uneven_times(steady) is None
    times, fps = uneven_times(varying)
    assert fps == pytest.approx(30, rel=1e-3)
    path = np.stack([100 * times, 50 * times**2], axis=-1)[:, None]  # a parabola is exact
    even = at_even_times(Piece(0, path, 0, 0), times, 30)
    seconds = np.arange(58) / 30
    expected = np.stack([100 * seconds, 50 * seconds**2], axis=-1)
    np.testing.assert_allclose(even.keypoints[:, 0], expected, atol=0.1)
    part = at_even_times(Piece(33, path[33:], 0, 0), times, 30)
    assert part.first_frame == 39 and len(part.keypoints) == 58 - 39
    # A page's small video has the pictures of a film.
    (tmp_path / "small.mp4").write_bytes(small_mp4(varying, 10, 50, fps, even=True))
    film = read_video(varying, (0, 0, 1, 1), (64, 48), fps)
    levels = np.array([picture.mean() for picture in film])[10:51]
    small = read_video(tmp_path / "small.mp4", (0, 0, 1, 1), (64, 48))
    np.testing.assert_allclose([p.mean() for p in small], levels, atol=2)
    np.testing.assert_allclose(levels[:20], np.arange(40, 120, 4), atol=4)


def test_pixels_that_are_not_square_are_warned_of(tmp_path, capsys):
    """What the warning says makes them square, of an even width."""
    names = ("SAR 16:9 Video: SAR 16:9.mp4", "nearly.mp4", "stretched.mp4", "converted.mp4")
    square, nearly, stretched, converted = (tmp_path / name for name in names)
    write_video(square, [np.zeros((48, 64, 4), np.uint8)] * 3, fps=30)
    for ratio, video in (("1280/1281", nearly), ("4/3", stretched)):
        ffmpeg("-i", f"file:{square}", "-vf", f"setsar={ratio}", video)

    def said(video):
        settle_recording(Preparation(tmp_path / "found.npy", "a", video), None)
        return capsys.readouterr().err

    warning = said(stretched)
    assert f"{stretched}: its pixels are 1.33 times as wide as high" in warning
    ffmpeg("-i", stretched, "-vf", warning.split('"')[1], converted)
    assert probe_video(converted)[0] == (84, 48)
    assert not any(map(said, (square, nearly, converted)))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_keypoints_of_the_stored_pictures_are_turned_as_the_video_is(tmp_path, capsys, rotation):
    stored, rotated = tmp_path / "stored.mp4", tmp_path / "rotated.mp4"
    write_video(stored, [np.zeros((48, 96, 4), np.uint8)] * 3, fps=30)
    ffmpeg("-display_rotation", rotation, "-i", stored, "-c", "copy", rotated)
    assert stored_rotation(rotated) == rotation and stored_rotation(stored) == 0
    shown = (96, 48) if rotation == 180 else (48, 96)
    upright = np.zeros((3, 17, 3))
    upright[..., 0] = np.linspace(10, 38, 17)
    upright[..., 1] = np.linspace(5, shown[1] - 5, 17)  # COCO's shoulders come before the hips
    # NumPy turns pictures counter-clockwise: where a pixel of the stored picture comes to lie.
    index = np.rot90(np.arange(96 * 48).reshape(48, 96), rotation // 90)
    u, v = np.rint(upright[0, :, :2]).astype(int).T
    y, x = np.divmod(index[v, u], 96)
    found = upright.copy()
    found[..., 0], found[..., 1] = x + 0.5, y + 0.5
    np.save(tmp_path / "found.npy", found)
    people = as_shown(read_people(tmp_path / "found.npy", "coco", 0), rotated, shown)
    assert f"rotated by {rotation} degrees" in capsys.readouterr().err
    np.testing.assert_allclose(people.keypoints[0, :, :2], np.stack([u, v], 1) + 0.5, atol=1e-9)
    np.save(tmp_path / "found.npy", upright)
    people = read_people(tmp_path / "found.npy", "coco", 0)
    assert as_shown(people, rotated, shown) is people


@pytest.mark.parametrize("nobody", [None, np.zeros((0, 17, 2)), np.full((17, 3), np.nan), []])
def test_live_frames_without_anybody_give_none_and_spoil_nothing(nobody):
    model, pixels = random_model(number_of_frames=9), moving(20)
    stream = StreamingLifter(model, size=SIZE)
    assert stream.push(nobody) is None
    poses = [stream.push(nobody if frame == 6 else pixels[frame]) for frame in range(12)]
    assert poses[6] is None
    held = np.concatenate([pixels[:6], pixels[5:6], pixels[7:12]])
    expected = lift(held, model, size=SIZE, causal=True)
    for frame in (5, 7, 8, 11):
        np.testing.assert_allclose(poses[frame], expected[frame], atol=1e-5)
    for _ in range(6):  # longer than the window sees back: the next frame is a first one
        stream.push(nobody)
    first = StreamingLifter(model, size=SIZE).push(pixels[15])
    np.testing.assert_allclose(stream.push(pixels[15]), first, atol=1e-6)


def test_points_that_were_not_found_are_filled_and_shares_are_refused():
    model, pixels = random_model(number_of_frames=9), moving(20)
    gap = pixels.copy()
    gap[8], gap[12, 3] = np.nan, 0
    filled = pixels.copy()
    filled[8], filled[12, 3] = (pixels[7] + pixels[9]) / 2, (pixels[11, 3] + pixels[13, 3]) / 2
    expected = lift(filled, model, size=SIZE)
    np.testing.assert_allclose(lift(gap, model, size=SIZE), expected, atol=1e-5)
    shares = pixels / SIZE
    stream = StreamingLifter(model, size=SIZE)
    for call in (lambda: lift(shares, model, size=SIZE), lambda: stream.push(shares[0])):
        with pytest.raises(ValueError, match="shares of the picture"):
            call()
    with pytest.raises(ValueError, match="nobody"):
        lift(np.zeros((3, 17, 2)), model, size=SIZE)
    with pytest.raises(ValueError, match="choose one"):
        stream.push(pixels[:2])
