"""Embeddings of past batches, which make the balance of codes over prototypes less noisy."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from luss_ray.core.errors import UserError


class EmbeddingQueue:
    """The newest embeddings of each assigning crop, newest batch first; the same on every process.

    It holds rows of the global batch, so its content and its state don't depend on the number of processes. The
    published code keeps one share per process, rounds the length down to whole global batches and looks whether the
    last row is zero to see if it is full; here the rows are counted, the length is free and the order of use is
    theirs: assign with the old rows first (`rows`), then `push` the batch.

    Args:
        length: rows per crop.
        embedding_dim: D.
        num_crops: assigning crops.
        device: where it lives.
    """

    def __init__(
        self, length: int, embedding_dim: int, *, num_crops: int = 2, device: torch.device | str = "cpu"
    ) -> None:
        assert length > 0, "no queue at all is None"
        self.embeddings = torch.zeros(num_crops, length, embedding_dim, device=device)
        self.num_rows = 0

    @property
    def full(self) -> bool:
        """Return whether every row holds an embedding, from which on codes take the queue into account."""
        return self.num_rows == self.embeddings.shape[1]

    def rows(self) -> Float[Tensor, "A L D"] | None:
        """Return the queued embeddings to score, or None as long as the queue isn't full."""
        return self.embeddings if self.full else None

    @torch.no_grad()
    def push(self, embeddings: Float[Tensor, "A B D"]) -> None:
        """Put the global batch in front; the oldest rows fall out.

        Args:
            embeddings: of the assigning crops, in the order of the global batch.
        """
        length = self.embeddings.shape[1]
        self.embeddings = torch.cat([embeddings.detach().to(self.embeddings), self.embeddings], dim=1)[:, :length]
        self.num_rows = min(length, self.num_rows + embeddings.shape[1])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as plain contiguous tensors: embeddings (A, L, D) and num_rows (int64 scalar)."""
        return {"embeddings": self.embeddings.contiguous().clone(), "num_rows": torch.tensor(self.num_rows)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state.

        Raises:
            UserError: it is of a queue of another size; go on with the settings the run was started with.
        """
        stored, own = tuple(state["embeddings"].shape), tuple(self.embeddings.shape)
        if stored != own:
            raise UserError(f"the checkpoint's queue is {stored}, the settings ask for {own}: keep the run's settings")
        self.embeddings = state["embeddings"].to(self.embeddings, copy=True)
        self.num_rows = int(state["num_rows"])
