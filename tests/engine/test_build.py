"""How loops are built: which compiler, in which way they get their threads, and what is said where there is none.

Catches: loops that another compiler makes differently, a machine without OpenMP or without a compiler that is left to
the slow engine for no reason, a build that is made twice, an error that is swallowed.
"""

import importlib.util
import shutil
import sys
import textwrap

import pytest
import torch

from mada_optim import MADA, AutoMuon, HyperSGD
from mada_optim.engines.choice import source
from mada_optim.engines.cpp import build
from mada_optim.engines.program import Program
from mada_optim.rules import RULES
from tests.problems import parameters, same_bits, train

pytestmark = pytest.mark.kernel

HEADER = source(Program(RULES["adam"]))


@pytest.fixture(autouse=True)
def asked_anew(tmp_path, monkeypatch):
    """Nothing is built yet, and nothing is remembered afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.attempt.cache_clear()
    build.warn.cache_clear()
    yield
    build.attempt.cache_clear()
    build.warn.cache_clear()


def builds(tmp_path):
    return list((tmp_path / "mada_optim").iterdir())


def trained(engine="cpu", threads=3):
    """Tensors of several chunks each, after some steps."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n)) for n in (70000, 5, 33000)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        opt = MADA(params, lr=1e-2, weight_decay=0.1, learn=HyperSGD("all", start=1), engine=engine)
        train(opt, params, range(5))
    finally:
        torch.set_num_threads(before)
    return [*params, *(x for s in opt.state.values() for x in s.values() if isinstance(x, torch.Tensor))]


def test_without_a_compiler_one_warning_and_the_tiled_engine(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(build, "PACKAGE", "no_such_package")
    with pytest.warns(UserWarning, match=r"without its compiled loops.*no C\+\+ compiler found.*pip install") as caught:
        first, second = AutoMuon(parameters()), AutoMuon(parameters())
    assert len(caught) == 1
    assert (first.engine, second.engine) == ("tiled", "tiled")
    with pytest.raises(ValueError, match=r"engine='cpu': no C\+\+ compiler"):
        AutoMuon(parameters(), engine="cpu")


def test_the_build_is_made_once_and_found_again(tmp_path):
    build.load(HEADER)
    (made,) = builds(tmp_path)
    stamp = made.stat().st_mtime_ns
    build.attempt.cache_clear()
    build.load(HEADER)
    assert builds(tmp_path) == [made]
    assert made.stat().st_mtime_ns == stamp
    assert made.parent.stat().st_mode & 0o777 == 0o700


def test_every_way_of_threading_gives_the_same_bits(monkeypatch):
    """Each tensor's chunks are shared out, and summed in one order: no thread's work shows."""
    found = []
    for way in build.WAYS:
        monkeypatch.setattr(build, "WAYS", (way,))
        build.attempt.cache_clear()
        found += [trained(threads=3), trained(threads=1)]
    assert len(found) == 8
    assert all(same_bits(x, found[0]) for x in found)


def compiler_that_refuses(folder, words):
    """The machine's own, but for command lines with one of these words; it notes its calls."""
    script = f"""\
        #!/bin/sh
        echo "$@" >> {folder}/calls
        for word in "$@"; do case "$word" in {"|".join(words)}) echo "no $word here" >&2; exit 1;; esac; done
        exec {shutil.which("c++")} "$@"
        """
    program = folder / "refusing"
    program.write_text(textwrap.dedent(script))
    program.chmod(0o755)
    return str(program)


def test_linked_to_its_own_openmp_where_torch_keeps_its_own(monkeypatch):
    real = build.load_built

    def hidden(*what):
        if what[-1] in build.WAYS[:2]:
            raise OSError("undefined symbol: GOMP_parallel")
        return real(*what)

    expected = trained()
    monkeypatch.setattr(build, "load_built", hidden)
    build.attempt.cache_clear()
    assert same_bits(trained(), expected)


@pytest.mark.parametrize("refused", [["-fopenmp"], ["-fopenmp", "-DTORCH_THREADS"]], ids=len)
def test_a_compiler_without_openmp_starts_torchs_threads_or_its_own(tmp_path, monkeypatch, refused):
    expected = trained()
    monkeypatch.setenv("CXX", compiler_that_refuses(tmp_path, refused))
    build.attempt.cache_clear()
    assert same_bits(trained(), expected)
    linked = (tmp_path / "calls").read_text().splitlines()[-1]
    assert ("-pthread" in linked) == (len(refused) == 2)


def test_a_compiler_out_of_a_package(tmp_path, monkeypatch):
    """Where none is installed; here a package of that name that hands on to the machine's own."""
    expected = trained()
    package = tmp_path / "site" / build.PACKAGE
    package.mkdir(parents=True)
    handed_on = f"import os, sys\nos.execv({shutil.which('c++')!r}, sys.argv[1:])\n"
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(handed_on)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, build.PACKAGE, raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    build.attempt.cache_clear()
    assert same_bits(trained(), expected)


@pytest.mark.skipif(importlib.util.find_spec(build.PACKAGE) is None, reason="needs the package ziglang")
def test_that_package_itself(monkeypatch):
    """Its sums round in another order."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    for x, y in zip(trained(), trained("eager"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_flags_that_gcc_alone_has_are_given_to_it_alone():
    gcc = "g++ (Debian 12.2.0-14) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n"
    assert "-fprefetch-loop-arrays" in build.flags_for(gcc)
    assert build.flags_for("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\n") == build.FLAGS


def test_a_compiler_that_fails_is_quoted_and_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler_that_refuses(tmp_path, ["--version"]))
    for _ in range(2):
        with pytest.raises(build.BuildError, match="refusing: no --version here"):
            build.load(HEADER)
    assert (tmp_path / "calls").read_text() == "--version\n"


def test_a_compiler_that_has_no_way_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler_that_refuses(tmp_path, ["-shared"]))
    with pytest.raises(build.BuildError, match="refusing: no -shared here"):
        build.load(HEADER)
