"""Swapped prediction over the whole global batch: what pretraining and pixel attention have in common."""

import math

import torch
from torch import Tensor

from luss_ray.config.recipe import Prototypes, Queue
from luss_ray.data.plan import Plan
from luss_ray.losses.queue import EmbeddingQueue
from luss_ray.losses.sinkhorn import codes
from luss_ray.nn.distributed import all_gather_rows
from luss_ray.nn.heads import Prototypes as PrototypeLayer
from luss_ray.train.trainee import World


class CodeBook:
    """Makes the codes of the two global crops, with the queue of earlier embeddings.

    Every rank gathers the embeddings of the whole global batch and balances all of it, so codes don't depend on the
    number of ranks.

    Args:
        settings: what codes are.
        queue: length and start of the queue.
        plan: which samples make a global batch.
        world: this worker.
    """

    def __init__(self, settings: Prototypes, queue: Queue, plan: Plan, world: World) -> None:
        self.settings, self.world, self.sizes = settings, world, plan.sizes(world.size)
        self.first_row = plan.bounds(world.rank, world.size)[0]
        self.queue_start_step = queue.start_epoch * plan.num_rows // plan.global_batch
        self.queue = None
        if queue.length:
            self.queue = EmbeddingQueue(queue.length, settings.embedding_dim, device=world.device)

    @torch.no_grad()
    def codes(self, embeddings: Tensor, prototypes: PrototypeLayer, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the codes (2, n, K) of this rank's global crops, and figures of all; the queue takes the batch in.

        The figures are those of `watched`, and `queue_steps`, how many steps back the queue reaches.

        Args:
            embeddings: (V, n, D) of this rank, the two global crops first.
            prototypes: today's, the same on every rank.
            step: the global step.
        """
        batch = all_gather_rows(embeddings[:2], self.sizes, dim=1)
        queued = self.queue.rows() if self.queue else None
        balanced = codes(
            prototypes.scores(batch),
            None if queued is None else prototypes.scores(queued),
            epsilon=self.settings.epsilon,
            num_iterations=self.settings.sinkhorn_iterations,
        )
        if self.queue and step >= self.queue_start_step:
            self.queue.push(batch)
        figures = watched(balanced, batch)
        if self.queue:
            figures["queue_steps"] = balanced.new_tensor(self.queue.num_rows / batch.shape[1])
        return balanced[:, self.first_row : self.first_row + embeddings.shape[1]], figures

    def state(self) -> dict[str, Tensor]:
        """Return the queue."""
        return self.queue.state_dict() if self.queue else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the queue back."""
        if self.queue and state:
            self.queue.load_state_dict(state)


def watched(codes: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Return figures that betray a collapse.

    Args:
        codes: (2, B, K) of the whole global batch.
        embeddings: (2, B, D) of the same, of length 1.

    Returns:
        `code_entropy`: mean entropy of a code over ln K; 1 = images are not told apart. `prototype_usage`: how many
        prototypes the batch uses (exponential of the mean code's entropy) over how many it could, min(2 B, K).
        `embedding_std`: standard deviation over the batch, mean over dimensions, times sqrt(D): 1 = embeddings are
        spread over the whole sphere, 0 = they are all the same.
    """
    num_codes, num_prototypes = codes.shape[0] * codes.shape[1], codes.shape[2]
    used = _entropy(codes.mean(dim=(0, 1))).exp()
    return {
        "code_entropy": _entropy(codes).mean() / math.log(num_prototypes),
        "prototype_usage": used / min(num_codes, num_prototypes),
        "embedding_std": embeddings.std(dim=1).mean() * math.sqrt(embeddings.shape[-1]),
    }


def of_ln_k(swap: Tensor, num_prototypes: int) -> dict[str, Tensor]:
    """Return `swap_of_ln_k`, the swapped prediction's loss over ln K: 1 = no better than a uniform guess."""
    return {"swap_of_ln_k": swap.detach() / math.log(num_prototypes)}


def _entropy(codes: Tensor) -> Tensor:
    return torch.special.entr(codes.float()).sum(dim=-1)
