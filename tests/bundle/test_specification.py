"""What MONAI asks of a bundle, and Project-MONAI's model zoo of its members, as far as offline."""

import json

import pytest
import torch
from monai.bundle import ckpt_export, load_bundle_config, verify_net_in_out
from monai.data import load_net_with_metadata

REQUIRED = {  # the required fields of MONAI's metadata schema, and their JSON types
    "version": str,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
    "changelog": dict,
}


@pytest.fixture(scope="module")
def metadata(bundle):
    return json.loads((bundle / "configs/metadata.json").read_text())


def test_files_of_a_bundle(bundle):
    for name in ("LICENSE", "configs/metadata.json", "configs/logging.conf", "docs/README.md"):
        assert (bundle / name).stat().st_size > 0
    assert (bundle / "models").is_dir()


def test_metadata_has_what_the_schema_requires(metadata):
    wrong = [k for k, kind in REQUIRED.items() if not isinstance(metadata.get(k), kind)]
    assert wrong == []
    assert metadata["schema"].startswith("https://")
    assert metadata["version"] in metadata["changelog"]


def test_formats_of_the_network_have_what_the_schema_requires(metadata):
    formats = metadata["network_data_format"]
    for tensor in (*formats["inputs"].values(), *formats["outputs"].values()):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= (
            tensor.keys()
        )
        assert len(tensor["channel_def"]) == tensor["num_channels"]


def test_load_bundle_config_reads_each_config(bundle):
    for name in ("train.json", "inference.json"):
        parser = load_bundle_config(str(bundle), name)
        assert "network_def" in parser


def test_properties_of_training(prepared, three_class_dataset, tmp_path):
    workflow = prepared("train", dataset_dir=str(three_class_dataset), output_dir=str(tmp_path))
    assert workflow.check_properties() == []
    assert workflow.max_epochs == 2
    assert len(workflow.train_dataset) == 12


def test_properties_of_inference(prepared, three_class_models, tmp_path):
    workflow = prepared("inference", model_dir=str(three_class_models), output_dir=str(tmp_path))
    assert workflow.check_properties() == []
    assert len(workflow.dataset) == 4


def test_network_input_and_output(bundle):
    """The metadata are those of the weights that come with the bundle."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
        device="cpu",
        bundle_root=str(bundle),
        model_dir=str(bundle / "models/nuclei"),
        image_steps=2,
    )


@pytest.fixture
def sampler(prepared, three_class_models, tmp_path):
    """The network of inference with its trained weights."""
    workflow = prepared("inference", model_dir=str(three_class_models), output_dir=str(tmp_path))
    network = workflow.network_def
    network.load_state_dict(torch.load(three_class_models / "model.pt", weights_only=True))
    return network.eval()


def test_export_to_torchscript(bundle, three_class_models, sampler, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(three_class_models / "model.pt"),
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
        use_trace=True,
        input_shape=[2, 6, 16, 16],
        bundle_root=str(bundle),
        model_dir=str(three_class_models),
        device="cpu",
        image_steps=2,
    )
    exported, meta, extra = load_net_with_metadata(
        str(tmp_path / "model.ts"), more_extra_files=["inference.json"]
    )
    assert meta["version"] and extra["inference.json"]
    for batch, size in ((2, 16), (3, 16)):
        x = torch.randn(batch, 6, size, size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(exported(x), sampler(x), rtol=1e-4, atol=1e-5)
