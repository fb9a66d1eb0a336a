"""`mada-lab verify`."""

from pathlib import Path

from mada_lab.cli.words import split
from mada_lab.errors import CheckpointError, ConfigError

USAGE = """\
verify PATH [--deep]
    what in a run folder, or a checkpoint, is whole, and what is damaged
"""


def run(words: list[str]) -> None:
    """`verify PATH [--deep]`."""
    deep = "--deep" in words
    names, _ = split([word for word in words if word != "--deep"], set())
    if len(names) != 1:
        raise ConfigError(f"verify: expected the folder of a run or a checkpoint, got {len(names)}; name one")
    from mada_lab.training.verify import verify as findings_in

    findings = findings_in(Path(names[0]), deep)
    print("\n".join(str(finding) for finding in findings))
    bad = sum(not finding.good for finding in findings)
    if bad:
        raise CheckpointError(f"verify, in {names[0]}: expected all of it whole, got {bad} damaged; see above")
