"""`mada-lab generate`."""

from argparse import ArgumentTypeError

from mada_lab.cli.networks import RUN, add_places, network_of
from mada_lab.config.arguments import Arguments, number, text, whole

#: Below, logits divided by the temperature are out of the range of numbers.
LEAST_TEMPERATURE = 1e-6
MOST_TOKENS = 1_000_000


def arguments() -> Arguments:
    """What may be typed after `generate`."""
    does = "Generate text with a trained network."
    made = Arguments("generate", does, 'mada-lab generate out/run --prompt="The " --tokens=100', RUN)
    made.option("prompt", "Text to continue. (default: the beginning of a document)", _utf8)
    made.option("tokens", "Number of tokens to generate.", whole(1, MOST_TOKENS), 200, "N")
    made.option("temperature", "Divides the logits; 0 takes the most likely token.", _temperature, 1.0, "X")
    made.option("top-k", "Draw among the K most likely tokens. (default: all)", whole(1), shown="K")
    made.option("seed", "Seed of the draws. (default: 1337)", whole(), shown="N")
    made.option("device", "auto, cpu, cuda, cuda:1 or mps.", default="auto", shown="NAME", topic="device")
    add_places(made)
    return made


def run(words: list[str]) -> None:
    """`generate RUN` with its options."""
    options = arguments()
    given = options.read(words)
    for name, value in (("--top-k", given.top_k), ("--seed", given.seed)):
        if given.temperature == 0 and value is not None:
            options.error(f"option {name}: expected none with --temperature=0, which draws nothing, got {value}")
    from mada_lab.compute import device
    from mada_lab.config.keys import TrainConfig
    from mada_lab.pretrained.generate import prompt_ids, sample

    place = device.choose(TrainConfig(device=given.device))
    network = network_of(given)
    if given.top_k is not None and given.top_k > (size := network.vocabulary.size):
        options.error(f"option --top-k: expected at most the {size} tokens of the vocabulary, got {given.top_k}")
    tokenizer, prompt = network.tokenizer(given.bpe_files), given.prompt or ""
    ids, seed = prompt_ids(prompt, tokenizer), 1337 if given.seed is None else given.seed
    model = network.model().to(place.device)
    made = list(sample(model, ids, given.tokens, given.temperature, given.top_k, seed, place))
    print(prompt + tokenizer.decode(made))


def _temperature(given: str) -> float:
    if set(given.lower().split("e")[0]) <= set("+-0."):  # a zero as it is written, not a number that is rounded to it
        number(-1.0)(given)
        return 0.0
    return number(LEAST_TEMPERATURE)(given)


def _utf8(given: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ArgumentTypeError(f"expected text in UTF-8, got {given!r}") from error
    return text(given)
