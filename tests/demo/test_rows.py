import sys

import numpy as np
import pytest
import torch
from datasets import READING
from PIL import Image

from alignflow.demo.rows import ROWS, draw_rows, main
from alignflow.errors import InputError
from alignflow.files import save_tensors
from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.stage1 import WEIGHTS, Stage1

LEVELS = {"source": 40, "references": 90, "unaligned": 150, "aligned": 210}


@pytest.fixture
def model_dir(tmp_path, png_source):
    """A bundle of gray 16 x 16 PNG images; its weights are never read."""
    masks = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    masks[..., 4:12, 4:12] = 1
    folder = tmp_path / "models"
    folder.mkdir()
    for name in WEIGHTS.values():
        save_tensors({}, folder / name)
    Stage1(
        source=png_source(),
        image_size=[16, 16],
        image_network={},
        mask_network={},
        clip=5.0,
        scheme="disjoint",
        postprocess=MaskPostprocess.fit(masks, 2).to_dict(),
        descriptions=describe(masks, 2).tolist(),
        segmenter={},
        reading=READING,
        appearance=[],
    ).save(str(folder))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    """Nearly constant images, of another level in each folder; ten, or three references."""
    found = {}
    for name, level in LEVELS.items():
        folder = tmp_path / name / "images"
        folder.mkdir(parents=True)
        for k in range(3 if name == "references" else 10):
            pixels = np.full((16, 16), level, np.uint8)
            pixels[k, 0] += 1  # neither constant nor a duplicate
            Image.fromarray(pixels).save(folder / f"{k}.png")
        found[name] = str(tmp_path / name)
    return found


def tiles_of_rows(path):
    """Width of the area in each of the four levels, top to bottom."""
    picture = np.asarray(Image.open(path).convert("L")).astype(int)
    rows = []
    for level in LEVELS.values():
        places = np.argwhere(np.abs(picture - level) <= 1)
        dense = [y for y in np.unique(places[:, 0]) if (places[:, 0] == y).sum() > 20]
        rows.append((min(dense), max(dense), np.median([(places[:, 0] == y).sum() for y in dense])))
    return rows


def test_four_rows_from_top_to_bottom_with_as_many_tiles_as_there_are(folders, model_dir, tmp_path):
    draw_rows(folders, model_dir, tmp_path / "rows.png")
    rows = tiles_of_rows(tmp_path / "rows.png")
    assert all(upper[1] < lower[0] for upper, lower in zip(rows, rows[1:], strict=False))
    widths = [row[2] for row in rows]
    assert widths[1] / widths[0] == pytest.approx(3 / 8, rel=0.05)
    assert widths[2:] == pytest.approx([widths[0]] * 2, rel=0.05)


def test_command_line(folders, model_dir, tmp_path, monkeypatch):
    arguments = [f"--{name}={folders[name]}" for name in ROWS]
    output = tmp_path / "rows.png"
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(
        sys, "argv", ["rows", f"--model_dir={model_dir}", *arguments, f"--output={output}"]
    )
    main()
    assert len(tiles_of_rows(output)) == 4


def test_a_missing_folder_is_named(folders, model_dir, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        draw_rows(folders | {"aligned": str(tmp_path / "nowhere")}, model_dir, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
