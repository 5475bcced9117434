"""`run audit`: planted copies go to quarantine, and the report says what it should."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from alignflow.segmentation.data import read_pairs
from alignflow.stage1 import Stage1

SIZE = 24
TINY = {
    "device": "cpu",
    "validation_fraction": 0.5,
    "membership_images": 20,
    "membership_times": [0.5],
    "membership_noises": 1,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """50 pairs of smooth RGB pictures, of which training holds 25 out."""
    root, random = tmp_path_factory.mktemp("audit_source"), np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    x, y = np.mgrid[:SIZE, :SIZE]
    for number in range(50):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        mask = np.hypot(x - random.uniform(8, 16), y - random.uniform(8, 16)) < 5
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(
            root / f"images/patient{number:02d}.png"
        )
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/patient{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def models(source, train, tmp_path_factory):
    output = tmp_path_factory.mktemp("audit_bundle") / "models"
    train(source, output, image_size=[SIZE, SIZE], validation_fraction=0.5)
    return output


@pytest.fixture(scope="module")
def generated(source, models, infer, tmp_path_factory):
    """(folder of 6 pairs and 4 copies, what they are copies of)."""
    from alignflow.privacy.sets import source_cases

    output, random = tmp_path_factory.mktemp("audit_pairs"), np.random.default_rng(1)
    infer(models, output, num_pairs=6)
    training, _ = source_cases(str(source), None, None, 0.5, 0)
    origins = [case["image"] for case in training[:4]]
    pixels = [np.asarray(Image.open(path)).astype(float) for path in origins]
    copies = [
        pixels[0] + random.normal(0, 20, pixels[0].shape),
        pixels[1][:, ::-1],
        pixels[2][2:-2, 2:-2],
        0.7 * pixels[3][::-1, 3:] + 20,
    ]
    for number, copy in enumerate(copies, start=6):
        picture = Image.fromarray(copy.clip(0, 255).astype(np.uint8)).resize((SIZE, SIZE))
        picture.save(output / f"images/pair_{number:05d}.png")
        shutil.copy(output / "labels/pair_00000.png", output / f"labels/pair_{number:05d}.png")
    return output, [path.rsplit("/", 1)[1] for path in origins]


@pytest.fixture
def pairs(generated, tmp_path):
    return shutil.copytree(generated[0], tmp_path / "pairs")


@pytest.fixture
def audit(run_config, models, source, tmp_path):
    """`audit(pairs_dir, **overrides)`: what `audit.json` then holds."""

    def call(pairs_dir, **overrides):
        given = {
            "model_dir": str(models),
            "pairs_dir": str(pairs_dir),
            "dataset_dir": str(source),
            "output_dir": str(tmp_path / "audit"),
        }
        run_config("audit", "infer", "audit", TINY | given | overrides)
        return json.loads((tmp_path / "audit/audit.json").read_text())

    return call


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


COPIES = [f"pair_{number:05d}" for number in range(6, 10)]


def test_planted_copies_go_to_quarantine(audit, pairs, generated, models, tmp_path):
    sheet = pairs / "contact_sheet.png"
    sheet_of_six = sheet.read_bytes()
    sheet.write_bytes(b"shows copies")
    before = files(pairs)
    for name, data in before.items():  # nothing in them names a source image or its folder
        assert b"patient" not in data and b"audit_source" not in data, name
    result = audit(pairs)
    assert result["quarantined"] == COPIES
    records = {record["name"]: record for record in result["pairs"]}
    for name, origin in zip(COPIES, generated[1], strict=True):
        assert records[name]["source"]["nearest"] == origin
        assert records[name]["source"]["relative"] < result["copies"]["source"]["threshold"]
        assert records[name]["source"]["p"] <= 0.05
        for kind in ("images", "labels"):
            moved = pairs / f"quarantine/{kind}/{name}.png"
            assert moved.read_bytes() == before[f"{kind}/{name}.png"]
            assert not (pairs / f"{kind}/{name}.png").exists()
        assert json.loads((pairs / f"quarantine/{name}.json").read_text()) == records[name]
        width, height = Image.open(pairs / f"quarantine/{name}.png").size
        assert width > 2.5 * height  # the pair, its outline, the source image
    # What is left is a data set that a segmenter takes, and the contact sheet shows nothing else.
    left = read_pairs(str(pairs), Stage1.load(str(models)), [SIZE, SIZE])
    assert len(left) == 6 and sheet.read_bytes() == sheet_of_six
    for score in ("flow", "nearest_pair"):
        found = result["membership"]["source"][score]
        assert 0 <= found["low"] <= found["auc"] <= found["high"] <= 1
        assert (found["members"], found["others"]) == (20, 20)
    assert any("AUC" in sentence for sentence in result["words"])
    assert (tmp_path / "audit/nearest.png").stat().st_size > 0

    after = files(pairs)
    again = audit(pairs)
    assert again["quarantined"] == result["quarantined"] and again["pairs"] == result["pairs"]
    assert files(pairs) == after


def test_a_dry_run_moves_nothing(audit, pairs):
    before = files(pairs)
    result = audit(pairs, dry_run=True)
    assert set(COPIES) <= set(result["quarantined"])
    assert files(pairs) == before


@pytest.mark.slow
def test_a_killed_audit_is_ended_by_the_same_command(
    audit, pairs, kill_at, shell, models, source, tmp_path
):
    whole = shutil.copytree(pairs, tmp_path / "whole")
    given = {"model_dir": models, "pairs_dir": pairs, "dataset_dir": source}
    line = [sys.executable, "-m", "monai.bundle", "run", "audit"]
    line += ["--config_file", "configs/audit.json", "--output_dir", str(tmp_path / "killed")]
    for key, value in (given | TINY).items():
        line += [f"--{key}", str(value)]
    kill_at(pairs / "quarantine", line)
    done = shell(line)
    assert done.returncode == 0, done.stderr
    audit(whole)
    assert files(pairs) == files(whole)


def test_references_alone(audit, pairs, generated, source, tmp_path):
    """At a site: no source, a few references; exact copies need no statistics, others do."""
    references = tmp_path / "references"
    references.mkdir()
    for name in generated[1]:
        shutil.copy(source / "images" / name, references / name)
    exact = generated[1][1]
    larger = Image.open(source / "images" / exact).resize((40, 40), Image.Resampling.BICUBIC)
    larger.save(pairs / "images/pair_00004.png")
    label = pairs / "labels/pair_00004.png"
    Image.open(label).resize((40, 40), Image.Resampling.NEAREST).save(label)
    result = audit(pairs, dataset_dir=None, reference_dir=str(references))
    # resized, and mirrored; the others are altered more
    assert result["quarantined"] == ["pair_00004", "pair_00007"]
    assert result["copies"]["reference"]["threshold"] is None
    assert result["exact_copies"] == {"reference": 2}
    assert "exact copies: 2 of reference images" in result["words"]
    assert sum("4 patients or files (reference)" in words for words in result["words"]) == 1
    records = {record["name"]: record for record in result["pairs"]}
    assert [records[n]["reference"]["nearest"] for n in COPIES] == generated[1]
    assert records["pair_00004"]["exact_copy_of"] == {"reference": exact}
    assert result["membership"] == {}
    # With other images of the site it can be said.
    result = audit(pairs, dataset_dir=None, reference_dir=str(references), target_dir=str(source))
    assert result["copies"]["reference"]["calibrated_on"] == "target"
    assert set(COPIES) <= set(result["quarantined"])
    assert result["membership"]["reference"]["flow"]["members"] == 4


def test_exact_copies_of_held_out_images(audit, pairs, source):
    from alignflow.privacy.sets import source_cases

    held_out = source_cases(str(source), None, None, 0.5, 0)[1][7]["image"]
    shutil.copy(held_out, pairs / "images/pair_00002.png")
    result = audit(pairs)
    assert result["exact_copies"] == {"source": 1, "held_out": 1}
    record = next(r for r in result["pairs"] if r["name"] == "pair_00002")
    assert record["exact_copy_of"] == {"held_out": held_out.rsplit("/", 1)[1]}
    assert (pairs / "quarantine/images/pair_00002.png").is_file()


def test_refused(audit, pairs, refused, tmp_path):
    assert "neither is set" in refused(audit, pairs, dataset_dir=None)
    assert "of 25 masks that the bundle remembers" in refused(audit, pairs, split_seed=3)
    assert "no images/ in it" in refused(audit, tmp_path / "nowhere")
    assert "pairs_dir is not set" in refused(audit, "")
    assert "false_alarms" in refused(audit, pairs, false_alarms=2)
