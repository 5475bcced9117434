import torch
from ignite.engine import Engine
from torch import nn

from alignflow.flow.sampler import FlowSampler, ImageSampler
from alignflow.networks.velocity import VelocityUNet
from alignflow.training.weights import SaveWeights


def small_network(seed):
    torch.manual_seed(seed)
    return VelocityUNet(
        data_channels=1, condition_channels=3, channels=[32], attention_levels=[False]
    )


def test_weights_of_training_load_into_the_sampler_of_inference(tmp_path):
    path = tmp_path / "models/model.pt"
    trained = FlowSampler(small_network(0), steps=2)
    engine = Engine(lambda engine, batch: None)
    SaveWeights(trained, str(path)).attach(engine)
    engine.run([0])
    sampler = ImageSampler(small_network(1), steps=5)
    sampler.load_state_dict(torch.load(path, weights_only=True))
    torch.testing.assert_close(
        sampler.network.state_dict(), trained.network.state_dict(), rtol=0, atol=0
    )
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_writes_when_training_is_complete_and_not_before(tmp_path):
    path = tmp_path / "model.pt"
    engine = Engine(lambda engine, batch: None)
    module = nn.Linear(1, 1)
    SaveWeights(module, str(path)).attach(engine)
    engine.terminate()
    assert not path.exists()
    engine.run([0], max_epochs=2)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], module.weight)
