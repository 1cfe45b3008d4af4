"""Watches whether a network still learns, or whether all images have come to look the same to it."""

from collections import deque
from collections.abc import Mapping

ALARM = "alarm/"
"""How the names of alarms begin among the figures of a step."""
LOSS_AT_LN_K, UNIFORM_CODES, FEW_PROTOTYPES = "loss at ln K", "uniform codes", "few prototypes used"
_NEAR = 0.01
_FEWEST = 0.05
_WINDOW_SHARE, _SHORTEST_WINDOW = 0.05, 20
_MEANINGS = {
    LOSS_AT_LN_K: "the swapped prediction stays that of a uniform guess",
    UNIFORM_CODES: "images are no longer told apart",
    FEW_PROTOTYPES: "nearly all images have the same few prototypes",
}


class CollapseWatch:
    """Looks at the figures of the last steps (a twentieth of the stage, at least 20) and names what is wrong.

    It says nothing before there are so many, since many a training starts at a loss near ln K. A loss well above it is
    no collapse: predictions are sure, and wrong.

    Args:
        num_steps: steps of the whole stage.
    """

    def __init__(self, num_steps: int) -> None:
        self.window: deque[Mapping[str, float]] = deque(maxlen=max(_SHORTEST_WINDOW, int(_WINDOW_SHARE * num_steps)))

    def update(self, values: Mapping[str, float]) -> list[str]:
        """Take the figures of one step and return the alarms that now hold.

        Args:
            values: `swap_of_ln_k`, `code_entropy` and `prototype_usage` as `train.swapped.watched` gives them; a stage
                without them is never alarmed.
        """
        if "swap_of_ln_k" not in values:
            return []
        self.window.append(values)
        if len(self.window) < (self.window.maxlen or 0):
            return []

        def mean(name: str) -> float:
            return sum(row[name] for row in self.window) / len(self.window)

        holds = {
            LOSS_AT_LN_K: all(abs(row["swap_of_ln_k"] - 1) <= _NEAR for row in self.window),
            UNIFORM_CODES: mean("code_entropy") >= 1 - _NEAR,
            FEW_PROTOTYPES: mean("prototype_usage") <= _FEWEST,
        }
        return [alarm for alarm, is_so in holds.items() if is_so]


def meaning(alarm: str) -> str:
    """Return what an alarm says of the training, in half a sentence."""
    return _MEANINGS[alarm]
