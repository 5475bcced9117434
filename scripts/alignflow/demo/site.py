"""The simulated target site of the demo: references without masks, and labelled test slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from alignflow.demo.scanner import Scanner
from alignflow.demo.template import Slab
from alignflow.demo.writing import write_description, write_nifti
from alignflow.errors import InputError

NAME = "ICBM152 slices, simulated second scanner"
EVERY = 3
"""The site gets every third slab, beginning with the second; the lowest one has no likeness."""


def divide(slabs: Sequence[Slab]) -> tuple[list[Slab], list[Slab]]:
    """The slabs of the source and those of the site: no slice is in both.

    Raises:
        InputError: a single slab.
    """
    if len(slabs) < 2:
        raise InputError("--thickness: gives one slab, which leaves none to the site; take 10")
    source = [slab for k, slab in enumerate(slabs) if k % EVERY != 1]
    return source, [slab for k, slab in enumerate(slabs) if k % EVERY == 1]


def write_site(
    site_dir: str | Path, slabs: Sequence[Slab], references: int, scanner: Scanner
) -> None:
    """Write `references/images`, and `test/images` with `test/labels`, one file per slice.

    Each folder's `dataset.json`, written last, says that the scanner is simulated, and how.

    Args:
        site_dir: folder to write; made where missing.
        slabs: of the site, see `divide`.
        references: slices, evenly spread, that become references; the others are test slices.
        scanner: renders the images.

    Raises:
        InputError: no reference, or no slice left to test on.
    """
    slices = [one for slab in slabs for one in single_slices(slab)]
    if not 1 <= references < len(slices):
        raise InputError(
            f"--references {references}: the site has {len(slices)} slices; take 10 of them"
        )
    chosen = set(np.linspace(0, len(slices) - 1, references).round().astype(int).tolist())
    root = Path(site_dir)
    for number, (name, image, label, affine) in enumerate(slices):
        folder = root / ("references" if number in chosen else "test")
        rendered = scanner.render(image[..., 0], number)[..., None]
        write_nifti(folder / f"images/{name}.nii.gz", rendered, affine)
        if number not in chosen:
            write_nifti(folder / f"labels/{name}.nii.gz", label, affine)
    facts = {"simulated": True, "simulation": {"by": "alignflow.demo.scanner", **asdict(scanner)}}
    for kind, what in (
        ("references", f"{len(chosen)} slices without masks"),
        ("test", f"{len(slices) - len(chosen)} slices with masks"),
    ):
        description = f"{what}, of slabs that are not in the source; the scanner is SIMULATED"
        write_description(root / kind / "dataset.json", NAME, description, **facts)


def single_slices(slab: Slab) -> Iterator[Slab]:
    """Each axial slice of a slab as a slab of its own, lowest first."""
    for k in range(slab.image.shape[2]):
        box = (slice(None), slice(None), slice(k, k + 1))
        shift = np.eye(4)
        shift[2, 3] = k
        name = f"{slab.name}_{k:02d}"
        yield Slab(name, slab.image[box], slab.label[box], slab.affine @ shift)
