"""`mada-lab generate`."""

from collections.abc import Mapping
from dataclasses import replace

from mada_lab.cli.words import number, path_of, split, whole_number
from mada_lab.errors import ConfigError

USAGE = """\
generate RUN [--prompt TEXT] [--tokens N] [--temperature T] [--top-k K] [--seed S] [--device DEVICE] [--data-dir DIR]
         [--bpe-files DIR]
    text that a network goes on with; temperature 0 takes the most likely token each time
"""
#: Below, differences of logits over the temperature are out of the range of numbers.
LEAST_TEMPERATURE = 1e-6
MOST_TOKENS = 1_000_000
OPTIONS = "--prompt --tokens --temperature --top-k --seed --device --data-dir --bpe-files"


def run(words: list[str]) -> None:
    """`generate RUN` with its options."""
    names, options = split(words, set(OPTIONS.split()))
    if len(names) != 1:
        raise ConfigError(f"generate: expected one run, got {len(names)}; see `mada-lab --help`")
    count = whole_number("generate", options, "--tokens", 200, 1, MOST_TOKENS)
    seed = whole_number("generate", options, "--seed", 1337, 0)
    top_k = whole_number("generate", options, "--top-k", 1, 1) if "--top-k" in options else None
    temperature, prompt = _temperature(options), _prompt(options)
    from mada_lab.compute import device
    from mada_lab.config.keys import TrainConfig
    from mada_lab.pretrained import weights
    from mada_lab.pretrained.generate import prompt_ids, sample

    place = device.choose(TrainConfig(device=options.get("--device", "auto")))
    network = weights.read(names[0])
    if data_dir := path_of(options, "--data-dir"):
        network = replace(network, data_dir=data_dir)
    if top_k is not None and top_k > network.vocabulary.size:
        what = f"expected at most the {network.vocabulary.size} tokens of the vocabulary, got {top_k}"
        raise ConfigError(f"generate, option --top-k: {what}; correct it")
    tokenizer = network.tokenizer(path_of(options, "--bpe-files"))
    ids = prompt_ids(prompt, tokenizer)
    made = list(sample(network.model().to(place.device), ids, count, temperature, top_k, seed, place))
    print(prompt + tokenizer.decode(made))


def _temperature(options: Mapping[str, str]) -> float:
    text = options.get("--temperature", "1.0")
    if set(text.lower().split("e")[0]) <= set("+-0."):  # zero as it is written, not what is rounded to it
        number("generate", "--temperature", text, -1.0)
        for name in {"--top-k", "--seed"} & options.keys():
            what = f"expected none with --temperature {text}, which draws nothing, got {options[name]}"
            raise ConfigError(f"generate, option {name}: {what}; leave it out")
        return 0.0
    return number("generate", "--temperature (0 takes the most likely token)", text, LEAST_TEMPERATURE)


def _prompt(options: Mapping[str, str]) -> str:
    prompt = options.get("--prompt", "")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"generate, option --prompt: expected text in UTF-8, got {prompt!r}; correct it") from error
    return prompt
