"""Images and masks of a MONAI Label datastore as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from alignflow.errors import InputError


def image_path(datastore: Datastore, name: str) -> Path:
    """The file of an image, or the folder of its DICOM series.

    A DICOMweb store keeps the series beside the NIfTI file that it makes of it; the series knows
    its modality and geometry. At the first call that store downloads it and names a temporary file.
    """
    datastore.get_image_uri(name)
    path = Path(datastore.get_image_uri(name))
    series = path.parent / name
    return series if series.is_dir() else path


def sent_file(request: dict[str, Any]) -> Path:
    """The file that came with a request; of an image that it names, MONAI Label's own path.

    Raises:
        InputError: it names an image that the studies do not have.
    """
    if not request["image"]:
        raise InputError(f"image '{request['image_id']}': not in the studies; correct the name")
    return Path(request["image"])


def mask_path(datastore: Datastore, name: str) -> Path:
    """The mask of an image: the final one, else the one that was last predicted.

    Raises:
        InputError: it has none.
    """
    tags = datastore.get_labels_by_image_id(name)
    for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL):
        if tag in tags:
            # Of a DICOMweb store too: what is stored there has a local copy.
            return Path(LocalDatastore.get_label_uri(datastore, name, tag))
    raise InputError(f"image '{name}': no mask yet; annotate it, or send a mask as a file")


def labelled(datastore: Datastore) -> dict[str, Path]:
    """Final masks by image; a DICOMweb store downloads those that others have stored there."""
    datastore.datalist()
    names = datastore.list_images()
    tags = {name: datastore.get_labels_by_image_id(name) for name in names}
    return {
        name: mask_path(datastore, name) for name in names if DefaultLabelTag.FINAL in tags[name]
    }


def unlabelled(datastore: Datastore) -> list[str]:
    """Images without a final mask.

    A DICOMweb store asks the server only every two hours, so masks saved here are looked up too.
    """
    return [
        name
        for name in datastore.get_unlabeled_images()
        if DefaultLabelTag.FINAL not in datastore.get_labels_by_image_id(name)
    ]
