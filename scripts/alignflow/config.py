"""Initialises the run of a bundle config: checks its keys and values, and saves a copy."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from alignflow.device import tune_allocator
from alignflow.distributed import require_joining
from alignflow.errors import InputError, find_input_error, print_input_errors_as_one_line
from alignflow.files import replacing, storage_error
from alignflow.limits import check_limits
from alignflow.lock import lock_output_dir
from alignflow.memory import out_of_memory, out_of_shared_memory
from alignflow.targets import resolve

REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
EXPECTED_BY_MONAI = ["bundle_root", "device", "dataset_dir", "network_def", "run"]
# MONAI Label's app for bundles reads the transforms and replaces `datalist`.
EXPECTED_BY_MONAI += ["preprocessing", "postprocessing", "datalist"]
MONAI_KEYS = {"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}


def initialize_run(workflows: Sequence[str], seed: int) -> None:
    """Initialise a run; the first item of each config's `initialize`.

    From now on input errors and a lack of disk space or memory are shown as one line. Refuses keys
    without effect, targets that are not allowed, texts that MONAI would change and values out of
    range. Locks the output folder, tunes the allocator and sets the random seed.

    This does not protect against a malicious config, since MONAI evaluates the config's `imports`
    before; use `alignflow.packing verify` for that.

    Args:
        workflows: run_ids of the config; keys that none of them uses have no effect.
        seed: random seed of Python, NumPy and torch.

    Raises:
        InputError: a key without effect, a target that is not allowed or does not take an argument,
            a text with '#', a value out of range, several processes without a process group, or an
            output folder that is in use or cannot be written.
    """
    print_input_errors_as_one_line()
    config = running_config()
    check_keys(config, workflows)
    check_arguments(config)
    check_texts(config, sys.argv)
    check_limits(config)
    require_joining(config, workflows[0])
    if (folder := written_folder(config)) is not None:
        lock_output_dir(folder)
    print_input_errors_as_one_line(lambda error: user_message(error, config, folder or "."))
    tune_allocator()
    set_determinism(seed=seed)


def written_folder(config: Mapping[str, Any]) -> str | None:
    """The output folder of a run: its output_dir or, for `export`, its model_dir.

    None if the output is a single file (`output`), whose folder may contain anything.
    """
    if "output" in config:
        return None
    key = "output_dir" if "output_dir" in config else "model_dir"
    return str(running_parser().get_parsed_content(key))


def user_message(error: BaseException, config: Mapping[str, Any], folder: str) -> InputError | None:
    """One line about an error that a user can fix (input, disk, memory); else None."""
    return (
        find_input_error(error)
        or out_of_shared_memory(error)
        or storage_error(error, folder)
        or out_of_memory(error, config)
    )


def running_config() -> dict[str, Any]:
    """The config of the running bundle workflow, including overrides.

    Raises:
        RuntimeError: not called from an expression of a config.
    """
    return {k: v for k, v in running_parser().get().items() if k != "_meta_"}


def running_parser() -> ConfigParser:
    """The parser that evaluates the calling expression.

    MONAI does not pass it to expressions, so it is found on the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), ConfigParser):
            return found
        frame = frame.f_back
    raise RuntimeError("not called from an expression of a bundle config")


