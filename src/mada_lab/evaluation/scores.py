"""Losses and perplexities of a trained network on a text, as a table and as JSON in the run folder."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mada_lab.compute.device import Precision
from mada_lab.errors import CheckpointError
from mada_lab.evaluation import perplexity
from mada_lab.evaluation.lambada import last_words
from mada_lab.evaluation.perplexity import Score, exponential
from mada_lab.evaluation.texts import Text
from mada_lab.pretrained.weights import Weights
from mada_lab.system import environment, files, strict_json

FORMAT_VERSION = 1
WITH_LAST_WORDS = ("lambada",)


@dataclass(frozen=True)
class Windowing:
    """The windows of a text."""

    mode: str  #: `stride`, or `paper` for the windows of the MADA paper's code
    context: int  #: inputs of a window
    stride: int | None  #: tokens from one window to the next; None with `paper`

    def __str__(self) -> str:
        """In words."""
        if self.mode == "paper":
            chunks = perplexity.PAPER_CHUNKS
            return f"paper: {chunks} chunks in windows of {self.context}, the last of a chunk overlapping the next"
        return f"stride: windows of {self.context}, {self.stride} apart, each token scored once"


def evaluate(
    weights: Weights, text: Text, windowing: Windowing, precision: Precision, bpe_files: Path | None = None
) -> dict[str, Any]:
    """Evaluates a network on a text; returns the numbers by name. Raises DataError for an unfit text or tokenizer."""
    tokenizer, model = weights.tokenizer(bpe_files), weights.model().to(precision.device)
    if windowing.stride is None:
        tokens = text.paper_tokens(tokenizer)
        windows = perplexity.paper(len(tokens), windowing.context)
    else:
        tokens = text.tokens(tokenizer)
        windows = perplexity.strided(len(tokens), windowing.context, windowing.stride)
    found = perplexity.score(model, tokens, windows, precision)
    words = text.name in WITH_LAST_WORDS
    last = asdict(last_words(model, text.documents, tokenizer, precision)) if words else None
    return {
        "format_version": FORMAT_VERSION,
        "network": {"origin": weights.origin, "step": weights.step, "dataset": weights.dataset},
        "text": {"name": text.name, "split": text.split, "source": text.source, "documents": len(text.documents)},
        "windowing": asdict(windowing) | {"windows": found.windows, "scored_tokens": found.tokens},
        **_numbers(found, len(tokens), text),
        **({"last_word": last} if last else {}),
        "dtype": str(precision.dtype).removeprefix("torch."),
        "versions": environment.versions(),
        "commit": environment.commit(),
    }


def _numbers(found: Score, tokens: int, text: Text) -> dict[str, Any]:
    nats = found.loss * (tokens - 1)  # of the whole text
    return {
        "tokens": tokens,
        "words": text.words,
        "bytes": text.bytes,
        "loss": found.loss,
        "token_perplexity": exponential(found.loss),
        "word_perplexity": exponential(nats / text.words) if text.words else math.inf,
        "bits_per_byte": nats / math.log(2) / text.bytes,
    }


def table(result: dict[str, Any], windowing: Windowing) -> str:
    """The numbers, one a line."""
    rows = list(_rows(result, windowing))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(result: dict[str, Any], windowing: Windowing) -> Iterator[tuple[str, str]]:
    network, text, cut = result["network"], result["text"], result["windowing"]
    yield "network", f"{network['origin']}" + (f", step {network['step']}" if network["step"] is not None else "")
    yield "text", f"{text['name']}" + (f", {text['split']}" if text["split"] else "")
    yield "windowing", str(windowing)
    yield "windows", f"{cut['windows']:,}, {cut['scored_tokens']:,} tokens scored"
    yield "size", f"{result['tokens']:,} tokens, {result['words']:,} words, {result['bytes']:,} bytes"
    yield "loss", f"{result['loss']:.4f} nats per token"
    for name in ("token_perplexity", "word_perplexity"):
        yield name.replace("_", " "), f"{result[name]:,.2f}"
    yield "bits per byte", f"{result['bits_per_byte']:.4f}"
    if last := result.get("last_word"):
        yield "last word", f"accuracy {last['accuracy']:.4f}, perplexity {last['perplexity']:,.2f}"


def write(result: dict[str, Any], folder: Path) -> Path:
    """Writes a result into `folder`, in the place of one of the same text and windows, and returns the file."""
    text, cut = result["text"], result["windowing"]
    parts = [text["name"], text["split"], cut["mode"], cut["context"], cut["stride"]]
    path = folder / ("_".join(["evaluation", *(str(x) for x in parts if x is not None)]) + ".json")
    try:
        files.write_atomic(path, strict_json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"evaluation, in {path}: expected to write it, got {error.strerror}; make room"
        ) from error
    return path
