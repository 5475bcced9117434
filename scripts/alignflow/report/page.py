"""The page from its template: text of inputs is escaped, style and pictures lie within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignflow.report.text import number

HERE = Path(__file__).parent


def render(content: dict[str, Any]) -> str:
    """HTML of `page.html` with `style.css` in it; equal content gives equal text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(content | {"style": style})
