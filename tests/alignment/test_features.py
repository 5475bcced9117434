import pytest
import torch
from torch import nn

from alignflow.alignment.features import EncoderFeatures
from alignflow.errors import InputError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))


def test_features_are_mean_and_deviation_of_each_channel():
    net, x = network(), torch.randn(2, 3, 8, 8)
    found = EncoderFeatures(net, ["0", "2"])(x)
    first, last = net[0](x), net(x)
    expected = [first.mean((2, 3)), last.mean((2, 3)), first.std((2, 3)), last.std((2, 3))]
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_images_get_a_gradient_and_the_network_none():
    encoder, x = EncoderFeatures(network(), ["2"]), torch.randn(2, 3, 8, 8, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in encoder.parameters())


def test_weights_come_from_a_file(tmp_path):
    net, other = network(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    torch.save(net.state_dict(), tmp_path / "encoder.pt")
    EncoderFeatures(other, ["2"], weights=str(tmp_path / "encoder.pt"))
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(other(x), net(x))


def test_unknown_layer_is_named():
    with pytest.raises(InputError, match="no layer 'layer9'"):
        EncoderFeatures(network(), ["layer9"])


@pytest.mark.parametrize("content", [None, b"not weights", {"a": torch.zeros(1)}])
def test_weights_that_do_not_fit_are_refused(tmp_path, content):
    path = tmp_path / "encoder.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match="encoder.pt"):
        EncoderFeatures(network(), ["0"], weights=str(path))
