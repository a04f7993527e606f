"""What is said where PyTorch cannot use a GPU; the GPU is a stand-in."""

import pytest
import torch

from common.files.console import InputError
from common.training.device import choose_device


def test_a_card_without_kernels_is_one_line(monkeypatch):
    """As on a V100 or GTX 10 with a PyTorch for CUDA 13: there is a GPU, and nothing runs on it."""

    def fails(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution\nmore")

    cuda = {"is_available": True, "device_count": 1, "get_device_capability": (7, 0)}
    cuda |= {"get_device_name": "Tesla V100", "get_arch_list": ["sm_75", "sm_90"]}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch, "ones", fails)
    with pytest.raises(InputError) as error:
        choose_device("0")
    for part in ("Tesla V100", "no kernel image", "7.0", "sm_75, sm_90", "-g cpu"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("cuda", "says"), [("13.0", "CUDA 13.0; is the driver"), (None, "without")]
)
def test_the_reason_for_using_the_cpu_is_said(monkeypatch, capsys, cuda, says):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("0") == torch.device("cpu")
    assert says in capsys.readouterr().out
