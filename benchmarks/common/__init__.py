"""What every benchmark's command line and result file share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from alignflow.files import replacing


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def save(result: dict[str, Any], path: Path | None) -> None:
    """Write a result as JSON, whole or not at all; nothing without a path."""
    if path:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1, default=str) + "\n")
