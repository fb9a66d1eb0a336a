"""Exports a trained network to a folder in Hugging Face's format for GPT-2."""

from pathlib import Path

from mada_lab.checkpoints.tree import safetensors_file
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.pretrained import hf_gpt2, hf_tokenizer
from mada_lab.pretrained.weights import Weights
from mada_lab.system import files


def export(weights: Weights, out: Path, bpe_files: Path | None = None) -> Path:
    """Writes the folder `out`, which appears whole or not at all, and returns it.

    Raises:
        ConfigError: `out` exists.
        DataError: The tokenizer is missing.
        CheckpointError: The disk fails.
    """
    if out.exists():
        raise ConfigError(f"export, option --out: expected a folder that isn't there yet, got {out}; choose another")
    tokenizer = weights.tokenizer(bpe_files)
    config = hf_gpt2.config_json(weights.config, tokenizer.end_of_text).encode()
    contents = {hf_gpt2.CONFIG: config, **hf_tokenizer.published_files(tokenizer, weights.config.block_size)}
    try:
        files.make_folder(out.parent)
        with files.new_folder(out) as part:
            for name, content in contents.items():
                files.write_new(part / name, [content])
            tensors = hf_gpt2.to_published(weights.config, weights.tensors)
            files.write_new(part / hf_gpt2.WEIGHTS, safetensors_file(tensors))
    except OSError as error:
        raise CheckpointError(
            f"export, in {out}: expected to write it, got {error.strerror}; free some space"
        ) from error
    return out
