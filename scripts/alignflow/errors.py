"""User errors, shown as one line; other errors keep their traceback."""

from __future__ import annotations

import logging
import sys
from codecs import lookup
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from types import TracebackType

from tqdm import tqdm

STOPPED = "interrupted; the same command resumes from here"


class InputError(ValueError):
    """User error: one line that names the file or field and how to fix it.

    Control characters, which file names may contain, are shown as escapes.

    Args:
        lines: the line; several lines if several files are wrong.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join("".join(map(_shown, _decoded(line))) for line in lines))


def _decoded(line: str) -> str:
    """The line with names decoded that the locale could not decode."""
    try:
        return line.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return line


def _shown(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its chain of causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_input_error(error: BaseException | None) -> InputError | None:
    """The first `InputError` in an exception's chain of causes, or None."""
    return next((cause for cause in causes(error) if isinstance(cause, InputError)), None)


def print_all_letters() -> None:
    """Allow any letters to be printed, even in the C locale, which is ASCII only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def close_bars() -> None:
    """Close progress bars, which would otherwise mix with messages."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def print_input_errors_as_one_line(
    explain: Callable[[BaseException], InputError | None] = find_input_error,
) -> None:
    """Show an uncaught `InputError` as one line without traceback; the exit code is 1.

    MONAI wraps exceptions of config expressions in several RuntimeErrors, so the line would be
    hidden in a page of traceback. Ctrl-C is shown as one line, too. Other exceptions keep their
    traceback.

    Args:
        explain: returns the `InputError` to show for an exception, or None for a traceback.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        close_bars()
        found = explain(error)
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            print(STOPPED, file=sys.stderr)
        elif found is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {found}", file=sys.stderr)

    sys.excepthook = hook
    print_all_letters()
    # ignite logs every exception with its traceback before it is shown here.
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)
