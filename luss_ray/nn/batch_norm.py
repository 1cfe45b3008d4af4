"""Batch norm over the samples of all processes, on any device and backend.

torch's own needs a GPU, where it has kernels for it. Every statistic is weighted by its number of values, so uneven
splits are exact: results equal those of one process with the joined batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.nn.distributed import all_reduce_sum, world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose training statistics are those of all processes' values; state and names of torch's.

    With one process, and in `eval()`, it is torch's plain one. On GPUs it runs torch's own SyncBatchNorm, without being
    one, since that refuses CPUs. Gradients are those of the sum of all processes' losses with respect to
    the local input, and of the local loss with respect to weight and bias, which the averaging of gradients over
    processes expects.
    """

    process_group = None
    """All processes; read by torch's."""
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2, "batch norm takes (B, C, …)"

    def forward(self, input: Float[Tensor, "B C *pixels"]) -> Float[Tensor, "B C *pixels"]:
        """Return the normalised input."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        if input.is_cuda:
            return nn.SyncBatchNorm.forward(self, input)  # pyright: ignore[reportArgumentType]
        mean, variance, count = _statistics(input.detach())
        self._track(mean, variance, count)
        return _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        assert self.momentum is not None, "cumulative averages aren't supported"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class SyncBatchNormAct(SyncBatchNorm):
    """A batch norm of timm's that has a dropout and an activation of its own, which share its place and state."""

    def forward(self, input: Float[Tensor, "B C *pixels"]) -> Float[Tensor, "B C *pixels"]:
        """Return the input normalised, then dropped out and activated."""
        return self.get_submodule("act")(self.get_submodule("drop")(super().forward(input)))


def convert(module: nn.Module) -> nn.Module:
    """Return the module with every batch norm replaced by `SyncBatchNorm`, sharing its parameters and buffers.

    Args:
        module: changed in place unless it is a batch norm itself.
    """
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        kind = SyncBatchNormAct if hasattr(module, "act") else SyncBatchNorm
        synchronised = kind(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        synchronised._parameters = module._parameters
        synchronised._buffers = module._buffers
        synchronised._modules = module._modules
        return synchronised.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert(child))
    return module


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance per channel, and number of values per channel, over all processes."""
    dims = [dim for dim in range(values.dim()) if dim != 1]
    values = values.float()
    count = values.new_tensor([values.numel() // values.shape[1]])
    # Sums of squares around the common mean: no cancellation, at the price of a second, tiny exchange.
    totals = all_reduce_sum(torch.cat([values.sum(dims), count]))
    mean, count = totals[:-1] / totals[-1], totals[-1]
    squares = (values - _per_channel(mean, values)).square_().sum(dims)
    return mean, all_reduce_sum(squares) / count, count


def _per_channel(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (like.dim() - 2))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (autograd functions take no keywords)
        ctx: torch.autograd.function.FunctionCtx,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        inverse_std = (variance + eps).rsqrt()
        ctx.save_for_backward(values, weight, mean, inverse_std, count)  # pyright: ignore[reportArgumentType]
        return F.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse_std, count = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        gradient, dims = gradients[0].float(), [dim for dim in range(values.dim()) if dim != 1]
        normalised = (values.float() - _per_channel(mean, values)) * _per_channel(inverse_std, values)
        local = torch.stack([gradient.sum(dims), (gradient * normalised).sum(dims)])
        of_bias, of_weight = all_reduce_sum(local) / count
        scale = inverse_std if weight is None else inverse_std * weight
        centred = gradient - _per_channel(of_bias, values) - normalised * _per_channel(of_weight, values)
        of_values = (centred * _per_channel(scale, values)).to(values.dtype)
        return of_values, *((None, None) if weight is None else (local[1], local[0])), None, None, None, None
