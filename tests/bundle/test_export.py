"""`run export` as a user runs it, and `infer` on what it wrote."""

import builtins
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch

STUDENTS = {
    "device": "cpu",
    "mlflow": False,
    "num_pairs": 4,
    "held_out": 4,
    "image_steps": 2,
    "mask_steps": 2,
    "masks::max_attempts": 2,
    "student_steps": [2],
    "student_epochs": [1],
    "mask_student_steps": [1],
    "mask_student_epochs": [1],
    "steps_per_epoch": 1,
    "batch_size": 4,
}
TINY = {"num_pairs": 3, "mask_steps": 2, "masks::max_attempts": 2}
WRITTEN = ("student_2.onnx", "mask_student_1.onnx")


@pytest.fixture(scope="module")
def distilled(three_class_models, run_config, tmp_path_factory):
    output = tmp_path_factory.mktemp("distilled")
    folders = {"model_dir": str(three_class_models), "output_dir": str(output)}
    run_config("distill", "train", "distill", STUDENTS | folders)
    return output


@pytest.fixture(scope="module")
def export(run_config):
    """`export(model_dir, **overrides)`."""

    def call(model_dir, **overrides):
        folder = {"model_dir": str(model_dir)}
        return run_config("export", "infer", "export", TINY | folder | overrides)

    return call


@pytest.fixture(scope="module")
def exported(distilled, export):
    export(distilled)
    return distilled


def volumes(folder):
    return [np.asarray(nib.load(path).dataobj) for path in sorted((folder / "images").iterdir())]


def test_files_tell_nothing_of_the_machine(exported):
    for name in WRITTEN:
        content = (exported / name).read_bytes()
        for trace in (str(Path.cwd()), "site-packages", "alignflow/", "forward", ".py"):
            assert trace.encode() not in content, f"{trace} in {name}"


def test_files_are_whole_and_have_one_input_and_any_batch(exported):
    for name in WRITTEN:
        model = onnx.load(exported / name, load_external_data=False)
        onnx.checker.check_model(model)
        [entry] = model.graph.input
        batch, *rest = entry.type.tensor_type.shape.dim
        assert batch.dim_param and [d.dim_value for d in rest][1:] == [16, 16]
        record = json.loads((exported / f"{name}.json").read_text())
        found = record["parity"]["onnxruntime fp32"]
        assert found["max"] < 1e-4 and found["pairs"] == 3
    assert not list(exported.glob("*.data")) and not list(exported.glob(".partial*"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_infer_gives_the_pairs_that_torch_gives(exported, infer, tmp_path, backend):
    settings = {"student": 2, "mask_student": 1, "batch_size": 3}  # 4 pairs: batches of 3 and 1
    infer(exported, tmp_path / "torch", **settings)
    infer(exported, tmp_path / "other", backend=backend, mask_backend=backend, **settings)
    expected, found = (volumes(tmp_path / name) for name in ("torch", "other"))
    scale = max(np.ptp(volume) for volume in expected)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, atol=0.01 * scale)
    provenance = json.loads((tmp_path / "other/provenance.json").read_text())
    assert provenance["config"]["backend"] == backend


def test_each_back_end_adds_its_figures_to_the_record(exported, export):
    export(exported, backend="openvino")
    export(exported, backend="openvino", backend_precision="bf16", tolerance=2.0)
    record = json.loads((exported / "student_2.onnx.json").read_text())
    found = record["parity"]
    assert found.keys() == {"onnxruntime fp32", "openvino fp32", "openvino bf16"}
    assert found["openvino fp32"]["max"] < 1e-4


def test_refused(exported, three_class_models, export, infer, refused, tmp_path, monkeypatch):
    assert "no students" in refused(export, three_class_models)
    assert "torch needs no export" in refused(export, exported, backend="torch")
    assert "set one of torch, onnxruntime" in refused(export, exported, backend="onnx")
    message = refused(export, exported, backend_precision="fp16")
    assert "onnxruntime runs fp32" in message
    copy = shutil.copytree(exported, tmp_path / "copy")
    for name in WRITTEN:
        (copy / name).unlink()
    message = refused(infer, copy, tmp_path / "a", student=2, backend="onnxruntime")
    assert "run export first" in message
    message = refused(export, copy, tolerance=0.0)
    assert "differs from torch by" in message and "pixel" in message
    assert not (copy / "student_2.onnx").exists() and not list(copy.glob(".partial*"))
    if not torch.cuda.is_available():
        assert "needs an NVIDIA GPU" in refused(export, exported, backend="tensorrt")
    message = refused(infer, exported, tmp_path / "a", student=2, backend="tensorrt")
    assert "tensorrt" in message


def test_missing_packages_are_named(exported, infer, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("alignflow.export.backends.find_spec", lambda name: None)
    message = refused(infer, exported, tmp_path / "a", student=2, backend="openvino")
    assert "needs pip install openvino" in message
    taken = builtins.__import__

    def without(name, *rest, **options):
        if name == "onnxscript":
            raise ImportError(name)
        return taken(name, *rest, **options)

    monkeypatch.undo()
    monkeypatch.setattr(builtins, "__import__", without)
    from alignflow.export.onnx_file import write_onnx

    message = refused(write_onnx, torch.nn.Identity(), torch.zeros(2, 1), tmp_path / "x.onnx")
    assert "pip install onnx onnxscript" in message
