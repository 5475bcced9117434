"""A small real data set from the ICBM152 template that the nilearn package ships.

`python -m alignflow.demo.prepare --output_dir DIR` writes an MSD-style data set: T1-weighted MR
with grey- and white-matter labels. The template is one head, so it is cut into axial slabs; each
slab is a volume of its own and its own group, which keeps validation slabs out of training.

With `--site_dir DIR` every third slab goes to a second, simulated site in place of the data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alignflow.demo.scanner import Scanner
from alignflow.demo.site import divide, write_site
from alignflow.demo.template import cut_slabs, load_template, template_folder
from alignflow.demo.writing import write_description, write_nifti
from alignflow.errors import InputError, print_input_errors_as_one_line


def prepare(
    output_dir: str | Path,
    *,
    site_dir: str | Path | None = None,
    references: int = 10,
    side: int = 192,
    thickness: int = 10,
    min_tissue: int = 2000,
) -> Path:
    """Write the demo data set and return the path of its `dataset.json`.

    Running it again writes the same bytes. `dataset.json` comes last, so where it lies, the
    volumes it names lie too.

    Args:
        output_dir: folder to write; made where missing.
        site_dir: folder of the simulated site, see `write_site`; None: all slabs are the source's.
        references: slices of the site without masks.
        side: voxels (1 mm) along the sides of the square axial window.
        thickness: slices (1 mm) in a slab.
        min_tissue: slices with fewer labelled voxels are left out.
    """
    if thickness < 1:
        raise InputError(f"--thickness {thickness}: a slab has at least 1 slice; take 10")
    output = Path(output_dir)
    slabs = list(cut_slabs(load_template(template_folder()), side, thickness, min_tissue))
    if site_dir is not None:
        slabs, held_out = divide(slabs)
        write_site(site_dir, held_out, references, Scanner())
    for slab in slabs:
        write_nifti(output / f"images/{slab.name}.nii.gz", slab.image, slab.affine)
        write_nifti(output / f"labels/{slab.name}.nii.gz", slab.label, slab.affine)
    path = output / "dataset.json"
    write_description(
        path,
        "ICBM152 slabs",
        "Axial slabs of a T1-weighted brain template with grey and white matter",
        numTraining=len(slabs),
        numTest=0,
        training=[
            {
                "image": f"./images/{slab.name}.nii.gz",
                "label": f"./labels/{slab.name}.nii.gz",
                "group": slab.name,
            }
            for slab in slabs
        ],
        test=[],
    )
    return path


def main() -> None:
    """Command line of `prepare`."""
    print_input_errors_as_one_line()
    parser = argparse.ArgumentParser(description="Write the embedded demo data set.")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--site_dir", help="folder for a simulated second site, cut off the data")
    parser.add_argument("--references", type=int, default=10, help="slices of it without masks")
    parser.add_argument("--side", type=int, default=192, help="axial window, voxels of 1 mm")
    parser.add_argument("--thickness", type=int, default=10, help="slices of 1 mm in a slab")
    parser.add_argument("--min_tissue", type=int, default=2000, help="labelled voxels in a slice")
    arguments = parser.parse_args()
    written = prepare(**vars(arguments))
    cases = json.loads(written.read_text(encoding="utf-8"))["numTraining"]
    print(f"demo data: {cases} volumes of T1-weighted MR with grey and white matter, {written}")
    if arguments.site_dir:
        print(
            f"simulated second scanner: {arguments.references} reference slices, "
            f"and test slices with masks, in {arguments.site_dir}"
        )


if __name__ == "__main__":
    main()
