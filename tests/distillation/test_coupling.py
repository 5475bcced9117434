import json

import pytest
import torch

from alignflow.distillation.coupling import generate_cached
from alignflow.errors import InputError


class Counting:
    """Row k holds k; remembers what was asked for."""

    def __init__(self, stop_at=None):
        self.asked = []
        self.stop_at = stop_at

    def __call__(self, indices):
        if self.stop_at in indices:
            raise KeyboardInterrupt
        self.asked += indices
        return {"data": torch.tensor(indices).float()[:, None]}


def test_rows_are_in_order_and_generate_cached(tmp_path):
    draw = Counting()
    first = generate_cached(tmp_path, 10, draw, {"seed": 1}, "pairs", part=4)
    assert first["data"][:, 0].tolist() == list(range(10))
    assert draw.asked == list(range(10))
    again = generate_cached(tmp_path, 10, Counting(stop_at=0), {"seed": 1}, "pairs", part=4)
    assert torch.equal(first["data"], again["data"])


def test_a_stopped_run_goes_on_at_the_next_part(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate_cached(tmp_path, 10, Counting(stop_at=9), {}, "pairs", part=4)
    draw = Counting()
    assert len(generate_cached(tmp_path, 10, draw, {}, "pairs", part=4)["data"]) == 10
    assert draw.asked == [8, 9]
    assert not list(tmp_path.glob(".partial*"))


def test_pairs_of_another_teacher_are_refused(tmp_path):
    generate_cached(tmp_path, 4, Counting(), {"teacher": "a", "seed": 1}, "pairs")
    assert json.loads((tmp_path / "coupling.json").read_text()) == {"teacher": "a", "seed": 1}
    with pytest.raises(InputError, match="other teacher"):
        generate_cached(tmp_path, 4, Counting(), {"teacher": "b", "seed": 1}, "pairs")


def test_a_damaged_part_is_drawn_again(tmp_path, caplog):
    first = generate_cached(tmp_path, 10, Counting(), {}, "pairs", part=4)
    path = tmp_path / "part-00001.pt"
    whole = bytearray(path.read_bytes())
    flipped = whole[:]
    flipped[whole.index(torch.tensor([6.0]).numpy().tobytes())] ^= 1
    for damage in (b"no tensors", whole[:-9], flipped):
        path.write_bytes(damage)
        draw = Counting()
        again = generate_cached(tmp_path, 10, draw, {}, "pairs", part=4)
        assert draw.asked == [4, 5, 6, 7]
        assert torch.equal(first["data"], again["data"])
        assert path.read_bytes() == whole
        assert str(path) in caplog.records[-1].getMessage()


def test_damaged_facts_are_named(tmp_path):
    generate_cached(tmp_path, 4, Counting(), {"seed": 1}, "pairs")
    (tmp_path / "coupling.json").write_text("{")
    with pytest.raises(InputError, match=r"coupling\.json': damaged.*delete its folder"):
        generate_cached(tmp_path, 4, Counting(), {"seed": 1}, "pairs")
