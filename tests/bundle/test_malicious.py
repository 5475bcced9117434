"""Weights, records and lists that are made to do harm: refused in one line, and nothing happens."""

import json
import os
import pickle
import shutil

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from monai.networks.nets import UNet
from torch import nn

from alignflow.alignment.saving import save_bundle
from alignflow.data.datalist import build_datalist
from alignflow.data.spec import SourceSpec
from alignflow.files import load_tensors, replacing, sha256
from alignflow.inference.weights import load_sampler
from alignflow.segmentation.network import load_segmenter, load_weights
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import FILE, Stage1, require_tensors


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A path that must not exist at the end."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


@pytest.fixture(params=["zip", "legacy", "pickle"])
def evil(tmp_path, marker, request):
    """A file of weights in each format that torch reads, with code in it."""
    path = tmp_path / "evil.pt"
    content = {"weight": torch.zeros(2), "identity": Evil(marker)}
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_the_file_would_do_harm(tmp_path):
    """Else none of the tests here could fail."""
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_every_loader(evil, refused, tmp_path):
    network = nn.Linear(2, 2)
    assert "evil.pt': not only tensors" in refused(require_tensors, evil)
    # checkpoints and parts of a coupling
    assert "evil.pt': damaged (" in refused(load_tensors, evil)
    assert "evil.pt': not the weights" in refused(load_weights, network, evil)
    # behind `Stage1.load`, which refuses such files in one line
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        load_sampler(network, str(evil), "cpu", steps=1)
    engine = Engine(lambda *_: None)
    CheckpointLoader(str(evil), {"model": network}).attach(engine)
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        engine.run([0])


@pytest.fixture
def models(three_class_models, tmp_path):
    """A copy of a trained bundle."""
    return shutil.copytree(three_class_models, tmp_path / "models")


def restate(models, **changes):
    """Change the record, and the hashes with it, as its author could."""
    record = json.loads((models / FILE).read_text())
    record |= changes
    record["weights"] = {name: sha256(models / name) for name in record["weights"]}
    (models / FILE).write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["model.pt", "mask_model.pt", "segmenter.pt"])
def test_a_bundle_with_such_weights(models, infer, refused, marker, tmp_path, name):
    torch.save({"weight": torch.zeros(2), "more": Evil(marker)}, models / name)
    restate(models)
    line = refused(infer, models, tmp_path / "pairs")
    assert f"{name}': not only tensors (UnpicklingError)" in line
    assert not (tmp_path / "pairs").exists()


def test_a_bundle_with_a_record_that_calls(models, refused, marker):
    stage1 = Stage1.load(str(models))
    for target in ("os.mkdir", "monai.data.utils.os.mkdir"):
        restate(models, segmenter={"_target_": target, "path": str(marker)})
        line = refused(lambda: load_segmenter(Stage1.load(str(models)), models, "cpu"))
        assert f"_target_ '{target}' is not in an allowed package" in line and FILE in line
    hidden = {"nested": [f"$__import__('os').mkdir('{marker}')"]}
    restate(models, segmenter=stage1.segmenter | hidden)
    line = refused(lambda: load_segmenter(Stage1.load(str(models)), models, "cpu"))
    assert "contains expressions" in line


def test_a_segmenter_with_a_record_that_calls(refused, marker, tmp_path):
    folder = tmp_path / "segmenter"
    folder.mkdir()
    torch.save(UNet(2, 1, 2, [4, 8], [2]).state_dict(), folder / "segmenter.pt")
    fields = ("channels", "labels", "image_size", "window", "reading", "inferer_mode")
    record = dict.fromkeys(fields) | {"validation": {}}
    record["network"] = {"_target_": "os.mkdir", "path": str(marker)}
    record["provenance"] = {"weights_sha256": sha256(folder / "segmenter.pt")}
    (folder / "segmenter.json").write_text(json.dumps(record))
    line = refused(lambda: SegmenterRecord.load(folder).build(folder, "cpu"))
    assert "_target_ 'os.mkdir' is not in an allowed package" in line


