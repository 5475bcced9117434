"""A DICOMweb server (PS3.18): series out of it (QIDO, WADO), synthetic pairs into it (STOW)."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pydicom

from alignflow.errors import InputError
from alignflow.files import replacing

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TOKEN = "ALIGNFLOW_DICOMWEB_TOKEN"  # in the environment: configs are kept in every record
ANY_SYNTAX = (("application/dicom", "*"),)  # as stored: compressed pixels come without loss
PASSING = (408, 425, 429)  # besides 5xx: statuses of a server that is busy
LONGEST_WAIT = 60  # seconds


def is_url(source: str | Path) -> bool:
    """Whether a text names a server and not a folder."""
    return str(source).startswith(("http://", "https://"))


def fetch(url: str, folder: Path, timeout: float = 60.0, attempts: int = 5) -> list[Path]:
    """Every instance that a URL names, as files of the folder.

    Instances are asked for one by one, and those that lie in the folder are not asked for again: a
    transfer that broke off goes on with the same call.

    Args:
        url: `BASE/studies/UID`, `BASE/studies/UID/series/UID`, or a query of studies or series such
            as `BASE/series?Modality=CT&BodyPartExamined=ABDOMEN`.
        folder: receives `SOPInstanceUID.dcm`, each whole or not at all.
        timeout: seconds that the server may stay silent.
        attempts: how often a request is made before the connection is given up.

    Raises:
        InputError: dicomweb-client is missing, no such URL, an answer that is an error, the
            connection stays away, or nothing was found.
    """
    base, found, filters = _split(url)
    client = _client(base, timeout)
    files: list[Path] = []
    with _one_line_errors(url):
        for study, series, instance in _instances(client, found, filters, attempts):
            files.append(folder / f"{instance}.dcm")
            if files[-1].is_file():
                continue
            asked = partial(client.retrieve_instance, study, series, instance, ANY_SYNTAX)
            dataset = _patiently(asked, url, attempts)
            with replacing(files[-1]) as temporary:
                dataset.save_as(temporary, enforce_file_format=True)
    if not files:
        raise InputError(f"dicomweb '{url}': nothing found; correct the query")
    return files


def store(
    url: str,
    files: Iterable[Path],
    timeout: float = 60.0,
    attempts: int = 5,
    note: Callable[[Path], None] | None = None,
) -> None:
    """Send files to a server, one request each.

    Args:
        url: `BASE`.
        files: DICOM.
        timeout, attempts: as for `fetch`.
        note: called with each file when the server has it.

    Raises:
        InputError: dicomweb-client is missing, the server is not there or refuses a file.
    """
    client = _client(url.rstrip("/"), timeout)
    for path in files:
        with _one_line_errors(url):
            sent = partial(client.store_instances, [pydicom.dcmread(path)])
            answer = _patiently(sent, url, attempts)
        if answer.get("FailedSOPSequence"):
            reason = answer.FailedSOPSequence[0].get("FailureReason", 0)
            raise InputError(
                f"dicomweb '{url}': '{path.name}' was not stored (reason {reason:#06x}, PS3.18); "
                "ask the server's administrator"
            )
        if note is not None:
            note(path)


def require_client() -> Any:
    """The class of dicomweb-client.

    Raises:
        InputError: it is not installed.
    """
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise InputError("DICOMweb needs pip install dicomweb-client") from error
    return DICOMwebClient


def _client(base: str, timeout: float) -> Any:
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    client = require_client()(base, headers=headers, timeout=timeout)
    # Its own attempts send nothing the second time, where a file is larger than one chunk.
    client.set_http_retry_params(retry=False)
    logging.getLogger("retrying").setLevel(logging.ERROR)  # it shows a traceback each time
    return client


def _patiently(request: Callable[[], Answer], url: str, attempts: int) -> Answer:
    """What a request answers; made again, later and later, while the connection is to blame."""
    for attempt in range(1, attempts):
        try:
            return request()
        except Exception as error:
            if not _may_pass(error):
                raise
            wait = min(2 ** (attempt - 1), LONGEST_WAIT)
            logger.warning(
                "dicomweb '%s': %s; attempt %d of %d in %d s",
                *(url, type(error).__name__, attempt + 1, attempts, wait),
            )
            time.sleep(wait)
    return request()


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: no connection, a broken one, a busy server."""
    import requests  # comes with dicomweb-client

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status in PASSING or status >= 500
    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, broken)


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


def _instances(
    client: Any, found: list[str], filters: dict[str, str], attempts: int
) -> Iterator[tuple[str, str, str]]:
    """(study, series, instance) of each match."""

    def search(call: Callable[..., list[Any]], *within: str, **options: Any) -> list[Any]:
        asked = partial(call, *within, get_remaining=True, **options)
        return [
            pydicom.Dataset.from_json(one) for one in _patiently(asked, client.base_url, attempts)
        ]

    if len(found) > 1:
        matches = [(found[1], *found[3:])]
    else:
        kind = client.search_for_series if found[0] == "series" else client.search_for_studies
        headers = search(kind, search_filters=filters)
        names = ("StudyInstanceUID", "SeriesInstanceUID")[: 1 + (found[0] == "series")]
        matches = [tuple(str(header[name].value) for name in names) for header in headers]
    for match in matches:
        for header in search(client.search_for_instances, *match):
            series = match[1] if len(match) > 1 else str(header.SeriesInstanceUID)
            instance = str(header.SOPInstanceUID)
            if not re.fullmatch(r"[0-9.]+", instance):  # it becomes the name of a file
                raise InputError(
                    f"dicomweb: '{instance}' is no UID; ask the server's administrator"
                )
            yield match[0], series, instance


@contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    import requests  # comes with dicomweb-client

    try:
        yield
    except requests.RequestException as error:
        line = str(error).splitlines()[0][:200]
        fix = f"correct the URL, or set {TOKEN} in the environment where the server asks for one"
        if _may_pass(error):
            fix = "correct the URL, or give the same command again later: it goes on where it was"
        raise InputError(f"dicomweb '{url}': {type(error).__name__}: {line}; {fix}") from error
