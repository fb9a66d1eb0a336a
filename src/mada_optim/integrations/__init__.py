"""Callbacks that log the learned coefficients: a module per library, which needs that library alone.

    from mada_optim.integrations.transformers import MADACallback    # pip install "mada-optim[hf]"
    from mada_optim.integrations.lightning import MADACallback       # pip install "mada-optim[lightning]"

Importing a module without its library raises an ImportError that names the extra. For other loggers, with torch alone,
`flat_coefficients` returns a flat dict of floats, "mada/beta1" and so on:

    from mada_optim.integrations.logs import flat_coefficients
"""
