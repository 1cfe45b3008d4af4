"""How much may go wrong before a run gives up."""

from dataclasses import dataclass

from luss_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much goes wrong before a run gives up, and how often it saves; no influence on results."""

    max_bad_samples: int
    """Unreadable images that are put aside before the run is refused."""
    max_failures: int = 8
    """Restarts of a training stage's workers in a row without a new checkpoint between them. Nodes that are taken away
    with notice don't count."""
    max_rewinds: int = 3
    """Times that a training stage goes back to its newest checkpoint because of a loss that isn't finite."""
    stall_timeout_s: float = 600.0
    """Seconds without a step after which the workers leave their stacks and are started again."""
    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints."""
    resize_every_s: float = 60.0
    """Seconds between looks whether the cluster has room for more workers; twice those between checkpoints at least."""

    def __post_init__(self) -> None:
        for name in ("max_bad_samples", "max_failures", "max_rewinds", "checkpoint_every_s", "resize_every_s"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} must not be negative")
        if self.stall_timeout_s <= 0:
            raise UserError("--stall-timeout must be above 0")
