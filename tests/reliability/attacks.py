"""Files made to run code, to fill the memory, to reach other files, or to break what reads them.

Each attack takes the folder of a good checkpoint and turns it into a trap. Where a manifest would give it away, it is
sealed anew, as someone would who wants it believed.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import torch

from mada_lab.checkpoints.checkpoint import TENSORS, VALUES
from mada_lab.checkpoints.folder import MANIFEST, Measured, seal, step_of


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def reseal(folder):
    """A manifest for the files as they are."""
    facts = {}
    for path in folder.iterdir():
        if path.name != MANIFEST:
            measured = Measured([path.read_bytes()])
            list(measured)
            facts[path.name] = measured.facts
    seal(folder, step_of(folder), facts)


def _pickled(canary):
    return pickle.dumps(Payload(canary))


def _file(name, content):
    """`name` holds what `content` makes of the canary."""

    def attack(folder, canary):
        (folder / name).write_bytes(content(canary))
        if name != MANIFEST:
            reseal(folder)

    return attack


def _value(*path, to):
    """The entry at `path` of the values is `to`."""

    def attack(folder, canary):
        values = json.loads((folder / VALUES).read_bytes())
        entry = values
        for key in path[:-1]:
            entry = _entry(entry, key)
        _put(entry, path[-1], to(canary) if callable(to) else to)
        (folder / VALUES).write_text(json.dumps(values))
        reseal(folder)

    return attack


def _entry(entry, key):
    """Of a packed dict or list, or of plain JSON."""
    if "dict" in entry:
        return next(pair for pair in entry["dict"] if pair[0] == key)[1]
    return entry["list"][key] if "list" in entry else entry[key]


def _put(entry, key, value):
    if "dict" in entry:
        next(pair for pair in entry["dict"] if pair[0] == key)[1] = value
    else:
        entry[key] = value


def _tensor(name, change):
    """A tensor, found by the end of its name, is what `change` makes of it."""

    def attack(folder, _):
        import safetensors.torch

        tensors = safetensors.torch.load_file(folder / TENSORS)
        for key in [key for key in tensors if key.endswith(name)]:
            tensors[key] = change(tensors[key].clone())
        (folder / TENSORS).write_bytes(safetensors.torch.save(tensors))
        reseal(folder)

    return attack


def _header(change):
    """The header of the tensors is what `change` makes of it."""

    def attack(folder, _):
        content = (folder / TENSORS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = change(content[8 : 8 + length].decode()).encode()
        (folder / TENSORS).write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
        reseal(folder)

    return attack


def _shape_of_2_to_62(text):
    header = json.loads(text)
    next(x for name, x in header.items() if name != "__metadata__")["shape"] = [1 << 31, 1 << 31]
    return json.dumps(header)


def _overlapping(text):
    header = json.loads(text)
    entries = [x for name, x in header.items() if name != "__metadata__"]
    entries[1]["data_offsets"] = entries[0]["data_offsets"]
    return json.dumps(header)


def _zip_bomb(_):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 26))
    return held.getvalue()


def _torch_file(canary):
    held = io.BytesIO()
    torch.save({"x": Payload(canary)}, held)
    return held.getvalue()


def _listed(name):
    """The manifest lists a file elsewhere, with its right digest."""

    def attack(folder, canary):
        target = folder / name
        measured = Measured([target.read_bytes()])
        list(measured)
        reseal(folder)
        others = {x.name: Measured([x.read_bytes()]) for x in folder.iterdir() if x.name != MANIFEST}
        facts = {key: (list(x), x.facts)[1] for key, x in others.items()}
        seal(folder, step_of(folder), {**facts, name: measured.facts})

    return attack


def _moved_behind_a_link(name):
    def attack(folder, _):
        elsewhere = folder.parents[1] / "elsewhere"
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)

    return attack


def _pipe(folder, _):
    (folder / VALUES).unlink()
    os.mkfifo(folder / VALUES)


def _endless(folder, _):
    (folder / TENSORS).unlink()
    (folder / TENSORS).symlink_to("/dev/zero")


def _linked_folder(folder, _):
    elsewhere = folder.parents[1] / "elsewhere"
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere)


def _endless_rows(folder, _):
    (folder.parents[1] / "metrics.jsonl").unlink()
    (folder.parents[1] / "metrics.jsonl").symlink_to("/dev/zero")


def _loop(folder, _):
    shutil.rmtree(folder.parent)
    folder.parent.symlink_to(folder.parent)


def _in_the_run(name, content):
    """A file of the record."""

    def attack(folder, canary):
        (folder.parents[1] / name).write_bytes(content(canary))

    return attack


STATE = ("tree", "state")
GROUP = (*STATE, "optimizer", "param_groups", 0)
#: Attacks by name. The record's are refused as records (exit code 2), all others as checkpoints (4).
ATTACKS = {
    "a pickle as tensors": _file(TENSORS, _pickled),
    "a torch file as tensors": _file(TENSORS, _torch_file),
    "a zip bomb as tensors": _file(TENSORS, _zip_bomb),
    "a pickle as values": _file(VALUES, _pickled),
    "a pickle as manifest": _file(MANIFEST, _pickled),
    "a pickle beside: optimizer.pt": _file("optimizer.pt", _torch_file),
    "a pickle beside: .metadata": _file(".metadata", _pickled),
    "a pickle as random state": _value(*STATE, "random", to=lambda canary: {"value": _pickled(canary).hex()}),
    "a pickle as data position": _value(*STATE, "batches", to=lambda canary: {"value": _pickled(canary).hex()}),
    "a pickle as optimizer": _value(*STATE, "optimizer", to=lambda canary: {"value": _pickled(canary).hex()}),
    "a pickle as scaler": _value(*STATE, "scaler", to=lambda canary: {"pickle": _pickled(canary).hex()}),
    "a pickle as bytes of a tensor": _tensor("batches", lambda x: torch.tensor([0x80, 4, 0x2E], dtype=x.dtype)),
    "values nested a million deep": _file(VALUES, lambda _: b'{"step": 1, "tree": ' + b"[" * 1_000_000),
    "values of 8 MB of numbers": _file(VALUES, lambda _: b'{"step": 1, "tree": [' + b"0," * 4_000_000 + b"0]}"),
    "values of a million keys": _file(VALUES, lambda _: json.dumps({str(i): 0 for i in range(700_000)}).encode()),
    "values over the limit": _file(VALUES, lambda _: b" " * (9 << 20)),
    "a manifest over the limit": _file(MANIFEST, lambda _: b" " * (2 << 20)),
    "a manifest nested deep": _file(MANIFEST, lambda _: b"[" * 900_000),
    "a header of 2^63 bytes": _file(TENSORS, lambda _: struct.pack("<Q", 1 << 63) + b"{}"),
    "a header longer than the file": _file(TENSORS, lambda _: struct.pack("<Q", 90_000_000) + b"{}"),
    "a shape of 2^62": _header(_shape_of_2_to_62),
    "overlapping tensors": _header(_overlapping),
    "a header twice over": _header(lambda text: text[:-1].rstrip() + "," + text[1:].lstrip()[:60]),
    "a type of no tensor": _header(lambda text: text.replace("F32", "OBJ")),
    "a listed file above": _listed("../../manifest.json"),
    "a listed file by its absolute path": _listed("/etc/hostname"),
    "tensors behind a link": _moved_behind_a_link(TENSORS),
    "values behind a link": _moved_behind_a_link(VALUES),
    "values as a pipe that nobody fills": _pipe,
    "tensors that never end": _endless,
    "the folder behind a link": _linked_folder,
    "a loop of links": _loop,
    "weights of another shape": _tensor("wpe.weight", lambda x: x[:, :-1].contiguous()),
    "weights of another type": _tensor("wpe.weight", lambda x: x.double()),
    "weights that are not finite": _tensor("wpe.weight", lambda x: x.fill_(float("nan"))),
    "slots of another shape": _tensor("/state/optimizer/state/0/m", lambda x: x[:-1].contiguous()),
    "a coefficient out of its range": _tensor("param_groups/0/beta2", lambda x: x.fill_(5.0)),
    "a coefficient that is not finite": _tensor("param_groups/1/beta1", lambda x: x.fill_(float("nan"))),
    "a parameter that isn't there": _value(*GROUP, "params", to={"list": [{"value": 10**9}]}),
    "a step that is text": _value("step", to="1"),
    "seconds that are text": _value("tree", "seconds", to={"value": "1"}),
    "skips of other names": _value(*STATE, "skips", to={"dict": [["__class__", {"value": 1}]]}),
    "a configuration of 10^9 layers": _value("tree", "config", "n_layer", to={"value": 10**9}),
    "a configuration of layers in words": _value("tree", "config", "n_layer", to={"value": "__import__('os')"}),
    "a digest of another state": _value("tree", "digest", to={"value": "0" * 16}),
    "record: a pickle as rows": _in_the_run("metrics.jsonl", lambda canary: _pickled(canary) + b"\n{}\n"),
    "record: rows nested deep": _in_the_run("metrics.jsonl", lambda _: b"[" * 1_000_000 + b"\n{}\n"),
    "record: rows that never end": _endless_rows,
    "record: a pickle as manifest": _in_the_run("manifest.json", _pickled),
    "record: a pickle as resumes": _in_the_run("resumes.jsonl", lambda canary: _pickled(canary) + b"\n{}\n"),
}


def naive_loader_is_hit(canary):
    """Whether the payload fires where it may: else the drill would prove nothing."""
    pickle.loads(_pickled(canary))
    fired = Path(canary).exists()
    Path(canary).unlink(missing_ok=True)
    return fired
