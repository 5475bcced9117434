"""One-line errors for the person at the keyboard, tracebacks for everybody else."""

from __future__ import annotations

import logging
import sys
from codecs import lookup
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from types import TracebackType

from tqdm import tqdm

STOPPED = "interrupted; the same command goes on from here"


class InputError(ValueError):
    """User error: one line that names the file or field and how to fix it.

    Control characters, which names of files may hold, are shown as escapes.

    Args:
        lines: the line; several only where several files are bad.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join("".join(map(_shown, _decoded(line))) for line in lines))


def _decoded(line: str) -> str:
    """With the letters of names that the locale gave as bytes."""
    try:
        return line.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return line


def _shown(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_input_error(error: BaseException | None) -> InputError | None:
    """The first `InputError` in an exception's chain of causes, or None."""
    return next((cause for cause in causes(error) if isinstance(cause, InputError)), None)


def print_all_letters() -> None:
    """Let names with any letters be printed where the locale is C, which stands for ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def close_bars() -> None:
    """End progress bars: else a message would stand behind one, and it be drawn once more."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def print_input_errors_as_one_line(
    explain: Callable[[BaseException], InputError | None] = find_input_error,
) -> None:
    """Let an uncaught `InputError` end the process with its line alone, and exit code 1.

    MONAI wraps whatever a config expression raises in several RuntimeErrors; the user's line
    would stand in the middle of a page of traceback. So does Ctrl-C end, by its signal. Every
    other exception is shown as before.

    Args:
        explain: gives the line of an exception, or None for its traceback.
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
    # It announces every exception, with the traceback of a worker, before it is shown here.
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)
