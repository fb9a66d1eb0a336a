"""Continues a run that torchrun has started again, as with `torchrun --max-restarts=3`.

All processes are started again with the same command line. The run folder says which launch of torchrun trains in it:
only a run of this launch is continued. Any other folder in use is refused, as without torchrun.
"""

import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.compute.world import World
from mada_lab.config.keys import FRESH, RunConfig
from mada_lab.records.reading import MANIFEST, METRICS
from mada_lab.system import files
from mada_lab.system.strict_json import dumps, loads

LAUNCH = "launch.json"


def launch() -> str | None:
    """Names this launch of torchrun, which is this process's parent; None if torchrun hasn't started the process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    agent = os.getppid()
    began = ""
    with suppress(OSError, IndexError):  # only Linux has the file; a pid alone may be used again
        began = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {agent} {began}"


def sign(folder: Path) -> None:
    """Writes into the run folder which launch of torchrun trains in it; nothing without torchrun."""
    name = launch()
    if name is not None:
        files.write_atomic(folder / LAUNCH, dumps({"launch": name}) + "\n")


def is_of_this_launch(folder: Path) -> bool:
    """Whether an earlier attempt of this launch has trained in the folder."""
    try:
        return loads((folder / LAUNCH).read_bytes()) == {"launch": launch()}
    except (OSError, ValueError):
        return False


def continued(config: RunConfig, world: World, parent: Path = Path("out")) -> RunConfig:
    """The configuration of an attempt; if it isn't the first, it resumes what earlier ones have saved."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return config
    found: dict[str, Any] = world.broadcast(world.on_first(lambda: _found(config, parent)))
    return replace(config, **found)


def _found(config: RunConfig, parent: Path) -> dict[str, Any]:
    """The keys that this attempt changes: the folder, and where the weights come from."""
    named = [] if config.out_dir is None else [config.folder]
    folders = named or sorted((path.parent for path in parent.glob(f"*/{LAUNCH}")), key=lambda path: path.name)
    ours = [folder for folder in folders if is_of_this_launch(folder)]
    if not ours:
        return {}
    folder = ours[-1]
    if checkpoint_folder.available(folder) or ((folder / MANIFEST).exists() and config.init_from in FRESH):
        return {"out_dir": str(folder), "init_from": "resume"}
    for name in (MANIFEST, METRICS, "checkpoints"):  # nothing is saved: it begins again from the same trained weights
        files.remove(folder / name)
    return {"out_dir": str(folder)}
