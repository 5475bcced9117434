"""Transfers that break off, against a server on loopback."""

import base64
import json
import subprocess

import numpy as np
import pydicom
import pytest

from alignflow.data import dicomweb
from alignflow.data.collect import collect
from alignflow.data.dicomweb import fetch, store
from alignflow.errors import InputError

pytest.importorskip("dicomweb_client")

VOLUME = np.random.default_rng(0).integers(-500, 900, (6, 5, 4)).astype(np.int16)
SEARCH = 2  # requests: for what there is, and for what more there is
LARGE = np.random.default_rng(0).integers(-500, 900, (900, 800, 1)).astype(np.int16)


NAMES = ("ALIGNFLOW_DICOMWEB_TOKEN", "ALIGNFLOW_DICOMWEB_USER", "ALIGNFLOW_DICOMWEB_PASSWORD")
FILES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NETRC")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(dicomweb, "LONGEST_WAIT", 0)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    """Nothing about servers in it, and no ~/.netrc."""
    for name in (*NAMES, *FILES, *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refusal(url, folder, attempts=5):
    """The one line that a URL is refused with."""
    with pytest.raises(InputError) as caught:
        fetch(url, folder, attempts=attempts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def series(tmp_path, write_series, dicomweb_server):
    """Four files on the server, by their UID."""
    files = write_series(tmp_path / "series", VOLUME)
    dicomweb_server.add(files)
    return {str(pydicom.dcmread(path).SOPInstanceUID): path for path in files}


def assert_all_there(folder, series):
    assert {path.stem for path in folder.iterdir()} == set(series)
    for uid, path in series.items():
        assert pydicom.dcmread(folder / f"{uid}.dcm") == pydicom.dcmread(path)


def retrieved(server):
    return [path.rsplit("/", 1)[1] for path in server.asked if path[-1].isdigit()]


@pytest.mark.parametrize("query", ["/studies/1.2.3", "/series?Modality=MR", "/studies?PatientID=1"])
@pytest.mark.parametrize("fault", ["cut", 503, 429])
def test_what_breaks_is_asked_for_again(dicomweb_server, series, tmp_path, query, fault):
    first, *_, last = series
    dicomweb_server.faults[dicomweb_server.path_of(first)] = [fault]
    dicomweb_server.faults[dicomweb_server.path_of(last)] = [fault, "cut"]
    dicomweb_server.faults[query.split("?")[0]] = [fault]
    files = fetch(dicomweb_server.url + query, tmp_path / "out")
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    assert_all_there(tmp_path / "out", series)
    assert len(retrieved(dicomweb_server)) == 4 + 3


def test_a_server_that_is_silent(dicomweb_server, series, tmp_path):
    first = next(iter(series))
    dicomweb_server.faults[dicomweb_server.path_of(first)] = ["slow"]
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out", timeout=0.5)
    assert_all_there(tmp_path / "out", series)


def test_a_transfer_goes_on_where_it_broke_off(dicomweb_server, series, tmp_path):
    dicomweb_server.closed = SEARCH + 2  # of four instances
    url = f"{dicomweb_server.url}/studies/1.2.3"
    with pytest.raises(InputError) as caught:
        fetch(url, tmp_path / "out", attempts=3)
    line = str(caught.value)
    assert url in line and "goes on where it was" in line and "\n" not in line
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert len(retrieved(dicomweb_server)) == 2 + 3
    dicomweb_server.closed, dicomweb_server.asked = None, []
    fetch(url, tmp_path / "out")
    assert_all_there(tmp_path / "out", series)
    assert len(retrieved(dicomweb_server)) == 2


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_not_asked_for_again(dicomweb_server, series, tmp_path, status):
    dicomweb_server.faults["/studies/1.2.3/instances"] = [status]
    with pytest.raises(InputError, match=f"{status} .*correct the URL, or set ALIGNFLOW"):
        fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert len(dicomweb_server.asked) == 1


def test_names_of_a_server_stay_in_the_folder(dicomweb_server, series, tmp_path):
    uid = next(iter(series))
    dicomweb_server.instances["x"] = dicomweb_server.instances[uid].replace(
        uid.encode(), b"../../evil".ljust(len(uid), b"x")
    )
    with pytest.raises(InputError, match="evil.*no UID"):
        fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")


@pytest.mark.parametrize("volume", [VOLUME[..., :1], LARGE])
def test_a_file_is_sent_again_as_a_whole(dicomweb_server, write_series, tmp_path, volume):
    files = write_series(tmp_path / "series", volume)
    dicomweb_server.faults["/studies"] = [503, "cut"]
    noted = []
    assert store(dicomweb_server.url, files, note=noted.append) == 0
    assert noted == files
    [content] = dicomweb_server.instances.values()
    assert dicomweb_server.asked[1:] == 3 * ["/studies"]
    assert store(dicomweb_server.url, files, note=noted.append) == 1  # already there
    assert noted == 2 * files and dicomweb_server.asked.count("/studies") == 3
    (tmp_path / "back.dcm").write_bytes(content)
    assert pydicom.dcmread(tmp_path / "back.dcm") == pydicom.dcmread(files[0])


def test_a_collection_goes_on_and_is_that_of_the_files(dicomweb_server, series, tmp_path):
    url, out = f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out"
    dicomweb_server.closed = SEARCH + 2
    with pytest.raises(InputError, match="goes on where it was"):
        collect(url, str(out), dicomweb_attempts=1)
    assert [path.name for path in out.iterdir()] == [".collecting"]
    dicomweb_server.closed, dicomweb_server.asked = None, []
    collect(url, str(out))
    assert len(retrieved(dicomweb_server)) == 2
    collect(str(tmp_path / "series"), str(tmp_path / "local"))
    for folder in (out, tmp_path / "local"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "collection.json",
            "images",
            "index.csv",
        ]
        assert len(list((folder / "images/series_001").iterdir())) == 4
    reports = [json.loads((f / "collection.json").read_text()) for f in (out, tmp_path / "local")]
    assert reports[0] == reports[1]
    with pytest.raises(InputError, match="not empty"):
        collect(url, str(out))


@pytest.mark.parametrize("query", ["/studies/1.2.3", "/series?Modality=MR", "/studies?PatientID=1"])
@pytest.mark.parametrize("reads", [(), ("limit",), ("offset",)])
def test_a_server_that_heeds_no_offset_or_limit(dicomweb_server, series, tmp_path, query, reads):
    dicomweb_server.reads = reads
    fetch(dicomweb_server.url + query, tmp_path / "out")
    assert_all_there(tmp_path / "out", series)
    assert len(dicomweb_server.asked) <= 2 * SEARCH + 4


def test_pages_smaller_than_what_is_asked_for(dicomweb_server, series, tmp_path, monkeypatch):
    dicomweb_server.largest = 3
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert_all_there(tmp_path / "out", series)
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    dicomweb_server.largest = 10
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "more")
    assert_all_there(tmp_path / "more", series)


def test_an_answer_that_is_cut_off_and_repeats_is_not_all(
    dicomweb_server, series, tmp_path, monkeypatch
):
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    dicomweb_server.reads = ("limit",)
    line = refusal(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert "does not page" in line and "narrow the query" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("password", ["secret", "gr\u00fcn:\u20ac"])
def test_user_and_password_of_the_environment(
    dicomweb_server, series, write_series, tmp_path, monkeypatch, password
):
    dicomweb_server.asks, dicomweb_server.takes = 'Basic realm="Orthanc"', basic("me", password)
    monkeypatch.setenv("ALIGNFLOW_DICOMWEB_USER", "me")
    monkeypatch.setenv("ALIGNFLOW_DICOMWEB_PASSWORD", password)
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert_all_there(tmp_path / "out", series)


def test_user_and_password_of_netrc(dicomweb_server, series, tmp_path):
    dicomweb_server.takes = basic("me", "secret")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert_all_there(tmp_path / "out", series)


def test_a_token_comes_before_netrc(dicomweb_server, series, tmp_path, monkeypatch):
    dicomweb_server.takes = "Bearer abc"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("ALIGNFLOW_DICOMWEB_TOKEN", "abc")
    fetch(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert_all_there(tmp_path / "out", series)


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ('Basic realm="Orthanc", charset="UTF-8"', "asks for Basic: set ALIGNFLOW_DICOMWEB_USER"),
        ('Bearer realm="a, Basic b"', "asks for Bearer: set ALIGNFLOW_DICOMWEB_TOKEN"),
        ("Negotiate, NTLM", "asks for Negotiate, NTLM, which is not supported"),
        (
            'Negotiate, Basic realm="x"',
            "asks for Basic: set ALIGNFLOW_DICOMWEB_USER and ALIGNFLOW_DICOMWEB_PASSWORD",
        ),
    ],
)
def test_a_401_says_what_the_server_asks_for(dicomweb_server, series, tmp_path, asks, words):
    dicomweb_server.asks, dicomweb_server.takes = asks, "nothing"
    line = refusal(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert words in line and "401" in line and len(dicomweb_server.asked) == 1


@pytest.mark.parametrize(
    ("variables", "asks", "words"),
    [
        ({"USER": "me", "PASSWORD": "secret"}, "Basic", "refuses user and password of"),
        ({"TOKEN": "secret"}, "Bearer", "refuses the token of ALIGNFLOW_DICOMWEB_TOKEN"),
        ({"TOKEN": "secret"}, "Basic", "asks for Basic: set ALIGNFLOW_DICOMWEB_USER"),
        ({"USER": "me"}, "Basic", "one is set; set both"),
    ],
)
def test_what_is_refused_is_named_and_not_shown(
    dicomweb_server, series, tmp_path, monkeypatch, caplog, variables, asks, words
):
    dicomweb_server.asks, dicomweb_server.takes = asks, "nothing"
    for name, value in variables.items():
        monkeypatch.setenv(f"ALIGNFLOW_DICOMWEB_{name}", value)
    line = refusal(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert words in line and "secret" not in line + caplog.text


def test_a_password_in_the_url_is_refused_and_not_shown(dicomweb_server, tmp_path, caplog):
    url = dicomweb_server.url.replace("://", "://me:secret@")
    line = refusal(f"{url}/studies/1.2.3", tmp_path / "out")
    assert "ALIGNFLOW_DICOMWEB_USER and ALIGNFLOW_DICOMWEB_PASSWORD" in line
    assert "secret" not in line + caplog.text
    with pytest.raises(InputError, match="ALIGNFLOW_DICOMWEB_USER") as caught:
        store(url, [])
    assert "secret" not in str(caught.value) and dicomweb_server.asked == []
    out = tmp_path / "collected"
    with pytest.raises(InputError, match="ALIGNFLOW_DICOMWEB_USER"):
        collect(f"{url}/studies/1.2.3", str(out))
    assert not out.exists()


@pytest.fixture
def certificate(tmp_path):
    """Of 127.0.0.1, signed by itself; (certificate, key)."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    call = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=127.0.0.1"]
    call += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    try:
        subprocess.run(call, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no openssl here: {error}")
    return files


def test_an_authority_that_is_not_known(
    dicomweb_server, series, tmp_path, certificate, monkeypatch, caplog
):
    dicomweb_server.speak_tls(*certificate)
    url = f"{dicomweb_server.url}/studies/1.2.3"
    line = refusal(url, tmp_path / "out")
    assert "CERTIFICATE_VERIFY_FAILED" in line and "REQUESTS_CA_BUNDLE=FILE" in line
    assert dicomweb_server.asked == [] and "attempt" not in caplog.text
    line = refusal(url.replace("127.0.0.1", "localhost"), tmp_path / "out")
    assert "CERTIFICATE_VERIFY_FAILED" in line
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(certificate[0]))
            fetch(url, tmp_path / name)
            assert_all_there(tmp_path / name, series)
            line = refusal(url.replace("127.0.0.1", "localhost"), tmp_path / "out")
            assert "mismatch" in line and "the name in its certificate" in line
            patch.setenv(name, str(tmp_path / "absent.pem"))
            assert f"file of {name}" in refusal(url, tmp_path / "out")
            patch.setenv(name, str(certificate[1]))
            assert f"file of {name}" in refusal(url, tmp_path / "out")


