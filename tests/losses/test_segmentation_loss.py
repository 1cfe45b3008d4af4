import pytest
import torch

from luss_ray.losses.segmentation import segmentation_loss


def test_right_logits_cost_nothing_and_wrong_ones_a_lot():
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[1] = 2
    logits = torch.full((2, 3, 2, 2), -20.0)
    logits[0, 0], logits[1, 2] = 20.0, 20.0
    assert segmentation_loss(logits, labels).item() == pytest.approx(0, abs=1e-5)
    assert segmentation_loss(logits.flip(0), labels).item() == pytest.approx(40, rel=1e-3)


def test_compares_at_half_the_labels_resolution():
    labels = torch.randint(0, 5, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits, labels[:, ::2, ::2])
    torch.testing.assert_close(segmentation_loss(logits, labels), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_takes_any_integer_labels_and_half_precision_logits(dtype):
    labels = torch.full((1, 8, 8), 100, dtype=dtype)
    loss = segmentation_loss(torch.zeros(1, 128, 2, 2, dtype=torch.bfloat16), labels)
    assert loss.item() == pytest.approx(torch.tensor(128.0).log().item(), rel=1e-5)


def test_ignored_pixels_cost_nothing_and_do_not_count():
    labels = torch.randint(0, 5, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels[:, ::2] = 1000  # what is left is the odd rows, of which half the resolution sees none …
    assert segmentation_loss(logits, labels, ignore=1000).item() == 0
    labels[:, 4] = 3  # … and then a row of category 3
    loss = segmentation_loss(logits, labels, ignore=1000)
    torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[:, 3, 2].mean())
    loss.backward()
    assert logits.grad is not None and logits.grad[:, :, [0, 1, 3, 4, 5]].abs().max() == 0


def test_compares_at_a_multiple_of_the_logits_resolution():
    labels = torch.randint(0, 5, (2, 24, 24), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    resized = torch.nn.functional.interpolate(logits, (6, 6), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cross_entropy(resized, labels[:, ::4, ::4])
    torch.testing.assert_close(segmentation_loss(logits, labels, upsampling=2), expected)
