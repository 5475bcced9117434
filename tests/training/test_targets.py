import torch

from alignflow.training.targets import flagged, image_target, mask_target


def test_image_target_is_the_image_and_maps_of_its_mask(batch):
    data, condition = image_target(batch)
    assert torch.equal(data, batch["image"])
    label, maps = batch["label"], condition["condition"]
    expected = torch.cat([label == 0, label == 1, batch["distance"]], dim=1).float()
    assert torch.equal(maps, expected)


def test_mask_target_is_the_distance_and_its_mask_in_numbers(batch):
    data, condition = mask_target(batch)
    assert torch.equal(data, batch["distance"])
    flag, present, area, x, y = condition["vector"].unbind(dim=1)
    assert flag.tolist() == present.tolist() == [1.0] * 4
    pixels = (batch["label"] == 1).sum(dim=(1, 2, 3))
    torch.testing.assert_close(10 ** (2 * (area - 1)), pixels / 64)
    torch.testing.assert_close(x, torch.full((4,), 2 * 3.5 / 8 - 1))
    torch.testing.assert_close(y, torch.full((4,), 2 * 4.5 / 8 - 1))


def test_an_absent_class_differs_from_a_dropped_condition():
    assert flagged(torch.zeros(1, 4)).tolist() == [[1, 0, 0, 0, 0]]
