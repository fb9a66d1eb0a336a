"""Reads and writes GPT-2 in Hugging Face's format: config.json and model.safetensors, never a pickle.

Names, types and shapes are compared with the configuration before a tensor is read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mada_lab.checkpoints.tree import Tensors
from mada_lab.errors import CheckpointError, ConfigError, LabError
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.system import strict_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
CONFIG_BYTES = 1 << 20  # at most
PREFIX = "transformer."
#: Weights of shape (in, out) in Hugging Face's format, and (out, in) in `nn.Linear`.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
#: Our names of the sizes in config.json.
SIZES = {"n_positions": "block_size", **{name: name for name in ("vocab_size", "n_layer", "n_head", "n_embd")}}
#: The values in config.json of every network like ours, beside its sizes.
FIXED: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
#: Our own key in config.json: whether the network has biases. The format has no networks without; theirs are zeros.
BIAS = "mada_lab_bias"
DTYPES = ("F32", "F16", "BF16", "F64")
MASKS = (".attn.bias", ".attn.masked_bias")  # the causal mask, which old files have


def config_json(config: GPTConfig, end_of_text: int | None) -> str:
    """The text of config.json."""
    values: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], **FIXED, BIAS: config.bias}
    values |= {theirs: getattr(config, ours) for theirs, ours in SIZES.items()} | {"n_ctx": config.block_size}
    values |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout)
    values |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "dtype": "float32", "use_cache": True}
    return strict_json.dumps(values, indent=2) + "\n"


def to_published(config: GPTConfig, tensors: Mapping[str, Tensor]) -> Tensors:
    """Our tensors with the names and shapes of Hugging Face's format; missing biases are zeros."""
    found: Tensors = {}
    for name, like in skeleton(config, bias=True).items():
        x = tensors[name] if name in tensors else torch.zeros(like.shape)
        found[PREFIX + name] = x.t().contiguous() if name.endswith(TRANSPOSED) else x
    return found


def skeleton(config: GPTConfig, bias: bool) -> dict[str, Tensor]:
    """The tensors of a network by our names, on the device meta: shapes without content."""
    sizes = {ours: getattr(config, ours) for ours in SIZES.values()}
    with torch.device("meta"):
        return dict(GPT(GPTConfig(**sizes, bias=bias)).state_dict())


def read(folder: Path) -> tuple[GPTConfig, Tensors]:
    """Reads a network: its sizes, and copies of its tensors by our names, in float32.

    Raises:
        CheckpointError: A file is missing, damaged, of another format or of another network.
    """
    values = read_config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        got = "none" if not (folder / INDEX).exists() else "several, which are not read"
        raise CheckpointError(f"weights, in {path}: expected one safetensors file, got {got}; export it as one file")
    try:
        with safe_open(path, framework="pt") as file:
            return _read_tensors(file, values)
    except LabError as error:
        raise CheckpointError(f"weights, in {folder}: {error}") from error
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        got = " ".join(str(error).split())[:200]
        raise CheckpointError(f"weights, in {path}: {got}; get the files again, or take those of GPT-2") from error


def read_config(path: Path) -> dict[str, Any]:
    """The checked content of config.json. Raises CheckpointError if it is missing, damaged or of another network."""
    try:
        with open(path, "rb") as file:
            content = file.read(CONFIG_BYTES + 1)
        values = strict_json.loads(content) if len(content) <= CONFIG_BYTES else None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"weights, in {path}: expected a configuration in JSON, got {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"weights, in {path}: expected an object of at most {CONFIG_BYTES} bytes, got another")
    for key, expected in {**FIXED, **dict.fromkeys(SIZES, "a positive integer")}.items():
        got = values.get(key, None if key in SIZES or key == "model_type" else expected)
        good = type(got) is int and got >= 1 if key in SIZES else got == expected
        if not good and not (key == "n_inner" and got == 4 * (values.get("n_embd") or 0)):
            what = f"expected {expected if key in SIZES else repr(expected)}, got {str(got)[:80]}"
            raise CheckpointError(f"weights, in {path}, key {key}: {what}; choose a GPT-2 of the plain kind")
    return values


def _read_tensors(file: Any, values: Mapping[str, Any]) -> tuple[GPTConfig, Tensors]:
    stored = {name.removeprefix(PREFIX): name for name in file.keys() if not name.endswith(MASKS)}  # noqa: SIM118
    if values["n_layer"] > len(stored):  # before so many layers are made
        raise ValueError(f"expected tensors of {values['n_layer']} layers, got {len(stored)} tensors")
    sizes = {ours: values[theirs] for theirs, ours in SIZES.items()}
    try:
        config = GPTConfig(**sizes, bias=values.get(BIAS) is not False)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    expected = skeleton(config, bias=True)
    head = stored.pop("lm_head.weight", None)
    if set(stored) != set(expected):
        strange = sorted(set(stored) ^ set(expected))
        raise ValueError(f"expected the tensors of GPT-2, got a difference in {', '.join(strange)[:120]}")
    tensors = dict(_tensors(file, stored, expected))
    if head is not None and not torch.equal(_tensor(file, head, expected["wte.weight"].shape), tensors["wte.weight"]):
        raise ValueError("expected lm_head.weight tied to wte.weight, got another")
    biases = {name: x for name, x in tensors.items() if name.endswith("bias") and not config.bias}
    if wrong := next((name for name, x in biases.items() if x.any()), None):
        raise ValueError(f"{wrong}: expected zeros, as {CONFIG} says that there is no bias, got others")
    return config, {name: x for name, x in tensors.items() if name not in biases}


def _tensors(file: Any, stored: Mapping[str, str], expected: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors in our order. All shapes are checked before the first tensor is read."""
    shapes = {name: x.shape[::-1] if name.endswith(TRANSPOSED) else x.shape for name, x in expected.items()}
    for name, shape in shapes.items():
        piece = file.get_slice(stored[name])
        if tuple(piece.get_shape()) != tuple(shape) or piece.get_dtype() not in DTYPES:
            got = f"{tuple(piece.get_shape())} {piece.get_dtype()}"
            raise ValueError(f"{stored[name]}: expected {tuple(shape)} of {', '.join(DTYPES)}, got {got}")
    for name, shape in shapes.items():
        x = _tensor(file, stored[name], shape)
        yield name, x.t().contiguous() if name.endswith(TRANSPOSED) else x


def _tensor(file: Any, name: str, shape: torch.Size) -> Tensor:
    """A copy in memory, as another process may shorten the file."""
    x: Tensor = file.get_tensor(name).to(torch.float32, copy=True)
    if x.shape != shape:
        raise ValueError(f"{name}: expected {tuple(shape)}, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got others")
    return x
