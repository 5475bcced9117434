"""Stores that take no runs, each said in one line within seconds."""

import http.server
import sqlite3
import threading
import time

import pytest

from alignflow.errors import InputError
from alignflow.training import store
from alignflow.training.store import make_store, require_store

NOT = "--mlflow False"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file of a store of this MLflow."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    make_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def copy(made, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(made.read_bytes())
    return path


@pytest.fixture
def serving():
    """`serving(status, body)`: the address of a server that gives one answer to everything."""
    servers = []

    def serve(status, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(uri):
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        require_store(str(uri))
    line = str(caught.value)
    assert time.monotonic() - started < 10 and "\n" not in line
    return line


def test_a_store_that_takes_runs(made, copy, tmp_path, serving):
    require_store(f"sqlite:///{made}")
    require_store(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty.db").touch()
    require_store(f"sqlite:///{tmp_path}/empty.db")
    require_store(serving(200, b'{"experiments": []}'))
    assert copy.read_bytes() == made.read_bytes()


@pytest.mark.parametrize("uri", ["mlruns", "/data/mlruns", "file:///data/mlruns", "file:mlruns"])
def test_plain_files(uri):
    line = refusal(uri)
    assert f"'{uri}'" in line and "plain files" in line and "sqlite:///FILE" in line and NOT in line


@pytest.mark.parametrize("name", ["My%20Project", "what?x=1", "100%25"])
def test_names_that_a_store_cannot_lie_in(tmp_path, name):
    line = refusal(f"sqlite:///{tmp_path}/{name}/mlflow.db")
    assert name in line and "rename the folder" in line and NOT in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a&b", "with space", "gr\u00fcn", "100%", "x+y", "it's"])
def test_names_that_a_store_can_lie_in(made, tmp_path, name):
    path = tmp_path / name / "mlflow.db"
    require_store(f"sqlite:///{path}")
    path.parent.mkdir()
    path.write_bytes(made.read_bytes())
    require_store(f"sqlite:///{path}")
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("uri", ["sqlite:mlflow.db", "sqlite://", "sqlite:///", "sqlite:///{}"])
def test_no_file(uri, tmp_path):
    assert "give sqlite:///FOLDER/mlflow.db" in refusal(uri.format(tmp_path))


def test_a_locked_store(copy, monkeypatch):
    monkeypatch.setattr(store, "WAIT", 0.2)
    other = sqlite3.connect(copy)
    other.execute("BEGIN EXCLUSIVE")
    line = refusal(f"sqlite:///{copy}")
    assert "locked by another program" in line and "another tracking_uri" in line and NOT in line
    other.rollback()
    require_store(f"sqlite:///{copy}")


@pytest.mark.parametrize(
    ("version", "words"),
    [("75868b020152", "'mlflow db upgrade URI'"), ("0000000000ab", "made by a newer MLflow")],
)
def test_a_schema_of_another_version(copy, version, words):
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    line = refusal(f"sqlite:///{copy}")
    assert words in line and NOT in line


def test_an_old_store_is_not_changed(copy):
    """MLflow itself would add the tables that it misses."""
    with sqlite3.connect(copy) as connection:
        connection.execute("DROP TABLE webhooks")
        connection.execute("UPDATE alembic_version SET version_num = '75868b020152'")
    before = copy.read_bytes()
    assert "mlflow db upgrade" in refusal(f"sqlite:///{copy}")
    assert copy.read_bytes() == before


def test_what_is_no_store(tmp_path):
    (tmp_path / "text.db").write_text("not a database " * 100)
    assert "file is not a database" in refusal(f"sqlite:///{tmp_path}/text.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE patients (name)")
    assert "another program" in refusal(f"sqlite:///{tmp_path}/other.db")
    assert "cannot be written" in refusal(f"sqlite:///{tmp_path}/text.db/mlflow.db")


def test_a_folder_that_cannot_be_written(tmp_path, read_only):
    line = refusal(f"sqlite:///{read_only(tmp_path)}/mlflow.db")
    assert f"'{tmp_path}' cannot be written" in line


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "https://127.0.0.1:9", "mysql://me:secret@127.0.0.1:9/runs"]
)
def test_a_server_that_is_not_there(uri):
    line = refusal(uri)
    assert "127.0.0.1:9" in line and "does not answer" in line and "fix tracking_uri" in line
    assert NOT in line and "secret" not in line


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"who are you?", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, b'{"error_code": "PERMISSION_DENIED"}', "MLFLOW_TRACKING_USERNAME"),
        (404, b"", "cannot be used"),
        (503, b"busy", "does not answer"),
        (200, b"<html>hello</html>", "cannot be used"),
    ],
)
def test_a_server_that_is_another_or_lets_nobody_in(serving, status, body, words):
    assert words in refusal(serving(status, body))


def test_a_password_in_the_address():
    line = refusal("http://me:secret@127.0.0.1:9")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line and "secret" not in line


def test_the_variable_comes_first(made, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert "MLFLOW_TRACKING_URI 'mlruns'" in refusal(f"sqlite:///{made}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made}")
    require_store("mlruns")


@pytest.mark.parametrize("uri", ["htp://127.0.0.1", "postgresql://127.0.0.1:x/runs"])
def test_addresses_with_a_mistake(uri):
    assert "fix tracking_uri" in refusal(uri)
