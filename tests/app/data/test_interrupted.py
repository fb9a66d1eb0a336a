"""A preparation that is killed, wherever, and started again gives the same bytes, and never half a set under its name.

Every change of the file system that the preparation makes is a place to die, one after another, or to find the disk
full; so is each piece of a download, and each piece of text.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mada_lab.data import gpt2
from tests.app.data.conftest import digest

# The child of a fork dies at the n-th place; the parent, which has nothing open, looks at what is left and goes on.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mada_lab.data import catalog, download, gpt2, pipeline
from mada_lab.data.corpus import Corpus
from mada_lab.data.download import PinnedFile
from mada_lab.errors import DataError
from mada_lab.data.prepare import prepare
from tests.app.data.paper_network import Page, PaperNetwork
from mada_lab.data.sources import TextFile
from mada_lab.data.catalog import TextSet
from mada_lab.data.cuts import last_tenth

folder, mode = Path(sys.argv[1]), sys.argv[2]
encoder, text = (Path(sys.argv[3]).read_bytes(), Path(sys.argv[4]).read_bytes())
files = json.loads(sys.argv[5])
gpt2.VOCABULARY_SIZE = 262
gpt2.ENCODER = PinnedFile(*files["encoder"])
gpt2.tempfile.gettempdir = lambda: str(folder / "no cache")
network = PaperNetwork({files["encoder"][0]: Page(encoder), files["text"][0]: Page(text)})
build = download.urllib.request.build_opener
download.urllib.request.build_opener = lambda *handlers: build(*handlers, network)
pipeline.PIECE_CHARACTERS = 100
pipeline.pieces.__defaults__ = pipeline.batches.__defaults__ = (100,)
entry = TextSet(source=TextFile(PinnedFile(*files["text"])), tokenizers=("gpt2",), cut=last_tenth)
catalog.DATA_SETS["killed"] = entry

def content(data_dir):
    return {path.name: path.read_bytes() for path in sorted((data_dir / "killed").iterdir())}

class Killer:
    def __init__(self, at):
        self.left = at
    def __call__(self, *_):
        self.left -= 1
        if self.left == 0 and mode == "full disk":
            raise OSError(28, "No space left on device")
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def change(event, args, killer, data_dir):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"):
        if str(args[0]).startswith(str(data_dir)):
            killer()

def run(data_dir, killer):
    if mode in ("changes", "full disk"):
        sys.addaudithook(lambda event, args: change(event, args, killer, data_dir))
    elif mode == "download":
        receive = download.receive
        download.receive = lambda response: (killer(), receive(response))[1]
    prepare("killed", data_dir, workers=2, listen=killer if mode == "text" else lambda *_: None)

prepare("killed", folder / "undisturbed")
expected = content(folder / "undisturbed")
died, at = 0, 1
while True:
    data_dir = folder / f"{mode} {at}"
    child = os.fork()
    if child == 0:
        code, killer = 1, Killer(at)
        try:
            run(data_dir, killer)
            code = 0 if killer.left > 0 else 4  # 4: it could do without
        except DataError as error:
            code = 3 if "No space left" in str(error) else 1
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (3, 4)
    if (data_dir / "killed").exists():
        Corpus.open(data_dir / "killed")
    prepare("killed", data_dir)
    assert content(data_dir) == expected, at
    left = set(os.listdir(data_dir)) - {".killed.lock"}  # empty, if it was killed when all was done
    assert left == {"killed"}, (at, left)
    if not killed:
        assert os.WEXITSTATUS(status) == 0
        break
    died, at = died + 1, at + 1
print(died, network.asked)
"""


@pytest.mark.parametrize(("mode", "least"), [("changes", 20), ("full disk", 20), ("download", 50), ("text", 20)])
def test_killed_anywhere_and_started_again(mode: str, least: int, toy_bpe: Path, tmp_path: Path) -> None:
    text = ("To be, or not to be: that is the question.\n" * 50).encode()
    (tmp_path / "input.txt").write_bytes(text)
    encoder = (toy_bpe / "encoder.json").read_bytes()
    files = {
        "encoder": [gpt2.ENCODER.url, gpt2.ENCODER.sha256, len(encoder)],
        "text": ["https://example.org/input.txt", digest(text), len(text)],
    }
    arguments = [tmp_path, mode, toy_bpe / "encoder.json", tmp_path / "input.txt", json.dumps(files)]
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)]
    root = Path(__file__).parents[3]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr[-2000:]
    died = int(run.stdout.split()[0])
    assert died >= least
    if mode == "download":
        assert "bytes=" in run.stdout, "what had arrived is not fetched again"
