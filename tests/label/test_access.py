import asyncio
import base64

import pytest

from alignflow.errors import InputError
from alignflow.label.access import Gate, is_loopback, require_token

TOKEN = "0123456789abcdef0123"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)
    require_token(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_hosts_need_a_token(host):
    assert not is_loopback(host)
    with pytest.raises(InputError, match="ALIGNFLOW_LABEL_TOKEN"):
        require_token(host, None)
    require_token(host, TOKEN)


@pytest.mark.parametrize("token", ["", "short"])
def test_a_token_that_can_be_guessed_is_refused(token):
    with pytest.raises(InputError, match="at least 16"):
        require_token("127.0.0.1", token)


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def answer(token, **headers):
    """Status and headers that a request gets."""
    sent = []

    async def send(message):
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "headers": pairs}
    asyncio.run(Gate(inner, token)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def basic(password):
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)])
def test_the_token_admits(value):
    assert answer(TOKEN, host="site.org", authorization=value)[0] == 200


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer wrong", f"Token {TOKEN}", basic("wrong"), "Basic ???"]
)
def test_anything_else_does_not(value):
    headers = {} if value is None else {"authorization": value}
    status, returned = answer(TOKEN, host="site.org", **headers)
    assert status == 401
    assert returned[b"www-authenticate"].startswith(b"Basic"), "a browser asks for the token then"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000"])
def test_without_a_token_this_machine_is_admitted(host):
    assert answer(None, host=host)[0] == 200
    assert answer(None, host=host, origin=f"http://{host}")[0] == 200


def test_a_foreign_name_for_this_machine_is_not():
    assert answer(None, host="attacker.example:8000")[0] == 403
    assert answer(None)[0] == 403


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:9999"])
def test_pages_from_elsewhere_are_not(origin):
    assert answer(None, host="127.0.0.1:8000", origin=origin)[0] == 403
    headers = {"host": "site.org", "authorization": f"Bearer {TOKEN}", "origin": origin}
    assert answer(TOKEN, **headers)[0] == 401
