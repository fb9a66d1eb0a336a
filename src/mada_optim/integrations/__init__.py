"""Callbacks that log the learned coefficients, one module per library; each needs its library, and no other does.

    from mada_optim.integrations.transformers import MADACallback    # pip install "mada-optim[hf]"
    from mada_optim.integrations.lightning import MADACallback       # pip install "mada-optim[lightning]"

Importing one without its library raises an ImportError that names the extra. For any other logger, and torch alone:

    from mada_optim.integrations.logs import flat_coefficients

which gives one flat dict of floats, "mada/beta1" and so on.
"""
