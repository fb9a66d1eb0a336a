"""Compiles the C++ kernels once per machine, with the compiler that is there, into the user's cache.

The file is named by the digest of all that decides its content: source, flags, compiler, processor. It links to no
OpenMP runtime of its own where the one that torch has loaded can be used, and with it torch's threads.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("loops.cpp")
# No contraction: a product and a sum round the same way in every loop, so that learning with a hyper_lr of 0 and
# learning nothing give the same bits.
FLAGS = (
    *"-std=c++17 -O3 -march=native -fopenmp -fPIC".split(),
    *"-ffp-contract=off -fno-math-errno -fno-trapping-math".split(),
)
# A loop over eight streams asks for what it reads next: a processor by itself looks ahead in few of them. The numbers
# say how far, and that it pays where a prefetch comes with eight instructions or more (docs/performance.md).
GCC_FLAGS = (
    "-fprefetch-loop-arrays",
    *"--param=prefetch-latency=600 --param=min-insn-to-prefetch-ratio=8".split(),
)
COMPILERS = ("c++", "g++", "clang++")


class BuildError(Exception):
    """There is no compiler, or it failed; the message says which and how."""


@functools.cache
def warn(reason: str) -> None:
    """Says once why a slow engine runs."""
    warnings.warn(f"mada_optim runs without its compiled loops, several times slower: {reason}", stacklevel=4)


def load(header: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The compiled loops around `header`, what `emit` wrote for a rule, with macros defined; built if need be.

    Raises:
        BuildError: They can't be built or loaded; tried once per process.
    """
    result = attempt(header, defines)
    if isinstance(result, BuildError):
        raise result
    return result


@functools.cache
def attempt(header: str, defines: tuple[str, ...]) -> ctypes.CDLL | BuildError:
    """The loops, or why there are none."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)
    if compiler is None:
        return BuildError(f"no C++ compiler found ({', '.join(COMPILERS)}, or $CXX)")
    try:
        return load_linked(compiler, header, defines, ())
    except OSError:  # torch keeps its OpenMP runtime to itself: take the compiler's own
        pass
    except (BuildError, subprocess.SubprocessError) as error:
        return BuildError(describe(compiler, error))
    try:
        return load_linked(compiler, header, defines, ("-fopenmp",))
    except (OSError, BuildError, subprocess.SubprocessError) as error:
        return BuildError(describe(compiler, error))


def load_linked(compiler: str, header: str, defines: tuple[str, ...], link_flags: tuple[str, ...]) -> ctypes.CDLL:
    """The loops linked with `link_flags`, from the cache or compiled into it."""
    version = version_of(compiler)
    flags = (*flags_for(version), *(f"-D{name}" for name in defines))
    path = cache_folder() / f"loops-{digest(header, version, (compiler, *flags, *link_flags))}.so"
    if not path.exists():
        compile_to(path, header, [compiler, *flags], link_flags)
    return ctypes.CDLL(str(path))


def describe(compiler: str, error: Exception) -> str:
    """The error in one line; of a failed compilation, the compiler's own last one."""
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return f"{compiler}: {lines[-1] if lines else type(error).__name__}"


def cache_folder() -> Path:
    """A folder of this user alone, since what lies there is loaded as code.

    Raises:
        BuildError: It belongs to somebody else, or the system can't tell.
    """
    if not hasattr(os, "getuid"):
        raise BuildError("only POSIX systems tell whose a folder is")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "mada_optim"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise BuildError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def version_of(compiler: str) -> str:
    """What it says of itself."""
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def flags_for(version: str) -> tuple[str, ...]:
    """The flags of a compiler that says this of itself; GCC names the Free Software Foundation."""
    return (*FLAGS, *GCC_FLAGS) if "Free Software Foundation" in version else FLAGS


def digest(header: str, version: str, command: Sequence[str]) -> str:
    """Hexadecimal name of the build."""
    parts = (SOURCE.read_text(), header, " ".join(command), version, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def compile_to(path: Path, header: str, compiler: list[str], link_flags: Sequence[str]) -> None:
    """Builds beside `path` and renames into place, so that processes that start together don't see a torn file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "rule.h").write_text(header)
        unlinked, linked = os.path.join(folder, "loops.o"), os.path.join(folder, "loops.so")
        for command in (
            [*compiler, "-I", folder, "-c", str(SOURCE), "-o", unlinked],
            [compiler[0], "-shared", *link_flags, unlinked, "-o", linked],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        os.replace(linked, path)
