"""Odd and broken headers: refused in one line, or read as libraries of others read them.

The judge is that of `benchmarks/fuzz.py`: pydicom for DICOM; SimpleITK and the header's own fields
for NIfTI.
"""

import gzip
import importlib
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = settings(
    phases=[Phase.generate],  # to make a failing example smaller takes longer than to read it
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ANGLES = st.lists(st.floats(-math.pi, math.pi), min_size=3, max_size=3)
BROKEN_NUMBERS = ["nan", "inf", "-1", "0", "", "1e", "abc", "1,5", "1\\2", "99999999999"]


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzzing.judge")


@st.composite
def dicom_series(draw):
    """Facts of a series: legal ones, and at most one thing that is not."""
    bits = draw(st.integers(8, 16))
    return {
        "rotation": draw(ANGLES),
        "spacing": draw(st.lists(st.floats(0.1, 5), min_size=3, max_size=3)),
        "origin": draw(st.lists(st.floats(-300, 300), min_size=3, max_size=3)),
        "order": draw(st.permutations(range(4))),
        "bits": bits,
        "signed": draw(st.booleans()),
        "slope": draw(st.sampled_from([None, 1.0, 0.5, -2.0, 1.5e-3])),
        "intercept": draw(st.sampled_from([0.0, -1024.0, 7.25])),
        "photometric": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
        "modality": draw(st.sampled_from(["MR", "CT", "DX"])),
        "irregular": draw(st.sampled_from([None, None, "gap", "copy", "cut"])),
        "broken": draw(st.none() | st.tuples(st.sampled_from(BROKEN), st.sampled_from(VALUES))),
        "seed": draw(st.integers(0, 9)),
    }


BROKEN = [
    ("ImagePositionPatient", "DS"),
    ("ImageOrientationPatient", "DS"),
    ("PixelSpacing", "DS"),
    ("SpacingBetweenSlices", "DS"),
    ("RescaleSlope", "DS"),
    ("RescaleIntercept", "DS"),
    ("NumberOfFrames", "IS"),
    ("Rows", "US"),
    ("Columns", "US"),
    ("BitsAllocated", "US"),
    ("BitsStored", "US"),
    ("HighBit", "US"),
    ("PixelRepresentation", "US"),
    ("SamplesPerPixel", "US"),
    ("PhotometricInterpretation", "CS"),
    ("SOPClassUID", "UI"),
    ("SeriesInstanceUID", "UI"),
    ("Modality", "CS"),
]
VALUES = [
    None,
    *[f"{n}\\{n}\\{n}".encode() for n in BROKEN_NUMBERS],
    *[n.encode() for n in BROKEN_NUMBERS],
    b"\0\0",
    b"\1\0",
    b"\xff\xff",
    b"\1\0\1\0",
    b"\x10\x27",
]


def write_dicom_series(folder, facts):
    """One file for each slice."""
    axes = Rotation.from_rotvec(facts["rotation"]).as_matrix()
    across, down, step = facts["spacing"]
    random = np.random.default_rng(facts["seed"])
    low = -(2 ** (facts["bits"] - 1)) if facts["signed"] else 0
    series = generate_uid(entropy_srcs=[repr(facts)])
    for number, place in enumerate(facts["order"]):
        if facts["irregular"] == "gap" and place == 2:
            continue
        place = 1 if facts["irregular"] == "copy" and place == 2 else place
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = f"{series[:50]}.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
        dataset.Modality, dataset.PhotometricInterpretation = (
            facts["modality"],
            facts["photometric"],
        )
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 5, 4, 1
        dataset.BitsAllocated = 8 if facts["bits"] == 8 else 16
        dataset.BitsStored, dataset.HighBit = facts["bits"], facts["bits"] - 1
        dataset.PixelRepresentation = int(facts["signed"])
        dataset.PixelSpacing = [f"{down:.10g}", f"{across:.10g}"]
        position = np.array(facts["origin"]) + place * step * axes[:, 2]
        dataset.ImagePositionPatient = [f"{x:.10g}" for x in position]
        dataset.ImageOrientationPatient = [f"{x:.10g}" for x in [*axes[:, 0], *axes[:, 1]]]
        if facts["slope"] is not None:
            dataset.RescaleSlope, dataset.RescaleIntercept = facts["slope"], facts["intercept"]
        pixels = random.integers(low, low + 2 ** facts["bits"], (5, 4))
        stored = "i" if facts["signed"] else "u"
        dataset.PixelData = pixels.astype(f"<{stored}{dataset.BitsAllocated // 8}").tobytes()
        if facts["broken"] is not None and number == 1:
            (name, vr), value = facts["broken"]
            tag = Tag(name)
            dataset.pop(tag, None)
            if value is not None:
                value += b" " * (len(value) % 2)
                dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    if facts["irregular"] == "cut":
        file = folder / "2.dcm"
        file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dicom_series(tmp_path, judge):
    corpus = importlib.import_module("fuzzing.corpus")

    @QUICK
    @given(dicom_series())
    def check(facts):
        folder = tmp_path / "series"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_dicom_series(folder, facts)
        verdict = judge.examine(corpus.Seed("DICOM series", folder / "1.dcm", folder), folder)
        assert verdict.outcome not in judge.FAILURES, verdict.detail
        if facts["irregular"] is None and facts["broken"] is None:
            assert verdict.outcome == "equal", verdict.detail
        elif facts["irregular"] in ("gap", "cut"):
            assert verdict.outcome.startswith("refused"), verdict.outcome

    check()


@st.composite
def nifti_files(draw):
    """Fields of a header: legal ones, and at most one that is not."""
    sizes = draw(st.lists(st.floats(0.1, 5), min_size=3, max_size=3))
    return {
        "kind": draw(st.sampled_from([nib.Nifti1Header, nib.Nifti2Header])),
        "order": draw(st.sampled_from("<>")),
        "dtype": draw(st.sampled_from(["u1", "i1", "i2", "u2", "i4", "f4", "f8"])),
        "shape": draw(st.sampled_from([(4, 3), (4, 3, 2), (4, 3, 1), (4, 3, 2, 2)])),
        "rotation": draw(ANGLES),
        "sizes": sizes,
        "origin": draw(st.lists(st.floats(-300, 300), min_size=3, max_size=3)),
        "codes": draw(st.tuples(st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 3]))),
        "mirror": draw(st.sampled_from([1, -1])),
        "units": draw(st.sampled_from([0, 1, 2, 3, 2 | 8])),
        "slope": draw(st.sampled_from([(math.nan, 0), (0, 0), (1, 0), (0.5, -3), (-2, 1)])),
        "broken": draw(st.none() | st.sampled_from(BROKEN_FIELDS)),
        "packed": draw(st.sampled_from([False, True, "cut"])),
    }


