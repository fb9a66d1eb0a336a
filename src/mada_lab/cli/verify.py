"""`mada-lab verify`."""

from pathlib import Path

from mada_lab.config.arguments import Arguments
from mada_lab.errors import CheckpointError, require_exists


def arguments() -> Arguments:
    """What may be typed after `verify`."""
    does = "Check the files of a run or a checkpoint: which are whole, and which are damaged."
    made = Arguments("verify", does, "mada-lab verify out/run --deep", {"PATH": "Folder of a run or of a checkpoint."})
    made.flag("deep", "Load the tensors too: do they fit the configuration, and are they finite?")
    return made


def run(words: list[str]) -> None:
    """`verify PATH [--deep]`."""
    given = arguments().read(words)
    from mada_lab.training.verify import verify

    path = Path(given.places[0])
    require_exists(path, "verify")
    findings = verify(path, given.deep)
    print("\n".join(str(finding) for finding in findings))
    bad = sum(not finding.good for finding in findings)
    if bad:
        raise CheckpointError(f"verify, in {path}: expected all of it whole, got {bad} damaged; see above")
