"""What torch ships of its own test data. Importing it changes the process for all other tests; that is undone here.

It forbids to set backend flags, and has hypothesis try 10 examples instead of the 100 of its default.
"""

import hypothesis
import torch

profile = hypothesis.settings.get_current_profile_name()
with torch.backends.__allow_nonbracketed_mutation():
    from torch.testing._internal.common_optimizers import (
        ErrorOptimizerInput,
        OptimizerErrorEnum,
        OptimizerInfo,
        OptimizerInput,
        TensorTracker,
        get_error_inputs_for_all_optims,
        optim_db,
    )
hypothesis.settings.load_profile(profile)

__all__ = [
    "ErrorOptimizerInput",
    "OptimizerErrorEnum",
    "OptimizerInfo",
    "OptimizerInput",
    "TensorTracker",
    "get_error_inputs_for_all_optims",
    "optim_db",
]
