"""A short campaign against every reader, and that it finds fault with the usual readers."""

import numpy as np
import pytest
import torch
from fuzz.engine import READ, REFUSED, campaign
from fuzz.readers import all_readers

READERS = {reader.name: reader for reader in all_readers()}
UNRESTRICTED = {
    "npz of 2D": lambda path: np.load(path, allow_pickle=True)["positions_2d"],
    "npy": lambda path: np.load(path, allow_pickle=True),
    "legacy checkpoint": lambda path: torch.load(path, weights_only=False),
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_is_shaken_by_strange_files(tmp_path, name):
    counts = campaign(READERS[name], 60, 20_261_123, tmp_path)
    assert counts[READ] + counts[REFUSED] == 60
    assert counts[REFUSED] > 10


@pytest.mark.parametrize("name", UNRESTRICTED)
def test_a_campaign_finds_fault_with_the_usual_readers(tmp_path, name):
    with pytest.raises(AssertionError, match=f"{name}, .* ran code: "):
        campaign(READERS[name]._replace(read=UNRESTRICTED[name]), 100, 0, tmp_path)
