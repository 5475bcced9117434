"""Each benchmark explains itself."""

from pathlib import Path

import pytest

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_help(name, load_benchmark, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        load_benchmark(name).main()
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out
