"""Compiles the C++ code once per machine, with the installed compiler, into the user's cache.

A file is named by the digest of its source, flags, compiler and processor. Threads are those of torch's OpenMP runtime
if it is of GCC's kind, else those of the compiler's runtime, else started for each loop, which takes a millisecond or
more (docs/results/performance.md). Without an installed compiler, the package ziglang is used.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

SOURCE = Path(__file__).with_name("loops.cpp")
INCLUDED = (SOURCE.with_name("threads.h"), SOURCE.with_name("weights.h"))  # by loops.cpp
# No contraction: a product and a sum round the same way in every loop, so that learning with a hyper_lr of 0 and
# learning nothing give the same bits.
FLAGS = (
    *"-std=c++17 -O3 -march=native -fPIC -fno-exceptions".split(),
    *"-ffp-contract=off -fno-math-errno -fno-trapping-math".split(),
)
# Prefetches: processors look ahead in few of a loop's eight streams. The numbers are the distance, and the least number
# of instructions per prefetch (docs/results/performance.md).
GCC_FLAGS = ("-fprefetch-loop-arrays", *"--param=prefetch-latency=600 --param=min-insn-to-prefetch-ratio=8".split())
COMPILERS = ("c++", "g++", "clang++")
PACKAGE = "ziglang"
#: Ways to get threads, the best first: flags for compiling, and for linking.
Way = tuple[tuple[str, ...], tuple[str, ...]]
WAYS: tuple[Way, ...] = (
    (("-fopenmp",), ()),
    (("-fopenmp-simd", "-DTORCH_THREADS"), ()),
    (("-fopenmp",), ("-fopenmp",)),
    (("-fopenmp-simd",), ("-pthread",)),
)
#: The package's compiler lacks OpenMP, and would first build a C++ library; Python has loaded all that the loops call.
PACKAGE_WAYS: tuple[Way, ...] = (
    (("-fopenmp-simd", "-DTORCH_THREADS"), ("-nostdlib",)),
    (("-fopenmp-simd",), ("-nostdlib",)),
)


class BuildError(Exception):
    """There is no compiler, or it failed; the message says which and how."""


@functools.cache
def warn(reason: str) -> None:
    """Warns once that a slow engine runs, and why."""
    warnings.warn(f"mada_optim runs without its compiled loops, several times slower: {reason}", stacklevel=4)


def load(header: str, defines: tuple[str, ...] = (), source: Path = SOURCE) -> ctypes.CDLL:
    """The compiled loops around `header`, the code of a rule. Raises BuildError; tried once per process.

    `source` may be another file, which may include the header.
    """
    result = attempt(header, defines, source)
    if isinstance(result, BuildError):
        raise result
    return result


@functools.cache
def attempt(header: str, defines: tuple[str, ...], source: Path) -> ctypes.CDLL | BuildError:
    command = find()
    if command is None:
        reason = f"no C++ compiler found ({', '.join(COMPILERS)}, or $CXX); `pip install {PACKAGE}` brings one"
        return BuildError(reason)
    try:
        return load_best(command, source, header, defines)
    except BuildError as error:
        return error
    except (OSError, subprocess.SubprocessError) as error:
        return BuildError(describe(command, error))


def find() -> tuple[str, ...] | None:
    """The command of $CXX, of an installed compiler, or of the package ziglang; None if there is none."""
    program = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)
    if program is not None:
        return (program,)
    packaged = importlib.util.find_spec(PACKAGE) is not None
    return (sys.executable, "-m", PACKAGE, "c++") if packaged else None


def load_best(command: Sequence[str], source: Path, header: str, defines: Sequence[str]) -> ctypes.CDLL:
    """The loops, with threads in the first way that works."""
    version = version_of(command)
    *others, last = PACKAGE_WAYS if PACKAGE in command else WAYS
    for way in others:
        with suppress(OSError, subprocess.SubprocessError):
            return load_built(command, version, source, header, defines, way)
    return load_built(command, version, source, header, defines, last)


def load_built(
    command: Sequence[str], version: str, source: Path, header: str, defines: Sequence[str], way: Way
) -> ctypes.CDLL:
    """The loops with threads in this way, from the cache or compiled into it."""
    threads, links = way
    flags = (*flags_for(version), *threads, *(f"-D{name}" for name in defines))
    path = cache_folder() / f"{source.stem}-{digest(source, header, version, (*command, *flags, *links))}.so"
    if not path.exists():
        compile_to(path, source, header, command, flags, links)
    return ctypes.CDLL(str(path))


def describe(command: Sequence[str], error: Exception) -> str:
    """The error in one line; of a failed compilation, the compiler's last line."""
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return f"{' '.join(command)}: {lines[-1] if lines else type(error).__name__}"


def cache_folder() -> Path:
    """A folder that only this user can write, since its files are loaded as code. Raises BuildError without one."""
    if not hasattr(os, "getuid"):
        raise BuildError("only POSIX systems tell whose a folder is")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "mada_optim"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise BuildError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def version_of(command: Sequence[str]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


def flags_for(version: str) -> tuple[str, ...]:
    """The flags for a compiler with this version text; GCC names the Free Software Foundation."""
    return (*FLAGS, *GCC_FLAGS) if "Free Software Foundation" in version else FLAGS


def digest(source: Path, header: str, version: str, command: Sequence[str]) -> str:
    texts = [path.read_text() for path in (source, *INCLUDED)]
    parts = (*texts, header, " ".join(command), version, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """The processor that -march=native compiles for: machines of several kinds may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def compile_to(
    path: Path, source: Path, header: str, command: Sequence[str], flags: Sequence[str], link_flags: Sequence[str]
) -> None:
    """Compiles beside `path` and renames into place, so that processes that start together never see a partial file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "rule.h").write_text(header)
        unlinked, linked = os.path.join(folder, "loops.o"), os.path.join(folder, "loops.so")
        for step in (
            [*command, *flags, "-I", folder, "-c", str(source), "-o", unlinked],
            [*command, "-shared", *link_flags, unlinked, "-o", linked],
        ):
            subprocess.run(step, capture_output=True, text=True, check=True, timeout=120)
        os.replace(linked, path)
