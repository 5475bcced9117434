"""The solver benchmark: its figures where they are known, and a tiny trained bundle."""

import json

import pytest
import torch
from datasets import READING

from alignflow.errors import InputError
from alignflow.files import save_tensors
from alignflow.flow.sampler import FlowSampler
from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("solver")


def write_network(path, **options):
    """Random weights of a network whose last layer is not zero."""
    torch.manual_seed(0)
    network = VelocityUNet(channels=[32], attention_levels=[False], **options)
    for weight in network.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    torch.save(FlowSampler(network, steps=1).state_dict(), path)
    return network.arguments


@pytest.fixture
def models(tmp_path, png_source):
    masks = torch.zeros(5, 1, 16, 16, dtype=torch.uint8)
    for k, mask in enumerate(masks):
        mask[0, 4 : 8 + k, 5:12] = 1
    # smooth in t: at time_scale 1000 random weights ripple faster than 20 steps follow
    smooth = {"data_channels": 1, "time_scale": 10.0}
    image = write_network(tmp_path / "model.pt", condition_channels=3, **smooth)
    mask = write_network(tmp_path / "mask_model.pt", vector_size=5, **smooth)
    source = png_source(labels={"background": 0.0, "square": 1.0})
    rules = MaskPostprocess.fit(masks, 2).to_dict()
    bank = describe(masks, 2).tolist()
    save_tensors({}, tmp_path / "segmenter.pt")
    record = Stage1(source, [16, 16], image, mask, 5.0, "disjoint", rules, bank, {}, READING, [])
    record.save(str(tmp_path))
    return tmp_path


def test_orders_on_the_flow_between_gaussians(benchmark):
    found = benchmark.closed_form()
    orders = {method: round(row["order"], 1) for method, row in found.items()}
    assert orders == {"euler": 1.0, "midpoint": 3.0, "heun": 2.0}
    assert found["heun"]["rms_error"][100] < 1e-3


def test_lengths(benchmark):
    found = benchmark.lengths()
    for name, row in found.items():
        assert len(row) == 50
        if name.startswith("ours"):
            assert max(abs(length - 1) for length in row.values()) < 1e-14
    # Its times are 1000, 666.5 and 333.25 in float16; each next one is cut off to a whole number.
    expected = ((1000 - 666) + (666.5 - 333) + (333.25 - 0)) / 1000
    assert found["MONAI, continuous, next timestep given"][3] == pytest.approx(expected, abs=1e-12)
    assert found["MONAI, discrete, next timestep given"][3] == pytest.approx(1, abs=1e-12)


def test_fitted_order_of_a_power(benchmark):
    assert benchmark.fitted_order(
        [10, 20, 40], [3 * n**-2.5 for n in (10, 20, 40)]
    ) == pytest.approx(2.5)


def test_trained_bundle(benchmark, models, tmp_path, capsys):
    output = tmp_path / "solver.json"
    options = ["--model_dir", str(models), "--device", "cpu", "--batch_size", "2"]
    benchmark.main([*options, "--steps", "5", "20", "--output", str(output)])
    found = json.loads(output.read_text())["trained"]
    assert set(found) == {"mask", "image"}
    for row in found.values():
        assert row["dopri5_evaluations"] > 10 and row["largest_value"] > 1
        for method in ("heun", "midpoint"):
            few, many = (row["differences"][method][n] for n in ("5", "20"))
            assert 0 < many["rms"] < few["rms"] / 8 and many["max"] < 0.05
    assert "image, heun" in capsys.readouterr().out


def test_single_precision_finds_the_same(benchmark, models):
    options = ["--model_dir", str(models), "--device", "cpu", "--batch_size", "2", "--steps", "2"]
    exact, single = (
        benchmark.trained(benchmark.arguments([*options, "--dtype", dtype]))["image"]
        for dtype in ("float64", "float32")
    )
    assert single["dopri5_evaluations"] <= exact["dopri5_evaluations"]
    for method, row in exact["differences"].items():
        assert single["differences"][method][2]["rms"] == pytest.approx(row[2]["rms"], rel=0.2)


def trained(benchmark, folder):
    return benchmark.trained(benchmark.arguments(["--model_dir", str(folder), "--device", "cpu"]))


def test_untrained_bundle(benchmark, tmp_path):
    with pytest.raises(InputError, match=r"no stage1.json"):
        trained(benchmark, tmp_path)


def test_missing_weights(benchmark, models):
    (models / "mask_model.pt").unlink()
    with pytest.raises(InputError, match="mask_model.pt"):
        trained(benchmark, models)
