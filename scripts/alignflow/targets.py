"""Which classes and functions a config or a record may name as `_target_`.

MONAI (1.6.1) calls whatever a `_target_` names; it has an allow list for the classes of a logging
file alone. A record such as `stage1.json` comes with weights from elsewhere, and is data: it may
name networks and nothing else.
"""

from __future__ import annotations

import os
from functools import cache
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator
from torch import nn

from alignflow.errors import InputError

ALLOWED = (
    "alignflow",
    "ignite",
    "monai.data",
    "monai.engines",
    "monai.handlers",
    "monai.inferers",
    "monai.losses",
    "monai.metrics",
    "monai.networks",
    "monai.optimizers",
    "monai.transforms",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
)
NETWORKS = ("alignflow.networks", "monai.networks", "torch.nn")
STARTS_DEBUGGER = {"_mode_", "_debug_"}
ALLOW = "ALIGNFLOW_ALLOW"  # in the environment: a config cannot allow itself anything


def resolve(name: Any, where: str, allowed: tuple[str, ...] = ALLOWED) -> Any:
    """The class or function that a `_target_` names; only allowed packages are imported.

    Args:
        name: dotted path, or the bare name of one of MONAI's.
        where: file or key that it stands in, for the message.
        allowed: packages that it may come from, besides those of the environment's
            `ALIGNFLOW_ALLOW` (separated by commas).

    Raises:
        InputError: from another package, or not there.
    """
    if not isinstance(name, str):
        raise InputError(f"{where}: _target_ {str(name)[:100]!r}; give the name of a class")
    module = _locator().get_component_module_name(name)
    module = module[0] if isinstance(module, list) else module
    path = name if module is None else f"{module}.{name}"
    own = tuple(part.strip() for part in os.environ.get(ALLOW, "").split(",") if part.strip())
    packages = tuple(f"{package}." for package in allowed + own)
    target = locate(path) if path.startswith(packages) else None
    if target is None and path.startswith(packages):
        raise InputError(f"{where}: _target_ '{name}' cannot be imported")
    # `monai.data.utils.os.system` begins well, too.
    if not f"{getattr(target, '__module__', None)}.".startswith(packages):
        raise InputError(
            f"{where}: _target_ '{name}' is of no allowed package ({', '.join(allowed)}); where it "
            f"is meant, name its package in the environment, {ALLOW}=PACKAGE"
        )
    return target


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def require_network(config: Any, where: str) -> None:
    """Refuse a network's config that is more than names and numbers.

    Args:
        config: {"_target_": class, argument: value, ...}; values may hold networks in turn.
        where: file and field that it stands in, for the message.

    Raises:
        InputError: no `_target_`, expressions, references, macros, or a class that is no network.
    """
    if not isinstance(config, dict) or "_target_" not in config:
        raise InputError(f'{where}: {config!r}; it needs {{"_target_": class, argument: value}}')
    _require_plain(config, where)


def _require_plain(value: Any, where: str) -> None:
    if isinstance(value, list):
        for item in value:
            _require_plain(item, where)
    elif isinstance(value, dict):
        for key in value.keys() & STARTS_DEBUGGER:
            raise InputError(f"{where}: holds '{key}'; remove it")
        for item in value.values():
            _require_plain(item, where)
        if "_target_" in value:
            target = resolve(value["_target_"], where, NETWORKS)
            if not (isinstance(target, type) and issubclass(target, nn.Module)):
                raise InputError(f"{where}: {value['_target_']} is no network; name a torch module")
    elif isinstance(value, str) and value.lstrip().startswith(("$", "@", "%")):
        raise InputError(f"{where}: holds expressions; write names and numbers alone")
