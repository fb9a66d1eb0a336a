"""What a part of the drill found."""

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Cases, and those that went wrong.

    Attributes:
        promise: What each case must keep.
        cases: How many there were.
        failures: One line for each that broke the promise.
        figures: What was measured beside it, by name.
    """

    promise: str
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def case(self, name, problem):
        """Counts a case; `problem` says what is wrong with it, and is empty if nothing is."""
        self.cases += 1
        if problem:
            self.failures.append(f"{name}: {problem}")

    def row(self, name):
        """A row of the table in docs/lab/reliability.md."""
        good = self.cases - len(self.failures)
        figures = "; ".join(f"{key} {x}" for key, x in self.figures.items())
        return f"| {name} | {self.promise} | {good} of {self.cases} | {figures or '-'} |"
