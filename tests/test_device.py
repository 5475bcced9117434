import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from alignflow.device import Precision, default_device, tune_allocator
from alignflow.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_default_device_can_be_used():
    assert torch.ones(2, device=default_device()).sum() == 2


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_autocast_on_the_cpu(name, dtype):
    with Precision("cpu", name).autocast():
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == dtype


def test_auto_chooses_what_the_cpu_computes_in():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    chosen = Precision("cpu", "auto").precision
    assert chosen in DTYPES
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        assert chosen == "bf16"
    if flags and "avx512" not in flags:
        assert chosen == "fp32"


def test_fp16_needs_a_gpu():
    with pytest.raises(InputError, match='"precision": fp16 needs a GPU; choose bf16 or fp32'):
        Precision("cpu", "fp16")


def test_unknown_precision():
    with pytest.raises(InputError, match="'tf32' unknown; choose auto, fp32, bf16, fp16"):
        Precision(torch.device("cpu"), "tf32")


def problem(device="cpu"):
    torch.manual_seed(0)
    network = nn.Linear(3, 1).to(device)
    data = torch.randn(16, 3, device=device)
    return network, lambda: (network(data) - data.sum(1, keepdim=True)).square().mean()


@pytest.mark.parametrize("clip", [1e-2, 1e6])
def test_step_equals_torch_by_hand(clip):
    network, loss = problem()
    by_hand, loss_by_hand = problem()
    Precision("cpu", "fp32").optimiser_step(
        loss(), network, torch.optim.SGD(network.parameters(), 0.1), clip
    )
    gradient = torch.autograd.grad(loss_by_hand(), list(by_hand.parameters()))
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    scale = min(1, clip / norm)
    for weight, expected, g in zip(
        network.parameters(), by_hand.parameters(), gradient, strict=True
    ):
        torch.testing.assert_close(weight, expected - 0.1 * scale * g, atol=1e-6, rtol=1e-5)


def test_gradients_of_the_step_before_are_gone():
    network, loss = problem()
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    for _ in range(2):
        Precision("cpu", "fp32").optimiser_step(loss(), network, optimizer, 1e6)
    gradient = torch.autograd.grad(loss(), network.weight)[0]
    torch.testing.assert_close(network.weight.grad, gradient)


def test_state_without_loss_scaling_is_empty():
    precision = Precision("cpu", "bf16")
    assert precision.state_dict() == {}
    precision.load_state_dict({})


@pytest.mark.gpu
def test_fp16_scales_the_loss_and_survives_an_overflow():
    network, loss = problem("cuda")
    precision = Precision("cuda:0", "fp16")
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    with precision.autocast():
        assert network(torch.ones(1, 3, device="cuda")).dtype == torch.float16
    before = network.weight.clone()
    precision.optimiser_step(loss() * torch.inf, network, optimizer, 1.0)
    assert torch.equal(network.weight, before)  # a step that overflows is left out
    assert precision.state_dict()["scale"] == 2**15
    precision.optimiser_step(loss(), network, optimizer, 1.0)
    assert not torch.equal(network.weight, before)
    again = Precision("cuda", "fp16")
    again.load_state_dict(precision.state_dict())
    assert again.state_dict() == precision.state_dict()


@pytest.mark.gpu
def test_auto_on_a_gpu_is_half_precision():
    precision = Precision("cuda", "auto")
    assert precision.precision == ("bf16" if torch.cuda.is_bf16_supported(False) else "fp16")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_large_blocks_come_from_the_heap():
    """After tuning, a large tensor lies in the heap and not in a mapping of its own."""
    script = """
import torch
from alignflow.device import tune_allocator
tune_allocator()
address = torch.ones(2**24).data_ptr()
heap = [line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n")]
inside = [int(a, 16) <= address < int(b, 16) for a, b in (span.split("-") for span in heap)]
print(any(inside))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_tuning_twice_is_harmless():
    tune_allocator()
    tune_allocator()
