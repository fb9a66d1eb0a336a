"""The optimizers of torch.optim and of the literature by their names. Nothing is learned of them but on request."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim.guard import Guard
from mada_optim.hyper.banks import Learn
from mada_optim.optim import HyperOptimizer


class SGD(HyperOptimizer):
    r"""Gradient descent, with momentum; weight decay is decoupled.

    .. math::
        b_t = \mu b_{t-1} + g_t, \qquad u_t = \nu (g_t + \mu b_t) + (1 - \nu) b_t

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        momentum: Decay of the momentum, in [0, 1).
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        nesterov: 1 is Nesterov's momentum, 0 the heavy ball; in [0, 1].
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="sgd",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            momentum=momentum,
            nesterov=nesterov,
        )


class AdaGrad(HyperOptimizer):
    r"""A learning rate per element that falls with the sum of its squared gradients.

    Source: Duchi et al., JMLR 2011.

    .. math::
        G_t = G_{t-1} + g_t^2, \qquad u_t = g_t / (\sqrt{G_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        lr_decay: lr falls as 1 / (1 + (t - 1) lr_decay), >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        initial_accumulator_value: What the sum of squares starts at, >= 0.
        eps: Added to the denominator, >= 0.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="adagrad",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            lr_decay=lr_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )


class RMSprop(HyperOptimizer):
    r"""Gradients over their running root mean square, as in torch.optim.

    .. math::
        v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \qquad u_t = \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        alpha: Decay of the average of squared gradients, in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        momentum: Decay of the momentum, in [0, 1).
        centered: 1 divides by the standard deviation, 0 by the root mean square; in [0, 1].
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="rmsprop",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            alpha=alpha,
            eps=eps,
            momentum=momentum,
            centered=centered,
        )


class HyperAdam(HyperOptimizer):
    r"""Adam with decoupled weight decay, whose two betas are learned.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="adam",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )


class Adam(HyperOptimizer):
    r"""Adam with decoupled weight decay, which is AdamW.

    Source: Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="adam",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )


class AMSGrad(HyperOptimizer):
    r"""Adam with the running maximum of v.

    Source: Reddi et al., ICLR 2018.

    .. math::
        v^{\max}_t = \max(v^{\max}_{t-1}, v_t), \qquad u_t = \hat m_t / (\sqrt{\hat v^{\max}_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="amsgrad",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )


class AVGrad(HyperOptimizer):
    r"""Adam with the running mean of v.

    Source: Ozkara et al., ICML 2024.

    .. math::
        \bar v_t = \bar v_{t-1} + (v_t - \bar v_{t-1}) / t, \qquad u_t = \hat m_t / (\sqrt{\hat{\bar v}_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="avgrad",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )


class Yogi(HyperOptimizer):
    r"""Adam whose v moves by additive steps.

    Source: Zaheer et al., NeurIPS 2018.

    .. math::
        v_t = v_{t-1} + (1-\beta_2)\, g_t^2\, \mathrm{sign}(g_t^2 - v_{t-1}), \qquad
        u_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="yogi",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
        )


class Adan(HyperOptimizer):
    r"""Adam with Nesterov momentum by gradient differences.

    Source: Xie et al. 2022, whose betas (.98, .92, .99) are `betas=(0.98, 0.99), beta3=0.92` here, the default.

    .. math::
        d_t = g_t - g_{t-1}, \qquad n_t = \beta_3 n_{t-1} + (1-\beta_3) d_t, \qquad
        u_t = (\hat m_t + \beta_3 \hat n_t) / (\sqrt{\hat v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        beta3: Decay of the average of gradient differences, in [0, 1).
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        guard: Keeps the betas in a safe range; None: they are used as they are.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="adan",
            learn=learn,
            weight_decay=weight_decay,
            guard=guard,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
            beta3=beta3,
        )


class Lion(HyperOptimizer):
    r"""The sign of an interpolated momentum. Its lr is 3 to 10 times smaller than Adam's.

    Source: Chen et al., NeurIPS 2023.

    .. math::
        u_t = \mathrm{sign}(\beta_1 l_{t-1} + (1-\beta_1) g_t), \qquad l_t = \beta_2 l_{t-1} + (1-\beta_2) g_t

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): of the interpolation, and of the momentum.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="lion",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
        )


class NAdam(HyperOptimizer):
    r"""Adam whose momentum looks ahead, as in torch.optim.

    Source: Dozat, ICLR 2016 workshop.

    .. math::
        \mu_t = \beta_1 (1 - \tfrac12\, 0.96^{t \psi}), \qquad
        u_t = \bigl(\mu_{t+1} \hat m_t + (1-\mu_t) \hat g_t\bigr) / (\sqrt{\hat v_t} + \epsilon)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        betas: (beta1, beta2), each in [0, 1): decays of the averages of the gradient and of its square.
        eps: Added to the denominator, >= 0.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        momentum_decay: How fast the momentum approaches beta1, >= 0.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="nadam",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            betas=betas,
            eps=eps,
            momentum_decay=momentum_decay,
        )


class Muon(HyperOptimizer):
    r"""The polar factor of the momentum, for parameters that are all matrices; `AutoMuon` tells matrices from all else.

    Source: Jordan et al. 2024.

    .. math::
        b_t = \mu b_{t-1} + (1-\mu) g_t, \qquad u_t = \kappa \sqrt{\max(r, s)}\; O(\mu b_t + (1-\mu) g_t)

    Args:
        params: Parameters, named parameters, or group dicts, as in torch.optim.
        lr: Learning rate, >= 0, or "auto": computed from the shapes of the matrices.
        mu: Decay of the momentum that is orthogonalised, in [0, 1).
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        kappa: Root mean square of the update, > 0; .2 is about Adam's, so that one lr serves both.
        learn: What is learned, and how: names, "all", (), a learner such as `HyperSGD`, or a list of them.
        maximize: Steps along the gradient instead of against it.
        engine: "auto" is the fastest to be had; "eager", "cpu", "tiled" or "triton" by name.
        state_dtype: Dtype of the slots; None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded by hand; None otherwise, under FSDP2 too.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
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
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule="muon",
            learn=learn,
            weight_decay=weight_decay,
            maximize=maximize,
            engine=engine,
            state_dtype=state_dtype,
            reduce_group=reduce_group,
            mu=mu,
            kappa=kappa,
        )
