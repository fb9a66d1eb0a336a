"""The built wheel in an environment that has torch and what torch itself needs, and nothing else.

Catches: an import of numpy or of the application's libraries in the optimizer, a package left out of the wheel, and an
integration or a command that doesn't say which extra it lacks.
"""

import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys, torch
from mada_optim import MADA, HyperSGD
p = torch.nn.Parameter(torch.ones(3))
opt = MADA([p], lr=0.1, learn=HyperSGD("all", start=0))
for _ in range(3):
    p.grad = p.detach().clone()
    opt.step()
assert p.detach().max() < 1
assert "numpy" not in sys.modules
import importlib, importlib.util
assert importlib.util.find_spec("numpy") is None
assert importlib.util.find_spec("matplotlib") is None
import mada_optim, mada_optim.integrations
for library, extra in {"transformers": "hf", "lightning": "lightning"}.items():
    try:
        importlib.import_module(f"mada_optim.integrations.{library}")
    except ImportError as error:
        assert f'pip install "mada-optim[{extra}]"' in str(error), error
    else:
        raise AssertionError(f"{library} is not installed here")
print(mada_optim.__file__, opt.coefficients())
"""


def requirements(name, found):
    """Names of the installed distributions that `name` needs, itself included, optional ones left out."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return found
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return found
    found[key] = distribution
    for line in distribution.requires or []:
        if "extra ==" not in line:
            requirements(re.match(r"[A-Za-z0-9._-]+", line).group(), found)
    return found


def link_distribution(distribution, site_packages):
    """Makes an installed distribution visible elsewhere, without copying gigabytes or downloading."""
    for top in {Path(str(file)).parts[0] for file in distribution.files or []}:
        source = Path(distribution.locate_file(top))
        target = site_packages / top
        if top not in ("..", "__pycache__") and source.exists() and not target.exists():
            target.symlink_to(source)


def test_wheel_needs_torch_alone(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, timeout=120, capture_output=True)
    (wheel,) = tmp_path.glob("mada_optim-*.whl")
    assert wheel.stat().st_size < 580_000
    assert {"mada_optim/py.typed", "mada_lab/reports/page.html.j2"} <= {*zipfile.ZipFile(wheel).namelist()}

    venv.create(tmp_path / "env", with_pip=False)
    (site_packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for distribution in requirements("torch", {}).values():
        link_distribution(distribution, site_packages)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site_packages, wheel]
    subprocess.run(install, check=True, timeout=120, capture_output=True)

    python = tmp_path / "env" / "bin" / "python"
    run = subprocess.run([python, "-I", "-c", SCRIPT], timeout=120, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert str(site_packages) in run.stdout
    lab = [python, "-I", "-m", "mada_lab"]
    for words in ("--help", "--version"):
        assert subprocess.run([*lab, words], timeout=120, capture_output=True).returncode == 0
    for words in (["train"], ["data", "prepare", "pydoc"]):
        run = subprocess.run([*lab, *words], timeout=120, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 3
        assert re.fullmatch(r'error: package \w+: .*; run `pip install "mada-optim\[lab\]"`\n', run.stderr), run.stderr
