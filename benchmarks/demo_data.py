"""The images of `make demo`: nuclei under two kinds of microscope, 2018 Data Science Bowl (CC0).

    python benchmarks/demo_data.py --data DIR --output bundle/demo

DIR holds `DSB18_fluo` (fluorescence) and `DSB18_HE` (stained tissue), each with `images/`, `masks/`
(0 or 1) and `index.csv` with the columns stem and patient (tiles of one field of view, near
duplicates). Images are cut to their middle square and resized to 128 x 128 pixels. The source gets
one image of each of 150 patients. Three patients of the site give a reference with its mask each;
the test images are up to two of each other patient.
"""

import argparse
import csv
import json
import random
from pathlib import Path

from PIL import Image, ImageOps

SIZE = (128, 128)
SOURCE, REFERENCES, OF_EACH = 150, 3, 2
MODE = {"DSB18_fluo": "L", "DSB18_HE": "RGB"}
DESCRIPTION = {
    "licence": "CC0-1.0",
    "reference": "BBBC038v1; Caicedo et al., Nature Methods 16, 2019",
    "labels": {"0": "background", "255": "nucleus"},
}
Patients = list[list[str]]


def main() -> None:
    """Write the source, the references and the test images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    source, site = (patients(args.data / name) for name in MODE)
    write(args.data / "DSB18_fluo", source[:SOURCE], 1, args.output / "source")
    write(args.data / "DSB18_HE", site[:REFERENCES], 1, args.output / "references")
    write(args.data / "DSB18_HE", site[REFERENCES:], OF_EACH, args.output / "test", REFERENCES)


def patients(folder: Path) -> Patients:
    """The images of each patient that have a nucleus, in random order."""
    found: dict[str, list[str]] = {}
    with (folder / "index.csv").open() as file:
        for row in csv.DictReader(file):
            if float(row["fg"]) > 0:
                found.setdefault(row["patient"], []).append(row["stem"])
    shuffle = random.Random(0)
    lists = list(found.values())
    for stems in lists:
        shuffle.shuffle(stems)
    shuffle.shuffle(lists)
    return lists


def write(data: Path, chosen: Patients, of_each: int, output: Path, first: int = 0) -> None:
    """Resized images and masks, and a dataset.json that numbers the patients from `first`."""
    training = []
    for number, stems in enumerate(chosen, first):
        for stem in stems[:of_each]:
            case = {"image": f"images/{stem}.png", "label": f"masks/{stem}.png"}
            training.append(case | {"group": f"patient {number}"})
            for path in case.values():
                (output / path).parent.mkdir(parents=True, exist_ok=True)
            image = Image.open(data / case["image"]).convert(MODE[data.name])
            mask = Image.open(data / case["label"]).point(lambda value: 255 * value)
            box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
            ImageOps.fit(image, SIZE, box).save(output / case["image"], optimize=True)
            ImageOps.fit(mask, SIZE, nearest).save(output / case["label"], optimize=True)
    content = {"name": f"nuclei, {data.name}", **DESCRIPTION, "numTraining": len(training)}
    (output / "dataset.json").write_text(
        json.dumps(content | {"training": training}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
