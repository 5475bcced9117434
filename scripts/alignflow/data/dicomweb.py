"""A DICOMweb server (PS3.18): series out of it (QIDO, WADO), synthetic pairs into it (STOW)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pydicom

from alignflow.errors import InputError

TOKEN = "ALIGNFLOW_DICOMWEB_TOKEN"  # in the environment: configs are kept in every record
ANY_SYNTAX = (("application/dicom", "*"),)  # as stored: compressed pixels come without loss


def is_url(source: str | Path) -> bool:
    """Whether a text names a server and not a folder."""
    return str(source).startswith(("http://", "https://"))


def fetch(url: str, folder: Path) -> list[Path]:
    """Every instance that a URL names, as files of the folder.

    Args:
        url: `BASE/studies/UID`, `BASE/studies/UID/series/UID`, or a query of studies or series such
            as `BASE/series?Modality=CT&BodyPartExamined=ABDOMEN`.
        folder: receives `000000.dcm` and so on.

    Raises:
        InputError: dicomweb-client is missing, no such URL, an answer that is an error, or nothing.
    """
    base, found, filters = _split(url)
    client = _client(base)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with _one_line_errors(url):
        for study, series in _matches(client, found, filters):
            for dataset in _instances(client, study, series):
                files.append(folder / f"{len(files):06d}.dcm")
                dataset.save_as(files[-1], enforce_file_format=True)
    if not files:
        raise InputError(f"dicomweb '{url}': nothing found; correct the query")
    return files


def store(url: str, files: Iterable[Path]) -> None:
    """Send files to a server, one request each.

    Raises:
        InputError: dicomweb-client is missing, the server is not there or refuses a file.
    """
    client = _client(url.rstrip("/"))
    for path in files:
        with _one_line_errors(url):
            answer = client.store_instances([pydicom.dcmread(path)])
        if answer.get("FailedSOPSequence"):
            reason = answer.FailedSOPSequence[0].get("FailureReason", 0)
            raise InputError(
                f"dicomweb '{url}': '{path.name}' was not stored (reason {reason:#06x}, PS3.18); "
                "ask the server's administrator"
            )


def require_client() -> Any:
    """The class of dicomweb-client.

    Raises:
        InputError: it is not installed.
    """
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise InputError(
            "DICOMweb needs dicomweb-client; pip install 'alignflow[dicom]'"
        ) from error
    return DICOMwebClient


def _client(base: str) -> Any:
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    client = require_client()(base, headers=headers)
    client.set_http_retry_params(max_attempts=2)  # its own 5 take half a minute to give up
    return client


def _split(url: str) -> tuple[str, list[str], dict[str, str]]:
    """`BASE`, [what follows it], filters of a query."""
    parts = urlsplit(url)
    before, slash, rest = parts.path.partition("/studies")
    if not slash:
        before, slash, rest = parts.path.partition("/series")
    found = [part for part in (slash + rest).split("/") if part]
    fits = len(found) in (2, 4) or (len(found) == 1 and parts.query)
    if not fits or (len(found) == 4 and found[2] != "series"):
        raise InputError(
            f"dicomweb '{url}': give BASE/studies/UID, BASE/studies/UID/series/UID, or a query "
            "such as BASE/series?Modality=CT"
        )
    return f"{parts.scheme}://{parts.netloc}{before}", found, dict(parse_qsl(parts.query))


def _matches(
    client: Any, found: list[str], filters: dict[str, str]
) -> Iterator[tuple[str, str | None]]:
    """(study, series or None) of each match."""
    if len(found) > 1:
        yield found[1], found[3] if len(found) == 4 else None
        return
    search = client.search_for_series if found[0] == "series" else client.search_for_studies
    for match in search(search_filters=filters, get_remaining=True):
        header = pydicom.Dataset.from_json(match)
        yield str(header.StudyInstanceUID), header.get("SeriesInstanceUID")


def _instances(client: Any, study: str, series: str | None) -> Iterator[pydicom.Dataset]:
    if series is None:
        return client.iter_study(study, media_types=ANY_SYNTAX)
    return client.iter_series(study, series, media_types=ANY_SYNTAX)


@contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    import requests  # comes with dicomweb-client

    try:
        yield
    except requests.RequestException as error:
        line = str(error).splitlines()[0][:200]
        raise InputError(
            f"dicomweb '{url}': {type(error).__name__}: {line}; correct the URL, or set {TOKEN} "
            "in the environment where the server asks for one"
        ) from error
