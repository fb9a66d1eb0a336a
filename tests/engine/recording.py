"""A recorder of torch operations that plays them again, as a CUDA graph does, for tests on the CPU."""

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operations that a capture can't have: a value read on the host, or numbers sent from there.
FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "is_nonzero")


class Call(NamedTuple):
    func: object
    args: tuple
    kwargs: dict
    out: object

    def constants(self):
        """The operation and its arguments, but for tensors."""
        return self.func, [x for x in tree_leaves((self.args, self.kwargs)) if not isinstance(x, torch.Tensor)]


class Recording(TorchDispatchMode):
    """Runs operations, and keeps them with the memory that they read and wrote."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert name not in FORBIDDEN, f"a step used {name}, which waits for the host"
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":  # others are the profiler's
            self.calls.append(Call(func, args, kwargs or {}, out))
        return out

    def constants(self):
        return [call.constants() for call in self.calls]

    @torch.no_grad()
    def replay(self):
        """Runs the operations again on the same memory: nothing of Python between them runs."""
        for call in self.calls:
            aliases = [x.alias_info for x in call.func._schema.returns]
            if any(x is not None and not x.is_write for x in aliases):
                continue  # a view, which sees its memory
            out = call.func(*call.args, **call.kwargs)
            if all(x is None for x in aliases):
                for new, kept in zip(tree_leaves(out), tree_leaves(call.out), strict=True):
                    if isinstance(kept, torch.Tensor):
                        kept.copy_(new)
