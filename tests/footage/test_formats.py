import json

import numpy as np
import pytest
from custom_files import COCO, COUNTS, PLACES, dump, mmpose, mmpose0
from walkers import FRAMES, SIZE, walkers

from common.files.console import InputError
from common.files.npz import read_custom_2d
from common.footage import formats
from common.footage.detections import Detections, Person, picture_numbers
from common.footage.layouts import KEYPOINT_NAMES, body_points, places_by_name, to_h36m
from common.footage.people import read_people
from common.skeleton import JOINT_NAMES, coco_to_h36m


def test_layouts_hold_coco():
    counts = {layout: len(names) for layout, names in KEYPOINT_NAMES.items()}
    assert counts == {"coco": 17, **COUNTS, "h36m": 17}
    for layout, places in PLACES.items():
        assert len(set(KEYPOINT_NAMES[layout])) == counts[layout]
        points = np.arange(counts[layout])[:, None].repeat(2, axis=1)
        assert tuple(body_points(points, layout)[:, 0]) == places
    for layout, says in (("body25", "layout body25: .* is not"), ("kinect", "no layout 'kinect'")):
        with pytest.raises(ValueError, match=says):
            to_h36m(np.zeros((3, 17, 2)), layout)


def test_a_further_format_is_one_function(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "READERS", [*formats.READERS])

    @formats.reads("Kinect", {"bodies"})
    def kinect(content):
        return Detections({n: [Person(body)] for n, body in enumerate(content["bodies"])})

    people = read_people(dump(tmp_path / "a.json", {"bodies": walkers(people=1)[:, 0].tolist()}))
    assert people.source == "Kinect, layout coco" and people.keypoints.shape == (FRAMES, 17, 3)


def test_a_dict_by_picture_and_json_lines_are_read_like_the_list(tmp_path):
    keypoints = walkers()
    listed = json.loads(mmpose0(tmp_path, keypoints, SIZE).read_text())
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, listed)))
    named = dump(tmp_path / "named.json", {f"v2/img_{i}.png": p for i, p in enumerate(listed)})
    expected = keypoints.reshape(-1, 17, 3)
    for path in (lines, named):
        np.testing.assert_allclose(read_people(path).keypoints, expected)
    lines.write_text("\n {}\n[]\n[1")  # an error's place is in the file, not in a value
    with pytest.raises(InputError, match="line 4 column 3"):
        read_people(lines)


def test_what_a_file_says_of_its_points_is_believed_before_their_number(tmp_path):
    keypoints = walkers(people=1)
    content = json.loads(mmpose(tmp_path, keypoints, SIZE).read_text())

    def read(**about):
        return read_people(dump(tmp_path / "said.json", content | {"meta_info": about}))

    assert read(dataset_name="h36m").layout == "h36m"
    assert read(dataset_name="coco").layout == "coco"
    with pytest.raises(InputError, match="says that its layout is 'posetrack18'"):
        read(dataset_name="posetrack18")
    reversed_names = dict(enumerate(COCO[::-1]))
    people = read(dataset_name="own", keypoint_id2name=reversed_names)
    np.testing.assert_allclose(people.keypoints, keypoints[:, 0, ::-1])
    without_ears = {i: f"no {name}" if "ear" in name else name for i, name in enumerate(COCO)}
    people = read(keypoint_id2name=without_ears)
    assert np.isnan(people.keypoints[:, 3:5]).all() and np.isfinite(people.keypoints[:, 5:]).all()
    with pytest.raises(InputError, match="among them are neither COCO's shoulders"):
        read(keypoint_id2name={i: f"marker {i}" for i in range(17)})


@pytest.mark.parametrize("spelling", ["{}Hip", "{}_hip", "hip.{}", "{} HIP"])
def test_joints_may_be_spelt_in_many_ways(spelling):
    names = [
        spelling.format({"l": "L", "r": "R"}[name[0]]) if name[1:] == "eft_hip" else name
        for name in COCO
    ]
    assert places_by_name(names) == ("coco", list(range(17)))
    assert places_by_name(JOINT_NAMES) == ("h36m", list(range(17)))


def test_people_in_one_array_may_be_there_for_different_times(tmp_path):
    keypoints = walkers().swapaxes(0, 1)
    ragged = [keypoints[0].tolist(), keypoints[1, :20].tolist()]
    people = read_people(dump(tmp_path / "ragged.json", ragged))
    np.testing.assert_allclose(people.keypoints[people.identities == 1], keypoints[0])
    np.testing.assert_allclose(people.keypoints[people.identities == 2], keypoints[1, :20])
    frames = [np.zeros((0, 17, 3)), keypoints[:, 0], keypoints[:1, 1]]  # few frames, as before
    people = read_people(dump(tmp_path / "frames.json", frames))
    assert people.frames.tolist() == [1, 1, 2]


