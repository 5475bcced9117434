"""Headers of NRRD and MetaImage that another reader may understand otherwise are refused."""

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from alignflow.data.formats import load

VOLUME = np.random.default_rng(0).integers(0, 900, (7, 6, 5)).astype(np.int16)


def written(path, old=b"", new=b"", packed=False):
    """A file of SimpleITK with a piece of it replaced."""
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), packed)
    content = path.read_bytes()
    assert not old or content.count(old) == 1
    path.write_bytes(content.replace(old, new) if old else content)
    return path


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"space origin", b"spaCe origin", "write 'space origin'"),
        (b"space origin", b"space orijin", "is no field; correct it"),
        (b"(0,0,0)", b"(0,0,0", r"'space origin' is '\(0,0,0'"),
        (b"sizes: 5", b"sizes: +5", "'sizes' is"),
        (b"sizes: 5", b'space units: "m" "m" "m"\nsizes: 5', "'space units' is"),
        (b"encoding: raw", b"encoding: hex", "'encoding' is 'hex'"),
        (b"encoding: raw", b"encoding: raw\nbyte skip: 4", "'byte skip' is '4'"),
        (b"encoding: raw", b"encoding: raw\ndata file: b.raw", "save the image as one file"),
        (b"encoding: raw\n", b"", "has no 'encoding'"),
        (b"endian: little\n", b"", "endian"),
        (b"kinds:", b"kinds", "is no field"),
    ],
)
def test_headers_of_nrrd(tmp_path, old, new, match, refuse):
    refuse(written(tmp_path / "a.nrrd", old, new), match)


def test_pairs_and_comments_of_nrrd_are_passed_over(tmp_path):
    path = written(tmp_path / "a.nrrd", b"kinds:", b"# note\nSegment0_Name:=liver\nkinds:")
    np.testing.assert_array_equal(load(path)[0].T, VOLUME)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"\n1 ", b"\n1x ", "'1x' among its values"),
        (b"\n1 ", b"\n1.5 ", "'1.5' among its values"),
        (b"\n1 ", b"\n1 1 ", "25 values, but its header needs 24"),
    ],
)
def test_values_of_nrrd_as_text(tmp_path, old, new, match, refuse):
    path = tmp_path / "a.nrrd"
    volume = np.arange(1, 25, dtype=np.int16).reshape(2, 3, 4, order="F")
    nrrd.write(str(path), volume, {"encoding": "ascii"})
    content = path.read_bytes()
    head, data = content.split(b"\n\n", 1)
    content = head + b"\n\n" + b"\n" + b" ".join(data.split())
    path.write_bytes(content)
    np.testing.assert_array_equal(load(path)[0], volume)
    path.write_bytes(content.replace(old, new))
    refuse(path, match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"Offset =", b"offset =", "write 'Offset'"),
        (b"Offset =", b"Off\xc1et =", "is no field"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nOrigin = 0 0 1", "both Offset and Origin"),
        # MetaIO takes the numbers that are missing from the next line
        (b"CenterOfRotation = 0 0 0", b"CenterOfRotation = 0 0", "'CenterOfRotation' has not 3"),
        (b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = R\x80I", "'Anatomical"),
        (b"ElementType = MET_SHORT", b"DistanceUnits = cm\nElementType = MET_SHORT", "'DistanceU"),
        (b"BinaryData = True", b"BinaryData = False", "'BinaryData' is 'False'"),
        (b"DimSize = 5 6 7\n", b"", "has no 'DimSize'"),
        (b"= LOCAL", b"= LOC", "ElementDataFile is 'LOC', no such file"),
        # MetaIO writes beyond its array and ends the process
        (b"= LOCAL\n", b"= LOCA\xc1" + b"\xe0" * 900 + b"\n", "ElementDataFile is"),
        (b"= LOCAL", b"= LIST", "ElementDataFile is 'LIST'"),
    ],
)
def test_headers_of_metaimage(tmp_path, old, new, match, refuse):
    refuse(written(tmp_path / "a.mha", old, new), match)


def test_fields_of_a_writers_own_are_passed_over(tmp_path):
    path = written(tmp_path / "a.mha", b"DimSize", b"0010|0020 = x\ndim[0] = 3\nDimSize")
    np.testing.assert_array_equal(load(path)[0].T, VOLUME)


def test_data_in_a_file_of_their_own(tmp_path, refuse):
    path = written(tmp_path / "a.mhd")
    np.testing.assert_array_equal(load(path)[0].T, VOLUME)
    data = (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(data[:-6])
    refuse(path, "bytes of data, but its header needs 420|cannot be read")
    (tmp_path / "a.raw").write_bytes(data + data)
    refuse(path, "840 bytes of data, but its header needs 420")
    (tmp_path / "a.raw").unlink()
    refuse(path, "ElementDataFile is 'a.raw', no such file")
