"""The demo's picture: source, references, unaligned and aligned pairs, one named row each.

`python -m alignflow.demo.rows --model_dir M --source S --references R --unaligned U --aligned A
--output PNG`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from alignflow.data.references import load_references
from alignflow.errors import print_input_errors_as_one_line
from alignflow.evaluation.sets import SYNTHETIC
from alignflow.pictures import evenly, image_tiles, save_rows, y_points_up
from alignflow.stage1 import Stage1

SHOWN = 8  # images in a row
ROWS = ("source", "references", *SYNTHETIC)


def draw_rows(folders: dict[str, str], model_dir: str, output: str | Path) -> None:
    """Write a PNG with up to eight images, evenly spread, of each folder.

    All are shown on one intensity scale, that of the generator. Pairs are read by the window that
    they were written with, all else as the source was.

    Args:
        folders: the folder of each row of `ROWS`.
        model_dir: the bundle, which says how images are read.
        output: the PNG.
    """
    stage1 = Stage1.load(model_dir)
    as_written = stage1.as_written()
    tiles = {}
    for name in ROWS:
        found = load_references(folders[name], as_written if name in SYNTHETIC else stage1)
        tiles[name] = image_tiles(found.images[evenly(len(found), SHOWN)])
    save_rows(output, tiles, y_points_up(stage1.source))


def main() -> None:
    """Command line of `draw_rows`."""
    print_input_errors_as_one_line()
    parser = argparse.ArgumentParser(description="Draw the rows of the demo.")
    parser.add_argument("--model_dir", required=True, help="the bundle")
    for name in ROWS:
        parser.add_argument(f"--{name}", required=True, help="folder of this row")
    parser.add_argument("--output", required=True, help="PNG to write")
    arguments = vars(parser.parse_args())
    draw_rows({name: arguments[name] for name in ROWS}, arguments["model_dir"], arguments["output"])


if __name__ == "__main__":
    main()
