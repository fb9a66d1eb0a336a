"""SGD, AdaGrad, RMSprop, Lion, Muon and NorMuon."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.optimizers.arguments import explained, given


@explained("sgd")
class SGD(HyperOptimizer):
    r"""Gradient descent with momentum, as in torch.optim; weight decay is decoupled.

    Source: Polyak 1964; Nesterov's momentum as in Sutskever et al., ICML 2013.

    .. math::
        b_t = \mu b_{t-1} + g_t, \qquad u_t = \nu (g_t + \mu b_t) + (1 - \nu) b_t
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: float = 0.0,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="sgd"))


@explained(
    "adagrad",
    lr_decay="lr falls as 1 / (1 + (t - 1) lr_decay), >= 0.",
    initial_accumulator_value="Initial value of the sum of squares, >= 0.",
)
class AdaGrad(HyperOptimizer):
    r"""Gradients over the root of the sum of their squares, element by element, as in torch.optim.

    Source: Duchi et al., JMLR 2011.

    .. math::
        G_t = G_{t-1} + g_t^2, \qquad u_t = g_t / (\sqrt{G_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        *,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="adagrad"))


@explained("rmsprop")
class RMSprop(HyperOptimizer):
    r"""Gradients over their running root mean square, as in torch.optim.

    Source: Hinton, Srivastava and Swersky, lecture 6e of Neural Networks for Machine Learning, 2012.

    .. math::
        v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \qquad u_t = \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.0,
        centered: float = 0.0,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="rmsprop"))


@explained("lion")
class Lion(HyperOptimizer):
    r"""The sign of a weighted sum of momentum and gradient. Use an lr 3 to 10 times smaller than Adam's.

    Source: Chen et al., NeurIPS 2023.

    .. math::
        u_t = \mathrm{sign}(\beta_1 l_{t-1} + (1-\beta_1) g_t), \qquad l_t = \beta_2 l_{t-1} + (1-\beta_2) g_t
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="lion"))


@explained("muon", kappa="Root mean square of the update, > 0; 0.2 is about Adam's, so that one lr serves both.")
class Muon(HyperOptimizer):
    r"""The polar factor of the momentum, for parameters that are all matrices. `AutoMuon` takes any parameters.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    .. math::
        b_t = \mu b_{t-1} + (1-\mu) g_t, \qquad u_t = \kappa \sqrt{\max(r, s)}\; O(\mu b_t + (1-\mu) g_t)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        mu: float = 0.95,
        weight_decay: float = 0.0,
        *,
        kappa: float = 0.2,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        share_matrices: Any = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="muon"))


@explained(
    "normuon",
    kappa="Root mean square of the update, > 0; 0.2 is about Adam's, so that one lr serves both.",
    row_beta="Decay of the average of the rows' mean squares, in [0, 1).",
)
class NorMuon(HyperOptimizer):
    r"""`Muon` with rows of about equal size, for parameters that are all matrices; one number of state per row.

    Source: Li et al. 2025, arXiv 2510.05491.

    .. math::
        o_t = O(\mu b_t + (1-\mu) g_t), \qquad r_t = \beta r_{t-1} + (1-\beta)\,\mathrm{rows}(o_t^2), \qquad
        u_t = \kappa \sqrt{\max(p, q)}\; o_t \left((1-\nu) + \nu\, a_t / \sqrt{r_t}\right)

    The matrix has p rows and q columns. rows is the mean of each row, and a keeps the norm of o.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        mu: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nu: float = 1.0,
        row_beta: float = 0.95,
        kappa: float = 0.2,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        share_matrices: Any = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="normuon"))
