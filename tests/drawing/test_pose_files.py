import csv
import json

import bvhio
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_motion import BODY
from trc import TRCData

from common.drawing.bvh import fit_skeleton
from common.drawing.pose_files import export_poses
from common.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS

FPS = 50
NUMBERS = np.arange(6, 66, 2)
INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}
# Each joint seen from its parent, x to the left, y backwards, z up, in metres.
BONES = np.insert(BODY - BODY[np.maximum(PARENTS, 0)], 1, 0, axis=1)


@pytest.fixture(scope="module")
def motion():
    """(30, 17, 3), metres, world: all joints turn, bones and the hip's and thorax's shape hold."""
    rng = np.random.default_rng(0)
    turns = np.cumsum(rng.normal(0, 0.12, (len(NUMBERS), NUM_JOINTS, 3)), axis=0)
    poses = np.zeros((len(NUMBERS), NUM_JOINTS, 3))
    poses[:, 0] = np.linspace((0, 0, 0.9), (1, 0.5, 1.0), len(NUMBERS))
    for joint, parent in list(enumerate(PARENTS))[1:]:
        turned = Rotation.from_rotvec(turns[:, parent]).apply(BONES[joint])
        poses[:, joint] = poses[:, parent] + turned
    return poses


def y_up(poses):
    """What Blender's importer undoes when it takes y for up and -z for forward."""
    return np.stack([poses[..., 0], poses[..., 2], -poses[..., 1]], axis=-1)


def read_bvh(path):
    """Return the file as bvhio reads it, and (frames, 17, 3), where it puts the joints."""
    content = bvhio.readAsBvh(str(path))
    root = bvhio.convertBvhToHierarchy(content.Root)
    joints = [joint for joint, _, _ in root.layout()]
    assert [j.Name for j in joints] == [name.replace("/", "_") for name in JOINT_NAMES]
    positions = []
    for frame in range(content.FrameCount):
        root.loadPose(frame)
        positions.append([list(joint.PositionWorld) for joint in joints])
    return content, np.array(positions)


