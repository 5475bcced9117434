import pytest
import torch

from alignflow.errors import InputError
from alignflow.flow.path import linear_path
from alignflow.flow.prediction import velocity_of
from alignflow.flow.solver import integrate
from alignflow.networks.velocity import VelocityUNet

SMALL = {"data_channels": 1, "channels": [32, 32], "attention_levels": [False, True]}


def test_velocity_of_the_true_image_is_that_of_the_path():
    generator = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 5, 3, 4, 4, generator=generator)
    t = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.95])
    path = linear_path(noise, data, t)
    found = velocity_of(data, path.x_t, t, "data")
    torch.testing.assert_close(found, path.velocity, atol=1e-4, rtol=1e-4)
    assert velocity_of(data, path.x_t, t, "velocity") is data


def test_errors_are_enlarged_20_times_at_most():
    x = torch.zeros(2, 1, 2, 2)
    found = velocity_of(x + 0.1, x, torch.tensor([0.99, 1.0]), "data")
    torch.testing.assert_close(found, torch.full_like(x, 2.0))


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_sure_prediction_is_where_the_solver_ends(method):
    image = torch.rand(3, 1, 4, 4)
    end = integrate(
        lambda x, t: velocity_of(image, x, t, "data"),
        torch.randn(3, 1, 4, 4),
        steps=8,
        method=method,
        final_euler=True,
    )
    torch.testing.assert_close(end, image, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_untrained_network_predicts_a_grey_image():
    network = VelocityUNet(**SMALL, prediction="data")
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0.2, 0.7])
    torch.testing.assert_close(network(x, t), -x / (1 - t).view(-1, 1, 1, 1))
    assert network.arguments["prediction"] == "data"


def test_unknown_prediction_is_refused():
    with pytest.raises(InputError, match="prediction 'noise'; set one of velocity, data"):
        VelocityUNet(**SMALL, prediction="noise")
