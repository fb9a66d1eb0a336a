"""`mada-lab eval`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mada_lab.cli.words import path_of, split, whole_number
from mada_lab.errors import ConfigError

if TYPE_CHECKING:
    from mada_lab.evaluation.scores import Windowing
    from mada_lab.evaluation.texts import Text
    from mada_lab.pretrained.weights import Weights

USAGE = """\
eval RUN [--dataset NAME] [--split val|test] [--from-file PATH] [--mode stride|paper] [--stride N] [--context N]
     [--data-dir DIR] [--bpe-files DIR] [--device DEVICE] [--dtype DTYPE] [--out DIR]
    loss, perplexities and bits per byte of a run, a checkpoint or an exported folder on a text; docs/lab/evaluation.md
"""
OPTIONS = "--dataset --split --from-file --mode --stride --context --data-dir --bpe-files --device --dtype --out"
CHOICES = {"--split": ("val", "test"), "--mode": ("stride", "paper"), "--dtype": ("float32", "bfloat16", "float16")}


def run(words: list[str]) -> None:
    """`eval RUN` with its options."""
    names, options = split(words, set(OPTIONS.split()))
    if len(names) != 1:
        raise ConfigError(f"eval: expected one run, got {len(names)}; see `mada-lab --help`")
    for option, allowed in CHOICES.items():
        if options.get(option, allowed[0]) not in allowed:
            raise ConfigError(f"eval, option {option}: expected {' or '.join(allowed)}, got {options[option]}")
    from mada_lab.compute import device
    from mada_lab.config.keys import TrainConfig
    from mada_lab.evaluation import scores
    from mada_lab.pretrained import weights

    dtype = {"dtype": options.get("--dtype", "float32")}
    place = device.choose(replace(TrainConfig(device=options.get("--device", "auto")), **dtype))  # type: ignore[arg-type]
    network = weights.read(names[0])
    if data_dir := path_of(options, "--data-dir"):
        network = replace(network, data_dir=data_dir)
    windowing = _windowing(options, network.config.block_size)
    result = scores.evaluate(network, _text(network, options), windowing, place, path_of(options, "--bpe-files"))
    print(scores.table(result, windowing))
    out = path_of(options, "--out") or network.folder
    if out is not None:
        print(f"result: {scores.write(result, out)}")


def _windowing(options: dict[str, str], block_size: int) -> "Windowing":
    from mada_lab.evaluation.scores import Windowing

    mode = options.get("--mode", "stride")
    context = whole_number("eval", options, "--context", block_size, 1, block_size)
    if mode == "paper":
        if "--stride" in options:
            raise ConfigError("eval, option --stride: expected none with --mode paper, got one; leave it out")
        return Windowing(mode, context, None)
    return Windowing(mode, context, whole_number("eval", options, "--stride", max(context // 2, 1), 1, context))


def _text(network: "Weights", options: dict[str, str]) -> "Text":
    from mada_lab.evaluation import texts

    name, part = options.get("--dataset"), options.get("--split")
    if given := path_of(options, "--from-file"):
        return texts.of_file(given, name, part)
    name = name or network.dataset
    if name is None:
        raise ConfigError("eval, option --dataset: expected one, as these weights name none, got none; add it")
    return texts.of_data_set(name, network.data_dir or Path("data"), part)
