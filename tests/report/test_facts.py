"""An audit as lines: figures come through, names do not."""

import json

from alignflow.report.facts import lines, sentences

AUDIT = {
    "membership": {
        "attack": "nearest distance",
        "auc": {"value": 0.53, "low": 0.47, "high": 0.6, "n": 40},
        "distinguished": False,
    },
    "count": 48,
    "nothing": None,
    "folder": "/data/Smith_John/ct",
    "nearest": ["Smith_John.png", "Doe_Jane.png"],
    "images": {f"Patient{k}": {"distance": 0.1 * k} for k in range(40)},
    "Doe_Jane.png": {"distance": 0.1},
    "provenance": {"config": {"reference_dir": "/data/Smith_John"}},
}


def test_figures_come_through():
    found = dict(lines(AUDIT))
    assert found["membership: auc"] == "0.530 (0.470 to 0.600)"
    assert found["membership: auc: n"] == "40"
    assert found["membership: distinguished"] == "no" and found["count"] == "48"
    assert found["membership: attack"] == "nearest distance"
    assert found["nothing"] == "not defined"


def test_names_do_not():
    text = json.dumps(lines(AUDIT))
    for name in ("Smith", "Doe", "Patient", "/data"):
        assert name not in text
    assert ("nearest", "2 entries, in the file") in lines(AUDIT)


def test_words_of_the_audit_itself():
    assert sentences({"words": ["copies: 0 of 48 pairs", 3], "note": "x"}) == [
        "copies: 0 of 48 pairs"
    ]
    assert sentences({"words": "copies"}) == sentences({}) == [] == lines({"words": ["copies"]})


def test_a_page_is_not_flooded():
    big = {f"part{k}": {f"figure{j}": j for j in range(20)} for k in range(20)}
    assert len(lines(big)) == 81
