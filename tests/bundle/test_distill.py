"""`run distill` as a user runs it: a trained bundle in, a bundle with few-step students out."""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image

from alignflow.stage1 import Stage1

TINY = {
    "device": "cpu",
    "mlflow": False,
    "num_pairs": 12,
    "held_out": 4,
    "image_steps": 3,
    "mask_steps": 3,
    "masks::max_attempts": 2,
    "student_steps": [2, 1],
    "student_epochs": [2, 1],
    "mask_student_steps": [2],
    "mask_student_epochs": [2],
    "steps_per_epoch": 2,
    "batch_size": 4,
}
WRITTEN = ("student_2.pt", "student_1.pt", "mask_student_2.pt")


@pytest.fixture(scope="module")
def distill(run_config):
    """`distill(model_dir, output_dir, **overrides)`: a tiny distillation."""

    def call(model_dir, output_dir, **overrides):
        folders = {"model_dir": str(model_dir), "output_dir": str(output_dir)}
        return run_config("distill", "train", "distill", TINY | folders | overrides)

    return call


@pytest.fixture(scope="module")
def distilled(three_class_models, distill, tmp_path_factory):
    output = tmp_path_factory.mktemp("distilled")
    distill(three_class_models, output)
    return output


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def pixels(folder):
    files = sorted((folder / "images").iterdir())
    assert files
    return [path.read_bytes() for path in files]


def test_folder_is_a_bundle_with_its_students(distilled, three_class_models):
    record = json.loads((distilled / "stage1.json").read_text())
    assert set(WRITTEN) < set(record["weights"])
    assert Stage1.load(str(distilled)) == Stage1.load(str(three_class_models))
    for name in ("model.pt", "mask_model.pt", "segmenter.pt"):
        assert (distilled / name).read_bytes() == (three_class_models / name).read_bytes()
    with Image.open(distilled / "distill.png") as picture:
        assert 3 * 32 <= picture.size[1] < 4 * 32  # teacher and two students, enlarged twice


def test_students_are_trained_one_from_the_other(distilled):
    teacher, two, one = (
        weights(distilled, n) for n in ("model.pt", "student_2.pt", "student_1.pt")
    )
    assert teacher.keys() == two.keys() == one.keys()
    for first, second in ((teacher, two), (two, one)):
        assert any(not torch.equal(first[key], second[key]) for key in first)
        assert all(torch.allclose(first[key], second[key], atol=1e-2) for key in first)


def test_record_has_the_losses_on_held_out_pairs(distilled):
    record = json.loads((distilled / "distill.json").read_text())
    assert record["students"].keys() == {"image", "mask"}
    assert record["students"]["image"].keys() == {"2", "1"}
    assert record["students"]["image"]["1"]["held_out"].keys() == {"loss", "pixels", "features"}
    assert record["students"]["mask"]["2"]["held_out"].keys() == {"loss", "pixels"}
    assert record["teacher_sha256"].keys() == {"model.pt", "mask_model.pt", "segmenter.pt"}
    assert record["config"]["student_steps"] == [2, 1]


def test_coupling_is_the_teachers_answer_to_the_noise(distilled, prepared):
    """Drawn once more through `infer`, with the seed and the steps that the teacher had."""
    record = json.loads((distilled / "distill.json").read_text())["config"]
    made = prepared(
        "inference",
        model_dir=str(distilled),
        output_dir=str(distilled.parent / "same"),
        num_pairs=4,
        seed=record["teacher_seed"],
        image_steps=3,
        mask_steps=3,
    )
    made.run()
    output = made.parser.get_parsed_content("evaluator").state.output
    part = weights(distilled, "coupling/image/part-00000.pt")
    assert torch.equal(part["label"][:4], output["label"])
    torch.testing.assert_close(part["data"][:4], output["image"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("student", "mask_student"), [(2, None), (1, 2)])
def test_infer_takes_a_student(distilled, infer, tmp_path, student, mask_student):
    infer(distilled, tmp_path / "student", student=student, mask_student=mask_student)
    infer(distilled, tmp_path / "teacher")
    assert pixels(tmp_path / "student") != pixels(tmp_path / "teacher")
    provenance = json.loads((tmp_path / "student/provenance.json").read_text())
    assert provenance["config"]["student"] == student
    assert set(WRITTEN) < set(provenance["weights_sha256"])


def test_monais_own_export_takes_a_student(distilled, prepared, shell, tmp_path):
    line = [sys.executable, "-m", "monai.bundle", "ckpt_export", "network_def"]
    options = {
        "filepath": tmp_path / "student.ts",
        "ckpt_file": distilled / "student_2.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
        "model_dir": distilled,
        "student": 2,
        "use_trace": True,
        "input_shape": "[1, 6, 16, 16]",
    }
    for key, value in options.items():
        line += [f"--{key}", str(value)]
    done = shell(line)
    assert done.returncode == 0, done.stderr[-2000:]
    made = prepared("inference", model_dir=str(distilled), output_dir=str(tmp_path), student=2)
    network = made.parser.get_parsed_content("network_def").eval()
    network.load_state_dict(weights(distilled, "student_2.pt"))
    x = torch.randn(3, 6, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "student.ts")(x), network(x))


def test_killed_in_each_part(distilled, three_class_models, kill_at, shell, tmp_path):
    line = [sys.executable, "-m", "monai.bundle", "run", "distill"]
    folders = {"model_dir": three_class_models, "output_dir": tmp_path}
    for key, value in ({"config_file": "configs/distill.json"} | TINY | folders).items():
        line += [f"--{key.replace('::', '#')}", str(value)]
    kill_at(tmp_path / "coupling/mask/coupling.json", line)
    kill_at(tmp_path / "checkpoints/student_checkpoint_1.pt", line)
    assert not (tmp_path / "stage1.json").exists()
    done = shell(line)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in WRITTEN:
        ours, theirs = weights(tmp_path, name), weights(distilled, name)
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_refused(distilled, three_class_models, distill, infer, refused, tmp_path):
    message = refused(infer, distilled, tmp_path / "a", student=3)
    assert "no student_3.pt" in message and "student_1.pt, student_2.pt" in message
    assert "are: none" in refused(infer, three_class_models, tmp_path / "a", mask_student=1)
    message = refused(infer, distilled, tmp_path / "a", student=1, image_guidance=2.0)
    assert '"image_guidance" to 1' in message
    assert "is model_dir too" in refused(distill, three_class_models, three_class_models)
    message = refused(distill, three_class_models, tmp_path / "b", student_steps=[1, 2])
    assert "do not decrease" in message
    message = refused(distill, three_class_models, distilled, teacher_seed=5)
    assert "other seed" in message
    copy = shutil.copytree(distilled, tmp_path / "copy")
    (copy / "student_1.pt").write_bytes((copy / "student_2.pt").read_bytes())
    assert "student_1.pt" in refused(infer, copy, tmp_path / "a", student=1)
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())


def test_a_damaged_part_of_the_coupling_is_drawn_again(
    distilled, three_class_models, distill, tmp_path, caplog
):
    copy = shutil.copytree(distilled, tmp_path / "copy")
    part = copy / "coupling/image/part-00000.pt"
    whole = weights(part.parent, part.name)
    part.write_bytes(part.read_bytes()[:100])
    shutil.rmtree(copy / "checkpoints")
    distill(three_class_models, copy)
    again = weights(part.parent, part.name)
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert "part-00000.pt" in caplog.text
