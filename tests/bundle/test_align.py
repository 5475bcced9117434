"""`run align` as a user runs it: references of another site in, a bundle for that site out."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from alignflow.stage1 import Stage1


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Six NIfTI slices without masks: darker, and of less contrast, than the source."""
    root = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(5)
    x, y = np.mgrid[:24, :20]
    for number in range(6):
        distance = np.hypot(x - 10 - number / 2, y - 9)
        ramp = 90 + 30 * (distance < 8) + 200 * (distance < 2) + rng.normal(0, 30, distance.shape)
        save(root / f"case{number}.nii.gz", ramp)
    return root


def save(path, pixels):
    nib.save(nib.Nifti1Image(pixels[..., None].astype(np.int16), np.diag([1.25, 1.25, 4, 1])), path)


@pytest.fixture(scope="session")
def aligned(three_class_models, site, align, tmp_path_factory):
    output = tmp_path_factory.mktemp("aligned")
    align(three_class_models, site, output)
    return output


def test_aligned_bundle_holds_what_stage_1_holds_and_the_evidence(aligned, three_class_models):
    record = json.loads((aligned / "align.json").read_text())
    assert len(record["curve"]) == 4 and record["left_out"] == 2
    assert len(record["references"]) == 6 and len(record["references_sha256"]) == 64
    assert (aligned / "alignment.png").stat().st_size > 1000
    site, source = Stage1.load(str(aligned)), Stage1.load(str(three_class_models))
    assert site.source == source.source and site.image_network == source.image_network
    same = ("mask_model.pt", "segmenter.pt")
    assert all((aligned / n).read_bytes() == (three_class_models / n).read_bytes() for n in same)


def test_pairs_come_from_the_aligned_bundle_with_the_same_command(aligned, infer, tmp_path):
    infer(aligned, tmp_path / "pairs")
    assert len(list((tmp_path / "pairs/images").iterdir())) == 4


def test_only_few_parameters_changed(three_class_models, site, align, tmp_path):
    options = {"anchor": 0.0, "learning_rate": 0.01, "parameters": "modulation"}
    align(three_class_models, site, tmp_path, **options)
    before = torch.load(three_class_models / "model.pt", weights_only=True)
    after = torch.load(tmp_path / "model.pt", weights_only=True)
    if json.loads((tmp_path / "align.json").read_text())["kept_epoch"]:
        changed = {k for k in before if not torch.equal(before[k], after[k])}
        assert changed and not any(k.endswith("conv.weight") for k in changed)


def test_full_back_propagation_runs(three_class_models, site, align, tmp_path):
    align(three_class_models, site, tmp_path, gradient="full", epochs=1)
    curve = json.loads((tmp_path / "align.json").read_text())["curve"]
    assert len(curve) == 2


def test_references_can_be_matched_without_a_reward(three_class_models, site, align, tmp_path):
    """The reward's weight scales its gradient, not what is measured."""
    align(three_class_models, site, tmp_path, matching=1.0, reward_weight=0.0, parameters="all")
    curve = json.loads((tmp_path / "align.json").read_text())["curve"]
    assert len(curve) == 4 and curve[0]["left_out"] > 0


def test_low_rank_updates_are_saved_as_a_plain_network(
    three_class_models, site, align, infer, tmp_path
):
    align(three_class_models, site, tmp_path / "aligned", parameters="lora", epochs=1)
    infer(tmp_path / "aligned", tmp_path / "pairs")


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_references(three_class_models, site, align, tmp_path, n):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(site.iterdir())[:n]:
        shutil.copy(path, few)
    align(three_class_models, few, tmp_path / "out", epochs=1)
    record = json.loads((tmp_path / "out/align.json").read_text())
    assert record["left_out"] == 0 and np.isfinite(record["curve"][1]["fitted"])


def test_stopped_run_ends_like_an_uninterrupted_one(
    three_class_models, site, align_command, kill_at, shell, tmp_path
):
    models = {"model_dir": three_class_models, "reference_dir": site}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = shell(align_command(output_dir=whole, **models))
    assert done.returncode == 0, done.stderr[-2000:]
    again = align_command(output_dir=parts, **models)
    kill_at(parts / "checkpoints/align_checkpoint_1.pt", again)
    done = shell(again)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(d / "model.pt", weights_only=True) for d in (whole, parts))
    assert all(torch.equal(first[k], second[k]) for k in first)
    curves = [json.loads((d / "align.json").read_text())["curve"] for d in (whole, parts)]
    assert curves[0] == curves[1]


def test_duplicates_are_named_and_counted_once(
    three_class_models, site, align_command, shell, tmp_path
):
    copies = tmp_path / "copies"
    shutil.copytree(site, copies)
    shutil.copy(copies / "case0.nii.gz", copies / "again.nii.gz")
    done = shell(
        align_command(
            model_dir=three_class_models,
            reference_dir=copies,
            output_dir=tmp_path / "out",
            epochs=1,
        )
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'case0.nii.gz' is a duplicate of 'again.nii.gz'" in done.stdout + done.stderr
    assert len(json.loads((tmp_path / "out/align.json").read_text())["references"]) == 6


def colour_image(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "colour.png")


def constant_image(folder):
    save(folder / "flat.nii.gz", np.full((24, 20), 7))


def broken_image(folder):
    (folder / "broken.nii.gz").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (colour_image, "'colour.png'.*3 channels, but the source has 1"),
        (constant_image, "flat.nii.gz'.*every pixel is 7"),
        (broken_image, "broken.nii.gz.*cannot be read"),
    ],
)
def test_unfit_references_are_named(
    three_class_models, site, align, refused, tmp_path, spoil, message
):
    folder = tmp_path / "references"
    shutil.copytree(site, folder)
    spoil(folder)
    found = refused(align, three_class_models, folder, tmp_path / "out")
    assert re.search(message, found), found


def test_missing_references_and_bundles_are_named(
    three_class_models, site, align, refused, tmp_path
):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no image in it" in refused(align, three_class_models, empty, tmp_path / "out")
    gone = tmp_path / "gone"
    assert "no such folder" in refused(align, three_class_models, gone, tmp_path / "out")
    assert "run training first" in refused(align, empty, site, tmp_path / "out")
    same = refused(align, three_class_models, site, three_class_models)
    assert "model_dir too" in same


def test_command_line_ends_in_one_line(align_command, shell, tmp_path):
    done = shell(
        align_command(model_dir=tmp_path, reference_dir=tmp_path, output_dir=tmp_path / "out")
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr and "run training first" in done.stderr


@pytest.mark.gpu
def test_on_a_gpu(align, three_class_models, site, tmp_path):
    align(three_class_models, site, tmp_path / "site", device="cuda")
    record = json.loads((tmp_path / "site/align.json").read_text())
    assert record["config"]["device"] == "cuda"
    assert all(np.isfinite(list(epoch.values())).all() for epoch in record["curve"])
    assert (tmp_path / "site/alignment.png").is_file()
