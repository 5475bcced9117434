"""What a `_target_` may name."""

import json
import sys

import pytest
from torch import nn

from alignflow.config import check_arguments
from alignflow.errors import InputError
from alignflow.segmentation.network import build_network
from alignflow.targets import ALLOW, require_network, resolve

NET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}


def test_networks_of_monai_torch_and_ours():
    for name in ("monai.networks.nets.UNet", "UNet", "torch.nn.Conv2d"):
        assert issubclass(resolve(name, "here"), nn.Module)
    assert isinstance(build_network(NET, "here"), nn.Module)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "monai.bundle.run",
        "monai.apps.download_url",
        "monai.utils.optional_import",
        "run",  # MONAI's bare names are looked up in all of its modules
        "monai.data.utils.os.system",  # begins with an allowed package
        "torch.nn.functional.torch.load",
        "alignflow.files.os.remove",
        "alignflowing.thing",
        "antigravity",
    ],
)
def test_everything_else(name):
    with pytest.raises(InputError, match="is not in an allowed package") as caught:
        resolve(name, "stage1.json")
    assert "\n" not in str(caught.value) and ALLOW in str(caught.value)
    with pytest.raises(InputError, match="config key 'a::b': .*not in an allowed package"):
        check_arguments({"a": {"b": {"_target_": name}}})


def test_a_refused_module_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from torch import nn\nclass Net(nn.Identity):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="mine.Net' is not in an allowed package"):
        build_network({"_target_": "mine.Net"}, "here")
    assert "mine" not in sys.modules
    monkeypatch.setenv(ALLOW, "other, mine")
    assert type(build_network({"_target_": "mine.Net"}, "here")).__name__ == "Net"
    with pytest.raises(InputError, match="not in an allowed package"):
        build_network({"_target_": "minet.Net"}, "here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"channels": ["$__import__('pathlib').Path('MARKER').touch()", 8]},
            "contains expressions",
        ),
        (
            {"act": {"name": "$__import__('pathlib').Path('MARKER').touch()"}},
            "contains expressions",
        ),
        ({"in_channels": "@other"}, "contains expressions"),
        ({"in_channels": "%/etc/hostname"}, "contains expressions"),
        ({"act": {"_target_": "pathlib.Path.touch", "self": "MARKER"}}, "not in an allowed"),
        ({"act": {"_target_": "torch.nn.functional.relu"}}, "is not a network"),
        ({"_target_": "torch.nn.Parameter"}, "is not a network"),
        ({"_mode_": "debug"}, "contains '_mode_'"),
    ],
)
def test_a_record_holds_names_and_numbers_alone(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    config = json.loads(json.dumps(NET | change))
    for function in (require_network, build_network):
        with pytest.raises(InputError, match=words):
            function(config, "stage1.json")
    assert not (tmp_path / "MARKER").exists()
