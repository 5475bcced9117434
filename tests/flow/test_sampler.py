import pytest
import torch

from alignflow.flow.sampler import FlowSampler, ImageSampler
from alignflow.flow.solver import integrate
from alignflow.networks.velocity import VelocityUNet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = VelocityUNet(
        data_channels=1,
        condition_channels=3,
        channels=[32, 32],
        attention_levels=[False, True],
        num_head_channels=16,
    )
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)  # its last layer is zero at first
    return network.eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)


@torch.no_grad()
def test_flow_sampler_integrates_the_guided_velocity(network, inputs):
    noise, condition = inputs
    options = {"steps": 3, "method": "midpoint"}

    def velocity(x, t):
        given, dropped = network(x, t, condition), network(x, t, torch.zeros_like(condition))
        return dropped + 1.5 * (given - dropped)

    sample = FlowSampler(network, guidance=1.5, **options)(noise, condition=condition)
    torch.testing.assert_close(sample, integrate(velocity, noise, **options, final_euler=True))
    assert (sample - noise).abs().max() > 0.1


@torch.no_grad()
def test_image_sampler_takes_noise_and_maps_as_one_tensor(network, inputs):
    noise, condition = inputs
    options = {"steps": 2, "guidance": 2.0}
    expected = FlowSampler(network, **options)(noise, condition=condition)
    assert torch.equal(ImageSampler(network, **options)(torch.cat(inputs, dim=1)), expected)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_to_a_static_graph(network, inputs, guidance):
    x = torch.cat(inputs, dim=1)
    sampler = ImageSampler(network, steps=2, guidance=guidance)
    traced = torch.jit.trace(sampler, x, check_trace=False)
    for batch_size in (2, 3):
        other = torch.randn(batch_size, *x.shape[1:])
        torch.testing.assert_close(traced(other), sampler(other))
    graph = str(traced.inlined_graph)
    assert "prim::Loop" not in graph and "prim::If" not in graph


def test_gradient_reaches_noise_and_network(network, inputs):
    x = torch.cat(inputs, dim=1).requires_grad_()
    ImageSampler(network, steps=2, guidance=1.5)(x).square().mean().backward()
    gradients = [x.grad, *(weight.grad for weight in network.parameters())]
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)
    network.zero_grad()


@torch.no_grad()
def test_weights_are_those_of_the_network(network):
    image, flow = ImageSampler(network, steps=2), FlowSampler(network, steps=4)
    assert set(image.state_dict()) == {f"network.{name}" for name in network.state_dict()}
    image.load_state_dict(flow.state_dict())
