"""`run evaluate` on a tiny bundle: every figure, any number of references, any sets left out."""

import json
import math

import nibabel as nib
import numpy as np
import pytest

TINY = {
    "device": "cpu",
    "encoder": "random",
    "encoder_size": [32, 32],
    "draws": 4,
    "neighbours": 2,
}
PICTURES = ["features.png", "metrics.png", "nearest.png", "rows.png"]


@pytest.fixture(scope="module")
def site(tmp_path_factory, write_site):
    """`images/` and `labels/` of 3 volumes."""
    return write_site(tmp_path_factory.mktemp("site"), 3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, site):
    """One slice without a mask, that of no other file."""
    root = tmp_path_factory.mktemp("reference")
    volume = nib.load(site / "images/site0.nii.gz")
    slices = np.asarray(volume.dataobj)[..., :1] + 5
    nib.save(nib.Nifti1Image(slices, volume.affine), root / "one.nii.gz")
    return root


@pytest.fixture(scope="module")
def pairs(three_class_models, infer, tmp_path_factory):
    """Two sets of pairs of the tiny bundle."""
    found = []
    for seed in (0, 1):
        found.append(tmp_path_factory.mktemp(f"pairs{seed}"))
        infer(three_class_models, found[-1], seed=seed, num_pairs=6)
    return found


@pytest.fixture
def evaluate(three_class_models, bundle, pairs, reference, tmp_path):
    """`evaluate(**overrides)`: what `evaluation.json` then holds."""
    from monai.bundle import ConfigWorkflow

    def call(**overrides):
        given = {
            "model_dir": str(three_class_models),
            "pairs_dir": str(pairs[1]),
            "reference_dir": str(reference),
            "output_dir": str(tmp_path / "evaluation"),
        }
        made = ConfigWorkflow(
            config_file=str(bundle / "configs/evaluate.json"),
            logging_file=False,
            workflow_type="infer",
            run_id="evaluate",
            bundle_root=str(bundle),
            **(TINY | given | overrides),
        )
        made.initialize()
        made.run()
        made.finalize()
        return json.loads((tmp_path / "evaluation/evaluation.json").read_text())

    return call


def numbers(value):
    """Every number in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, float):
        yield value


def test_everything_given(evaluate, site, three_class_dataset, pairs, tmp_path):
    result = evaluate(
        target_dir=str(site), dataset_dir=str(three_class_dataset), unaligned_dir=str(pairs[0])
    )
    assert result["real_set"] == "target" and result["unseen"]
    assert {name: s["images"] for name, s in result["sets"].items()} == {
        "source": 16,
        "reference": 1,
        "unaligned": 6,
        "aligned": 6,
        "target": 12,
    }
    kid = result["metrics"]["kid"]
    assert kid["aligned"]["n"] == 3 and kid["source"]["n"] == 6 and kid["reference"]["n"] == 0
    assert kid["aligned"]["low"] <= kid["aligned"]["value"] <= kid["aligned"]["high"]
    assert kid["reference"]["value"] is None
    assert abs(kid["aligned"]["floor"]["value"]) < kid["aligned"]["value"]
    assert set(result["metrics"]) >= {"kid", "mmd", "fid", "precision", "recall", "spread"}
    assert set(result["fall"]) == {"kid", "mmd", "fid"}
    for known in ("source", "reference"):
        for view in ("pixels", "encoder"):
            assert result["copies"][known][view]["ratio"]["value"] > 0
    assert result["copies"]["source"]["masks"]["median"] >= 0
    assert result["masks"]["real_set"] == "target"
    assert "w1_area_class2" in result["masks"]["metrics"]
    assert set(result["faithfulness"]["dice"]) >= {"source", "target"}
    assert result["provenance"]["config"]["draws"] == 4
    assert all(math.isfinite(n) for n in numbers(result))
    for name in PICTURES:
        assert (tmp_path / "evaluation" / name).stat().st_size > 0


def test_one_reference_and_nothing_else(evaluate, tmp_path):
    result = evaluate()
    assert result["real_set"] == "reference" and not result["unseen"]
    assert result["metrics"]["kid"]["aligned"]["value"] is None
    assert result["fall"] is None and result["masks"] is None
    assert result["copies"]["reference"]["pixels"]["median"] > 0
    assert result["copies"]["reference"]["pixels"]["median_real"] is None
    written = {p.name for p in (tmp_path / "evaluation").iterdir()}
    assert written - {".lock"} == {"evaluation.json", *PICTURES}  # the lock goes with its process


@pytest.mark.slow
def test_same_command_same_figures(evaluate, site):
    first, second = (evaluate(target_dir=str(site)) for _ in range(2))
    assert first["metrics"] == second["metrics"] and first["copies"] == second["copies"]


def test_target_images_that_are_references_are_left_out(evaluate, site, refused, tmp_path):
    volume = site / "images/site0.nii.gz"
    (tmp_path / "some").mkdir()
    (tmp_path / "some/copy.nii.gz").write_bytes(volume.read_bytes())
    result = evaluate(target_dir=str(site), reference_dir=str(tmp_path / "some"))
    assert result["sets"]["target"]["images"] == 8 and result["sets"]["target"]["masks"] == 8
    line = refused(evaluate, target_dir=str(site), reference_dir=str(site))
    assert "all images are references" in line


def test_folders_that_are_missing(evaluate, refused):
    for key in ("pairs_dir", "reference_dir", "target_dir"):
        assert "no such folder" in refused(evaluate, **{key: "/nowhere"})
    assert 'set "imagenet" or "random"' in refused(evaluate, encoder="vgg")
