import itertools

import pytest
import torch

from alignflow.errors import InputError
from alignflow.label.values import known_values, readable_values, tool_index, tool_values


def test_a_tool_counts_classes_from_one():
    assert tool_values({"background": 0, "polyp": 255}) == {"background": 0, "polyp": 1}


def test_values_of_the_source_stay_where_they_are_indices_in_another_order():
    labels = {"background": 0, "disc": 2, "cup": 1}
    assert tool_values(labels) == labels


def test_no_value_ever_means_two_classes():
    for values in itertools.permutations((1, 2, 3, 7, 255), 3):
        labels = {"background": 0.0} | {f"class{v}": float(v) for v in values}
        known = known_values(labels)
        for k, value in enumerate(labels.values()):
            assert known[value] == k
        for k, value in enumerate(tool_values(labels).values()):
            assert known[value] == k


def test_masks_of_the_tool_and_of_the_source_are_both_read():
    labels = {"background": 0, "ring": 3, "core": 7}
    index = torch.tensor([[0, 1], [2, 1]], dtype=torch.uint8)
    native = torch.tensor([[0.0, 3.0], [7.0, 3.0]])
    for mask in (index.float(), native):
        assert torch.equal(tool_index(mask, labels, None, "m"), index)


def test_what_is_written_is_read_back_by_the_rule_of_the_source():
    labels = {"background": 0.0, "class1": 1.0}
    for threshold in (0.5, 127, 127.5, 200):
        index = tool_index(torch.tensor([0.0, 1.0, 0.0]), labels, threshold, "m")
        written = torch.from_numpy(readable_values(labels, threshold)[index.numpy()])
        assert (written > threshold).tolist() == [False, True, False]
        soft = torch.tensor([threshold - 0.25, threshold + 0.5])
        assert tool_index(soft, labels, threshold, "m").tolist() == [0, 1]
    native = readable_values({"background": 0, "ring": 3, "core": 7}, None)
    assert native.tolist() == [0, 3, 7]


def test_an_unknown_value_is_refused_with_the_classes():
    with pytest.raises(InputError, match=r"mask 'm.png': value 4 is no class.*polyp=1"):
        tool_index(torch.tensor([0.0, 4.0]), {"background": 0, "polyp": 255}, None, "m.png")
