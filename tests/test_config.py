import json
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from alignflow.config import (
    MONAI_KEYS,
    check_arguments,
    check_keys,
    check_texts,
    find,
    initialize_run,
    leaves,
    parts_with_target,
    running_config,
)
from alignflow.errors import InputError, find_input_error

CONFIGS = Path(__file__).parents[1] / "bundle/configs"
WORKFLOWS = {
    "train": ["training", "train_images", "train_masks", "train_segmenter"],
    "inference": ["infer"],
    "align": ["align", "witness"],
    "segment": ["segment", "test"],
    "evaluate": ["evaluate"],
    "adapt": [
        *["adapt", "train", "align", "distill", "infer", "segment", "labeller"],
        *["evaluate", "report", "arms"],
    ],
}
# They pass what they do not know to a class that refuses it.
TAKES_ANYTHING = {"AsDiscreted", "DataLoader", "LoadImaged", "alignflow.training.tracking.Tracking"}


def shipped(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


SMALL = {
    "_desc_": "a comment",
    "rate": 0.1,
    "sizes": [1, 2],
    "unused": 3,
    "run": "@go",
    "go": ["$@part.step()"],
    "part": {"_target_": "torch.optim.SGD", "params": "$@deep::inner", "lr": "@rate"},
    "deep": {"inner": ["$@sizes"], "outer": 4},
}


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def test_keys_that_a_workflow_reaches_are_fine():
    config = without(SMALL, "unused") | {"deep": {"inner": ["$@sizes"]}}
    check_keys(config, ["go"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"rates": 1}, r"'rates' has no effect \(did you mean 'rate'\?\); remove it"),
        ({"x9": {"y": 1}}, "'x9::y' has no effect; remove it"),
        ({"deep": {"inner": ["$@sizes"], "iner": 1}}, "'deep::iner' has no effect"),
        ({"more": ["@rate"]}, "'more::0' has no effect"),
    ],
)
def test_keys_without_effect(extra, message):
    config = without(SMALL, "unused") | {"deep": {"inner": ["$@sizes"]}} | extra
    with pytest.raises(InputError, match=message):
        check_keys(config, ["go"])


