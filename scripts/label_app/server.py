"""The ASGI app that start.py serves: MONAI Label behind a gate, input errors as one line."""

from __future__ import annotations

import os

from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.app import app as monailabel_app

from alignflow.errors import InputError
from alignflow.label.access import Gate


async def one_line(request: Request, error: Exception) -> JSONResponse:
    """400 with the line that names the field and the fix."""
    return JSONResponse({"detail": str(error)}, status_code=400)


monailabel_app.add_exception_handler(InputError, one_line)
app = Gate(monailabel_app, os.environ.get("ALIGNFLOW_LABEL_TOKEN") or None)
