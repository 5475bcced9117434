"""Packs the model-zoo zip, which needs only its listed requirements to run.

python -m alignflow.packing pack --output build/alignflow.zip [--model_dir DIR]
python -m alignflow.packing verify build/alignflow.zip
python -m alignflow.packing halve MODELS SMALL
"""

from __future__ import annotations

import argparse
import copy
import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import torch

import alignflow
from alignflow.errors import InputError, print_input_errors_as_one_line
from alignflow.files import load_tensors, replacing, save_tensors, sha256
from alignflow.hashes import SUMS, is_inside, sums_of, verify
from alignflow.stage1 import FILE, STUDENTS, Stage1, weight_hashes

TOP = "alignflow"  # folder in the zip: the name of the bundle in a model zoo
CONFIGS = (".json", ".yaml", ".conf")
UNKNOWN_DATA = "Not stated by whoever packed these weights."
EARLIEST = (1980, 1, 1, 0, 0, 0)  # earliest time in a zip; equal files give equal bytes


def pack(
    output: str | Path,
    *,
    bundle: str | Path = "bundle",
    project: str | Path = "pyproject.toml",
    model_dir: str | Path | None = None,
    data_source: str = UNKNOWN_DATA,
) -> list[str]:
    """Write the zip of a bundle: configs, docs, licence, package, requirements, hashes, weights.

    From `model_dir` it takes weights, students and ONNX files with their records. Files that may
    show or name images are left out: pictures, `align.json`, configs of runs, checkpoints,
    couplings and MLflow's store.

    Args:
        output: path of the zip; written atomically, and equal inputs give equal bytes.
        bundle: folder with configs/, docs/ and LICENSE.
        project: pyproject.toml with the pins for `requirements.txt`.
        model_dir: output of `training`, `align` or `distill`; None packs no weights.
        data_source: training data of the weights, for the metadata.

    Returns:
        The names of the files in the zip's folder.

    Raises:
        InputError: a file is missing, or weights do not belong to their record.
    """
    files = _texts(Path(bundle), Path(project)) | _package()
    if model_dir is not None:
        stage1 = Stage1.load(str(model_dir))
        metadata = json.loads(files["configs/metadata.json"])
        described = describe(metadata, stage1) | {"data_source": data_source}
        files["configs/metadata.json"] = (json.dumps(described, indent=4) + "\n").encode()
        files |= _weights(Path(model_dir))
    wrong = [name for name in files if not is_inside(name)]
    if wrong:
        raise InputError(f"'{bundle}': {wrong[0]!r} is not a portable file name; rename the file")
    files[SUMS] = sums_of(files)
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{TOP}/{name}", EARLIEST)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return sorted(files)


def halve(model_dir: str | Path, output: str | Path) -> None:
    """Copy a trained bundle with its weights at half precision; networks load them as float32.

    Args:
        model_dir: of `training` or `align`.
        output: folder of the copy; made where missing.

    Raises:
        InputError: weights that are missing or do not belong to their record.
    """
    model_dir, output = Path(model_dir), Path(output)
    stage1 = Stage1.load(str(model_dir))
    output.mkdir(parents=True, exist_ok=True)
    for name in weight_hashes(str(model_dir)):
        weights = load_tensors(model_dir / name)
        halved = {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}
        save_tensors(halved, output / name)
    stage1.save(str(output))


def requirements(project: str | Path) -> str:
    """`requirements.txt` with the pins of a pyproject.toml; extras are comments."""
    content = tomllib.loads(Path(project).read_text(encoding="utf-8"))["project"]
    lines = [f"# of {content['name']} {alignflow.__version__}", *content["dependencies"]]
    for extra in ("dicom", "encoder", "eval", "export", "tensorrt"):
        lines += ["", f"# optional: {extra}"]
        lines += [f"# {pin}" for pin in content["optional-dependencies"][extra]]
    return "\n".join(lines) + "\n"


