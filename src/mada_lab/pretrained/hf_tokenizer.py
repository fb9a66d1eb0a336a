"""The tokenizer of a network, in files that `transformers` reads; and which tokenizer such a folder has."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mada_lab.data import gpt2
from mada_lab.data.gpt2 import Gpt2Tokenizer
from mada_lab.data.sidecar import Vocabulary
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import CheckpointError, ConfigError, DataError
from mada_lab.system import strict_json

VOCAB, MERGES, TOKENIZER, SETTINGS = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
TOKENIZER_BYTES = 1 << 24  # at most: half the characters there are
FIRST_MERGE = 256  # the tokens before it are the bytes


def published_files(tokenizer: Gpt2Tokenizer | CharTokenizer, block_size: int) -> dict[str, bytes]:
    """The content of the files by name, for sequences up to `block_size` tokens.

    Raises:
        ConfigError: The tokenizer has a part of GPT-2's ids, for which there is no format.
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
    """The format of the package `tokenizers`: each character is a word. One out of the vocabulary is refused there."""
    every = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    words = {"type": "WordLevel", "vocab": {x: i for i, x in enumerate(vocabulary)}, "unk_token": "<unk>"}
    unused = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {
        "version": "1.0",
        "added_tokens": [],
        **unused,
        "pre_tokenizer": every,
        "decoder": {"type": "Fuse"},
        "model": words,
    }


def merges_txt(encoder_json: bytes) -> bytes:
    """OpenAI's file vocab.bpe, recovered from the ids in encoder.json, which are the order of the merges.

    Raises:
        DataError: The result isn't that file.
    """
    names: dict[str, int] = json.loads(encoder_json)
    names.pop(gpt2.END_OF_TEXT)
    lines = ["#version: 0.2", *_merges(names)]
    content = ("\n".join(lines) + "\n").encode()
    found = hashlib.sha256(content).hexdigest()
    if found != gpt2.MERGES.sha256:
        raise DataError(f"merges, of {gpt2.ENCODER.name}: expected sha256 {gpt2.MERGES.sha256}, got {found}")
    return content


def _merges(ids: Mapping[str, int]) -> Iterator[str]:
    """Each token is the merge of the two that earlier merges leave of it."""
    for name, id_ in sorted(ids.items(), key=lambda item: item[1]):
        if id_ >= FIRST_MERGE:
            yield " ".join(_merged(list(name), ids, id_))


def _merged(parts: list[str], ids: Mapping[str, int], limit: int) -> list[str]:
    """What the merges before `limit` leave of `parts`, the lowest first, as byte-pair encoding applies them."""
    while len(parts) > 2:
        joined = [ids.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        if (best := min(joined)) >= limit:
            break
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Which tokenizer a network of `size` token ids in `folder` has; GPT-2's where no file says otherwise.

    Raises:
        CheckpointError: It is another one than GPT-2's, or than one that `published_files` wrote.
    """
    if not (folder / TOKENIZER).is_file() or size == gpt2.VOCABULARY_SIZE:
        if size == gpt2.VOCABULARY_SIZE:
            return Vocabulary(Gpt2Tokenizer.name, size, sha256=gpt2.ENCODER.sha256)
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
