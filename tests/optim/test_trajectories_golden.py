"""Whole training steps against the published code's: model, losses, queue, frozen prototypes and optimiser together."""

import numpy as np
import torch

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.queue import EmbeddingQueue
from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss, weighted_mean
from luss_ray.nn.models import PixelAttentionModel, PretrainModel
from luss_ray.nn.resnet import ResNetArchitecture
from luss_ray.optim.larc import Larc

NET = ResNetArchitecture("basic", (1, 1, 1, 1), widths=(4, 8, 16, 32))
HEADS = {"hidden": 12, "num_prototypes": 9, "embedding_dim": 8}
WANDERING = (".0.bias", ".3.bias", ".1.running_mean", ".4.running_mean")  # rounding noise before a batch norm
FROZEN_STEPS = 2


def state(arrays, prefix):
    found = {n.removeprefix(prefix): torch.from_numpy(arrays[n]) for n in arrays.files if n.startswith(prefix)}
    return {n: t.float() if t.is_floating_point() else t for n, t in found.items()}


def check(model, arrays, step):
    own = model.state_dict()
    for name, expected in state(arrays, f"sd{step}/").items():
        heads = ("projection_head.", "projection_head_shallow.", "fbg.atten.")
        if not (name.startswith(heads) and name.endswith(WANDERING)):
            tolerance = 2e-4 * max(float(expected.float().abs().max()), 1e-30)
            assert float((own[name] - expected).float().abs().max()) <= tolerance, (step, name)


def crops(arrays, step, groups):
    return [torch.cat([torch.from_numpy(arrays[f"in/it{step}_crop{crop}"]) / 16 for crop in group]) for group in groups]


def targets_and_push(model, queue, embeddings, scores):
    rows = queue.rows()
    targets = codes(scores[:2], None if rows is None else model.prototypes.scores(rows))
    queue.push(embeddings[:2])
    return targets


def test_pretraining_steps_equal_the_published_ones(golden):
    arrays = np.load(golden / "method" / "train_pretrain.npz")
    model = PretrainModel(NET, **HEADS)
    model.load_state_dict(state(arrays, "sd0/"))
    optimiser = Larc(model.parameters(), 1.0)
    queue = EmbeddingQueue(8, 8)
    for step, rate in enumerate(arrays["lrs"]):
        model.prototypes.normalise_()
        grids = torch.stack([torch.from_numpy(arrays[f"in/it{step}_grid{side}"]) for side in "qk"])
        out = model(crops(arrays, step, [(0, 1), (2, 3)]), grids)
        assert queue.full == arrays["use_queue"][step]
        targets = targets_and_push(model, queue, out.embeddings, out.scores)
        image_loss = swap_loss(out.scores, targets)
        shallow_loss = deep_to_shallow_loss(out.shallow_scores[0], targets)
        pixel_loss = pixel_to_pixel_loss(out.predictions, out.projections)
        found = [loss.item() for loss in (image_loss, shallow_loss, pixel_loss)]
        expected = [arrays["loss/swav"][step], arrays["loss/d2s"][step, 0], arrays["loss/p2p"][step]]
        np.testing.assert_allclose(found, expected, rtol=1e-4)

        optimiser.zero_grad(set_to_none=True)
        (weighted_mean(image_loss, [shallow_loss], [1.0, 1.0]) + pixel_loss).backward()
        if step < FROZEN_STEPS:
            model.prototypes.freeze_gradient()
        optimiser.param_groups[0]["lr"] = float(rate)
        optimiser.step()
        check(model, arrays, step + 1)
    np.testing.assert_allclose(queue.embeddings, arrays["queue_after"], atol=1e-4)


def test_attention_steps_equal_the_published_ones(golden):
    arrays = np.load(golden / "method" / "train_pixelattn.npz")
    model = PixelAttentionModel(NET, **HEADS)
    model.load_state_dict(state(arrays, "sd0/"))
    optimiser = Larc([p for p in model.parameters() if p.requires_grad], 1.0)
    queue = EmbeddingQueue(8, 8)
    for step, rate in enumerate(arrays["lrs"]):
        model.prototypes.normalise_()
        embeddings, scores = model(crops(arrays, step, [(0, 1)]))
        loss = swap_loss(scores, targets_and_push(model, queue, embeddings, scores))
        np.testing.assert_allclose(loss.item(), arrays["loss/swav"][step], rtol=1e-4)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.param_groups[0]["lr"] = float(rate)
        optimiser.step()
        check(model, arrays, step + 1)
    np.testing.assert_allclose(queue.embeddings, arrays["queue_after"], atol=1e-4)
