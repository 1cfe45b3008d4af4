"""What is odd in somebody's input without stopping the work: counted by kind, with one example each."""

from dataclasses import dataclass, field
from typing import Self


@dataclass
class Findings:
    """Oddities by kind; `+` merges workers' findings."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Number of times and the first example (a file), by what is odd."""

    def add(self, kind: str, example: str, times: int = 1) -> None:
        """Count an oddity.

        Args:
            kind: what is odd and what becomes of it, in the plural: "predictions are missing; scored as other".
            example: where, for instance a file.
            times: how often.
        """
        before, first = self.found.get(kind, (0, example))
        self.found[kind] = (before + times, first)

    def __add__(self, other: Self) -> "Findings":
        total = Findings(dict(self.found))
        for kind, (times, example) in other.found.items():
            total.add(kind, example, times)
        return total

    def lines(self) -> list[str]:
        """Return a sentence for each kind."""
        return [f"{times} {kind} (e.g. {example})" for kind, (times, example) in self.found.items()]
