import torch
from hypothesis import given
from hypothesis import strategies as st

from alignflow.flow.path import linear_path

times = st.floats(0, 1)
values = st.floats(-3, 3)


def fill(value):
    return torch.full((1, 1, 2, 2), value, dtype=torch.float64)


@given(values, values, times)
def test_closed_form(noise, data, t):
    path = linear_path(fill(noise), fill(data), torch.tensor([t], dtype=torch.float64))
    torch.testing.assert_close(path.x_t, fill((1 - t) * noise + t * data))
    torch.testing.assert_close(path.velocity, fill(data - noise))


def test_ends_are_exact_and_each_sample_has_its_time():
    noise, data = torch.randn(2, 3, 1, 4, 4).unbind()
    path = linear_path(noise, data, torch.tensor([0.0, 1.0, 0.5]))
    assert torch.equal(path.x_t[0], noise[0])
    assert torch.equal(path.x_t[1], data[1])
    torch.testing.assert_close(path.x_t[2], (noise[2] + data[2]) / 2)


def test_velocity_is_the_derivative_of_the_point():
    noise, data = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64).unbind()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    _, derivative = torch.autograd.functional.jvp(
        lambda t: linear_path(noise, data, t).x_t, t, torch.ones_like(t)
    )
    torch.testing.assert_close(derivative, linear_path(noise, data, t).velocity)
