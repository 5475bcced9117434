"""`alignflow check`: a data set, its references and test images, before anything runs."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from alignflow.alignment.gap import appearance
from alignflow.data.check import listed
from alignflow.data.classes import BINARY, find_classes
from alignflow.data.datalist import Case, build_datalist, split_by_group, stated_labels
from alignflow.data.dataset import SliceDataset, require_batch
from alignflow.data.labels import Labels, find_labels
from alignflow.data.named_masks import classes_of_masks
from alignflow.data.preprocessing import build
from alignflow.data.references import References, listed_files, load_references
from alignflow.data.spec import SourceSpec
from alignflow.data.structures import Classes, Structures
from alignflow.errors import InputError
from alignflow.inspection.duplicates import copies
from alignflow.inspection.files import FileFacts, facts, mask_facts, read_facts
from alignflow.inspection.reading import Reading
from alignflow.inspection.separation import features, separation

SHOWN = 5
"""Files named in a message."""
COMPARED = 256
"""Source images, evenly spread, that references are compared with."""
HALF = 0.5
"""Of the pixels of a mask: less background than this is rare where other masks have more."""
FEW_REFERENCES = 5
"""Fewer leave none out to stop alignment by."""


class Check:
    """Facts, problems and warnings of a data set and of what is to be adapted to.

    Args:
        reading: how images are read.

    Attributes:
        problems: what stops training or alignment, each with its fix.
        warnings: what a person should look at first.
        result: what `check.json` holds.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.result: dict[str, Any] = {}
        self.training: SliceDataset | None = None
        known = reading.bundle
        self.structures = Structures() if known is None else Structures.of(**known.classes)

    def source(self, directory: str | Path) -> list[FileFacts]:
        """Check images and masks that a model is to be trained on."""
        cases = self._datalist(directory)
        split, stated = self._split(cases), self._stated(directory)
        training = [case for case in split[0] if "label" in case]
        with overheard(self.warnings):
            self._names(training, stated)
            files = self._read(cases, "source")
            self._usable(files)
            self._duplicates(files, split)
            classes = self._classes(files, training, stated)
            if classes is not None:
                self._as_training(split, classes)
        held_out = {case["image"] for case in split[1]}
        seen = [f for f in files if f.image in held_out and f.shares and not f.is_empty]
        # a volume has more than one slice with foreground, as a rule
        self.result["validation_with_foreground"] = sum(len(f.size) - 1 for f in seen)
        self.result["source"] = facts(files) | {
            "directory": str(directory),
            "groups": len({f.group for f in files}),
            "training": len(split[0]),
            "validation": len(split[1]),
            "masks": mask_facts(files, classes["labels"] if classes else {}),
        }
        return files

    def site(self, directory: str | Path, name: str, source: list[FileFacts]) -> list[FileFacts]:
        """Check images of a site: "references", or labelled "test" images."""
        try:
            found = listed_files(Path(directory))
        except InputError as error:
            self.problems.append(str(error).replace("references '", f"{name} '", 1))
            return []
        cases = [{"image": i} | ({} if m is None else {"label": m}) for i, m in found]
        with overheard(self.warnings):
            files = self._read(cases, name)
        self._usable(files)
        for file in files if name == "test" else []:
            if file.label is None:
                self.problems.append(f"test '{file.name}': no mask; add it, or remove the image")
        self._channels(files, source, name)
        self._among(files, files, f"{name}: {{}} is {{}} of {{}}; an image counts once")
        self._among(
            files, source, f"{name}: {{}} is {{}} of {{}} of the source; remove it from one of them"
        )
        if name == "references" and 0 < len(files) < FEW_REFERENCES:
            self.warnings.append(
                f"references: {len(files)}; with fewer than {FEW_REFERENCES} none can be left out "
                "to stop alignment by"
            )
        with_masks = [f for f in files if f.label is not None]
        self.result[name] = facts(files) | {
            "directory": str(directory),
            "masks": mask_facts(files) if with_masks else None,
        }
        return files

    def leaks(self, references: list[FileFacts], test: list[FileFacts]) -> None:
        """Refuse test images that are references: their scores would prove nothing."""
        for i, j, exact in copies(test, references):
            kind = "a copy" if exact else "nearly a copy"
            self.problems.append(
                f"test '{test[i].name}': {kind} of reference '{references[j].name}'; "
                "remove it from one of them"
            )

    def separation(self, references: str | Path) -> None:
        """Compare references with the source; nothing where problems stand in the way."""
        if self.problems:
            return
        try:
            spec, source = self._source_features()
            with overheard(self.warnings):
                site = load_references(references, self.reading.record(spec))
        except InputError as error:
            self.problems += str(error).splitlines()
            return
        found = separation(source, self._site_features(site, source))
        self.result["separation"] = found
        if not found["apart"]:
            self.warnings.append(
                "references: no further from the source than source images from each other, so "
                "there is nothing to align; are they images of the source?"
            )

    # -- parts -------------------------------------------------------------------------------------

    def _datalist(self, directory: str | Path) -> list[Case]:
        """The cases as training would list them; what stops that becomes problems."""
        reading = self.reading
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                cases = build_datalist(directory, reading.group_pattern, reading.group_column)
            except InputError as error:
                self.problems += str(error).splitlines()
                cases = _whatever_is_there(Path(directory))
        self.warnings += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        return cases

    def _stated(self, directory: str | Path) -> Labels | None:
        """The classes as training would take them."""
        if self.reading.labels is not None:
            return self.reading.labels
        try:
            return stated_labels(directory)
        except InputError as error:
            self.problems += [p for p in str(error).splitlines() if p not in self.problems]
            return None

    def _usable(self, files: list[FileFacts]) -> None:
        self.problems += [f.problem for f in files if f.problem]
        readable = [f for f in files if f.channels]
        common = Counter(f.channels for f in readable).most_common(1)
        self.problems += [
            f"image '{f.name}': {f.channels} channels, but most have {common[0][0]}; convert it"
            for f in readable
            if f.channels != common[0][0]
        ]

    def _channels(self, files: list[FileFacts], source: list[FileFacts], name: str) -> None:
        known = self.reading.bundle
        channels = {f.channels for f in source if f.channels}
        expected = known.source.channels if known else next(iter(channels), 0)
        wrong = [f for f in files if f.channels not in (0, expected)]
        if expected and wrong:
            self.problems.append(
                f"{name} {_named(wrong)}: {wrong[0].channels} channels, but the source has "
                f"{expected}; convert them"
            )

    def _split(self, cases: list[Case]) -> tuple[list[Case], list[Case]]:
        """As `run training` divides."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return split_by_group(cases, self.reading.validation_fraction, self.reading.seed)
        except InputError as error:
            if cases:
                self.problems += str(error).splitlines()
            return cases, []

    def _duplicates(self, files: list[FileFacts], split: tuple[list[Case], list[Case]]) -> None:
        held_out = {case["image"] for case in split[1]}
        training = {case["image"] for case in split[0]}
        found = copies(files, files)
        exact = [(files[i], files[j]) for i, j, same in found if same]
        near = [(files[i], files[j]) for i, j, same in found if not same]
        other_group = [(a, b) for a, b in near if a.group != b.group]
        leaks = [
            (a, b)
            for a, b in exact + near
            if (a.image in held_out) != (b.image in held_out) and held_out != training
        ]
        clash = [(a, b) for a, b in exact if a.mask_digest != b.mask_digest]
        for pairs, words in (
            (exact, "exact copies; remove one of each"),
            (clash, "exact copies with unequal masks; decide which mask is right"),
            (
                other_group,
                "nearly copies, in different groups; name the patient or sequence of each file "
                "(group_pattern or group_column)",
            ),
            (
                leaks,
                "an image in training and its copy in validation: validation shows training data; "
                "remove one, or give both one group",
            ),
        ):
            if pairs:
                self.warnings.append(f"source: {_paired(pairs)}: {words}")
        self.result["duplicates"] = {
            "exact": len(exact),
            "near": len(near),
            "near_in_other_groups": len(other_group),
            "leaks": len(leaks),
        }

    def _among(self, files: list[FileFacts], others: list[FileFacts], words: str) -> None:
        for i, j, exact in copies(files, others)[:SHOWN]:
            kind = "a copy" if exact else "nearly a copy"
            self.warnings.append(words.format(f"'{files[i].name}'", kind, f"'{others[j].name}'"))

    def _names(self, training: list[Case], stated: Labels | None) -> None:
        """Which regions of DICOM masks are classes; `_classes` tells what stands in the way."""
        if self.reading.bundle is None:
            masks, scheme = [case["label"] for case in training], self.reading.scheme
            with suppress(InputError):
                labels, merged = classes_of_masks(masks, stated, scheme)
                self.structures = Structures.of(scheme, labels or {}, merged)

    def _read(self, cases: list[Case], name: str) -> list[FileFacts]:
        """Facts of files, masks read as training would read them."""
        return read_facts(cases, self.reading.facts["mask_threshold"], name, self.structures)

    def _classes(
        self, files: list[FileFacts], training: list[Case], stated: Labels | None
    ) -> Classes | None:
        """As training finds them; and masks without foreground."""
        reading, masked = self.reading, [f for f in files if f.shares]
        threshold = reading.facts["mask_threshold"]
        empty = [f for f in masked if f.is_empty]
        if empty and len(empty) < len(masked):
            self.warnings.append(
                f"source: {len(empty)} of {len(masked)} masks are empty, such as {_named(empty)}"
            )
        full = [f for f in masked if f.shares.get(0.0, 0) < HALF]
        if 0 < len(full) < len(masked) / 2:
            self.warnings.append(
                f"source: most of {_named(full)} is foreground, unlike in other masks; are these "
                "inverted?"
            )
        usable = {str(f.label): f for f in masked if f.look[0]}
        try:
            if reading.bundle is not None:
                classes = reading.bundle.classes
            else:
                looked = {label: f.look for label, f in usable.items()}
                classes = find_classes(training, stated, threshold, reading.scheme, looked=looked)
            if usable:
                values = {label: f.shares for label, f in usable.items()}
                find_labels(values, classes["labels"] if threshold is None else BINARY)
        except InputError as error:
            self.problems += str(error).splitlines()
            return None
        return classes

    def _as_training(self, split: tuple[list[Case], list[Case]], classes: Classes) -> None:
        """Read the data as training would, so that both give one answer."""
        reading = self.reading
        if self.problems or reading.bundle is not None or not split[0]:
            return
        try:
            settings = {"classes": classes, "image_size": reading.image_size}
            preprocessing = build(reading.facts, "train.json", **settings)
            self.training = SliceDataset(split[0], preprocessing, classes, progress=False)
            require_batch(self.training, reading.batch_size)
            if split[1]:
                SliceDataset(split[1], preprocessing, classes, like=self.training, progress=False)
        except InputError as error:
            self.problems += str(error).splitlines()

    def _source_features(self) -> tuple[SourceSpec, dict[str, Tensor]]:
        """Of the source images, or what a bundle remembers of them."""
        reading = self.reading
        if reading.bundle is not None:
            return reading.bundle.source, {"appearance": torch.tensor(reading.bundle.appearance)}
        dataset = cast("SliceDataset", self.training)
        images = torch.stack([item["image"] for item in dataset.data])
        shown = np.linspace(0, len(images) - 1, min(COMPARED, len(images))).round().astype(int)
        return dataset.spec, features(images[shown])

    @staticmethod
    def _site_features(site: References, source: dict[str, Tensor]) -> dict[str, Tensor]:
        if source.keys() == {"appearance"}:
            return {"appearance": appearance(site.images)}
        return features(site.images)


@contextmanager
def overheard(lines: list[str]) -> Iterator[None]:
    """What readers log as warnings goes to `lines`, each once, and a few of each kind."""
    heard: dict[str, dict[str, None]] = {}

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.setdefault(record.msg, {}).setdefault(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("alignflow")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    for texts in heard.values():
        new = [text for text in texts if text not in lines]
        more = [f"... and {len(new) - SHOWN} more like it"] if len(new) > SHOWN else []
        lines += [*new[:SHOWN], *more]


def _whatever_is_there(directory: Path) -> list[Case]:
    """Images with their masks where a data set is incomplete: most of it can be checked all the
    same.
    """
    try:
        found = listed_files(directory)
    except InputError:
        return []
    return [
        {"image": image, "group": Path(image).name} | ({} if mask is None else {"label": mask})
        for image, mask in found
    ]


def _named(files: Sequence[FileFacts]) -> str:
    return listed((f.name for f in files), SHOWN)


def _paired(pairs: Sequence[tuple[FileFacts, FileFacts]]) -> str:
    names = ", ".join(f"'{a.name}' and '{b.name}'" for a, b in pairs[:SHOWN])
    return names if len(pairs) <= SHOWN else f"{names}, and {len(pairs) - SHOWN} more pairs"
