"""Writes the files of a tokenizer in Hugging Face's format, and finds out which tokenizer a folder has."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mada_lab.data import gpt2
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.sidecar import Vocabulary
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import CheckpointError, ConfigError, DataError
from mada_lab.system import strict_json

VOCAB, MERGES, TOKENIZER, SETTINGS = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
TOKENIZER_BYTES = 1 << 24  # at most
FIRST_MERGE = 256  # ids below are those of the bytes


def published_files(tokenizer: Gpt2Tokenizer | CharTokenizer, block_size: int) -> dict[str, bytes]:
    """The content of a tokenizer's files by name, for sequences of at most `block_size` tokens.

    Raises:
        ConfigError: The tokenizer has only some of GPT-2's ids. The format can't express that.
    """
    settings: dict[str, Any] = {"model_max_length": block_size, "clean_up_tokenization_spaces": False}
    if isinstance(tokenizer, CharTokenizer):
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        return {TOKENIZER: _json(_character_level(tokenizer.vocabulary)), SETTINGS: _json(settings)}
    if tokenizer.vocabulary_size != gpt2.VOCABULARY_SIZE:
        what = f"expected GPT-2's {gpt2.VOCABULARY_SIZE} ids, got {tokenizer.vocabulary_size}"
        raise ConfigError(f"export, tokenizer: {what}; train on a data set with all of them")
    special = {f"{x}_token": gpt2.END_OF_TEXT for x in ("bos", "eos", "unk")}
    settings |= {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special}
    return {VOCAB: tokenizer.encoder_json, MERGES: merges_txt(tokenizer.encoder_json), SETTINGS: _json(settings)}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _character_level(vocabulary: str) -> dict[str, Any]:
    """The tokenizer.json of the package `tokenizers`, with each character as a word. It refuses unknown characters."""
    unused = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {
        "version": "1.0",
        "added_tokens": [],
        **unused,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {x: i for i, x in enumerate(vocabulary)}, "unk_token": "<unk>"},
    }


def merges_txt(encoder_json: bytes) -> bytes:
    """OpenAI's file vocab.bpe, computed from encoder.json. Raises DataError if the result has another digest.

    The ids of tokens are the order of their merges. Each token is the merge of the two parts that earlier merges leave.
    """
    ids: dict[str, int] = json.loads(encoder_json)
    ids.pop(gpt2.END_OF_TEXT)
    merged = sorted((id_, name) for name, id_ in ids.items() if id_ >= FIRST_MERGE)
    lines = ["#version: 0.2", *(" ".join(_merged(list(name), ids, id_)) for id_, name in merged)]
    content = ("\n".join(lines) + "\n").encode()
    found = hashlib.sha256(content).hexdigest()
    if found != gpt2.MERGES.sha256:
        raise DataError(f"merges, of {gpt2.ENCODER.name}: expected sha256 {gpt2.MERGES.sha256}, got {found}")
    return content


def _merged(parts: list[str], ids: Mapping[str, int], limit: int) -> list[str]:
    """`parts` after the merges with ids below `limit`, the lowest id first, as in byte-pair encoding."""
    while len(parts) > 2:
        joined = [ids.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        if (best := min(joined)) >= limit:
            break
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a network of `size` token ids in `folder`: GPT-2's by its size, or else characters.

    Raises:
        CheckpointError: The folder has neither, nor a file that `published_files` wrote.
    """
    if size == gpt2.VOCABULARY_SIZE:
        return Vocabulary(Gpt2Tokenizer.name, size, sha256=gpt2.ENCODER.sha256)
    if not (folder / TOKENIZER).is_file():
        raise _unknown(folder, f"{size} token ids, and no {TOKENIZER}")
    try:
        with open(folder / TOKENIZER, "rb") as file:
            content = file.read(TOKENIZER_BYTES + 1)
        model: Any = strict_json.loads(content[:TOKENIZER_BYTES])["model"]  # type: ignore[index]
        characters = "".join(sorted(model["vocab"], key=model["vocab"].__getitem__))
        if model["type"] != "WordLevel" or list(model["vocab"].values()) != list(range(size)):
            raise ValueError(f"{model['type']} of {len(model['vocab'])} tokens")
        if len(characters) != size:
            raise ValueError("tokens of several characters")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unknown(folder, " ".join(str(error).split())[:120]) from error
    return Vocabulary(CharTokenizer.name, size, characters=characters)


def _unknown(folder: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"tokenizer, in {folder}: expected GPT-2's, or characters as `mada-lab export` writes them, got {got}; "
        "choose other weights"
    )
