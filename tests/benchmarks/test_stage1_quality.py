"""The quality benchmark on pairs of which the answer is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from alignflow.data.intensity import unscale
from alignflow.data.writer import write_image, write_label
from alignflow.errors import InputError
from alignflow.evaluation.faithfulness import dice_table, summary
from alignflow.files import replacing, save_tensors
from alignflow.stage1 import WEIGHTS, Stage1, weight_hashes

CONFIG = Path(__file__).parents[2] / "bundle/configs/train.json"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("stage1_quality")


def write_discs(root, count, seed):
    """RGB noise with a brighter disc, masks 0 or 255, 32 pixels."""
    rng = np.random.default_rng(seed)
    i, j = np.indices((32, 32))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        (x, y), r = rng.uniform(12, 20, 2), rng.uniform(5, 9)
        mask = np.hypot(i - x, j - y) <= r
        image = rng.integers(60, 90, (32, 32, 3)) + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/{number:03d}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/{number:03d}.png")
    return root


def trained_on(dataset_dir, model_dir):
    """What `training` leaves, but for the weights, which this benchmark only hashes."""
    content = json.loads(CONFIG.read_text())
    content |= {"image_size": [32, 32], "dataset_dir": str(dataset_dir), "device": "cpu"}
    model_dir.mkdir()
    (model_dir / "train_config.json").write_text(json.dumps(content))
    for name in WEIGHTS.values():
        save_tensors({}, model_dir / name)
    config = ConfigParser()
    config.read_config(model_dir / "train_config.json")
    stage1 = config.get_parsed_content("stage1")
    stage1.save(str(model_dir))
    return config


def write_provenance(pairs_dir, model_dir, mask_dir=None):
    weights = weight_hashes(str(model_dir))
    content = {"weights_sha256": weights, "config": {"dataset_dir": mask_dir}}
    with replacing(pairs_dir / "provenance.json") as temporary:
        temporary.write_text(json.dumps(content))


@pytest.fixture
def discs(tmp_path):
    """Folders of a data set, held-out data, and held-out data as if they had been generated."""
    train = write_discs(tmp_path / "train", 24, 0)
    held_out = write_discs(tmp_path / "held_out", 10, 1)
    pairs = tmp_path / "pairs"
    shutil.copytree(held_out, pairs)
    trained_on(train, tmp_path / "models")
    write_provenance(pairs, tmp_path / "models")
    return tmp_path


def arguments(root, held_out=True):
    chosen = {"train": "train", "model": "models", "pairs": "pairs", "held_out": "held_out"}
    listed = [[f"--{key}_dir", str(root / name)] for key, name in chosen.items()]
    return [
        *sum(listed if held_out else listed[:3], []),
        *["--output", str(root / "quality.json"), "--device", "cpu", "--precision", "fp32"],
        *["--steps", "20", "--batch_size", "4", "--learning_rate", "5e-3", "--seeds", "0", "1"],
    ]


def test_held_out_pairs_as_generated_ones_score_like_themselves(benchmark, discs, capsys):
    result = benchmark.main(arguments(discs))
    assert result["pairs"] == {"train": 22, "held_out": 10, "generated": 10}
    faithfulness = result["faithfulness"]
    assert faithfulness["ratio"]["value"] == 1.0
    assert faithfulness["ratio"]["low"] < 1.0 < faithfulness["ratio"]["high"]
    assert faithfulness["held_out"] == faithfulness["generated"]
    seeds = [row["held_out"]["mean"] for row in faithfulness["seeds"].values()]
    assert len(seeds) == 2 and seeds[0] != seeds[1]
    area = result["masks"]["area"]["class1"]
    assert area["generated"] == area["ratio"] == 0.0
    assert area["train"] == result["masks"]["statistics"]["w1_area_class1_floor"] > 0
    assert json.loads((discs / "quality.json").read_text())["pairs"] == result["pairs"]
    assert capsys.readouterr().out.count(": holds") == 2


def test_masks_of_a_folder_are_not_called_generated(benchmark, discs):
    write_provenance(discs / "pairs", discs / "models", "given")
    args = benchmark.arguments(arguments(discs, held_out=False))
    pairs = benchmark.read_pairs(args, Stage1.load(str(discs / "models")))
    assert not pairs.masks_are_generated
    assert len(pairs.train) + len(pairs.held_out) == 24


def test_area_ratio_of_shifted_areas_is_that_of_the_shifts(benchmark):
    held_out = np.random.default_rng(0).uniform(0.1, 0.3, 50)
    found = benchmark.area_ratio(held_out + 0.3, held_out + 0.1, held_out)
    assert found["train"] == pytest.approx(0.1) and found["ratio"] == pytest.approx(3.0)
    assert found["low"] < 3.0 < found["high"]
    assert benchmark.area_ratio(held_out + 0.3, held_out, held_out)["ratio"] is None


def test_generated_volumes_slices_are_read_as_the_generator_gave_them(
    benchmark, nifti_dataset, tmp_path
):
    """Training slices written as the generator writes its own must come back as they were."""
    config = trained_on(nifti_dataset, tmp_path / "models")
    stage1 = Stage1.load(str(tmp_path / "models"))
    train = config.get_parsed_content("train::dataset")
    pairs = tmp_path / "pairs"
    images, labels = benchmark.stacked(train)
    images = images.clamp(-1, 1)
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        geometry, native = stage1.source.geometries[0], unscale(image, *stage1.source.window)
        write_image(native, pairs / f"images/pair_{k}", stage1.source, geometry, False)
        write_label(label, pairs / f"labels/pair_{k}", stage1.source, geometry, False)
    write_provenance(pairs, tmp_path / "models")
    folders = ["--train_dir", nifti_dataset, "--model_dir", tmp_path / "models"]
    rest = ["--pairs_dir", pairs, "--output", tmp_path / "quality.json"]
    args = benchmark.arguments([str(a) for a in [*folders, *rest]])
    read = benchmark.read_pairs(args, stage1)
    order = [int(k) for k in np.argsort([str(k) for k in range(len(images))])]
    assert torch.allclose(benchmark.stacked(read.generated)[0], images[order], atol=1e-4)
    assert torch.equal(benchmark.stacked(read.generated)[1], labels[order])


def test_bad_input_is_refused(benchmark, discs):
    args = benchmark.arguments(arguments(discs))
    args.held_out_dir = args.train_dir
    stage1 = Stage1.load(str(discs / "models"))
    with pytest.raises(InputError, match="is the training folder"):
        benchmark.read_pairs(args, stage1)
    (discs / "pairs/provenance.json").write_text('{"weights_sha256": {}, "config": {}}')
    with pytest.raises(InputError, match="other weights"):
        benchmark.read_pairs(args, stage1)
    (discs / "pairs/provenance.json").unlink()
    with pytest.raises(InputError, match="no provenance"):
        benchmark.read_pairs(args, stage1)
    with pytest.raises(InputError, match="multiples of 8"):
        benchmark.train_segmenter([{"image": torch.zeros(1, 12, 16)}], 2)


def bright_discs(count, seed):
    """Noise in two channels, brighter within the disc that the label marks."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    items = []
    for _ in range(count):
        (x, y), r = rng.uniform(10, 22, 2), rng.uniform(5, 9)
        label = torch.as_tensor(np.hypot(i - x, j - y) <= r)[None]
        image = torch.as_tensor(rng.normal(-0.5, 0.1, (2, 32, 32))) + 0.8 * label
        items.append({"image": image.float(), "label": label.to(torch.uint8)})
    return items


def stack(items):
    return [torch.stack([item[key] for item in items]) for key in ("image", "label")]


def test_segmenter_learns_bright_discs(benchmark):
    settings = {"steps": 80, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    segmenter = benchmark.train_segmenter(bright_discs(24, 0), 2, progress=False, **settings)
    result = summary(dice_table(segmenter, *stack(bright_discs(12, 1)), 2))
    assert result["mean"] > 0.9
    assert result["mean"] == pytest.approx(result["class1"])
    assert 0 < result["low"] <= result["mean"] <= result["high"] <= 1


def test_segmenter_follows_its_seed(benchmark):
    settings = {"steps": 2, "batch_size": 4, "precision": "fp32", "progress": False}
    items = bright_discs(8, 0)
    weights = [
        torch.cat(
            [
                p.flatten()
                for p in benchmark.train_segmenter(items, 2, seed=s, **settings).parameters()
            ]
        )
        for s in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
