import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from PIL import Image

from alignflow.data.datalist import build_datalist, stated_labels
from alignflow.data.formats import load
from alignflow.data.nnunet import description
from alignflow.data.writer import write_nnunet_pair
from alignflow.device import Precision
from alignflow.errors import InputError, find_input_error
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.masks import MaskGenerator

CONFIG = {
    "seed": 5,
    "output_dir": "",
    "model_dir": "",
    "progress": {
        "_target_": "alignflow.inference.progress.PairProgress",
        "output_dir": "@output_dir",
        "requests": "$list(range(6))",
        "batch_size": 2,
        "identity": {"seed": "@seed"},
    },
    "writer": {
        "_target_": "alignflow.inference.writing.WritePairs",
        "stage1": "$record",
        "masks": "$masks",
        "progress": "@progress",
        "output_dir": "@output_dir",
        "model_dir": "@model_dir",
        "total": 6,
        "seed": "@seed",
        "sheet_size": 5,
    },
}


@pytest.fixture
def write(record, network, tmp_path):
    """Run the handler over six pairs in batches of two, from a config as a bundle does."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.pt").write_bytes(b"weights")
    torch.manual_seed(0)
    images = torch.rand(6, 1, 32, 32) * 2 - 1
    labels = (torch.rand(6, 1, 32, 32) > 0.7).to(torch.uint8)

    def run(name, geometry=None, slices=None, record=record, **options):
        masks = MaskGenerator(
            stage1=record,
            sampler=FlowSampler(network(1), steps=1),
            precision=Precision("cpu", "fp32"),
            device="cpu",
        )
        config = json.loads(json.dumps(CONFIG))
        config["output_dir"], config["model_dir"] = str(tmp_path / name), str(tmp_path / "models")
        parser = ConfigParser(config, globals={"record": record, "masks": masks})
        parser["writer"].update(options)
        if slices:
            parser["progress"]["volumes"] = [k // slices for k in range(6)]
        writer = parser.get_parsed_content("writer")

        def step(engine, batch):
            return {
                "index": batch.get("volume", batch["index"]),
                "image": images[batch["index"]],
                "label": labels[batch["index"]],
            }

        batches = [{"index": [k, k + 1]} for k in (0, 2, 4)]
        if slices:  # a volume of as many, which does not end with a batch, and others
            numbers = [k // slices for k in range(6)]
            batches = [b | {"volume": [numbers[k] for k in b["index"]]} for b in batches]
            batches = [b | {"slices": [slices] * 2} for b in batches]
        if geometry:
            batches = [batch | {"geometry": [geometry] * 2} for batch in batches]
        engine = Engine(step)
        writer.attach(engine)
        engine.run(batches)
        return SimpleNamespace(folder=tmp_path / name, images=images, labels=labels, writer=writer)

    return run


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_values_survive_the_files(write):
    done = write("out", native_size=False)
    for k in range(6):
        image = load(done.folder / f"images/pair_{k:05d}.png")
        label = load(done.folder / f"labels/pair_{k:05d}.png", is_mask=True)
        expected = ((done.images[k] + 1) * 127.5).round()
        np.testing.assert_array_equal(image.numpy(), expected.numpy())
        np.testing.assert_array_equal(label.numpy(), 255 * done.labels[k].numpy())


def test_pairs_come_on_grids_of_the_source_chosen_by_their_number(write, record):
    done = write("out")
    shapes = [list(load(done.folder / f"images/pair_{k:05d}.png").shape[1:]) for k in range(6)]
    assert shapes == [done.writer.geometry(k)["shape"] for k in range(6)]
    assert sorted(map(tuple, {tuple(shape) for shape in shapes})) == [(32, 32), (40, 24)]
    labels = [load(done.folder / f"labels/pair_{k:05d}.png", True).shape[1:] for k in range(6)]
    assert [list(shape) for shape in labels] == shapes


def test_given_masks_keep_their_grid(write):
    done = write("out", geometry={"shape": [48, 16], "affine": None})
    assert load(done.folder / "images/pair_00003.png").shape == (1, 48, 16)


def test_slices_of_a_volume_come_together(write, record):
    source = replace(record.source, image_suffix=".nii.gz", label_suffix=".nii.gz")
    affine = np.diag([1.5, 1.25, 3, 1])
    geometry = {"shape": [32, 32], "affine": affine.tolist()}
    record = replace(record, source=source)
    done = write("out", geometry, slices=3, record=record)
    assert len(files(done.folder)) == 2 * 2 + 3
    for v in range(2):
        image = load(done.folder / f"images/pair_{v:05d}.nii.gz")
        label = load(done.folder / f"labels/pair_{v:05d}.nii.gz", is_mask=True)
        expected = ((done.images[3 * v : 3 * v + 3] + 1) * 127.5).round()
        np.testing.assert_array_equal(image, expected.movedim(0, -1))
        of_label = done.labels[3 * v : 3 * v + 3].movedim(0, -1)
        np.testing.assert_array_equal(label, 255 * of_label)
        np.testing.assert_allclose(image.affine, affine)
    provenance = json.loads((done.folder / "provenance.json").read_text())
    assert provenance["pairs"] == ["pair_00000", "pair_00001"]


def test_pictures_hold_no_volume(write):
    with pytest.raises(InputError, match='"whole_volumes": the source is .png, which holds no'):
        write("out", {"shape": [32, 32], "affine": None}, slices=3)


def test_an_nnunet_data_set_reads_back(write, record):
    geometry = {"shape": [32, 32], "affine": None}
    done = write("out", geometry, output_format="nnunet")
    assert {p.name for p in done.folder.iterdir()} >= {"imagesTr", "labelsTr", "dataset.json"}
    assert json.loads((done.folder / "dataset.json").read_text()) == {
        "synthetic": True,
        "channel_names": {"0": "RGB8"},
        "labels": {"background": 0, "disc": 1},  # of 0 and 255, which nnU-Net refuses
        "numTraining": 6,
        "file_ending": ".png",
    }
    cases = build_datalist(done.folder)
    assert [Path(c["image"]).name for c in cases] == [f"pair_{k:05d}.png" for k in range(6)]
    for k, case in enumerate(cases):
        expected = ((done.images[k] + 1) * 127.5).round()
        np.testing.assert_array_equal(load(case["image"]).numpy(), expected.numpy())
        np.testing.assert_array_equal(load(case["label"], True).numpy(), done.labels[k].numpy())
    assert (done.folder / "imagesTr/pair_00000_0000.png").is_file()
    provenance = json.loads((done.folder / "provenance.json").read_text())
    assert provenance["labels"] == {"background": 0, "disc": 1}


@pytest.mark.parametrize(
    ("channels", "suffix", "files"),
    [(3, ".jpg", 1), (2, ".mha", 2), (3, ".nii.gz", 3), (4, ".nii", 4)],
)
def test_channels_of_an_nnunet_data_set(record, tmp_path, channels, suffix, files):
    labels = {"background": 0.0, "b": 2.0, "a": 1.0}
    source = replace(record.source, channels=channels, image_suffix=suffix, labels=labels)
    image = torch.rand(channels, 12, 10) * 255
    index = torch.randint(3, (1, 12, 10), dtype=torch.uint8)
    geometry = {"shape": [12, 10], "affine": None}
    written = write_nnunet_pair(image, index, tmp_path, source, geometry, "pair_00007")
    assert len(written) == files + 1
    (tmp_path / "dataset.json").write_text(json.dumps(description(source, 1)))
    [case] = build_datalist(tmp_path)
    read = load(case["image"]).numpy().reshape(channels, 12, 10)
    np.testing.assert_array_equal(read, image.round())
    values = np.array([0, 2, 1])[index]  # those of the source, which have no gap
    np.testing.assert_array_equal(load(case["label"], True).numpy().reshape(1, 12, 10), values)
    assert stated_labels(tmp_path) == labels


def test_another_format_leaves_nothing_of_the_one_before(write):
    for output_format, kept in (("nnunet", "imagesTr"), (None, "images"), ("nnunet", "imagesTr")):
        done = write("out", output_format=output_format, native_size=output_format is None)
        assert len(build_datalist(done.folder)) == 6
        assert [p.name for p in sorted(done.folder.glob("images*"))] == [kept]


def test_equal_commands_give_equal_bytes(write):
    first, second = files(write("out").folder), files(write("out").folder)
    assert first == second
    pairs = [f"{kind}/pair_{k:05d}.png" for kind in ("images", "labels") for k in range(6)]
    records = ["contact_sheet.png", "dataset.json", "provenance.json"]
    assert sorted(first) == sorted(pairs + records)


def test_provenance(write, record):
    provenance = json.loads((write("out").folder / "provenance.json").read_text())
    assert provenance["synthetic"] is True
    assert provenance["pairs"] == [f"pair_{k:05d}" for k in range(6)]
    assert provenance["seed"] == provenance["config"]["seed"] == 5
    assert list(provenance["weights_sha256"]) == ["model.pt"]
    assert provenance["intensity_window"] == [0, 255]
    assert provenance["labels"] == record.source.labels
    assert provenance["masks"]["drawn"] == 0
    assert provenance["versions"]["torch"] == torch.__version__


def test_contact_sheet_shows_the_first_pairs(write):
    sheet = np.asarray(Image.open(write("out").folder / "contact_sheet.png"))
    assert sheet.shape == (2 * 3 * 34, 2 * 8 * 34, 3)
    shown = sheet.reshape(sheet.shape[0], 8, -1).any(axis=(0, 2))
    assert shown.tolist() == [True] * 5 + [False] * 3


def test_pairs_that_a_server_has_are_not_sent_again(write, dicomweb_server, tmp_path, monkeypatch):
    pytest.importorskip("highdicom")
    pytest.importorskip("dicomweb_client")
    options = {"output_format": "dicom", "dicomweb_url": dicomweb_server.url}
    dicomweb_server.closed = 6  # one of them asks what is there
    with pytest.raises(InputError, match="goes on where it was"):
        write("out", **options, dicomweb_attempts=1)
    assert (tmp_path / "out/.progress").is_dir()
    first = set(dicomweb_server.instances)
    assert len(first) == 5
    dicomweb_server.closed, dicomweb_server.asked = None, []
    done = write("out", **options)
    assert dicomweb_server.asked.count("/studies") == 12 - 5
    assert len(dicomweb_server.instances) == 12 and first < set(dicomweb_server.instances)
    assert not (done.folder / ".progress").exists()


def test_a_password_in_the_address_is_refused_before_any_pair(write, tmp_path):
    pytest.importorskip("highdicom")
    options = {"output_format": "dicom", "dicomweb_url": "http://me:secret@127.0.0.1:9"}
    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        write("out", **options)
    line = str(find_input_error(caught.value))
    assert "ALIGNFLOW_DICOMWEB_USER" in line and "secret" not in line
    assert not (tmp_path / "out/images").exists()
