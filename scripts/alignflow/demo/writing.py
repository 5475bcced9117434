"""NIfTI volumes and `dataset.json` of the demo's data sets, the same bytes for the same input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from alignflow.demo.template import CITATION, LABELS, LICENCE
from alignflow.files import replacing


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a gzipped NIfTI-1 file, in mm and MNI space, whole or not at all."""
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def write_description(path: Path, name: str, description: str, **facts: Any) -> None:
    """Write an MSD-style `dataset.json` with the source's licence, classes and `facts`."""
    content = {
        "name": name,
        "description": description,
        "reference": CITATION,
        "licence": LICENCE,
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": LABELS,
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content | facts, indent=2) + "\n", encoding="utf-8")