def test_https_where_the_server_speaks_http(dicomweb_server, series, tmp_path):
    url = dicomweb_server.url.replace("http://", "https://")
    line = refusal(f"{url}/studies/1.2.3", tmp_path / "out")
    assert "does not speak TLS" in line and dicomweb_server.asked == []


def test_a_proxy_in_the_way(dicomweb_server, series, tmp_path, monkeypatch):
    url = f"{dicomweb_server.url}/studies/1.2.3"
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    line = refusal(url, tmp_path / "out")
    assert "proxy" in line and "NO_PROXY=127.0.0.1" in line and "secret" not in line
    monkeypatch.setenv("http_proxy", dicomweb_server.url)  # lets nothing through
    dicomweb_server.asks, dicomweb_server.takes = 'Basic realm="proxy"', "nothing"
    assert "NO_PROXY=127.0.0.1" in refusal(url, tmp_path / "out")
    dicomweb_server.takes = None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(url, tmp_path / "out")
    assert_all_there(tmp_path / "out", series)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<html>please log in</html>", "answers something else than DICOM JSON"),
        (b'[{"00100010": {"vr": "PN"}}]', "cannot be read"),
        (b'["x"]', "cannot be read"),
    ],
)
def test_an_answer_that_is_no_list_of_matches(dicomweb_server, tmp_path, page, words):
    dicomweb_server.page = page
    line = refusal(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert words in line and "correct the URL" in line


def test_an_instance_that_is_a_page(dicomweb_server, series, tmp_path, monkeypatch):
    listed = dicomweb.requests.Session.get

    def get(self, url, **options):
        dicomweb_server.page = b"<html></html>" if url.split("?")[0][-1].isdigit() else None
        return listed(self, url=url, **options)

    monkeypatch.setattr(dicomweb.requests.Session, "get", get)
    line = refusal(f"{dicomweb_server.url}/studies/1.2.3", tmp_path / "out")
    assert "cannot be read" in line and "text/html" in line
