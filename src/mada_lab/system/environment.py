"""The environment of a run: versions, commit, peak memory."""

import hashlib
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import mada_lab
import mada_optim


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "mada_optim": mada_optim.__version__,
    }


def commit() -> str | None:
    """The commit of this code's checkout, marked if files differ from it; None outside of a checkout."""
    here = Path(mada_lab.__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(here, "status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def source_digest() -> str:
    """SHA-256 of this code's files, to compare two installations."""
    total = hashlib.sha256()
    for package in (Path(mada_lab.__file__).parent, Path(mada_optim.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            total.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True)
    return run.stdout.strip()


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory so far: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
