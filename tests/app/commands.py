"""The command `mada-lab`, run in this process: a process of its own would import torch anew, for seconds."""

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass

from mada_lab import cli


@dataclass(frozen=True)
class Ended:
    """How a command has ended, under the names of `subprocess`."""

    returncode: int
    stdout: str
    stderr: str


def mada_lab(*arguments, cwd):
    """Runs the command in the folder `cwd`."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def mada_lab_process(*arguments, cwd):
    """The same as a user types it."""
    command = [sys.executable, "-m", "mada_lab", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