def test_a_reference_to_a_part_reaches_all_of_it():
    check_keys({"go": "$@a::b", "a": {"b": {"c": [1, {"d": 2}]}}}, ["go"])
    check_keys({"go": "$@a#b + @c", "a": {"b": 1}, "c": 2}, ["go"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_shipped_configs_pass(name):
    check_keys(shipped(name), WORKFLOWS[name])
    check_arguments(shipped(name))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_misspelt_override_of_any_key_is_named(name):
    config = shipped(name)
    for key in {key for key in config if not key.startswith("_")}:
        typo = key[:-1] + "_" + key[-1]
        with pytest.raises(InputError, match=f"key '{typo}' has no effect.*mean '{key}"):
            check_keys(config | {typo: 1}, WORKFLOWS[name])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_typo_in_any_argument_is_named(name):
    config = shipped(name)
    checked = 0
    for key, part in parts_with_target(config):
        for argument in set(part) - MONAI_KEYS:
            if part["_target_"] in TAKES_ANYTHING:
                continue
            part[f"{argument}_x"] = part.pop(argument)
            with pytest.raises(InputError) as caught:
                check_arguments(config)
            assert f"'{key}::{argument}_x' has no effect" in str(caught.value)
            assert part["_target_"] in str(caught.value) and "\n" not in str(caught.value)
            part[argument] = part.pop(f"{argument}_x")
            checked += 1
    assert checked > 10
    check_arguments(config)


def test_unknown_target():
    config = {"a": [{"_target_": "alignflow.flow.emma.EMA"}]}
    with pytest.raises(InputError, match="'a::0': _target_ 'alignflow.flow.emma.EMA' cannot be"):
        check_arguments(config)


def test_targets_of_monai_by_name_and_by_path():
    check_arguments({"a": {"_target_": "Resized", "keys": "image", "spatial_size": [1]}})
    with pytest.raises(InputError, match="'a::spatial'.*monai.transforms.Resized takes .*spatial_"):
        check_arguments({"a": {"_target_": "monai.transforms.Resized", "spatial": 1}})
    check_arguments({"a": {"_target_": "$@b", "whatever": 1}})


def test_find_and_leaves_agree():
    for key, value in leaves(SMALL):
        assert find(SMALL, key) == value
    assert find(SMALL, "sizes::2") is find(SMALL, "deep::none") is find(SMALL, "rate::x") is None
    assert [key for key, _ in leaves(SMALL)][2:4] == ["sizes::0", "sizes::1"]


PARSED = {
    "imports": ["$from alignflow import config"],
    "rate": 0.1,
    "texts": ["a", 2],
    "expression": "$1 + 1",
    "reference": "@rate",
    "_desc_": "of an override",
    "referring": ["@rate", 1],
    "quoting": ["$str('a')"],
    "nested": {"a": 1},
    "path": "",
    "seen": "$config.running_config()",
    "settings": "$config.settings()",
    "save": "$config.save_config(@path)",
    "begin": "$config.initialize_run(['all'], 3)",
    "all": "$[@rate, @texts, @expression, @reference, @referring, @quoting, @nested, @path, "
    "@seen, @settings, @save, @begin]",
}


def test_running_config_is_that_of_the_evaluating_parser_with_overrides():
    other = ConfigParser(deepcopy(PARSED))
    parser = ConfigParser(deepcopy(PARSED))
    parser["rate"] = 7
    assert parser.get_parsed_content("seen") == PARSED | {"rate": 7}
    assert other.get_parsed_content("seen") == PARSED


def test_running_config_outside_of_a_bundle():
    with pytest.raises(RuntimeError, match="not called from an expression"):
        running_config()


def test_settings_are_the_plain_values_at_the_top():
    settings = ConfigParser(deepcopy(PARSED)).get_parsed_content("settings")
    assert settings == {"rate": 0.1, "texts": ["a", 2], "path": ""}


def test_saved_config_can_be_read_again(tmp_path):
    path = tmp_path / "new/config.json"
    parser = ConfigParser(deepcopy(PARSED))
    parser["path"] = str(path)
    parser.get_parsed_content("save")
    assert json.loads(path.read_text()) == PARSED | {"path": str(path)}


@pytest.fixture
def keep_excepthook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_begin_seeds_and_checks(keep_excepthook, tmp_path):
    config = PARSED | {"output_dir": str(tmp_path)}
    config["all"] = config["all"].replace("@rate,", "@rate, @output_dir,")
    draws = []
    for _ in range(2):
        ConfigParser(deepcopy(config)).get_parsed_content("begin")
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1]
    parser = ConfigParser(deepcopy(config) | {"ratte": 1})
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content("begin")
    assert "'ratte' has no effect (did you mean 'rate'?)" in str(find_input_error(caught.value))


def test_begin_needs_a_bundle(keep_excepthook):
    with pytest.raises(RuntimeError, match="not called from an expression"):
        initialize_run(["run"], 0)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"dataset_dir": "patient::2"}, "dataset_dir"),
        ({"output_dir": "/data/run::1"}, "output_dir"),
        ({"segment_dir": ["a", "b::c"]}, "segment_dir::1"),
        ({"train": {"group_pattern": "x::y"}}, "train::group_pattern"),
    ],
)
def test_texts_that_monai_changes(config, key):
    with pytest.raises(InputError, match=f"config \"{key}\" .*'#' or '::'"):
        check_texts(config)


def test_letters_that_the_locale_does_not_have():
    with pytest.raises(InputError, match="set PYTHONUTF8=1"):
        check_texts({"output_dir": "gr\udcc3\udcbcn"})


@pytest.mark.parametrize("line", [["--dataset_dir", "patient#2"], ["--dataset-dir=patient#2"]])
def test_a_text_that_fire_cuts_off(line):
    with pytest.raises(InputError, match="'patient#2'"):
        check_texts({"dataset_dir": "patient"}, ["run", "training", *line])


@pytest.mark.parametrize("value", [2024, 1e5, True, ("a", "b"), {"a": 1}])
def test_a_folder_that_fire_takes_for_something_else(value):
    with pytest.raises(InputError, match="for a folder of that name give ./name"):
        check_texts({"output_dir": value}, ["--output_dir", "name"])


def test_texts_that_arrive():
    config = {
        "dataset_dir": "a b/gr\u00fcn & 100%?",
        "test": None,
        "output_dir": "$@bundle_root + '/models'",
        "loss": "@train::loss",
        "labels": {"lesion #1": 1},
        "segment_dir": ["a", "b"],
        "batch_size": 4,
        "_desc_": "a :: b",
    }
    line = ["--train#update#clip", "0.5", "--loss", "@train#loss", "--labels", "{'lesion #1': 1}"]
    check_texts(config, ["run", "training", "--compile", *line])
