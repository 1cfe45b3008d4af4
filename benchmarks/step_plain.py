"""The pretraining step as one writes it down first: what `step.py` compares with.

The same network and the same mathematics; colours by torchvision's transforms image by image, a Sinkhorn that
exponentiates and iterates, losses term by term with their values fetched for the log, and LARC as a loop over
parameters around torch's SGD. Memory is in PyTorch's usual order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from luss_ray.config.recipe import Recipe
from luss_ray.data.colour import ColourSpec
from luss_ray.nn.models import PretrainModel


def transforms(spec: ColourSpec) -> v2.Compose:
    """Return the augmentation of one crop, on whatever device it is."""
    jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    parts = [
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([jitter], p=spec.jitter_p),
        v2.RandomGrayscale(spec.grey_p),
    ]
    if spec.blur_p:
        parts.append(v2.RandomApply([v2.GaussianBlur(13, spec.blur_sigma_px)], p=spec.blur_p))
    return v2.Compose([*parts, v2.Normalize(spec.mean, spec.std)])


def sinkhorn(scores: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Return codes, as SwAV's pseudo-code has it."""
    q = torch.exp(scores / epsilon).t()
    q /= q.sum()
    num_prototypes, num_samples = q.shape
    for _ in range(num_iterations):
        q /= q.sum(dim=1, keepdim=True)
        q /= num_prototypes
        q /= q.sum(dim=0, keepdim=True)
        q /= num_samples
    return (q * num_samples).t()


class PlainStep:
    """Everything that one step needs, and the state that it leaves.

    Args:
        recipe: the same as the product's.
        model: its network, of the same start.
        device: where it runs.
        mixed: autocast to bfloat16.
        queue_length: rows of each crop's queue, which is full from the start.
        coloured: crops come coloured and normalised, on the device: no augmentation is done here.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: PretrainModel,
        device: torch.device,
        *,
        mixed: bool,
        queue_length: int,
        coloured: bool = False,
    ) -> None:
        self.recipe, self.device, self.mixed, self.coloured = recipe, device, mixed, coloured
        self.model = model.to(device).train()
        self.augment = transforms(recipe.pretrain.crops.colour)
        schedule = recipe.pretrain.optimisation
        self.weight_decay = schedule.weight_decay
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), schedule.lr, momentum=schedule.momentum, foreach=False
        )
        dim = recipe.prototypes.embedding_dim
        self.queue = F.normalize(torch.randn(2, queue_length, dim, device=device), dim=2) if queue_length else None

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take a step; return the values of the losses."""
        with torch.no_grad():
            self.model.prototypes.weight.copy_(F.normalize(self.model.prototypes.weight, dim=1))
        crops = [self._augmented(batch[name].to(self.device)) for name in sorted(batch) if name.startswith("crops_")]
        grids = batch["grids"].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            output = self.model(crops, grids)
            loss, values = self._losses(output)
        self.optimiser.zero_grad()
        loss.backward()
        self._larc()
        self.optimiser.step()
        return values

    def _augmented(self, crops: Tensor) -> Tensor:
        if self.coloured:
            return crops
        crop_major = crops.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2)
        return torch.stack([self.augment(crop) for crop in crop_major])

    def _losses(self, output) -> tuple[Tensor, dict[str, float]]:
        settings, values = self.recipe.prototypes, {}
        embeddings, scores = output.embeddings, output.scores
        image, shallow = (
            torch.zeros((), device=self.device),
            [torch.zeros((), device=self.device) for _ in output.shallow_scores],
        )
        for crop in range(2):
            with torch.no_grad():
                rows = scores[crop].detach().float()
                if self.queue is not None:
                    queued = self.model.prototypes(self.queue[crop]).float()
                    rows = torch.cat([queued, rows])
                    self.queue[crop] = torch.cat([embeddings[crop].detach().float(), self.queue[crop]])[
                        : len(self.queue[crop])
                    ]
                code = sinkhorn(rows, settings.epsilon, settings.sinkhorn_iterations)[-scores.shape[1] :]
            others = [view for view in range(len(scores)) if view != crop]
            terms = [
                -(code * F.log_softmax(scores[view] / settings.temperature, dim=1)).sum(dim=1).mean() for view in others
            ]
            image = image + sum(terms) / len(others) / 2
            for stage, found in enumerate(output.shallow_scores):
                prediction = F.log_softmax(found[1 - crop] / settings.temperature, dim=1)
                shallow[stage] = shallow[stage] - (code * prediction).sum(dim=1).mean() / 2
        total = (image + sum(shallow)) / (1 + len(shallow))
        values = {"i2i": image.item()} | {f"d2s_{number}": term.item() for number, term in enumerate(shallow)}
        if output.predictions is not None and self.recipe.pretrain.pixel_to_pixel:
            one = F.cosine_similarity(output.predictions[0], output.projections[1].detach(), dim=1).mean()
            other = F.cosine_similarity(output.predictions[1], output.projections[0].detach(), dim=1).mean()
            pixels = -(one + other) / 2
            total = total + self.recipe.pretrain.pixel_to_pixel * pixels
            values["p2p"] = pixels.item()
        return total, values | {"loss": total.item()}

    def _larc(self) -> None:
        """Scale the gradients, parameter by parameter."""
        for parameter in self.model.parameters():
            if parameter.grad is None:
                continue
            of_parameter, of_gradient = parameter.detach().norm(), parameter.grad.norm()
            if of_parameter != 0 and of_gradient != 0:
                rate = 0.001 * of_parameter / (of_gradient + of_parameter * self.weight_decay + 1e-8)
                parameter.grad.add_(parameter.detach(), alpha=self.weight_decay).mul_(rate)