def describe(metadata: dict[str, Any], stage1: Stage1) -> dict[str, Any]:
    """Metadata of a bundle, with the description of the network from a record."""
    described = copy.deepcopy(metadata)
    source = stage1.source
    classes = list(source.labels)
    image = [f"image channel {k}" for k in range(source.channels)]
    maps = [f"one-hot {name}" for name in classes]
    maps += [f"truncated signed distance of {name}" for name in classes[1:]]
    formats = described["network_data_format"]
    ends = (formats["inputs"]["image"], formats["outputs"]["pred"])
    noise = [f"Gaussian noise of {name}" for name in image]
    for end, channels in zip(ends, (noise + maps, image), strict=True):
        end["modality"] = source.modality
        end["spatial_shape"] = list(stage1.image_size)
        end["num_channels"] = len(channels)
        end["channel_def"] = {str(k): name for k, name in enumerate(channels)}
    values = ", ".join(f"{value:g} {name}" for name, value in source.labels.items())
    count = f"{source.channels} channel{'s' if source.channels > 1 else ''}"
    described["image_classes"] = f"{count}, {source.modality}, in [-1, 1]"
    described["label_classes"] = f"single channel: {values}"
    described["pred_classes"] = f"{count}: a synthetic image in [-1, 1]"
    return described


def _texts(bundle: Path, project: Path) -> dict[str, bytes]:
    if not project.is_file():
        raise InputError(f"project '{project}': no such file; give the pyproject.toml")
    paths = [bundle / "LICENSE"]
    paths += [path for path in (bundle / "configs").glob("*") if path.suffix in CONFIGS]
    paths += [path for path in (bundle / "docs").rglob("*") if path.is_file()]
    for needed in ("LICENSE", "configs/metadata.json", "docs/README.md"):
        if not (bundle / needed).is_file():
            raise InputError(f"bundle '{bundle}': no {needed}; give the folder of the bundle")
    files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in paths}
    return files | {"models/.gitkeep": b"", "requirements.txt": requirements(project).encode()}


def _package() -> dict[str, bytes]:
    root = Path(alignflow.__file__).parent
    paths = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"alignflow/{p.relative_to(root).as_posix()}": p.read_bytes() for p in paths}


def _weights(model_dir: Path) -> dict[str, bytes]:
    names = [FILE, *weight_hashes(str(model_dir))]
    for student in STUDENTS.values():
        names += [p.name for p in model_dir.glob(f"{student}_*.onnx*")]
    return {f"models/{name}": (model_dir / name).read_bytes() for name in names}


def main() -> None:
    """Command line for `pack`, `verify` and `halve`."""
    print_input_errors_as_one_line()
    parser = argparse.ArgumentParser(description="Pack a bundle, or check a packed one.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the zip")
    packing.add_argument("--output", help="default: build/alignflow_vVERSION.zip")
    packing.add_argument("--bundle", default="bundle", help="folder with configs/ and docs/")
    packing.add_argument("--project", default="pyproject.toml", help="file with the pins")
    packing.add_argument("--model_dir", help="weights (default: none)")
    packing.add_argument("--data_source", default=UNKNOWN_DATA, help="training data of the weights")
    checking = commands.add_parser("verify", help="check a zip or a folder without running it")
    checking.add_argument("bundle", help="the zip, or the unpacked folder")
    halving = commands.add_parser("halve", help="copy a bundle at half precision")
    halving.add_argument("model_dir", help="trained bundle")
    halving.add_argument("output", help="folder of the copy")
    arguments = vars(parser.parse_args())
    if (command := arguments.pop("command")) == "halve":
        halve(**arguments)
        return
    if command == "verify":
        print(f"{verify(**arguments)} files as they were packed: {arguments['bundle']}")
        return
    output = arguments.pop("output") or f"build/{TOP}_v{alignflow.__version__}.zip"
    names = pack(output, **arguments)
    weights = [name for name in names if name.startswith("models/") and name.endswith(".pt")]
    kind = f"weights {', '.join(weights)}" if weights else "NO weights (--model_dir has them)"
    print(f"wrote {len(names)} files with {kind}: {output}\nsha256 {sha256(output)}")


if __name__ == "__main__":
    main()
