"""Transfers that break off, against a server on loopback."""

import json

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


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(dicomweb, "LONGEST_WAIT", 0)


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
    store(dicomweb_server.url, files, note=noted.append)
    assert noted == files
    [content] = dicomweb_server.instances.values()
    assert len(dicomweb_server.asked) == 3
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
