"""`mada-lab export`."""

from dataclasses import replace

from mada_lab.cli.words import path_of, split
from mada_lab.errors import ConfigError

USAGE = """\
export RUN [--out DIR] [--data-dir DIR] [--bpe-files DIR]
    a run, or a checkpoint, in Hugging Face's format: config.json, model.safetensors, tokenizer; RUN/export by default
"""


def run(words: list[str]) -> None:
    """`export RUN` with its options."""
    names, options = split(words, {"--out", "--data-dir", "--bpe-files"})
    if len(names) != 1:
        raise ConfigError(f"export: expected one run, got {len(names)}; see `mada-lab --help`")
    from mada_lab.pretrained import weights
    from mada_lab.pretrained.export import export

    network = weights.read(names[0])
    if data_dir := path_of(options, "--data-dir"):
        network = replace(network, data_dir=data_dir)
    out = path_of(options, "--out") or (network.folder / "export" if network.folder else None)
    if out is None:
        raise ConfigError(f"export, option --out: expected a folder for {names[0]}, got none; add it")
    print(f"export: {export(network, out, path_of(options, '--bpe-files')).resolve()}")
