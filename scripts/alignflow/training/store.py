"""Checks an MLflow store, and creates a new SQLite store."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

import ignite.distributed as idist
import requests
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as databases
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url

from alignflow.connection import obstacle, require_no_password, without_proxy
from alignflow.data.formats import first_line
from alignflow.errors import InputError, causes
from alignflow.files import replacing

VARIABLE = "MLFLOW_TRACKING_URI"
FILE = "sqlite:///"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
WHO = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
ELSE = "or track nothing (--mlflow False; of alignflow adapt --no_mlflow)"
WAIT = 5  # seconds


def chosen(uri: str) -> str:
    """The store in MLFLOW_TRACKING_URI if it is set, as in MLflow, else the config's."""
    return os.environ.get(VARIABLE) or uri


@idist.one_rank_only()
def require_store(uri: str) -> None:
    """Refuse a store that cannot be used, within seconds and before data is read.

    MLflow itself waits for minutes for a server that does not answer.

    Args:
        uri: `sqlite:///FILE`, the address of a server, or of another database.

    Raises:
        InputError: plain files, no answer, no access, locked, not a store, or a store of another
            MLflow version.
    """
    field = VARIABLE if os.environ.get(VARIABLE) else "tracking_uri"
    uri = chosen(uri)
    kind = uri.partition(":")[0].partition("+")[0]
    if kind in ("http", "https"):
        require_no_password(uri, field, WHO)
    shown = re.sub("//[^/]*@", "//", uri) if kind in PORTS else uri  # without its password
    where = f"{field} '{shown}'"
    if kind == "file" or ("://" not in uri and kind not in ("sqlite", "databricks")):
        raise InputError(
            f"{where}: MLflow no longer keeps runs in plain files; give {FILE}FILE or the "
            f"address of a server, {ELSE}"
        )
    with _one_line_errors(where, uri):
        if kind == "sqlite":
            if _is_there(uri, where):
                _require_schema(uri, where)
        elif kind in PORTS:
            url = make_url(uri)
            if url.host:
                socket.create_connection((url.host, url.port or PORTS[kind]), WAIT).close()
            _require_schema(uri, where)
        else:
            with _impatient():
                MlflowClient(uri).search_experiments(max_results=1)


def make_store(uri: str) -> None:
    """Create a new SQLite store atomically; other stores are left alone.

    MLflow creates the tables one by one, and permanently refuses a store left incomplete by a kill.
    """
    path = Path(uri.removeprefix(FILE))
    if not uri.startswith(FILE) or path.exists():
        return
    with replacing(path) as temporary:
        store = SqlAlchemyStore(f"{FILE}{temporary}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store.engine.dispose()


def _is_there(uri: str, where: str) -> bool:
    """Whether the file of a SQLite store exists; it must be possible to write or create it."""
    path = Path(uri.removeprefix(FILE))
    if not uri.startswith(FILE) or not path.name or path.is_dir():
        raise InputError(f"{where}: no file; give {FILE}FOLDER/mlflow.db, {ELSE}")
    if "?" in uri or unquote(uri) != uri:
        raise InputError(
            f"{where}: MLflow misreads '?' and '%20' in the path of a store; rename "
            f"the folder, set tracking_uri to {FILE}FILE of another one, {ELSE}"
        )
    if not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise InputError(f"{where}: '{parent}' cannot be written; give another folder, {ELSE}")
        return False
    with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    return True


def _require_schema(uri: str, where: str) -> None:
    """Refuse a database of another MLflow version; MLflow might change its tables."""
    engine = databases.create_sqlalchemy_engine(uri)
    try:
        version = databases._get_schema_version(engine)
        empty = version is None and databases._is_empty_database(engine)
    finally:
        engine.dispose()
    script = ScriptDirectory.from_config(databases._get_alembic_config(""))
    if empty or version == script.get_current_head():
        return
    if version in {revision.revision for revision in script.walk_revisions()}:
        raise InputError(
            f"{where}: made by an older MLflow; back it up and run 'mlflow db upgrade URI' with "
            f"this URI once, or give another tracking_uri, {ELSE}"
        )
    raise InputError(
        f"{where}: made by a newer MLflow or another program; give another tracking_uri, {ELSE}"
    )


@contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow try a server only once, for seconds."""
    given = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(WAIT)}
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _one_line_errors(where: str, uri: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, a driver, requests
        raise InputError(f"{where}: {_reason(error, uri)}, {ELSE}") from error


def _reason(error: Exception, uri: str) -> str:
    """What is wrong with a store, and the fix."""
    if (found := obstacle(error, uri)) is not None:
        return found
    if isinstance(error, ImportError):
        return f"needs the package '{error.name}'; install it, fix tracking_uri"
    if "database is locked" in str(error):
        return "locked by another program; wait until it ends, give another tracking_uri"
    if isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403):
        return f"requires a user name and password; set {WHO}"
    silent = (requests.ConnectionError, requests.Timeout, OSError)
    if any(isinstance(cause, silent) for cause in causes(error)):
        proxy = without_proxy(uri) if uri.startswith("http") else ""
        return ", ".join(filter(None, ["does not answer; start it, fix tracking_uri", proxy]))
    return f"cannot be used ({first_line(error)}); fix tracking_uri"