@pytest.mark.parametrize("name", ["image_suffix", "label_suffix"])
@pytest.mark.parametrize("suffix", ["/../../out.png", "\0.png", "", ".png\n", ".exe", ".dcm"])
def test_a_record_whose_suffix_leads_elsewhere(three_class_models, refused, name, suffix):
    source = Stage1.load(str(three_class_models)).source.to_dict()
    assert name in refused(SourceSpec.from_dict, source | {name: suffix})


def files(root):
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}


def test_hostile_names_in_a_list_are_only_read(
    png_dataset, train, infer, segment, align, tmp_path, caplog
):
    """Nothing of a data set becomes the name of a written file."""
    outside = tmp_path / "outside"
    outside.mkdir()
    names = ["$(touch ran)", "-rf", "a\nb", "CON", "x" * 240, "`ran` & ;"]
    training = []
    for number, name in enumerate(names):
        case = {"group": f"../../../{number}\n\0"}
        for key, folder in (("image", "images"), ("label", "masks")):
            old = png_dataset / folder / f"{number:03d}.png"
            # one of them out of the folder, as lists that share a store have it
            new = (outside if number == 0 else png_dataset / folder) / f"{name}{key[0]}.png"
            old.rename(new)
            case[key] = str(new) if number == 0 else new.relative_to(png_dataset).as_posix()
        training.append(case)
    labels = {"../../zero": 0, "/etc/one\n\x1b[31m": 255}
    description = {"labels": labels, "training": training}
    (png_dataset / "dataset.json").write_text(json.dumps(description))
    before = files(tmp_path)

    train(png_dataset, tmp_path / "out/models", mlflow=True)
    infer(tmp_path / "out/models", tmp_path / "out/pairs")
    infer(tmp_path / "out/models", tmp_path / "out/dicom", output_format="dicom")
    align(tmp_path / "out/models", png_dataset, tmp_path / "out/aligned", mlflow=True)
    pairs = {"pairs_dir": str(tmp_path / "out/pairs"), "test_dir": str(png_dataset)}
    segment(tmp_path / "out/models", png_dataset, tmp_path / "out/segmenter", **pairs)

    written = files(tmp_path) - before
    assert written and all(name.startswith("out/") for name in written)
    assert before <= files(tmp_path)
    assert not [n for n in written if any(part in n for part in ("ran", "xxx", "zero", "one\n"))]
    assert "lists 2 files outside of its folder" in caplog.text


def test_names_that_no_file_can_have(png_dataset, refused):
    for name in ("\0", "x" * 5000, "../" * 2000 + "etc/passwd", "", "a\nb\x1b[2J.png"):
        case = {"image": f"images/{name}", "label": "masks/000.png"}
        (png_dataset / "dataset.json").write_text(json.dumps({"training": [case]}))
        try:
            listed = build_datalist(png_dataset)
        except ValueError:
            line = refused(build_datalist, png_dataset)
            assert "listed in dataset.json, but no such file" in line
            assert line.isprintable()
        else:  # "" is the folder itself: no image, and refused where it is read
            assert not name and listed


def test_links_in_an_output_folder_are_replaced(tmp_path, three_class_models):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for link in ("here.txt", f".partial-{os.getpid()}-here.txt"):
        (tmp_path / link).symlink_to(kept)
    with replacing(tmp_path / "here.txt") as temporary:
        temporary.write_text("new")
    assert kept.read_text() == "mine" and not (tmp_path / "here.txt").is_symlink()
    assert (tmp_path / "here.txt").read_text() == "new"
    out = tmp_path / "aligned"
    out.mkdir()
    for name in ("model.pt", "mask_model.pt", FILE):
        (out / name).symlink_to(kept)
    save_bundle(Stage1.load(str(three_class_models)), str(three_class_models), str(out), ())
    assert kept.read_text() == "mine" and not (out / FILE).is_symlink()