@idist.one_rank_only()
def save_config(path: str) -> None:
    """Write the running config, including overrides, as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(running_config(), indent=2, default=str) + "\n", encoding="utf-8"
        )


def settings() -> dict[str, Any]:
    """The plain values at the top of the running config, which identify a run.

    Expressions and keys that begin with "_" are excluded, so the override for several processes
    changes nothing here.
    """
    plain = (str, int, float, bool, type(None), list)
    config = {k: v for k, v in running_config().items() if not k.startswith("_")}
    values = {k: v for k, v in config.items() if isinstance(v, plain)}
    return {k: v for k, v in values.items() if not _has_expression(v)}


def check_keys(config: dict[str, Any], workflows: Sequence[str]) -> None:
    """Refuse keys that no workflow uses through `@` references.

    Raises:
        InputError: names the key and the most similar known key.
    """
    reached: set[str] = set()
    waiting = ["initialize", "finalize", "imports", *EXPECTED_BY_MONAI, *workflows]
    while waiting:
        key = waiting.pop()
        if key in reached:
            continue
        reached.add(key)
        for _, value in leaves(find(config, key), key):
            if isinstance(value, str):
                waiting += [r.replace("#", "::") for r in REFERENCE.findall(value)]
    known = reached | {key.split("::")[0] for key in reached}
    for key, _ in leaves(config):
        parts = key.split("::")
        within = {"::".join(parts[: i + 1]) for i in range(len(parts))}
        if not within & reached and not parts[0].startswith("_"):
            raise InputError(
                f"config key '{key}' has no effect{_suggestion(key, known)}; remove it"
            )


def check_arguments(config: dict[str, Any]) -> None:
    """Refuse a `_target_` that is not allowed, and arguments that it does not take.

    Raises:
        InputError: names the target, or the argument and the valid arguments.
    """
    for key, part in parts_with_target(config):
        name = part["_target_"]
        target = resolve(name, f"config key '{key}'")
        try:
            parameters = inspect.signature(target).parameters
        except ValueError:  # some built-ins have no signature
            continue
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for argument in set(part) - MONAI_KEYS - set(parameters):
            raise InputError(
                f"config key '{key}::{argument}' has no effect{_suggestion(argument, parameters)}: "
                f"{name} takes {', '.join(parameters)}"
            )


def check_texts(config: dict[str, Any], arguments: Sequence[str] = ()) -> None:
    """Refuse texts that MONAI or its command line would change.

    MONAI replaces every '#' by '::'. Fire, which parses its command line, reads `patient#2` as
    'patient', and a folder 2024 as a number. In a locale without UTF-8, torch and MLflow fail on
    names with letters outside ASCII.

    Args:
        config: config to check.
        arguments: arguments of the command line.

    Raises:
        InputError: names the key and the text.
    """
    given = dict(_given(arguments))
    texts = [(key, text) for key, text in given.items() if isinstance(config.get(key), str)]
    for key, value in [*texts, *leaves(config)]:
        if isinstance(value, str) and not value.startswith(("$", "@", "%")) and key[:1] != "_":
            require_plain(value, f'config "{key}"')
            if any("\udc80" <= letter <= "\udcff" for letter in value):
                raise InputError(
                    f"config \"{key}\" '{value}': has letters outside this locale; set "
                    "PYTHONUTF8=1 in the environment"
                )
    for key, value in config.items():
        is_path = key.endswith("_dir") or key in ("source", "references", "output")
        if is_path and not isinstance(value, (str, list, type(None))):
            raise InputError(
                f'config "{key}": {value!r} is not text; for a folder of that name give '
                f"./{given.get(key, value)}"
            )


def require_plain(text: str, field: str) -> None:
    """Raise `InputError` if a text contains characters reserved by MONAI's configs."""
    if "#" in text or "::" in text:
        raise InputError(
            f"{field} '{text}': a value cannot contain '#' or '::', which MONAI reads as parts of "
            "a config; rename the file or folder"
        )


def find(config: Any, key: str) -> Any:
    """The part of a config at 'a::b::0', or None."""
    for part in key.split("::"):
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of all leaves of a config."""
    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(config, dict):
        items = iter(config.items())
    elif isinstance(config, list):
        items = iter(enumerate(config))
    if items is None or not config:
        yield key, config
        return
    for name, value in items:
        yield from leaves(value, f"{key}::{name}" if key else str(name))


def parts_with_target(config: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, dict) of every part of a config with a `_target_`."""
    target = config.get("_target_", "$") if isinstance(config, dict) else "$"
    if not target.startswith("$"):
        yield key, config
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for name, value in items:
        if isinstance(value, (dict, list)):
            yield from parts_with_target(value, f"{key}::{name}" if key else str(name))


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, text) of `--key=text` and `--key text`."""
    for name, after in pairwise([*arguments, ""]):
        if name.startswith("--"):
            key, sign, text = name[2:].partition("=")
            yield key.replace("-", "_"), text if sign else after


def _suggestion(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _has_expression(value: Any) -> bool:
    return any(str(leaf).startswith(("$", "@")) for _, leaf in leaves(value))
