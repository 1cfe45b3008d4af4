"""Codes, losses and queue against the published code's numbers."""

import json

import numpy as np
import pytest
import torch

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.queue import EmbeddingQueue
from luss_ray.losses.sinkhorn import codes, sinkhorn
from luss_ray.losses.swav import swap_loss


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_sinkhorn_equals_the_published_one(golden):
    arrays = np.load(golden / "method" / "sinkhorn.npz")
    cases = [name.removesuffix("_out") for name in arrays.files if name.endswith("_out")]
    assert cases
    for case in cases:
        iterations, epsilon = case.split("_")[1:3]
        found = sinkhorn(
            torch.from_numpy(arrays[f"{case}_out"]),
            epsilon=float(epsilon.removeprefix("eps")),
            num_iterations=int(iterations.removeprefix("it")),
        )
        close(found, arrays[f"{case}_q"])


@pytest.mark.parametrize("case", ["two_crops", "multi", "multi_s32", "queue", "queue_long"])
def test_losses_with_queue_equal_the_published_ones(golden, case):
    arrays = np.load(golden / "method" / "losses.npz")
    settings = json.loads((golden / "method" / "losses.json").read_text())[case]
    n, num_crops, shallow = settings["bs"], sum(settings["nmb_crops"]), settings["shallow"] or []
    queue = EmbeddingQueue(settings["queue_length"], settings["dim"]) if settings["queue_length"] else None
    for step in range(settings["steps"]):
        saved = {
            name.removeprefix(f"{case}_s{step}_"): arrays[name]
            for name in arrays.files
            if name.startswith(f"{case}_s{step}_")
        }
        output = torch.from_numpy(saved["output"]).requires_grad_()
        scores = output[: num_crops * n].unflatten(0, (num_crops, n))
        embeddings = torch.from_numpy(saved["embedding"])[: 2 * n].unflatten(0, (2, n))
        queued = None if queue is None else queue.rows()
        assert (queued is not None) == bool(saved.get("used_queue", False))
        queue_scores = None if queued is None else queued @ torch.from_numpy(saved["prototypes"]).T
        targets = codes(scores[:2], queue_scores)
        close(targets, saved["labels"])
        if queue is not None:
            queue.push(embeddings)
            close(queue.embeddings, saved["queue_after"])
        loss = swap_loss(scores, targets)
        close(loss, saved["swav"])
        for index in range(len(shallow)):
            start = (num_crops + 2 * index) * n
            shallow_loss = deep_to_shallow_loss(output[start : start + 2 * n].unflatten(0, (2, n)), targets)
            close(shallow_loss, saved["d2s"][index])
            loss = loss + shallow_loss
        loss.backward()
        close(output.grad, saved["grad_output_of_swav_plus_sum_d2s"])


@pytest.mark.parametrize("case", ["p2p0", "p2p1"])
def test_pixel_to_pixel_equals_the_published_one(golden, case):
    arrays = np.load(golden / "method" / "losses.npz")
    predictions = torch.from_numpy(arrays[f"{case}_output_pixel"]).requires_grad_()
    projections = torch.from_numpy(arrays[f"{case}_embedding_pixel"])
    loss = pixel_to_pixel_loss(predictions.unflatten(0, (2, -1)), projections.unflatten(0, (2, -1)))
    close(loss, arrays[f"{case}_loss"])
    loss.backward()
    close(predictions.grad, arrays[f"{case}_grad_output_pixel"])
