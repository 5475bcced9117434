"""Benchmarks are scripts, not a package: they are loaded by path."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch):
    """load_benchmark("train_step") is benchmarks/train_step.py as a module."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def load_adaptation(monkeypatch):
    """load_adaptation("splits") is benchmarks/adaptation/splits.py; it imports its neighbours."""
    monkeypatch.syspath_prepend(FOLDER / "adaptation")
    return importlib.import_module
