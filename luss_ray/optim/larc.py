"""Layer-wise adaptive rates for large batches."""

# torch's own optimisers are built on these `_foreach` functions.
# pyright: reportPrivateImportUsage=false

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Larc(Optimizer):
    """SGD with momentum whose gradients are scaled per tensor to a share of the weights' norm.

    g' = trust * |p| / (|g| + decay * |p| + 1e-8) * (g + decay * p); if |p| or |g| is 0, g' = g without decay. Then
    m = momentum * m + g' and p = p - lr * m. A parameter without gradient keeps value and momentum. The state dict is
    that of any torch optimiser.

    Args:
        params: parameters or groups of them.
        lr: learning rate; set `param_groups[i]["lr"]` before each step.
        momentum: of the scaled gradients.
        weight_decay: L2 penalty, added before the scaling.
        trust_coefficient: size of a step relative to the weights' norm at lr 1.

    Source: You et al., arXiv 1708.03888, without clipping and with the decay inside, as the published runs use it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient.

        Args:
            closure: computes loss and gradients anew, as for any torch optimiser; its loss is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            momenta = [self._momentum(p) for p in parameters]
            updates = _scaled(
                [p.grad for p in parameters], parameters, group["weight_decay"], group["trust_coefficient"]
            )
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(parameters, momenta, alpha=-group["lr"])
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _scaled(gradients: list[Tensor], parameters: list[Tensor], decay: float, trust: float) -> list[Tensor]:
    """Return the scaled gradients; norms stay on the device, so nothing waits for it."""
    of_parameters = torch.stack(torch._foreach_norm(parameters))
    of_gradients = torch.stack(torch._foreach_norm(gradients))
    rates = trust * of_parameters / (of_gradients + decay * of_parameters + 1e-8)
    rates = torch.where(of_parameters > 0, rates, 1.0).where(of_gradients > 0, 0.0)
    updates = list(torch._foreach_mul(parameters, decay))
    torch._foreach_add_(updates, gradients)
    torch._foreach_mul_(updates, filled(rates, updates) if rates.is_cuda else list(rates.unbind()))
    return updates


def filled(values: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Return tensors of the same sizes and memory orders as others, the i-th filled with the i-th value.

    On a GPU a product of lists of these takes a few kernels; one with a list of scalars, a kernel for each.

    Args:
        values: as many as there are tensors.
        like: dense tensors on the same device.
    """
    sizes = tuple(tensor.numel() for tensor in like)
    parts = values.index_select(0, _places(sizes, values.device)).split(sizes)
    return [part.as_strided(tensor.shape, tensor.stride()) for part, tensor in zip(parts, like, strict=True)]


@functools.lru_cache(maxsize=1)
def _places(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return each number below `len(sizes)` as often as its size says."""
    return torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes)).to(device)
