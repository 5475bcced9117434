"""What keeps a request from a server, and what to set; addresses that hold no password."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import requests
from requests.exceptions import ProxyError, SSLError
from requests.utils import get_environ_proxies

from alignflow.errors import InputError, causes

BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file of certificates, the one that counts first."""
OF_CERTIFICATES = {
    "mismatch": "give the host by the name in its certificate",
    "not valid for": "give the host by the name in its certificate",
    "expired": "ask the server's administrator for one that is valid, or set this computer's clock",
    "not yet valid": "set this computer's clock",
}
"""Fixes, by what OpenSSL says; for everything else the authority is not known here."""
AUTHORITY = "set REQUESTS_CA_BUNDLE=FILE, the certificate of the authority that signed it (PEM)"


def require_no_password(address: str, field: str, variables: str) -> None:
    """Refuse user:password@ in an address: logs, records and the shell's history would keep it.

    Args:
        address: address of a server.
        field: what holds it, for the message, which does not repeat the address.
        variables: variables of the environment that take user and password.

    Raises:
        InputError: there is a user in it.
    """
    if "@" in urlsplit(address).netloc:
        raise InputError(
            f"{field}: the address holds a user or password, which logs and records would keep; "
            f"take it out, and set {variables}"
        )


def obstacle(error: BaseException, url: str) -> str | None:
    """Certificate, TLS or proxy, which another attempt would meet again, and the fix; else None.

    Args:
        error: of `requests`, or raised from such an error.
        url: that was asked for.
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
            return f"the file of {named} is missing, or holds no certificate; correct the variable"
        if isinstance(cause, ProxyError):
            return f"the proxy does not let it through; {without_proxy(url)}"
    return None


def without_proxy(url: str) -> str:
    """How to leave out the proxy that the environment names for an address; "" without a proxy."""
    try:
        named = get_environ_proxies(url)
    except ValueError:  # no such address
        named = {}
    host = urlsplit(url).hostname
    return f"set NO_PROXY={host} to go without the proxy of this environment" if named else ""


def schemes_of(response: requests.Response) -> list[str]:
    """What a server asks for that answers 401: "Basic", "Bearer", "Digest", ..."""
    asked = response.headers.get("WWW-Authenticate", "")
    return re.findall(r"(?:^|,)\s*([A-Za-z][\w-]*)(?=\s+[\w-]+\s*=|\s*(?:,|$))", asked)
