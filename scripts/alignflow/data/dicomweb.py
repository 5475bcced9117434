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
import requests
from pydicom.errors import InvalidDicomError
from requests.auth import HTTPBasicAuth

from alignflow.connection import obstacle, require_no_password, schemes_of, without_proxy
from alignflow.data.formats import first_line
from alignflow.errors import InputError
from alignflow.files import replacing

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Headers = dict[str, pydicom.Dataset]

# in the environment: configs are kept in every record
TOKEN = "ALIGNFLOW_DICOMWEB_TOKEN"
USER, PASSWORD = "ALIGNFLOW_DICOMWEB_USER", "ALIGNFLOW_DICOMWEB_PASSWORD"
PAGE = 1000  # matches asked for at a time; a server may give fewer
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
        InputError: dicomweb-client is missing, no such URL, a password in it, an answer that is an
            error, the connection stays away, the server does not page, or nothing was found.
    """
    require_address(url)
    base, found, filters = _split(url)
    files: list[Path] = []
    with _one_line_errors(url):
        client = _client(base, timeout)
        for study, series, instance in _instances(client, found, filters, url, attempts):
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
) -> int:
    """Send files to a server, one request each, but those that it has.

    Args:
        url: `BASE`.
        files: DICOM.
        timeout, attempts: as for `fetch`.
        note: called with each file when the server has it.

    Returns:
        Number of files that the server had before.

    Raises:
        InputError: dicomweb-client is missing, a password in the URL, the server is not there or
            refuses a file.
    """
    require_address(url)
    with _one_line_errors(url):
        client = _client(url.rstrip("/"), timeout)
    there: dict[str, set[str]] = {}  # instances by study
    count = 0
    for path in files:
        dataset = pydicom.dcmread(path)
        study = str(dataset.StudyInstanceUID)
        if study not in there:
            there[study] = _stored(client, study, url)
        if dataset.SOPInstanceUID in there[study]:
            count += 1
        else:
            _send(client, dataset, path, url, attempts)
        if note is not None:
            note(path)
    return count


def _stored(client: Any, study: str, url: str) -> set[str]:
    """Instances of a study that a server has; none of one that lets nobody look."""
    try:
        return {found[2] for found in _instances(client, ["studies", study], {}, url, attempts=1)}
    except (OSError, ValueError, LookupError, InputError):  # sending tells what is wrong
        return set()


def _send(client: Any, dataset: pydicom.Dataset, path: Path, url: str, attempts: int) -> None:
    with _one_line_errors(url):
        answer = _patiently(partial(client.store_instances, [dataset]), url, attempts)
    if answer.get("FailedSOPSequence"):
        reason = answer.FailedSOPSequence[0].get("FailureReason", 0)
        raise InputError(
            f"dicomweb '{url}': '{path.name}' was not stored (reason {reason:#06x}, PS3.18); "
            "ask the server's administrator"
        )


def require_address(url: str) -> None:
    """Raise `InputError` where a URL holds a password; the message does not show it."""
    require_no_password(url, "dicomweb", f"{USER} and {PASSWORD} (or {TOKEN})")


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
    client = require_client()(base, session=_session(), timeout=timeout)
    # Its own attempts send nothing the second time, where a file is larger than one chunk.
    client.set_http_retry_params(retry=False)
    logging.getLogger("retrying").setLevel(logging.ERROR)  # it shows a traceback each time
    return client


def _session() -> requests.Session:
    """Who asks, by the environment; without its variables by ~/.netrc."""
    session = requests.Session()
    token, user, password = map(os.environ.get, (TOKEN, USER, PASSWORD))
    if not token and (user is None) != (password is None):
        raise InputError(f"dicomweb: of {USER} and {PASSWORD} one is set; set both, or neither")
    if token:
        session.auth = partial(_with_token, token)  # a header alone would give way to ~/.netrc
    elif user is not None and password is not None:
        session.auth = HTTPBasicAuth(user.encode(), password.encode())
    if not {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & os.environ.keys():
        session.verify = os.environ.get("SSL_CERT_FILE") or True
    return session


def _with_token(token: str, request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


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
    if obstacle(error, "") is not None:
        return False
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
    client: Any, found: list[str], filters: dict[str, str], url: str, attempts: int
) -> Iterator[tuple[str, str, str]]:
    """(study, series, instance) of each match."""

    def search(call: Callable[..., list[Any]], uid: str, *within: str, **options: Any) -> Headers:
        matches: Headers = {}
        while True:
            asked = partial(call, *within, limit=PAGE, offset=len(matches), **options)
            page = [pydicom.Dataset.from_json(one) for one in _patiently(asked, url, attempts)]
            new = {str(one[uid].value): one for one in page if str(one[uid].value) not in matches}
            if not new:
                # The same again: of a server that cuts its answers off it is not all there is.
                if len(page) == PAGE:
                    raise InputError(
                        f"dicomweb '{url}': the server does not page (it gives the same {PAGE} "
                        "matches again and again); narrow the query, or give a single series"
                    )
                return matches
            matches |= new

    if len(found) > 1:
        matches = [(found[1], *found[3:])]
    else:
        kind = client.search_for_series if found[0] == "series" else client.search_for_studies
        names = ("StudyInstanceUID", "SeriesInstanceUID")[: 1 + (found[0] == "series")]
        headers = search(kind, names[-1], search_filters=filters).values()
        matches = [tuple(str(header[name].value) for name in names) for header in headers]
    for match in matches:
        instances = search(client.search_for_instances, "SOPInstanceUID", *match)
        for instance, header in instances.items():
            series = match[1] if len(match) > 1 else str(header.SeriesInstanceUID)
            if not re.fullmatch(r"[0-9.]+", instance):  # it becomes the name of a file
                raise InputError(
                    f"dicomweb: '{instance}' is no UID; ask the server's administrator"
                )
            yield match[0], series, instance


@contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except requests.exceptions.InvalidJSONError as error:
        raise InputError(
            f"dicomweb '{url}': answers something else than DICOM JSON, such as a page to log in; "
            "correct the URL"
        ) from error
    except OSError as error:  # those of requests are
        found = obstacle(error, url)
        if found is None and not isinstance(error, requests.RequestException):
            raise
        raise InputError(f"dicomweb '{url}': {found or _reason(error, url)}") from error
    except (ValueError, LookupError, InvalidDicomError) as error:  # of what it answers
        raise InputError(
            f"dicomweb '{url}': its answer cannot be read ({first_line(error)}); correct the URL, "
            "or ask the server's administrator"
        ) from error


def _reason(error: Exception, url: str) -> str:
    """What a request ended with, and the fix."""
    response = getattr(error, "response", None)
    status = None if response is None else response.status_code
    said = first_line(error) if response is None else f"{status} {response.reason}"
    fix = f"correct the URL, or set {TOKEN} in the environment where the server asks for one"
    if _may_pass(error):
        fix = "correct the URL, or give the same command again later: it goes on where it was"
    elif status == 401:
        fix = _way_in(response)
    elif status == 403:
        fix = "ask the server's administrator to let this user in there"
    return ", or ".join(filter(None, [f"{said}; {fix}", without_proxy(url)]))


def _way_in(response: Any) -> str:
    """What to set where a server answers 401."""
    asked = schemes_of(response)
    sent = response.request.headers.get("Authorization", "").partition(" ")[0]
    if sent and sent.lower() in map(str.lower, asked or [sent]):
        if sent.lower() == "bearer":
            return f"the server refuses the token of {TOKEN}; correct it"
        return f"the server refuses user and password of {USER} and {PASSWORD}, or of ~/.netrc"
    ways = {"basic": f"{USER} and {PASSWORD} (or a line of ~/.netrc)", "bearer": TOKEN}
    known = [f"{one}: set {ways[one.lower()]}" for one in asked if one.lower() in ways]
    if known:
        return f"the server asks for {', or '.join(known)}"
    if asked:
        return (
            f"the server asks for {', '.join(asked)}, which is not supported; ask its "
            "administrator for Basic or a token"
        )
    return f"correct the URL, or set {TOKEN}, or {USER} and {PASSWORD}"
