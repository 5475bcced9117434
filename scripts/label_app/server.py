"""The ASGI app that start.py serves: MONAI Label behind a gate, input errors as one line."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from monailabel.app import app as monailabel_app
from monailabel.app import static_dir
from monailabel.config import settings
from starlette.routing import Route

from alignflow.errors import InputError
from alignflow.label.access import NO_VIEWER, Gate

ROOT = """<!doctype html>
<html lang="en">
<title>AlignFlow annotation server</title>
<h1>AlignFlow annotation server</h1>
<ul>
<li><a href="ohif/">ohif/</a>: viewer, with a DICOMweb server as STUDIES
<li><a href="info/">info/</a>: tasks and their settings
<li><a href="openapi.json">openapi.json</a>: the REST interface
</ul>
</html>
"""
# OHIF's panel reads the server's address from a cookie, and without one takes port 8000
PANEL = """
document.cookie =
  'MONAILABEL_SERVER_URL=' + escape(window.location.origin + '/') + '; path=/ohif';
"""


async def one_line(request: Request, error: Exception) -> JSONResponse:
    """400 with the line that names the field and the fix."""
    return JSONResponse({"detail": str(error)}, status_code=400)


async def root(request: Request) -> Response:
    """In place of MONAI Label's, which the browser fetches from the internet."""
    return HTMLResponse(ROOT)


async def config(request: Request) -> Response:
    """Settings of OHIF, whose panel sends its requests to the server that the page is of."""
    settings = Path(static_dir, "ohif/app-config.js").read_text(encoding="utf-8")
    return Response(settings + PANEL, media_type="text/javascript")


async def no_viewer(request: Request) -> Response:
    """OHIF cannot show a folder."""
    return PlainTextResponse(NO_VIEWER + "\n", status_code=404)


routes = [Route("/", root), Route("/ohif/app-config.js", config)]
if "://" not in settings.MONAI_LABEL_STUDIES:
    routes.insert(0, Route("/ohif/{path:path}", no_viewer))
monailabel_app.router.routes[:0] = routes  # before MONAI Label's own
monailabel_app.add_exception_handler(InputError, one_line)
app = Gate(monailabel_app, os.environ.get("ALIGNFLOW_LABEL_TOKEN") or None)
