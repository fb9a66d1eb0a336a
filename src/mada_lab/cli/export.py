"""`mada-lab export`."""

from mada_lab.cli.networks import RUN, add_places, network_of
from mada_lab.config.arguments import Arguments, path


def arguments() -> Arguments:
    """What may be typed after `export`."""
    does = "Write a network in Hugging Face's format: config.json, model.safetensors and the tokenizer's files."
    made = Arguments("export", does, "mada-lab export out/run --out=out/gpt", RUN)
    made.option("out", "A folder that doesn't exist yet. (default: RUN/export)", path, shown="DIR")
    add_places(made)
    return made


def run(words: list[str]) -> None:
    """`export RUN` with its options."""
    options = arguments()
    given = options.read(words)
    from mada_lab.pretrained.export import export

    network = network_of(given)
    out = given.out or (network.folder / "export" if network.folder else None)
    if out is None:
        options.error(f"option --out: expected a folder for {given.places[0]}, got none")
    print(f"export: {export(network, out, given.bpe_files).resolve()}")
