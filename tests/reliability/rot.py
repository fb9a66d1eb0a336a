"""Bits that flip and files that end early, in a checkpoint of a real run."""

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.errors import CheckpointError
from tests.reliability.tally import Tally


def flips(folder, count, rng):
    """Flips one bit, uniformly over all bits of all files of the checkpoint in `folder`; puts it back."""
    tally = Tally("refused before anything is loaded; the message names the file")
    paths = sorted(folder.iterdir())
    for _ in range(count):
        path = rng.choices(paths, [x.stat().st_size for x in paths])[0]
        tally.case(*_flip(folder, path, rng.randrange(path.stat().st_size * 8)))
    return tally


def flips_of_the_manifest(folder):
    """Every single bit of the manifest: it can't vouch for itself by chance."""
    tally = Tally("refused")
    path = folder / checkpoint_folder.MANIFEST
    for bit in range(path.stat().st_size * 8):
        tally.case(*_flip(folder, path, bit))
    return tally


def _flip(folder, path, bit):
    good = path.read_bytes()
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bad)
    problem = not_refused(folder, path)
    path.write_bytes(good)
    return f"{path.name}, bit {bit}", problem


def truncations(folder, count, rng):
    """Cuts a file: to nothing, to one byte, before and after its header, by one byte, or anywhere; puts it back."""
    tally = Tally("refused before anything is loaded; the message names the file")
    paths = sorted(folder.iterdir())
    for i in range(count):
        path = paths[i % len(paths)]
        good = path.read_bytes()
        ends = [0, 1, 7, 8, len(good) // 2, len(good) - 1, rng.randrange(len(good))]
        path.write_bytes(good[: ends[i // len(paths) % len(ends)]])
        tally.case(f"{path.name}, {i}", not_refused(folder, path))
        path.write_bytes(good)
    return tally


def not_refused(folder, path):
    try:
        checkpoint.load(folder)
    except CheckpointError as error:
        return "" if path.name in str(error) else f"the message is {error}"
    return "loaded"
