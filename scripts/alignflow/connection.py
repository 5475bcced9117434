"""Explains failed requests to a server, and refuses addresses that contain a password."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import requests
from requests.exceptions import ProxyError, SSLError
from requests.utils import get_environ_proxies

from alignflow.errors import InputError, causes

BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file of certificates, in order of precedence."""
OF_CERTIFICATES = {
    "mismatch": "give the host by the name in its certificate",
    "not valid for": "give the host by the name in its certificate",
    "expired": "ask the server's administrator for a new one, or set this computer's clock",
    "not yet valid": "set this computer's clock",
}
"""Fixes, by OpenSSL's message. In all other cases the authority is unknown."""
AUTHORITY = "set REQUESTS_CA_BUNDLE=FILE, the certificate of the authority that signed it (PEM)"


def require_no_password(address: str, field: str, variables: str) -> None:
    """Refuse user:password@ in an address, which would end up in logs and records.

    Args:
        address: address of a server.
        field: setting with the address; the message does not repeat the address.
        variables: environment variables for user and password.

    Raises:
        InputError: the address contains a user.
    """
    if "@" in urlsplit(address).netloc:
        raise InputError(
            f"{field}: the address contains a user or password, which would end up in logs; "
            f"take it out, and set {variables}"
        )


def obstacle(error: BaseException, url: str) -> str | None:
    """A problem of certificate, TLS or proxy and its fix; None for other errors.

    Args:
        error: an error of `requests`, or one raised from it.
        url: requested address.
    """
    for cause in causes(error):
        said = str(cause)
        if isinstance(cause, SSLError) and "CERTIFICATE_VERIFY_FAILED" in said:
            found = re.search(r"certificate verify failed: ([^(\[]*)", said)
            reason = found[1].strip(" .") if found else "not valid"
            fix = next((f for text, f in OF_CERTIFICATES.items() if text in reason), AUTHORITY)
            return f"CERTIFICATE_VERIFY_FAILED: {reason}; {fix}"
        if isinstance(cause, SSLError) and "WRONG_VERSION_NUMBER" in said:
            return "does not speak TLS (WRONG_VERSION_NUMBER); give http:// or another port"
        if isinstance(cause, SSLError) and "CERTIFICATE_REQUIRED" in said:
            return "asks for a certificate of this computer, which is not supported"
        if isinstance(cause, OSError) and re.search("CA certificate bundle|NO_CERTIFICATE", said):
            named = next((name for name in BUNDLES if name in os.environ), BUNDLES[0])
            return f"the file of {named} is missing or has no certificate; fix the variable"
        if isinstance(cause, ProxyError):
            return f"the proxy refuses the connection; {without_proxy(url)}"
    return None


def without_proxy(url: str) -> str:
    """How to bypass the environment's proxy for an address; "" without a proxy."""
    try:
        named = get_environ_proxies(url)
    except ValueError:  # invalid address
        named = {}
    host = urlsplit(url).hostname
    return f"set NO_PROXY={host} to bypass the proxy of this environment" if named else ""


def schemes_of(response: requests.Response) -> list[str]:
    """Authentication schemes in a 401 response: "Basic", "Bearer", "Digest", ..."""
    asked = response.headers.get("WWW-Authenticate", "")
    return re.findall(r"(?:^|,)\s*([A-Za-z][\w-]*)(?=\s+[\w-]+\s*=|\s*(?:,|$))", asked)
