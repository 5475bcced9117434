"""Classes of DICOM masks: a structure or segment is known by its name, not by its number.

ROI Numbers and segment numbers are unique within one file only (PS3.3, C.8.8.5 and C.8.20.4).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from alignflow.masks.class_index import Scheme


class Classes(TypedDict):
    """Classes of a data set: what `find_classes` gives.

    labels is name -> native value, in the order of class indices, background first; structures what
    else regions of DICOM masks are called, `key` of the name -> native value; scheme theirs.
    """

    labels: dict[str, float]
    structures: dict[str, float]
    scheme: Scheme


def key(name: str) -> str:
    """What names are compared by: people write 'Lung_L', 'lung l ' and 'LUNG-L'."""
    plain = unicodedata.normalize("NFKC", name).replace("_", " ").replace("-", " ")
    return " ".join(plain.split()).casefold()


@dataclass(frozen=True)
class Structures:
    """Which regions of a DICOM mask are which class.

    Attributes:
        values: `key` of a structure's name -> class value, those of later classes last.
        nested: whether regions may lie within each other; the later class is on top then.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    nested: bool = False

    @classmethod
    def of(
        cls,
        scheme: Scheme,
        labels: Mapping[str, float],
        structures: Mapping[str, float] | None = None,
    ) -> Structures:
        """Those of classes by name.

        Args:
            scheme: of the classes.
            labels: name -> value, background first.
            structures: `key` of a name -> value, for classes that are not called as their regions.
        """
        merged = dict(structures or {})
        own = {n: v for n, v in list(labels.items())[1:] if v not in merged.values()}
        named = {key(name): value for name, value in own.items()} | merged
        order = list(labels.values())
        return cls(
            dict(sorted(named.items(), key=lambda item: order.index(item[1]))), scheme == "nested"
        )

    def value_of(self, name: str, code: float | None) -> float | None:
        """Class value of a region: by its name, else by our own code; None for no class."""
        known = self.values.get(key(name))
        if known is None and code in self.values.values():
            return code
        return known

    def rank(self, value: float) -> int:
        """Of a class value: larger ones lie on top."""
        order = list(dict.fromkeys(self.values.values()))
        return order.index(value) if value in order else -1
