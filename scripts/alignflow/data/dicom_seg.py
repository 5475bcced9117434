"""Generated masks as DICOM segmentations (PS3.3, A.51), written by highdicom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from alignflow import __version__
from alignflow.data.dicom_masks import SCHEME, require_highdicom
from alignflow.data.dicom_writer import MANUFACTURER, mark_synthetic, synthetic_uid
from alignflow.data.labels import Labels

UNDATED = ("20000101", "000000")  # required, and a true time would make equal commands differ


def dicom_segmentation(
    index: np.ndarray, labels: Labels, images: Sequence[Dataset], run: str
) -> Dataset:
    """The mask of one image or series as a binary segmentation that refers to all its slices.

    Each class but the background is a segment, by the name that `labels` gives it.

    Args:
        index: (X, Y, Z) class indices.
        labels: name -> native value, background first.
        images: Z slices of the same size, as `dicom_series` gives them.
        run: goes into the UIDs.

    Raises:
        InputError: highdicom is missing.
    """
    highdicom = require_highdicom()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        MANUFACTURER, codes.DCM.ArtificialIntelligence, __version__
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=plain_text(name),
            segmented_property_category=codes.cid7150.SpatialAndRelationalConcept,
            segmented_property_type=highdicom.sr.CodedConcept(
                f"{value:g}", SCHEME, plain_text(name)
            ),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, (name, value) in enumerate(list(labels.items())[1:], start=1)
    ]
    image, digest = images[0], hashlib.sha256(index.tobytes()).hexdigest()
    segmentation = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(index.transpose(2, 1, 0).astype(np.uint8)),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        omit_empty_frames=len(images) == 1,  # the grid of a series is whole in its segmentation
        series_instance_uid=synthetic_uid(image.SOPInstanceUID, digest, "series"),
        series_number=image.SeriesNumber + 1,
        sop_instance_uid=synthetic_uid(image.SOPInstanceUID, digest, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=str(synthetic_uid(run, "device"))[-16:],
        series_description=f"Mask of synthetic image {(image.SeriesNumber - 1) // 2}",
    )
    for name in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if name in segmentation:
            delattr(segmentation, name)
    segmentation.ContentDate, segmentation.ContentTime = UNDATED
    dimensions = synthetic_uid(segmentation.SOPInstanceUID, "dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    if "FrameOfReferenceUID" not in image:  # PatientOrientation must be there
        segmentation.PatientOrientation = ""
    mark_synthetic(segmentation)
    return segmentation


def plain_text(name: str) -> str:
    """A name as DICOM can hold it: at most 64 characters without backslash and line breaks."""
    return " ".join(name.replace("\\", "/").split())[:64] or "class"
