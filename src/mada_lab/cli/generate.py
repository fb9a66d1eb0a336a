"""`mada-lab generate`."""

import math
from dataclasses import replace

from mada_lab.cli.words import path_of, split, whole_number
from mada_lab.errors import ConfigError

USAGE = """\
generate RUN [--prompt TEXT] [--tokens N] [--temperature T] [--top-k K] [--seed S] [--device DEVICE] [--data-dir DIR]
         [--bpe-files DIR]
    text that a network goes on with; temperature 0 takes the most likely token each time
"""
OPTIONS = "--prompt --tokens --temperature --top-k --seed --device --data-dir --bpe-files"


def run(words: list[str]) -> None:
    """`generate RUN` with its options."""
    names, options = split(words, set(OPTIONS.split()))
    if len(names) != 1:
        raise ConfigError(f"generate: expected one run, got {len(names)}; see `mada-lab --help`")
    count, seed = (whole_number("generate", options, *x) for x in (("--tokens", 200, 1), ("--seed", 1337, 0)))
    top_k = whole_number("generate", options, "--top-k", 1, 1) if "--top-k" in options else None
    temperature = _temperature(options.get("--temperature", "1.0"))
    from mada_lab import precision, weights
    from mada_lab.config import TrainConfig
    from mada_lab.generate import prompt_ids, sample

    place = precision.choose(TrainConfig(device=options.get("--device", "auto")))
    network = weights.read(names[0])
    if data_dir := path_of(options, "--data-dir"):
        network = replace(network, data_dir=data_dir)
    tokenizer, prompt = network.tokenizer(path_of(options, "--bpe-files")), options.get("--prompt", "")
    ids = prompt_ids(prompt, tokenizer)
    made = list(sample(network.model().to(place.device), ids, count, temperature, top_k, seed, place))
    print(prompt + tokenizer.decode(made))


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
    except ValueError:
        temperature = -1.0
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"generate, option --temperature: expected a number from 0 on, got {text}; correct it")
    return temperature
