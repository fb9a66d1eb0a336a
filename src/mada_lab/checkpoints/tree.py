"""Converts nested state to JSON and safetensors and back; types, keys and bits stay. Nothing in it can be executed."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mada_lab.system.files import Piece
from mada_optim.sharding import dtensors

PIECE_BYTES = 1 << 24
#: The names of dtypes in safetensors.
DTYPES = {torch.bfloat16: "BF16", torch.uint8: "U8", torch.bool: "BOOL"}
DTYPES |= {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
DTYPES |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"}

Tensors = dict[str, Tensor]


def pack(tree: Any, tensors: Tensors, path: str = "") -> Any:
    """JSON for `tree`, with a path in place of each tensor. Keys keep their type, tuples stay tuples.

    Args:
        tree: Nested dicts, lists and tuples of tensors, numbers, strings, bools and None.
        tensors: Receives the tensors, DTensors too, by their paths.
        path: The path of `tree` itself.

    Raises:
        TypeError: The tree holds something else.
    """
    if isinstance(tree, Tensor) and tree.dtype in DTYPES and not tree.is_sparse and path not in tensors:
        tensors[path] = tree.detach()
        return {"tensor": path}
    if isinstance(tree, dict) and all(type(key) in (str, int) for key in tree):
        return {"dict": [[key, pack(x, tensors, f"{path}/{key}")] for key, x in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [pack(x, tensors, f"{path}/{i}") for i, x in enumerate(tree)]
        return {type(tree).__name__: items}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(float(tree))}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(tree).__name__} at {path}")


def unpack(packed: Any, tensors: Tensors) -> Any:
    """The tree from which `pack` made `packed` and `tensors`.

    Raises ValueError, KeyError, TypeError or AttributeError for anything that `pack` doesn't make.
    """
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(x, tensors) for key, x in content}
    if kind in ("list", "tuple"):
        items = [unpack(x, tensors) for x in content]
        return items if kind == "list" else tuple(items)
    if kind == "float":
        return float(content)
    if kind == "value" and not isinstance(content, dict | list):
        return content
    raise ValueError(f"an entry of the unknown kind {kind!r}")


def safetensors_file(tensors: Tensors) -> Iterator[Piece]:
    """A safetensors file of `tensors`, piece by piece, so that no second copy of all of them is needed.

    Tensors are moved to the CPU one by one. DTensors are gathered: all processes that share one must iterate.
    """
    if sys.byteorder != "little":
        raise NotImplementedError("a checkpoint is little-endian, and so must be the machine that writes it")
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, x in ordered:
        end = position + x.numel() * x.element_size()
        header[name] = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, x in ordered:
        whole = x.full_tensor() if dtensors.is_sharded(x) else x  # type: ignore[attr-defined]
        content = memoryview(as_bytes(whole.cpu()).numpy())
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor on the CPU; a contiguous one isn't copied."""
    flat = x.contiguous().reshape(-1)
    # a contiguous tensor of one element may have any stride; a view as bytes needs stride 1
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)
