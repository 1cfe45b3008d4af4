import pytest
import torch

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.segmentation import segmentation_loss
from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOSSES = {
    "swap": lambda: swap_loss(drawn(4, 5, 7), codes(drawn(2, 5, 7, seed=1))),
    "deep to shallow": lambda: deep_to_shallow_loss(drawn(2, 5, 7), codes(drawn(2, 5, 7, seed=1))),
    "pixel to pixel": lambda: pixel_to_pixel_loss(drawn(2, 3, 8, 4, 4), drawn(2, 3, 8, 4, 4, seed=1)),
    "segmentation": lambda: segmentation_loss(drawn(2, 5, 4, 4), torch.ones(2, 16, 16, dtype=torch.long)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_are_float32_in_mixed_precision(loss):
    plain = loss()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=1e-6, atol=1e-6)
