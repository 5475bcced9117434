"""Which patient or sequence an image is of, by its name or a table."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

from alignflow.data.content import require_here
from alignflow.errors import InputError

BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+(?=_)")
PATIENT = "patient"  # the column of `index.csv` that groups go by where none is named
GroupOf = Callable[[str], str]


def group_rule(root: Path, pattern: str | None, column: str | None) -> GroupOf:
    """From the name of an image to its group: by pattern, column, or what the name says.

    Raises:
        InputError: a pattern or a column that does not fit.
    """
    if pattern is not None:
        return _pattern_rule(pattern)
    if column is not None:
        return _column_rule(root / "index.csv", column)
    if has_patients(root / "index.csv"):
        return _column_rule(root / "index.csv", PATIENT)
    return _first_of_name


def _first_of_name(name: str) -> str:
    """The folder of a name, or the subject of one as BIDS has it, or all of it."""
    subject = BIDS_SUBJECT.match(name)
    return subject[0] if subject and "/" not in name else name.split("/")[0]


def has_patients(table: Path) -> bool:
    """Whether a table has a column of patients.

    Raises:
        InputError: it names patients and its columns are not `stem` and `patient`.
    """
    if not os.path.lexists(table):
        return False
    require_here(table, "table")
    columns = _read_table(table)[0]
    if {"stem", PATIENT} <= {*columns}:
        return True
    if any(PATIENT in column.casefold() for column in columns):
        raise InputError(
            f"'{table}': columns {columns}; name them stem and {PATIENT}, with commas between them"
        )
    return False


def _pattern_rule(pattern: str) -> GroupOf:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"group_pattern '{pattern}': {error}; correct the expression") from error
    if compiled.groups != 1:
        raise InputError(
            f"group_pattern '{pattern}': {compiled.groups} groups; put exactly one pair of ()"
        )

    def group_of(name: str) -> str:
        stem = name.rpartition("/")[2]
        match = compiled.search(stem)
        if match is None or match.group(1) is None:
            raise InputError(
                f"group_pattern '{pattern}': no match in '{stem}'; correct the pattern"
            )
        return match.group(1)

    return group_of


def _column_rule(table: Path, column: str) -> GroupOf:
    if not table.is_file():
        raise InputError(f"group_column '{column}': no file '{table}'; add it or use group_pattern")
    columns, rows = _read_table(table)
    for needed in ("stem", column):
        if columns.count(needed) != 1:
            how = "two columns" if needed in columns else "no column"
            raise InputError(f"'{table}': {how} '{needed}'; it has {', '.join(columns)}")
    stems, values = ([row[columns.index(key)] for row in rows] for key in ("stem", column))
    groups: dict[str, str] = {}
    for stem, value in zip(stems, values, strict=True):
        known = groups.setdefault(normalize("NFC", stem), value)
        if known != value:
            raise InputError(f"'{table}': stem '{stem}' has '{known}' and '{value}'; leave one row")

    def group_of(name: str) -> str:
        group = groups.get(name) or groups.get(name.rpartition("/")[2])
        if not group:
            raise InputError(f"'{table}': no '{column}' for stem '{name}'; add it")
        return group

    return group_of


def _read_table(table: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows, each with a cell for each column."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            cells = [[c.strip() for c in row] for row in csv.reader(file, strict=True) if row]
            columns, *rows = cells or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"'{table}': not readable as CSV in UTF-8 ({error}); correct it"
        ) from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise InputError(
                f"'{table}': row {number} has {len(row)} cells for {len(columns)} columns; "
                "correct it"
            )
    return columns, rows