BROKEN_FIELDS = [
    ("sform_code", 7),
    ("qform_code", -1),
    ("xyzt_units", 5),
    ("xyzt_units", 7),
    *[("pixdim", k, value) for k in range(4) for value in (-1.0, 0.0, math.nan, 7.0)],
    *[("srow_x", k, value) for k in range(4) for value in (0.0, math.nan, math.inf, 50.0)],
    ("quatern_b", 3.0),
    ("quatern_c", math.nan),
    ("qoffset_x", math.inf),
    ("dim", 1, 0),
    ("dim", 1, -4),
    ("dim", 2, 3000),
    ("dim", 0, 7),
    ("datatype", 1),
    ("datatype", 32),
    ("datatype", 128),
    ("bitpix", 1),
    ("vox_offset", 3),
    ("vox_offset", 1000),
    ("scl_slope", math.inf),
    ("magic", b"ni1"),
]


def write_nifti(path, facts):
    """Header and data as bytes, so that nothing is mended on the way."""
    header = facts["kind"](endianness=facts["order"])
    header.set_data_dtype(facts["dtype"])
    header.set_data_shape(facts["shape"])
    axes = Rotation.from_rotvec(facts["rotation"]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = axes * facts["sizes"]
    affine[:3, 0] *= facts["mirror"]
    affine[:3, 3] = facts["origin"]
    header.set_qform(affine, facts["codes"][1])
    header.set_sform(affine, facts["codes"][0])
    header["xyzt_units"] = facts["units"]
    header["scl_slope"], header["scl_inter"] = facts["slope"]
    header["vox_offset"] = 352 if facts["kind"] is nib.Nifti1Header else 544
    header["magic"] = b"n+1" if facts["kind"] is nib.Nifti1Header else b"n+2"
    if facts["broken"] is not None:
        name, *index, value = facts["broken"]
        if index:
            header[name][index[0]] = value
        else:
            header[name] = value
    random = np.random.default_rng(0)
    data = random.integers(0, 100, facts["shape"]).astype(facts["order"] + facts["dtype"])
    content = header.binaryblock + b"\0" * 4 + data.tobytes(order="F")
    if facts["packed"]:
        content = gzip.compress(content)
    path.write_bytes(content[:-5] if facts["packed"] == "cut" else content)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nifti(tmp_path, judge):
    corpus = importlib.import_module("fuzzing.corpus")

    @QUICK
    @given(nifti_files())
    def check(facts):
        path = tmp_path / ("a.nii.gz" if facts["packed"] else "a.nii")
        write_nifti(path, facts)
        verdict = judge.examine(corpus.Seed("NIfTI", path), path)
        assert verdict.outcome not in judge.FAILURES, verdict.detail
        if facts["packed"] == "cut":
            assert verdict.outcome.startswith("refused"), verdict.outcome
        elif facts["broken"] is None:
            assert verdict.outcome in ("equal", "others differ"), verdict.detail

    check()
