"""Results don't depend on the number of processes: two and three gloo processes against one with the joined batch.

All of them compute on the first GPU where there is one. The file is also the program of those processes:
`python test_world_size.py FOLDER`.
"""

import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.queue import EmbeddingQueue
from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss, weighted_mean
from luss_ray.nn.batch_norm import SyncBatchNorm, convert
from luss_ray.nn.distributed import all_gather_rows, all_reduce_sum, world_size
from luss_ray.nn.models import PretrainModel
from luss_ray.nn.resnet import ResNetArchitecture
from luss_ray.optim.larc import Larc

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
GLOBAL_BATCH, NUM_STEPS, WORLDS = 7, 3, (2, 3)
NET = ResNetArchitecture("basic", (1, 1, 1, 1), widths=(4, 6, 8, 8), strides=(1, 2, 2, 1), stem="small")


def split(world):
    """Return uneven sizes, one process with a single sample."""
    return {1: [7], 2: [6, 1], 3: [1, 4, 2]}[world]


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows():
    sizes = split(world_size())
    start = sum(sizes[: rank()])
    return slice(start, start + sizes[rank()])


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def norm_experiment(shape, *, offset=0.0, affine=True, dtype=torch.float32):
    """Return output, input gradient, parameter gradients and running statistics of one batch norm, all rows."""
    values, direction = drawn(*shape, seed=1) + offset, drawn(*shape, seed=2)
    norm = convert(torch.nn.BatchNorm2d(shape[1], affine=affine) if len(shape) == 4 else torch.nn.BatchNorm1d(shape[1]))
    assert isinstance(norm.to(DEVICE), SyncBatchNorm)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(drawn(shape[1], seed=3))
            norm.bias.copy_(drawn(shape[1], seed=4))
    local = values[own_rows()].to(dtype).requires_grad_()
    out = norm(local)
    (out * direction[own_rows()]).sum().backward()
    sizes = split(world_size())
    result = {"out": all_gather_rows(out, sizes), "gradient": all_gather_rows(local.grad, sizes), **norm.state_dict()}
    if affine:
        result |= {"of_weight": all_reduce_sum(norm.weight.grad), "of_bias": all_reduce_sum(norm.bias.grad)}
    return result


def training_experiment():
    """Return losses, codes, queue and weights of some training steps, prototypes frozen in the first."""
    torch.manual_seed(0)
    model = PretrainModel(NET, hidden=12, num_prototypes=9, embedding_dim=8)
    model = convert(model).to(DEVICE)
    assert isinstance(model, PretrainModel)
    parallel = DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model
    optimiser = Larc(model.parameters(), 0.6)
    queue = EmbeddingQueue(10, 8, device=DEVICE)
    sizes, rows = split(world_size()), own_rows()
    n_local = sizes[rank()]
    result = {}
    for step in range(NUM_STEPS):
        large = drawn(2, GLOBAL_BATCH, 3, 32, 32, seed=10 + step)[:, rows].flatten(0, 1)
        little = drawn(3, GLOBAL_BATCH, 3, 16, 16, seed=20 + step)[:, rows].flatten(0, 1)
        grids = drawn(2, GLOBAL_BATCH, 7, 7, 2, seed=30 + step).clamp(-1, 1)[:, rows]
        model.prototypes.normalise_()
        out = parallel([large, little], grids)
        embeddings = all_gather_rows(out.embeddings[:2], sizes, dim=1)
        queued = queue.rows()
        scores = model.prototypes.scores(embeddings)
        global_codes = codes(scores, None if queued is None else model.prototypes.scores(queued))
        queue.push(embeddings)
        targets = global_codes[:, rows]
        loss = weighted_mean(
            swap_loss(out.scores, targets), [deep_to_shallow_loss(out.shallow_scores[0], targets)], [1.0, 1.0]
        ) + pixel_to_pixel_loss(out.predictions, out.projections)
        optimiser.zero_grad(set_to_none=True)
        (loss * n_local * world_size() / GLOBAL_BATCH).backward()
        if step == 0:
            model.prototypes.freeze_gradient()
        if step == NUM_STEPS - 1:
            result |= {f"gradient/{name}": p.grad.clone() for name, p in model.named_parameters()}
        optimiser.step()
        result[f"loss{step}"] = all_reduce_sum(loss.detach() * n_local / GLOBAL_BATCH)
        result[f"codes{step}"] = global_codes
    assert queue.full
    return (
        result | {"queue": queue.embeddings, "scores": all_gather_rows(out.scores, sizes, dim=1)} | model.state_dict()
    )


