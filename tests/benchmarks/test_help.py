"""Each benchmark explains itself."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [*FOLDER.glob("*.py"), *FOLDER.glob("sampler/*.py")]
NAMES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in SCRIPTS)


@pytest.mark.parametrize("name", NAMES)
def test_help(name, load_benchmark, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        load_benchmark(name).main()
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out
