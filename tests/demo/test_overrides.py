import json
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "bundle/configs"


@pytest.mark.parametrize("small, whole", [("demo", "train"), ("demo_align", "align")])
def test_the_demo_overrides_settings_that_exist_with_other_values(small, whole):
    overrides = json.loads((CONFIGS / f"{small}.json").read_text())
    config = json.loads((CONFIGS / f"{whole}.json").read_text())
    assert overrides.keys() <= config.keys()
    assert not [key for key, value in overrides.items() if config[key] == value]