def reduce_experiment():
    """Return sum and gradient of the sum of all processes' losses; one row more on each process's rank."""
    mine = torch.full((2,), float(rank() + 1), device=DEVICE, requires_grad=True)
    (all_reduce_sum(mine) * (rank() + 1)).sum().backward()
    return {"gradient": mine.grad, "sum": all_reduce_sum(mine.detach())}


def everything():
    torch.backends.cudnn.allow_tf32, as_it_was = False, torch.backends.cudnn.allow_tf32
    try:
        return experiments()
    finally:
        torch.backends.cudnn.allow_tf32 = as_it_was


def experiments():
    return {
        "norm2d": norm_experiment((GLOBAL_BATCH, 5, 3, 4)),
        "norm2d_far": norm_experiment((GLOBAL_BATCH, 5, 3, 4), offset=300.0, affine=False),
        "norm2d_half": norm_experiment((GLOBAL_BATCH, 5, 3, 4), dtype=torch.bfloat16),
        "norm1d": norm_experiment((GLOBAL_BATCH, 5)),
        "training": training_experiment(),
        "reduce": reduce_experiment(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return where the processes of all worlds, run once, left their results."""
    folder = tmp_path_factory.mktemp("worlds")
    subprocess.run(
        [sys.executable, __file__, str(folder)], check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return folder


@pytest.fixture(scope="module", params=WORLDS)
def results(request, folder):
    return [torch.load(folder / f"{request.param}-{own_rank}.pt") for own_rank in range(request.param)]


@pytest.fixture(scope="module")
def alone():
    return everything()


@pytest.mark.parametrize("name", ["norm2d", "norm2d_far", "norm1d"])
def test_batch_norm_equals_that_of_the_joined_batch(results, alone, name):
    for result in results:
        for key, expected in alone[name].items():
            torch.testing.assert_close(result[name][key], expected, rtol=1e-4, atol=1e-4, msg=key)


def test_batch_norm_takes_half_precision(results, alone):
    for result in results:
        for key, expected in alone["norm2d_half"].items():
            assert result["norm2d_half"][key].dtype == expected.dtype
            torch.testing.assert_close(result["norm2d_half"][key], expected, rtol=3e-2, atol=3e-2, msg=key)


def test_training_steps_equal_those_of_the_joined_batch(results, alone):
    for result in results:
        for key, expected in alone["training"].items():
            if "projection_head" in key and key.endswith((".0.bias", ".3.bias", ".1.running_mean", ".4.running_mean")):
                continue  # biases before a batch norm: gradients are rounding noise, which LARC scales up
            scale = max(float(expected.abs().max()), 1e-6)
            difference = float((result["training"][key] - expected).abs().max()) / scale
            assert difference < 2e-3, (key, difference)


def test_first_step_agrees_to_rounding(results, alone):
    for key in ("loss0", "codes0"):
        for result in results:
            torch.testing.assert_close(result["training"][key], alone["training"][key], rtol=1e-4, atol=1e-6)


def test_all_processes_hold_the_same_bits(results):
    for result in results[1:]:
        for key, expected in results[0]["training"].items():
            assert torch.equal(result["training"][key], expected), key


def test_all_reduce_differentiates_the_sum_of_all_losses(results):
    ranks = range(1, len(results) + 1)
    for result in results:
        assert result["reduce"]["sum"].tolist() == [sum(ranks)] * 2
        assert result["reduce"]["gradient"].tolist() == [sum(ranks)] * 2


def test_without_a_group_everything_is_local():
    values = torch.randn(3, 2, requires_grad=True)
    assert world_size() == 1
    assert all_reduce_sum(values) is values
    gathered = all_gather_rows(values, [3])
    assert torch.equal(gathered, values) and not gathered.requires_grad


def work(own_rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'store{world}'}",
        rank=own_rank,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    torch.save(everything(), folder / f"{world}-{own_rank}.pt")
    dist.destroy_process_group()


def main(folder):
    """Start all processes of all worlds; on a CPU forked from this one, which has imported torch but not used it."""
    context = multiprocessing.get_context("spawn" if DEVICE != "cpu" else "fork")
    processes = [context.Process(target=work, args=(r, w, folder), daemon=True) for w in WORLDS for r in range(w)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in processes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
