"""Data sets read as train.json has it, for tests."""

import copy
import json
from pathlib import Path

from monai.bundle import ConfigParser

from alignflow.data.classes import find_classes
from alignflow.data.dataset import SliceDataset
from alignflow.data.preprocessing import build, recorded

TRAIN = json.loads((Path(__file__).parents[1] / "bundle/configs/train.json").read_text())
READING = recorded(ConfigParser(copy.deepcopy(TRAIN)))
"""What a record holds of a training with the settings of train.json."""


def reading_of(**settings):
    """`READING` with other settings, as mask_threshold=0."""
    unknown = settings.keys() - READING.keys()
    assert not unknown, unknown
    return READING | settings


def slice_dataset(cases, size=None, labels=None, scheme="disjoint", like=None, **settings):
    """The `SliceDataset` of a datalist; without `size` as large as its images are.

    `settings` are those of the reading, and arguments of `SliceDataset`.
    """
    options = {key: settings.pop(key) for key in settings.keys() - READING.keys()}
    reading = copy.deepcopy(reading_of(**settings))
    if size is None:
        reading["preprocessing"]["transforms"].pop(-2)
    threshold = reading["mask_threshold"]
    if like is None:
        classes = find_classes(cases, labels, threshold, scheme, progress=False)
    else:
        classes = {"labels": like.spec.labels, "structures": like.spec.structures, "scheme": scheme}
    preprocessing = build(reading, "test", classes=classes, image_size=size)
    return SliceDataset(cases, preprocessing, classes, like=like, progress=False, **options)
