"""A small real data set from the ICBM152 template that the nilearn package ships.

`python -m alignflow.demo.prepare --output_dir DIR` writes an MSD-style data set: T1-weighted MR
with grey- and white-matter labels. The template is one head, so it is cut into axial slabs; each
slab is a volume of its own and its own group, which keeps validation slabs out of training.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from alignflow.errors import InputError, print_input_errors_as_one_line

LABELS = {"0": "background", "1": "grey matter", "2": "white matter"}
CITATION = (
    "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
    "age-appropriate atlases for pediatric studies. NeuroImage 54(1):313-327, 2011. "
    "doi:10.1016/j.neuroimage.2010.07.033"
)
LICENCE = (
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological "
    "Institute, McGill University. Permission to use, copy, modify, and distribute this software "
    "and its documentation for any purpose and without fee is hereby granted, provided that the "
    "above copyright notice appear in all copies. The authors and McGill University make no "
    'representations about the suitability of this software for any purpose. It is provided "as '
    'is" without express or implied warranty. The authors are not responsible for any data loss, '
    "equipment damage, property loss, or injury to subjects or patients resulting from the use or "
    "misuse of this software package."
)


class Template(NamedTuple):
    """The template's maps on one grid, each (X, Y, Z) uint8, and its 4x4 affine in mm."""

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    affine: np.ndarray


class Slab(NamedTuple):
    """One case: image and label (X, Y, Z) uint8, the affine of its own voxel (0, 0, 0)."""

    name: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def template_folder() -> Path:
    """The folder of nilearn's shipped files; `InputError` where nilearn is missing."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise InputError("nilearn is not installed: pip install 'alignflow[demo]'")
    return Path(found.origin).parent / "datasets" / "data"


def load_template(folder: Path) -> Template:
    """Read T1 (0..255, skull-stripped) and the tissue probabilities (255 = 1) from `folder`."""
    images = []
    for kind in ("t1", "gm", "wm"):
        path = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.exists():
            raise InputError(f"{path}: missing; install the nilearn version of pyproject.toml")
        images.append(nib.Nifti1Image.from_filename(path))
    t1, grey, white = (np.asanyarray(image.dataobj) for image in images)
    return Template(t1, grey, white, images[0].affine)


def tissue_labels(grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """0 where neither probability reaches one half, else 1 (grey) or 2 (white), the likelier.

    Args:
        grey: probability of grey matter times 255, uint8, any shape.
        white: that of white matter, same shape.
    """
    likelier = np.where(white > grey, 2, 1)
    return np.where(np.maximum(grey, white) >= 128, likelier, 0).astype(np.uint8)


def square_window(brain: np.ndarray, side: int) -> tuple[slice, slice]:
    """The axial window of `side` x `side` voxels centred on the brain's bounding box.

    One square for all slices: resizing it to a square grid keeps voxels isotropic.

    Args:
        brain: (X, Y, Z) bool.
        side: voxels.

    Raises:
        InputError: the window is smaller than the brain or larger than the template.
    """
    window = []
    for axis, others in ((0, (1, 2)), (1, (0, 2))):
        inside = np.flatnonzero(brain.any(axis=others))
        first, last = int(inside[0]), int(inside[-1])
        start = (first + last + 1 - side) // 2
        if start < 0 or start + side > brain.shape[axis] or side < last - first + 1:
            raise InputError(
                f"--side {side}: does not hold the brain within the template; take 192"
            )
        window.append(slice(start, start + side))
    return window[0], window[1]


def cut_slabs(template: Template, side: int, thickness: int, min_tissue: int) -> Iterator[Slab]:
    """Axial slabs of the template, lowest first.

    Args:
        template: see `load_template`.
        side: voxels along the sides of the square axial window.
        thickness: slices in a slab; the last one may be thinner.
        min_tissue: slices with fewer labelled voxels are left out.
    """
    labels = tissue_labels(template.grey, template.white)
    window = square_window(template.t1 > 0, side)
    kept = np.flatnonzero((labels > 0).sum(axis=(0, 1)) >= min_tissue)
    if kept.size == 0:
        raise InputError(f"--min_tissue {min_tissue}: no slice has so much tissue; take 2000")
    bottom, top = int(kept[0]), int(kept[-1]) + 1
    for number, z in enumerate(range(bottom, top, thickness)):
        box = (*window, slice(z, min(z + thickness, top)))
        shift = np.eye(4)
        shift[:3, 3] = [part.start for part in box]
        name = f"slab_{number:02d}"
        yield Slab(name, template.t1[box], labels[box], template.affine @ shift)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def nifti_bytes(volume: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI-1 file, in mm and MNI space; the same bytes for the same input."""
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def dataset_description(names: list[str]) -> dict[str, Any]:
    """The contents of `dataset.json`, MSD-style, each case its own `group`."""
    return {
        "name": "ICBM152 slabs",
        "description": "Axial slabs of a T1-weighted brain template with grey and white matter",
        "reference": CITATION,
        "licence": LICENCE,
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": len(names),
        "numTest": 0,
        "training": [
            {
                "image": f"./images/{name}.nii.gz",
                "label": f"./labels/{name}.nii.gz",
                "group": name,
            }
            for name in names
        ],
        "test": [],
    }


def prepare(
    output_dir: str | Path, *, side: int = 192, thickness: int = 10, min_tissue: int = 2000
) -> Path:
    """Write the demo data set and return the path of its `dataset.json`.

    Running it again writes the same bytes. `dataset.json` comes last, so where it lies, the
    volumes it names lie too.

    Args:
        output_dir: folder to write; made where missing.
        side: voxels (1 mm) along the sides of the square axial window.
        thickness: slices (1 mm) in a slab.
        min_tissue: slices with fewer labelled voxels are left out.
    """
    if thickness < 1:
        raise InputError(f"--thickness {thickness}: a slab has at least 1 slice; take 10")
    output = Path(output_dir)
    names = []
    for slab in cut_slabs(load_template(template_folder()), side, thickness, min_tissue):
        write_bytes(output / f"images/{slab.name}.nii.gz", nifti_bytes(slab.image, slab.affine))
        write_bytes(output / f"labels/{slab.name}.nii.gz", nifti_bytes(slab.label, slab.affine))
        names.append(slab.name)
    description = json.dumps(dataset_description(names), indent=2) + "\n"
    write_bytes(output / "dataset.json", description.encode())
    return output / "dataset.json"


def main() -> None:
    """Command line of `prepare`."""
    print_input_errors_as_one_line()
    parser = argparse.ArgumentParser(description="Write the embedded demo data set.")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--side", type=int, default=192, help="axial window, voxels of 1 mm")
    parser.add_argument("--thickness", type=int, default=10, help="slices of 1 mm in a slab")
    parser.add_argument("--min_tissue", type=int, default=2000, help="labelled voxels in a slice")
    written = prepare(**vars(parser.parse_args()))
    cases = json.loads(written.read_text())["numTraining"]
    print(f"demo data: {cases} volumes of T1-weighted MR with grey and white matter, {written}")


if __name__ == "__main__":
    main()
