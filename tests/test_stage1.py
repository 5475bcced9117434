import json
from dataclasses import replace

import pytest
import torch
from datasets import READING

from alignflow.data.spec import SourceSpec
from alignflow.errors import InputError
from alignflow.files import sha256
from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1, weight_hashes


@pytest.fixture(scope="module")
def record():
    torch.manual_seed(0)
    masks = torch.zeros(5, 1, 16, 16, dtype=torch.uint8)
    for k, mask in enumerate(masks):
        mask[0, 4 : 8 + k, 5:12] = 1
    network = VelocityUNet(data_channels=1, channels=[32], attention_levels=[False])
    return Stage1(
        source=SourceSpec(
            channels=1,
            labels={"background": 0.0, "spleen": 200.0},
            modality="CT",
            window=(-200.0, 300.0),
            image_suffix=".nii.gz",
            label_suffix=".nii.gz",
            image_dtype="int16",
            label_dtype="uint8",
            geometries=[{"shape": [20, 24], "affine": torch.eye(4).tolist()}],
        ),
        image_size=[16, 16],
        image_network=network.arguments,
        mask_network=network.arguments,
        clip=5.0,
        scheme="disjoint",
        postprocess=MaskPostprocess.fit(masks, 2).to_dict(),
        descriptions=describe(masks, 2).tolist(),
        segmenter={
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "channels": [4, 8],
            "strides": [2],
        },
        reading=READING,
        appearance=[[0.5, 0.25]],
    )


@pytest.fixture
def models(tmp_path):
    for k, name in enumerate(("model.pt", "mask_model.pt", "segmenter.pt")):
        torch.save({"weight": torch.tensor([float(k)])}, tmp_path / name)
    return tmp_path


def test_round_trip(record, models):
    record.save(str(models))
    loaded = Stage1.load(str(models))
    rules = [MaskPostprocess.from_dict(one.postprocess) for one in (loaded, record)]
    assert rules[0] == rules[1]  # JSON made lists of their tuples
    assert replace(loaded, postprocess=record.postprocess) == record
    assert loaded.num_classes == 2
    VelocityUNet(**loaded.image_network)


def test_record_holds_the_hashes_of_the_weights(record, models):
    record.save(str(models))
    weights = json.loads((models / "stage1.json").read_text())["weights"]
    assert weights == {n: sha256(models / n) for n in ("model.pt", "mask_model.pt", "segmenter.pt")}
    assert weights == weight_hashes(str(models))


def test_weights_of_another_run_are_refused(record, models):
    record.save(str(models))
    (models / "mask_model.pt").write_bytes(b"weights of another run")
    with pytest.raises(InputError, match="mask_model.pt' is not the file that stage1.json"):
        Stage1.load(str(models))


def test_record_written_again_takes_the_new_weights(record, models):
    record.save(str(models))
    torch.save({"weight": torch.tensor([9.0])}, models / "model.pt")  # trained longer
    replace(record, clip=4.0).save(str(models))
    assert Stage1.load(str(models)).clip == 4.0


def test_weights_that_are_no_tensors_are_refused(record, models):
    for content in (b"", b"text", b"PK\x03\x04"):
        (models / "segmenter.pt").write_bytes(content)
        record.save(str(models))
        with pytest.raises(InputError, match="segmenter.pt': not only tensors") as caught:
            Stage1.load(str(models))
        assert "\n" not in str(caught.value)


def test_untrained_folder(tmp_path):
    with pytest.raises(InputError, match="no stage1.json; run training first, or set model_dir"):
        Stage1.load(str(tmp_path))


def rewrite(models, change):
    content = json.loads((models / "stage1.json").read_text())
    (models / "stage1.json").write_text(json.dumps(change(content)))


@pytest.mark.parametrize("field", ["segmenter", "reading", "clip", "weights"])
def test_record_of_an_older_version(record, models, field):
    record.save(str(models))
    rewrite(models, lambda content: {k: v for k, v in content.items() if k != field})
    with pytest.raises(InputError, match=f"stage1.json': no field '{field}'.*train again"):
        Stage1.load(str(models))


def test_reading_that_lacks_a_field(record, models):
    replace(record, reading={"window": None}).save(str(models))
    with pytest.raises(InputError, match="no field 'reading.foreground_only'.*train again"):
        Stage1.load(str(models))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "{}"])
def test_record_that_is_damaged(record, models, text):
    (models / "stage1.json").write_text(text)
    with pytest.raises(InputError, match="stage1.json'.*again") as caught:
        Stage1.load(str(models))
    assert "\n" not in str(caught.value)
