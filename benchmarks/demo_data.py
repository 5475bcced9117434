"""The images of `make demo`: nuclei of two microscopes, from the 2018 Data Science Bowl (CC0).

    python benchmarks/demo_data.py --data DSB18_fluo --output bundle/demo

DATA holds `images/`, `masks/` (0 or 1) and `index.csv` with the columns stem, patient and group
(the size of the image, which tells the microscopes apart). Images are gray, cut to their middle
square and resized to 128 x 128 pixels. The source gets all images of its microscope; the site's
references and test images come from different patients, one image each.
"""

import argparse
import csv
import json
import random
from pathlib import Path

from PIL import Image, ImageOps

SOURCE, SITE = "520x696", "256x256"
SIZE = (128, 128)
FILTER = {"image": Image.Resampling.BOX, "label": Image.Resampling.NEAREST}
REFERENCES, TEST = 10, 60
DESCRIPTION = {
    "name": "nuclei, fluorescence",
    "licence": "CC0-1.0",
    "reference": "BBBC038v1; Caicedo et al., Nature Methods 16, 2019",
    "labels": {"0": "background", "255": "nucleus"},
}


def main() -> None:
    """Write the source, the references and the test images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    with (args.data / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    site: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["group"] == SITE and float(row["fg"]) > 0:
            site.setdefault(row["patient"], row)
    chosen = random.Random(0).sample(list(site.values()), REFERENCES + TEST)
    write(args.data, [r for r in rows if r["group"] == SOURCE], args.output / "source")
    write(args.data, chosen[REFERENCES:], args.output / "site/test")
    write(args.data, chosen[:REFERENCES], args.output / "site/references", masks=False)


def write(data: Path, rows: list[dict[str, str]], output: Path, masks: bool = True) -> None:
    """Resized images, with masks and a dataset.json that names the patient of each."""
    training = []
    for row in sorted(rows, key=lambda row: row["stem"]):
        name = f"{row['stem']}.png"
        case = {"image": f"images/{name}", "label": f"masks/{name}", "group": row["patient"]}
        for key, folder in (("image", "images"), ("label", "masks"))[: 1 + masks]:
            (output / folder).mkdir(parents=True, exist_ok=True)
            picture = ImageOps.fit(Image.open(data / folder / name).convert("L"), SIZE, FILTER[key])
            if key == "label":
                picture = picture.point(lambda value: 255 * value)
            picture.save(output / case[key], optimize=True)
        training.append(case)
    if masks:
        content = {**DESCRIPTION, "numTraining": len(training), "training": training}
        (output / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
