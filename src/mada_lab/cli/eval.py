"""`mada-lab eval`."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mada_lab.cli.networks import RUN, add_places, network_of
from mada_lab.config.arguments import Arguments, one_of, path, whole

if TYPE_CHECKING:
    from mada_lab.evaluation.scores import Windowing
    from mada_lab.evaluation.texts import Text
    from mada_lab.pretrained.weights import Weights

DTYPES = ("float32", "bfloat16", "float16")


def arguments() -> Arguments:
    """What may be typed after `eval`."""
    does = "Measure a network on a text: loss, perplexities and bits per byte (docs/lab/evaluation.md)."
    made = Arguments("eval", does, "mada-lab eval out/run --dataset=pydoc --split=val --stride=32", RUN)
    topic = "text"
    made.option("dataset", "Name of a data set. (default: that of the run)", shown="NAME", topic=topic)
    meaning = "Part of the data set. (default: test where there is one, else val)"
    made.option("split", meaning, one_of("val", "test"), shown="val|test", topic=topic)
    made.option("from-file", "A text file instead of a data set.", path, shown="FILE", topic=topic)
    topic = "windows"
    meaning = "stride: each token is scored once; paper: as the code of the MADA paper does."
    made.option("mode", meaning, one_of("stride", "paper"), "stride", "stride|paper", topic)
    made.option("context", "Tokens in a window. (default: block_size of the network)", whole(1), shown="N", topic=topic)
    meaning = "Tokens from one window to the next. (default: half of the context)"
    made.option("stride", meaning, whole(1), shown="N", topic=topic)
    topic = "device"
    made.option("device", "auto, cpu, cuda, cuda:1 or mps.", default="auto", shown="NAME", topic=topic)
    made.option("dtype", "Precision of the forward pass.", one_of(*DTYPES), "float32", "|".join(DTYPES), topic)
    add_places(made)
    made.option("out", "Folder of the result, a JSON file. (default: RUN)", path, shown="DIR", topic="files")
    return made


def run(words: list[str]) -> None:
    """`eval RUN` with its options."""
    options = arguments()
    given = options.read(words)
    from mada_lab.compute import device
    from mada_lab.config.keys import TrainConfig
    from mada_lab.evaluation import scores

    place = device.choose(replace(TrainConfig(device=given.device), dtype=given.dtype))
    network = network_of(given)
    windowing = _windowing(options, given, network.config.block_size)
    result = scores.evaluate(network, _text(options, network, given), windowing, place, given.bpe_files)
    print(scores.table(result, windowing))
    out = given.out or network.folder
    if out is not None:
        print(f"result: {scores.write(result, out)}")


def _windowing(options: Arguments, given: Namespace, block_size: int) -> "Windowing":
    from mada_lab.evaluation.scores import Windowing

    context = block_size if given.context is None else given.context
    stride = max(context // 2, 1) if given.stride is None else given.stride
    for name, value, most in (("context", context, block_size), ("stride", stride, context)):
        if value > most:
            options.error(f"option --{name}: expected a whole number in [1, {most}], got {value}")
    if given.mode == "paper" and given.stride is not None:
        options.error(f"option --stride: expected none with --mode=paper, got {stride}")
    return Windowing(given.mode, context, stride if given.mode == "stride" else None)


def _text(options: Arguments, network: "Weights", given: Namespace) -> "Text":
    from mada_lab.evaluation import texts

    if given.from_file is not None:
        return texts.of_file(given.from_file, given.dataset, given.split)
    name = given.dataset or network.dataset
    if name is None:
        options.error("option --dataset: expected one, as these weights name none, got none")
    return texts.of_data_set(name, network.data_dir or Path("data"), given.split)
