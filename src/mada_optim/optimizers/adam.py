"""Adam, HyperAdam, and the optimizers that change one part of Adam."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.beta_guard import Guard
from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.learning.banks import Learn
from mada_optim.optimizers.arguments import explained, given


class _OfAdam(HyperOptimizer):
    """The signature of Adam, AMSGrad and AVGrad, which differ in the rule alone."""

    _rule_name: ClassVar[str]

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        learn: Learn = (),
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule=self._rule_name))


@explained("adam")
class Adam(_OfAdam):
    r"""Adam with decoupled weight decay, which is AdamW.

    Source: Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)
    """

    _rule_name = "adam"


@explained("adam")
class HyperAdam(HyperOptimizer):
    r"""Adam with decoupled weight decay, which learns its two betas.

    Source: Adam by Kingma and Ba, ICLR 2015; hypergradients by Baydin et al., ICLR 2018.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        learn: Learn = "all",
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="adam"))


@explained("amsgrad")
class AMSGrad(_OfAdam):
    r"""Adam with the running maximum of the second moment.

    Source: Reddi et al., ICLR 2018.

    .. math::
        v^{\max}_t = \max(v^{\max}_{t-1}, v_t), \qquad u_t = \hat m_t / (\sqrt{\hat v^{\max}_t} + \epsilon)
    """

    _rule_name = "amsgrad"


@explained("avgrad")
class AVGrad(_OfAdam):
    r"""Adam with the mean of the second moment over all steps so far.

    Source: Ozkara et al., ICML 2024, https://arxiv.org/abs/2401.08893.

    .. math::
        \bar v_t = \bar v_{t-1} + (v_t - \bar v_{t-1}) / t, \qquad u_t = \hat m_t / (\sqrt{\hat{\bar v}_t} + \epsilon)
    """

    _rule_name = "avgrad"


@explained("nadam", momentum_decay="How fast the momentum approaches beta1, >= 0.")
class NAdam(HyperOptimizer):
    r"""Adam whose momentum looks ahead, as in torch.optim.

    Source: Dozat, ICLR 2016 workshop.

    .. math::
        \mu_t = \beta_1 (1 - \tfrac12\, 0.96^{t \psi}), \qquad
        u_t = \bigl(\mu_{t+1} \hat m_t + (1-\mu_t) \hat g_t\bigr) / (\sqrt{\hat v_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        momentum_decay: float = 4e-3,
        learn: Learn = (),
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="nadam"))


@explained("yogi")
class Yogi(HyperOptimizer):
    r"""Adam whose second moment moves by additive steps.

    Source: Zaheer et al., NeurIPS 2018.

    .. math::
        v_t = v_{t-1} + (1-\beta_2)\, g_t^2\, \mathrm{sign}(g_t^2 - v_{t-1}), \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        learn: Learn = (),
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="yogi"))


@explained("adan")
class Adan(HyperOptimizer):
    r"""Adam with Nesterov momentum by gradient differences.

    Source: Xie et al. 2022, https://arxiv.org/abs/2208.06677. Their betas (0.98, 0.92, 0.99) are the default here,
    `betas=(0.98, 0.99), beta3=0.92`.

    .. math::
        d_t = g_t - g_{t-1}, \qquad n_t = \beta_3 n_{t-1} + (1-\beta_3) d_t, \qquad
        u_t = (\hat m_t + \beta_3 \hat n_t) / (\sqrt{\hat v_t} + \epsilon)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | str = 1e-3,
        betas: tuple[float, float] = (0.98, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        beta3: float = 0.92,
        learn: Learn = (),
        guard: Guard | None = None,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(**given(locals(), rule="adan"))
