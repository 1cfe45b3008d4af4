"""Learning rate of a step."""

import math


def cosine_rate(
    step: int, *, num_steps: int, base: float, final: float = 0.0, num_warmup_steps: int = 0, start: float = 0.0
) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine from `base` towards `final`.

    Args:
        step: 0 is the first.
        num_steps: of the whole run, warm-up included.
        base: rate at the end of the warm-up.
        final: rate that the step after the last would have.
        num_warmup_steps: the last of them has `base` already.
        start: rate of step 0 where there is a warm-up.
    """
    if step < num_warmup_steps:
        return start + (base - start) * step / max(1, num_warmup_steps - 1)
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))
