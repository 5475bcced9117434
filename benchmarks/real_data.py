"""Stage 1 on real data of every kind: train briefly, write pairs, compare their geometry.

    ALIGNFLOW_DATA=DIR python benchmarks/real_data.py --output_dir OUT [--only acdc ...]

For each data set: first and last epoch's loss of both flows (read from the MLflow store), number of
pairs whose size, spacing, origin and direction equal those of a source slice (both read with
SimpleITK, which the package itself does not use), and a contact sheet to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import SimpleITK as sitk
from mlflow import MlflowClient

BUNDLE = Path(__file__).parents[1] / "bundle"
SOURCES = {
    "hippocampus": ("MSD-Hippocampus", {}),
    "kvasir": ("Kvasir-SEG", {"flip_x": 0.5, "flip_y": 0.5}),
    "rim_one": ("RIM-ONE_v2", {"flip_x": 0.5}),
    "acdc": ("ACDC", {"group_column": "patient"}),
    # one series of three slices: too few to hold any out
    "dicom": ("dicom_samples/dcmqi_ct_liver_SEG", {"batch_size": 2, "validation_fraction": 0}),
}


def main() -> None:
    """Run the chosen data sets and print one line of results for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--image_epochs", type=int, default=4)
    parser.add_argument("--mask_epochs", type=int, default=8)
    parser.add_argument("--num_pairs", type=int, default=32)
    args = parser.parse_args()
    results = {}
    for name in args.only:
        folder, overrides = SOURCES[name]
        source = Path(os.environ["ALIGNFLOW_DATA"]) / folder
        work = args.output_dir.resolve() / name
        dataset = series_as_dataset(source, work / "data") if name == "dicom" else source
        epochs: dict[str, float] = {
            "image_epochs": args.image_epochs,
            "mask_epochs": args.mask_epochs,
        }
        epochs["val_interval"] = 1
        # a short run's average must not reach back to its initial weights
        epochs["ema_decay"] = 0.99
        models, pairs = work / "models", work / "pairs"
        run("training", "train", dataset_dir=dataset, output_dir=models, **overrides | epochs)
        run("infer", "inference", model_dir=models, output_dir=pairs, num_pairs=args.num_pairs)
        results[name] = losses(models) | compare_geometry(dataset, pairs)
        print(name, json.dumps(results[name]), flush=True)
        (args.output_dir / "real_data.json").write_text(json.dumps(results, indent=1) + "\n")


def series_as_dataset(series: Path, dataset: Path) -> Path:
    """images/case/*.dcm and labels/case.nrrd, as links, from a folder that mixes them."""
    (dataset / "images" / "case").mkdir(parents=True, exist_ok=True)
    (dataset / "labels").mkdir(exist_ok=True)
    links = {p: dataset / "images" / "case" / p.name for p in series.glob("0*.dcm")}
    links[series / "liver_seg.nrrd"] = dataset / "labels" / "case.nrrd"
    for file, link in links.items():
        if not link.is_symlink():
            link.symlink_to(file)
    return dataset


def run(run_id: str, config: str, **overrides: object) -> None:
    """`python -m monai.bundle run`, as a user would."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", f"configs/{config}.json"]
    command += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    subprocess.run(command, cwd=BUNDLE, check=True)


def losses(models: Path) -> dict[str, float]:
    """First and last epoch's mean loss of both flows."""
    client = MlflowClient(tracking_uri=f"sqlite:///{models}/mlflow.db")
    experiment = client.get_experiment_by_name("alignflow-stage1")
    found = {}
    for tracked in client.search_runs([experiment.experiment_id]):
        for metric in ("loss", "held_out_loss"):
            history = client.get_metric_history(tracked.info.run_id, metric)
            history = sorted(history, key=lambda entry: entry.step)
            if not history:
                continue
            found[f"{tracked.info.run_name} {metric} first"] = round(history[0].value, 4)
            found[f"{tracked.info.run_name} {metric} last"] = round(history[-1].value, 4)
    return found


def compare_geometry(dataset: Path, pairs: Path) -> dict[str, int]:
    """How many pairs lie on the grid of a source slice, and how many there are."""
    source = {grid for path in sorted((dataset / "images").iterdir()) for grid in grids(path)}
    equal = 0
    written = sorted((pairs / "images").iterdir())
    for image in written:
        label = next((pairs / "labels").glob(image.name.split(".")[0] + ".*"))
        equal += grids(image)[0] in source and grids(label)[0] == grids(image)[0]
    return {"pairs": len(written), "pairs on the grid of a source slice": equal}


def grids(path: Path) -> list[tuple]:
    """Grid of every slice: size, spacing, origin and direction to a hundredth of a millimetre."""
    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(path))
    if path.suffix in (".png", ".jpg"):
        return [image.GetSize()]
    count = image.GetSize()[2]
    origins = [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(count)]
    same = (image.GetSize()[:2], rounded(image.GetSpacing()), rounded(image.GetDirection()))
    return [(*same, rounded(origin)) for origin in origins]


def rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    """Two decimals, and no negative zero."""
    return tuple(round(value, 2) + 0.0 for value in values)


if __name__ == "__main__":
    main()
