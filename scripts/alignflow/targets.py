"""Allow lists for `_target_` in configs and records.

MONAI (1.6.1) calls any `_target_`; its only allow list is for logging files. A record such as
`stage1.json`, which comes with the weights, may only name networks.
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
ALLOW = "ALIGNFLOW_ALLOW"  # an environment variable, which a config cannot set


def resolve(name: Any, where: str, allowed: tuple[str, ...] = ALLOWED) -> Any:
    """The class or function of a `_target_`; only allowed packages are imported.

    Args:
        name: dotted path, or the name of a MONAI class.
        where: file or key, for error messages.
        allowed: allowed packages, in addition to those in the environment variable
            `ALIGNFLOW_ALLOW` (separated by commas).

    Raises:
        InputError: it is in another package, or does not exist.
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
    # `monai.data.utils.os.system` also begins with an allowed package.
    if not f"{getattr(target, '__module__', None)}.".startswith(packages):
        raise InputError(
            f"{where}: _target_ '{name}' is not in an allowed package ({', '.join(allowed)}); to "
            f"allow it, set {ALLOW}=PACKAGE in the environment"
        )
    return target


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def require_network(config: Any, where: str) -> None:
    """Refuse a network's config that has more than names and numbers.

    Args:
        config: {"_target_": class, argument: value, ...}; values may contain networks.
        where: file and field, for error messages.

    Raises:
        InputError: no `_target_`, expressions, references, macros, or not a network.
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
            raise InputError(f"{where}: contains '{key}'; remove it")
        for item in value.values():
            _require_plain(item, where)
        if "_target_" in value:
            target = resolve(value["_target_"], where, NETWORKS)
            if not (isinstance(target, type) and issubclass(target, nn.Module)):
                raise InputError(
                    f"{where}: {value['_target_']} is not a network; name a torch module"
                )
    elif isinstance(value, str) and value.lstrip().startswith(("$", "@", "%")):
        raise InputError(f"{where}: contains expressions; use only names and numbers")