def test_cameras_in_one_array_are_no_people(tmp_path):
    one = walkers(people=1)[:, 0]
    np.save(tmp_path / "cameras.npy", np.stack([one, one + [9, 0, 0]]))
    with pytest.raises(InputError, match="first axis seems to be cameras"):
        read_people(tmp_path / "cameras.npy")


def test_several_videos_in_one_npz_are_lifted_as_they_are(tmp_path):
    keypoints = walkers(people=1)[:, 0, :, :2]
    videos = {"a.mp4": {"w": 640, "h": 480}, "b.mp4": {"w": 640, "h": 480}}
    metadata = {"layout_name": "coco", "video_metadata": videos}
    positions = {name: {"custom": [keypoints]} for name in videos}
    np.savez(tmp_path / "two.npz", positions_2d=positions, metadata=metadata)
    with pytest.raises(InputError, match=r"holds 2 videos, a\.mp4, b\.mp4; lift\.py takes"):
        read_people(tmp_path / "two.npz")
    joints, about = read_custom_2d(tmp_path / "two.npz")
    np.testing.assert_allclose(joints["b.mp4"], coco_to_h36m(keypoints), rtol=1e-6)
    assert about == videos


def test_3d_poses_are_refused(tmp_path):
    poses = coco_to_h36m(walkers(people=1)[:, 0]) / [300, 300, 1] - [1, 0.8, 0]
    poses[..., 2] = np.linspace(0, 1.7, 17)  # metres; the feet on the floor
    points = [dict(zip("xyz", point)) for point in poses[0].tolist()]
    header = ",".join(f"{name}_{axis}_m" for name in JOINT_NAMES for axis in "xyz")
    (tmp_path / "poses.csv").write_text(f"frame,{header}\n0,{','.join(['1'] * 51)}\n")
    instance = {"keypoints": [poses[0].tolist()], "keypoint_scores": [[0.9] * 17]}
    np.save(tmp_path / "poses.npy", poses)
    np.save(tmp_path / "camera.npy", 1000 * poses + [0, 0, 4000])
    contents = [
        [{"frame_id": 0, "instances": [instance]}],
        [{"people": [{"pose_keypoints_2d": [], "pose_keypoints_3d": [1.0] * 100}]}],
        [{"poseWorldLandmarks": points}],
        [{"keypoints3D": points}],
    ]
    paths = [dump(tmp_path / f"{i}.json", content) for i, content in enumerate(contents)]
    for path in [*paths, *(tmp_path / name for name in ("poses.csv", "poses.npy", "camera.npy"))]:
        with pytest.raises(InputError, match="these are 3D poses; give the 2D predictions"):
            read_people(path)


@pytest.mark.parametrize(
    "names",
    [
        ["cam1_0001.jpg", "cam2_0002.jpg"],
        ["00-01.jpg", "01-00.jpg"],
        ["walk1.png", "run2.png"],
        ["3f2a.jpg", "77.jpg"],
        ["1.033.jpg", "2.066.jpg"],
        ["1700000033.jpg", "1700000066.jpg", "1700000100.jpg"],
    ],
)
def test_a_frames_number_is_told_safely_or_not_at_all(names):
    with pytest.raises(ValueError, match=r"cannot be told from their names|in steps of 3"):
        picture_numbers(names)


def test_the_number_that_varies_is_the_frames():
    names = ["clip_2/frame_0009_1080p.jpg", "clip_2/frame_0010_1080p.jpg"]
    assert picture_numbers([*names, names[0]]) == [9, 10, 9]
    assert picture_numbers(["video2_frame_0012.jpg"]) == [12]
    assert picture_numbers([3, "4"]) == [3, 4]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "\n", "an empty table"),
        ("a.csv", "frame,nose_x,nose_y\n", "a table without rows"),
        ("a.csv", "a,b\n1,2\n", "no columns such as nose_x and nose_y, but a, b"),
        ("a.csv", "frame,nose_x,nose_y\n1,2\n", "row 2 has 2 cells, the first has 3"),
        ("a.csv", "frame,x0,y0\n1,2,3\n1,2,3\n", "two rows of one frame, and no column 'person'"),
        ("clip_1.txt", "0 0.5 0.5 0.1 0.1\n", "boxes without keypoints"),
        ("clip_1.txt", "0 0.5 0.5 0.1 0.1 7 7\n", "rows of 7 numbers are no known layout"),
        ("clip_1.txt", "a person\n", "no labels of Ultralytics"),
    ],
)
def test_bad_text_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_people(tmp_path if name.endswith("txt") else tmp_path / name)
