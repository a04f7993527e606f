import csv
import json

import numpy as np
import pytest

from common.console import InputError
from common.export import export_poses
from common.skeleton import JOINT_NAMES


def test_exported_poses_name_joints_unit_and_frame_of_reference(walk, tmp_path):
    world = walk[0]
    numbers = np.arange(0, 40, 2)
    for suffix in (".npy", ".json", ".csv"):
        export_poses(tmp_path / f"poses{suffix}", world, "world, z up", 50, numbers)
    records = np.load(tmp_path / "poses.npy", allow_pickle=False)
    assert records.dtype.names[3:] == JOINT_NAMES
    assert set(records["frame_of_reference"]) == {"world, z up"}
    content = json.loads((tmp_path / "poses.json").read_text())
    assert (content["frame_of_reference"], content["unit"]) == ("world, z up", "m")
    assert content["joints"] == list(JOINT_NAMES)
    assert np.allclose(content["positions"], world, atol=1e-6)
    with (tmp_path / "poses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(world)
    assert {row["frame_of_reference"] for row in rows} == {"world, z up"}
    for joint, name in enumerate(JOINT_NAMES):
        assert np.array_equal(records[name], world[:, joint])
        for axis, letter in enumerate("xyz"):
            column = [float(row[f"{name}_{letter}_m"]) for row in rows]
            assert np.allclose(column, world[:, joint, axis], atol=1e-6)
    for times in (records["time_s"], [float(row["time_s"]) for row in rows]):
        assert np.allclose(times, numbers / 50)
    with pytest.raises(InputError, match=r"\.npy or \.json or \.csv"):
        export_poses(tmp_path / "poses.txt", world, "world", 50)
