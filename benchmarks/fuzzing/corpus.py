"""Whole files to start from: those of libraries' own tests, of ALIGNFLOW_DATA, and written here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import nrrd
import numpy as np
import pydicom
import pydicom.data
import SimpleITK as sitk
import tifffile
from highdicom.seg import SegmentDescription
from PIL import Image
from pydicom.sr.codedict import codes

LARGEST = 60_000  # bytes; a larger file costs time and damages no other code


@dataclass(frozen=True)
class Seed:
    """A file to damage.

    Attributes:
        kind: of file, a key of `independent.READERS`, "dataset.json" or "index.csv".
        path: the file that is damaged.
        folder: of what belongs to it: the other slices, or images and masks; None for none.
        is_mask: whether it is read as a mask.
    """

    kind: str
    path: Path
    folder: Path | None = None
    is_mask: bool = False


def find_seeds(work: Path) -> list[Seed]:
    """All seeds; what has to be written is written to `work`."""
    work.mkdir(parents=True, exist_ok=True)
    seeds = [*_pydicom_files(), *_written(work), *_segmentations(work), *_tables(work)]
    seeds += _multi_frame(work)
    data = os.environ.get("ALIGNFLOW_DATA")
    seeds += _public(Path(data), work) if data else []
    return sorted(seeds, key=lambda seed: (seed.kind, str(seed.path)))


def _pydicom_files() -> Iterator[Seed]:
    """Small images of pydicom's own tests, those in its wheel."""
    for path in (Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"):
        if path.stat().st_size <= LARGEST:
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
            except Exception:  # some are broken on purpose
                continue
            if "Rows" in header and header.get("Modality") not in ("RTDOSE", "SEG"):
                yield Seed("DICOM", path)


def _written(work: Path) -> Iterator[Seed]:
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(14), np.add.outer(3 * np.arange(11), 7 * np.arange(6)))
    volume = (smooth + random.integers(0, 40, smooth.shape)).astype(np.int16)
    turned = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]])
    affine = np.eye(4)
    affine[:3, :3] = turned * [0.7, 0.9, 2.5]
    affine[:3, 3] = [31.5, -12.25, 77.0]
    for dtype in ("uint8", "int16", "float32", "float64"):
        for suffix in (".nii", ".nii.gz"):
            image = nibabel.Nifti1Image(volume.astype(dtype), affine)
            image.header.set_xyzt_units("mm", "sec")
            path = work / f"{dtype}{suffix}"
            nibabel.save(image, path)
            yield Seed("NIfTI", path)
    scaled = nibabel.Nifti1Image(volume.astype(np.float64) * 0.37 - 5, affine)
    scaled.header.set_data_dtype(np.int16)
    image_2 = nibabel.Nifti2Image(volume, affine)
    four = nibabel.Nifti1Image(np.stack([volume, volume + 1], axis=-1), affine)
    swapped = nibabel.Nifti1Image(
        volume, affine, nibabel.Nifti1Image(volume, affine).header.as_byteswapped(">")
    )
    made = {"scaled": scaled, "second": image_2, "four": four, "big": swapped}
    for name, image in made.items():
        nibabel.save(image, work / f"{name}.nii")
        yield Seed("NIfTI", work / f"{name}.nii")
    for dtype in ("uint8", "int16", "float32"):
        original = sitk.GetImageFromArray(volume.astype(dtype).transpose(2, 1, 0))
        original.SetSpacing((0.7, 0.9, 2.5))
        original.SetOrigin((-31.5, 12.25, 77.0))
        original.SetDirection(turned.ravel())
        for suffix, kind in ((".nrrd", "NRRD"), (".mha", "MetaImage")):
            for packed in (True, False):
                path = work / f"{dtype}{'_packed' * packed}{suffix}"
                sitk.WriteImage(original, str(path), packed)
                yield Seed(kind, path)
    header = {"space": "RAS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    for encoding in ("raw", "gzip", "ascii"):
        nrrd.write(str(work / f"{encoding}.nrrd"), volume, header | {"encoding": encoding})
        yield Seed("NRRD", work / f"{encoding}.nrrd")
    nrrd.write(str(work / "plain.nrrd"), volume, {"spacings": [0.5, 0.6, 2.0]})
    yield Seed("NRRD", work / "plain.nrrd")
    vector = sitk.GetImageFromArray(np.stack([volume, volume + 1], -1).transpose(2, 1, 0, 3), True)
    for name in ("vector.nrrd", "vector.mha"):
        sitk.WriteImage(vector, str(work / name))
        yield Seed("NRRD" if name.endswith("nrrd") else "MetaImage", work / name)
    vector.SetMetaData("dim[0]", "3")  # as ITK does when it converts a NIfTI, or a DICOM file
    vector.SetMetaData("0010|0020", "x")
    sitk.WriteImage(vector, str(work / "noted.mha"))
    yield Seed("MetaImage", work / "noted.mha")
    yield from _pictures(work)


def _pictures(work: Path) -> Iterator[Seed]:
    i, j = np.indices((30, 41))
    colour = np.stack([5 * i, 6 * j, 3 * (i + j)], axis=-1).astype(np.uint8)
    made = {
        "colour": Image.fromarray(colour),
        "gray": Image.fromarray(colour[..., 0]),
        "alpha": Image.fromarray(np.dstack([colour, colour[..., 0]])),
        "palette": Image.fromarray(colour).quantize(16),
        "binary": Image.fromarray(colour[..., 0] > 70),
        "deep": Image.fromarray(colour[..., 0].astype(np.uint16) * 200),
    }
    kinds = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif"}
    allowed = {
        "PNG": list(made),
        "JPEG": ["colour", "gray"],
        "BMP": ["colour", "gray", "palette", "alpha"],
        "TIFF": ["colour", "gray", "deep", "alpha", "binary"],
    }
    for kind, suffix in kinds.items():
        for name in allowed[kind]:
            path = work / f"{name}{suffix}"
            made[name].save(path)
            yield Seed(kind, path)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made["colour"].save(work / f"{packing}.tif", compression=packing)
        yield Seed("TIFF", work / f"{packing}.tif")
    layouts: dict[str, dict[str, Any]] = {
        "tiles": {"tile": (16, 32), "photometric": "rgb"},
        "strips": {"rowsperstrip": 7, "photometric": "rgb", "byteorder": ">"},
        "planes": {"planarconfig": "separate", "photometric": "rgb"},
        "white": {"photometric": "miniswhite"},
        "bigtiff": {"bigtiff": True},
        "float": {},
    }
    for name, layout in layouts.items():
        values = colour if layout.get("photometric") == "rgb" else colour[..., 0]
        values = colour.transpose(2, 0, 1).copy() if name == "planes" else values
        values = values / np.float32(7) if name == "float" else values
        tifffile.imwrite(work / f"{name}.tif", values, **layout)
        yield Seed("TIFF", work / f"{name}.tif")
    made["colour"].save(work / "progressive.jpg", progressive=True, quality=90)
    yield Seed("JPEG", work / "progressive.jpg")


def _segmentations(work: Path) -> Iterator[Seed]:
    """Binary segmentations of a CT slice, of one and of two classes."""
    source = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    i, j = np.indices((source.Rows, source.Columns))
    index = (np.hypot(i - 60, j - 60) < 30).astype(np.uint8) + (np.hypot(i - 60, j - 60) < 12)
    for name, mask in (("one", index > 0), ("two", index)):
        numbers = range(1, int(mask.max()) + 1)
        made = highdicom.seg.Segmentation(
            source_images=[source],
            pixel_array=mask[None].astype(np.uint8),
            segmentation_type="BINARY",
            segment_descriptions=[
                SegmentDescription(n, f"class {n}", codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
                for n in numbers
            ],
            series_instance_uid="1.2.3",
            series_number=2,
            sop_instance_uid="1.2.3.4",
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
        )
        made.save_as(work / f"{name}_seg.dcm")
        yield Seed("SEG", work / f"{name}_seg.dcm", is_mask=True)


def _multi_frame(work: Path) -> Iterator[Seed]:
    """Enhanced MR of four frames and of one, oblique."""
    yield Seed("DICOM", enhanced(work / "enhanced.dcm"))
    yield Seed("DICOM", enhanced(work / "enhanced_one.dcm", order=(0,)))


def enhanced(path: Path, order: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
    """Write an Enhanced MR image; `order`: the place of each frame along the normal."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        pydicom.uid.EnhancedMRImageStorage
    )
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation = "MR", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 9, 7, len(order)
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 12
    dataset.HighBit, dataset.PixelRepresentation = 11, 0
    turned = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]])
    shared = pydicom.Dataset()
    orientation, measures, rescale = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = [*turned[:, 0], *turned[:, 1]]
    measures.PixelSpacing, measures.SliceThickness = [0.9, 0.7], 2.5
    measures.SpacingBetweenSlices = 2.5
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -5, "US"
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [rescale]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in order:
        frame, position = pydicom.Dataset(), pydicom.Dataset()
        at = np.array([-31.5, 12.25, 77.0]) + 2.5 * place * turned[:, 2]
        position.ImagePositionPatient = [round(float(x), 6) for x in at]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    pixels = np.random.default_rng(0).integers(0, 4096, (len(order), 9, 7))
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def _tables(work: Path) -> Iterator[Seed]:
    """A data set of four PNG pairs with `dataset.json`, and one with `index.csv`."""
    for name in ("json", "csv"):
        folder = work / f"set_{name}"
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for k in range(4):
                pixels = np.full((8, 8), 10 * k, np.uint8)
                Image.fromarray(pixels).save(folder / part / f"case{k}.png")
        if name == "csv":
            rows = [f"case{k},centre{k % 2},{k / 10}" for k in range(4)]
            (folder / "index.csv").write_text("\n".join(["stem,centre,share", *rows]) + "\n")
            yield Seed("index.csv", folder / "index.csv", folder)
        else:
            cases = [
                {
                    "image": f"./images/case{k}.png",
                    "label": f"./masks/case{k}.png",
                    "group": f"p{k}",
                }
                for k in range(4)
            ]
            content = {
                "name": "x",
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "disc"},
                "training": cases[:3],
                "validation": cases[3:],
            }
            (folder / "dataset.json").write_text(json.dumps(content, indent=1))
            yield Seed("dataset.json", folder / "dataset.json", folder)


def _public(data: Path, work: Path) -> Iterator[Seed]:
    samples = data / "dicom_samples"
    for path in sorted(samples.glob("hippocrop*/*/1*.dcm"))[:6] + [
        samples / "highdicom/ct_image.dcm"
    ]:
        yield Seed("DICOM", path)
    for study in sorted(samples.glob("hippocrop*/*")):
        folder = work / f"series_{study.name}"
        folder.mkdir(exist_ok=True)
        files = sorted(study.glob("*.dcm"), key=lambda p: int(p.stem))[:5]
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
        for file in files:
            yield Seed("DICOM series", folder / file.name, folder)
    for name in ("seg_image_ct_binary.dcm", "seg_image_ct_binary_overlap.dcm"):
        yield Seed("SEG", samples / "highdicom" / name, is_mask=True)
    ct = work / "rt_image"
    ct.mkdir(exist_ok=True)
    for file in (samples / "rtutils_CT_RTSTRUCT").glob("ct_*.dcm"):
        (ct / file.name).write_bytes(file.read_bytes())
    yield Seed("RTSTRUCT", samples / "rtutils_CT_RTSTRUCT/rt.dcm", ct, is_mask=True)
    nifti = [*data.glob("MSD-Hippocampus/*/*.nii.gz"), *data.glob("spine_spleen_nifti/*/*.nii.gz")]
    small = [path for path in sorted(nifti) if path.stat().st_size < 60_000]
    for path in small[:: max(1, len(small) // 12)]:
        yield Seed("NIfTI", path)
    for path in sorted(data.glob("pyradiomics_nrrd/*/*.nrrd")):
        if path.stat().st_size <= LARGEST:
            yield Seed("NRRD", path)
    for name in ("Kvasir-SEG", "ACDC", "DRIVE"):
        for path in sorted((data / name / "images").iterdir())[:2]:
            kind = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix)
            if kind and path.stat().st_size <= LARGEST:
                yield Seed(kind, path)