def test_what_a_file_holds_beside_the_positions(motion, tmp_path):
    poses = motion.astype(np.float32)
    for suffix in (".npy", ".npz", ".json", ".csv"):
        export_poses(tmp_path / f"poses{suffix}", poses, "world 1", FPS, NUMBERS)
    records = np.load(tmp_path / "poses.npy", allow_pickle=False)
    assert records.dtype.names[4:] == JOINT_NAMES
    assert set(records[["frame_of_reference", "axes"]].tolist()) == {("world 1", "z up")}
    content = json.loads((tmp_path / "poses.json").read_text())
    with np.load(tmp_path / "poses.npz", allow_pickle=False) as arrays:
        arrays = {name: arrays[name].tolist() for name in arrays}
    assert np.array_equal(arrays.pop("positions_m"), poses)
    assert np.allclose(content.pop("positions"), poses, atol=1e-6)
    about = {"frame_of_reference": "world 1", "axes": "z up", "unit": "m", "fps": FPS}
    about |= {"joints": list(JOINT_NAMES), "parents": list(PARENTS)}
    about |= {"frames": NUMBERS.tolist(), "time_s": pytest.approx(NUMBERS / FPS)}
    assert content == about and arrays == about
    with (tmp_path / "poses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["frame_of_reference"], row["axes"]) for row in rows} == {("world 1", "z up")}
    for joint, name in enumerate(JOINT_NAMES):
        assert np.array_equal(records[name], poses[:, joint])
        for axis, letter in enumerate("xyz"):
            column = [float(row[f"{name}_{letter}_m"]) for row in rows]
            assert np.allclose(column, poses[:, joint, axis], atol=1e-6)
    for times in (records["time_s"], [float(row["time_s"]) for row in rows]):
        assert np.allclose(times, NUMBERS / FPS)


def test_a_marker_file_is_read_by_another_program(motion, tmp_path):
    export_poses(tmp_path / "poses.trc", motion, "world", FPS, NUMBERS)
    data = TRCData()
    data.load(str(tmp_path / "poses.trc"))
    assert data["Markers"] == [name.replace("/", "_") for name in JOINT_NAMES]
    assert (data["DataRate"], data["OrigDataRate"], data["Units"]) == (25, 50, "mm")
    assert (data["NumFrames"], data["NumMarkers"]) == (len(motion), NUM_JOINTS)
    assert np.allclose(data["Time"], NUMBERS / FPS)
    positions = np.array([data[marker] for marker in data["Markers"]]).swapaxes(0, 1)
    assert np.abs(positions - 1000 * y_up(motion)).max() < 6e-4


def test_bvh_of_a_rigid_person_is_that_person_and_at_rest_one_with_spread_arms(motion, tmp_path):
    export_poses(tmp_path / "poses.bvh", motion, "world", FPS, NUMBERS)
    content, positions = read_bvh(tmp_path / "poses.bvh")
    assert (content.FrameCount, content.FrameTime) == (len(motion), pytest.approx(1 / 25))
    assert np.abs(positions - y_up(motion)).max() < 1e-5
    root = bvhio.readAsHierarchy(str(tmp_path / "poses.bvh"))
    root.loadRestPose(recursive=True)
    rest = {joint.Name: np.array(list(joint.PositionWorld)) for joint, _, _ in root.layout()}
    assert rest["Head"][1] > rest["Thorax"][1] > 0 > rest["RKnee"][1] > rest["RFoot"][1]
    for joint in ("Hip", "Knee", "Foot", "Shoulder", "Elbow", "Wrist"):
        assert rest[f"L{joint}"][0] > 0 > rest[f"R{joint}"][0]
    assert rest["LWrist"][1] == pytest.approx(rest["LShoulder"][1])
    assert rest["Neck_Nose"][2] > rest["Thorax"][2] - 1e-5


def test_bvh_of_poses_whose_bones_vary(motion, tmp_path):
    noisy = motion + np.random.default_rng(1).normal(0, 0.01, motion.shape)
    export_poses(tmp_path / "poses.bvh", noisy, "world", FPS, NUMBERS)
    _, positions = read_bvh(tmp_path / "poses.bvh")
    parents = np.array(PARENTS[1:])
    lengths = np.linalg.norm(positions[:, 1:] - positions[:, parents], axis=-1)
    given = np.linalg.norm(noisy[:, 1:] - noisy[:, parents], axis=-1)
    assert np.abs(lengths - np.median(given, axis=0)).max() < 1e-5
    # What is lost is the noise of the lengths, not that of a whole limb.
    errors = np.linalg.norm(positions - y_up(noisy), axis=-1).mean(axis=0)
    assert errors[INDEX["Hip"]] < 1e-6
    assert errors.max() < 0.025


@pytest.mark.parametrize("tilt", [0.0, 0.02])
def test_nothing_jumps_where_an_arm_passes_opposite_its_rest_direction(motion, tmp_path, tilt):
    frames = 200
    poses = np.repeat(motion[:1], frames, axis=0)
    # The left arm swings round and round, past the opposite of the T-pose's, in y-up axes.
    angle = np.linspace(0, 4 * np.pi, frames)[:, None]
    x, y, z = np.eye(3)
    rest = fit_skeleton(y_up(poses[:1]), FPS)[1][0]
    thorax = rest[0] @ rest[INDEX["Spine"]] @ rest[INDEX["Thorax"]]
    arm = np.cos(tilt) * (np.cos(angle) * x + np.sin(angle) * y) + np.sin(tilt) * z
    arm, poses = arm @ thorax.T, y_up(poses)
    poses[:, INDEX["LElbow"]] = poses[:, INDEX["LShoulder"]] + 0.28 * arm
    poses[:, INDEX["LWrist"]] = poses[:, INDEX["LShoulder"]] + 0.5 * arm
    shoulder = fit_skeleton(poses, FPS)[1][:, INDEX["LShoulder"]]
    steps = Rotation.from_matrix(shoulder[1:] @ shoulder[:-1].swapaxes(1, 2)).magnitude()
    assert steps.max() < 4 * np.pi / (frames - 1) + np.radians(90) / FPS + 1e-6
    world = np.stack([poses[..., 0], -poses[..., 2], poses[..., 1]], axis=-1)
    export_poses(tmp_path / "poses.bvh", world, "world", FPS, np.arange(frames))
    rows = np.loadtxt((tmp_path / "poses.bvh").read_text().split("Frame Time:")[1].splitlines()[1:])
    assert np.abs(np.diff(rows, axis=0)).max() < 30
    assert np.abs(read_bvh(tmp_path / "poses.bvh")[1] - poses).max() < 1e-5


def test_one_frame_and_a_collapsed_pose_are_written(motion, tmp_path):
    for poses in (motion[:1], np.zeros((3, NUM_JOINTS, 3))):
        export_poses(tmp_path / "poses.bvh", poses, "world", FPS, np.arange(len(poses)))
        assert np.abs(read_bvh(tmp_path / "poses.bvh")[1] - y_up(poses)).max() < 1e-5
        export_poses(tmp_path / "poses.trc", poses, "world", FPS, np.arange(len(poses)))
