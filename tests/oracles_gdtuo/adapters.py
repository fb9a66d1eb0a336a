"""What makes two libraries' conventions agree, for tests only.

gdtuo is `gradient_descent_the_ultimate_optimizer`, by the authors of "Gradient Descent: The Ultimate Optimizer"
(Chandra et al., NeurIPS 2022). It learns alpha, or its square root, and the tanh-latents of the betas; this library
learns the logarithm of a factor on lr, and the betas as they are. `Latent` reparametrises ours. Where the updates
differ, a test rule states gdtuo's. Its towers take a step at every storey from the first step on, when all
hypergradients are 0; `Latent` starts with that step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from gradient_descent_the_ultimate_optimizer import gdtuo

from mada_optim import HyperOptimizer, HyperTorch
from mada_optim.rule import LR, Rule, Slot
from mada_optim.rules.adam import BETA1, BETA2

# ---------------------------------------------------------------------------------------------------------------- ours


def adam_update(c, g, s, t):
    """gdtuo.Adam: v starts at eps, and both corrections are 1 - beta^t with the beta of this step."""
    m = c["beta1"] * s["m"] + (1 - c["beta1"]) * g
    v = c["beta2"] * s["v"] + (1 - c["beta2"]) * g * g
    return (m / (1 - c["beta1"] ** t)) / ((v / (1 - c["beta2"] ** t)) ** 0.5 + c["eps"]), {"m": m, "v": v}


def rmsprop_update(c, g, s, t):
    """gdtuo.RMSProp: eps inside the root."""
    v = c["beta2"] * s["v"] + (1 - c["beta2"]) * g * g
    return g / (v + c["eps"]) ** 0.5, {"v": v}


ADAM = Rule("gdtuo_adam", adam_update, (BETA1, BETA2), (Slot("m", "m"), Slot("v", "v", 1e-8)), {"eps": 1e-8})
RMSPROP = Rule("gdtuo_rmsprop", rmsprop_update, (BETA2,), (Slot("v", "v"),), {"eps": 1e-8})


class Latent(torch.optim.Optimizer):
    """A learner of coefficients q = f(z) that steps latent numbers z instead, by an optimizer `inner(zs)` of its own.

    `latents` has (f, the start of z) for each coefficient that it is given.
    """

    def __init__(self, coefficients, latents, inner):
        super().__init__(coefficients, {})
        self.images = [f for f, _ in latents]
        for q, (_, start) in zip(coefficients, latents, strict=True):
            self.state[q]["z"] = torch.as_tensor(start, dtype=q.dtype).expand_as(q).clone()
        self.hyper_optimizers = [inner([self.state[q]["z"] for q in coefficients])]
        for q in coefficients:
            self.state[q]["z"].grad = torch.zeros_like(q)
        self.hyper_optimizers[0].step()

    @torch.no_grad()
    def step(self, closure=None):
        pairs = list(zip(self.param_groups[0]["params"], self.images, strict=True))
        for q, f in pairs:
            z = self.state[q]["z"]
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                (z.grad,) = torch.autograd.grad(f(leaf), leaf, q.grad)  # the chain rule
        self.hyper_optimizers[0].step()
        for q, f in pairs:
            q.copy_(f(self.state[q]["z"]))


# -------------------------------------------------------------------------------------------------- latents, by gdtuo's


def itself(start):
    return lambda z: z, start


def alpha(start):
    """Alpha = lr exp(q)."""
    return lambda z: torch.log(z / start), start


def root_of_alpha(start):
    return lambda z: torch.log(z**2 / start), math.sqrt(start)


def tanh(start):
    return lambda z: (z.tanh() + 1) / 2, math.atanh(2 * start - 1)


# -------------------------------------------------------------------------------------------------------------- storeys


@dataclass(frozen=True)
class Storey:
    """One optimizer of a tower in both libraries.

    Attributes:
        theirs: Makes gdtuo's from the one above it.
        rule: Ours.
        options: Of ours.
        latents: By learned coefficient, in the order in which ours gives them to `HyperTorch`.
        readings: How their parameter of that name reads as the coefficient.
    """

    theirs: Callable
    rule: str | Rule
    options: dict
    latents: dict
    readings: dict = field(default_factory=dict)


def theirs(storeys):
    """gdtuo's tower, the lowest storey first; the highest is not learned."""
    above = gdtuo.NoOpOptimizer()
    for storey in reversed(storeys):
        above = storey.theirs(above)
    return above


def ours(params, storeys, **options):
    """Our tower."""
    here, above = storeys[0], storeys[1:]
    learner = HyperTorch(
        *here.latents,
        make=lambda q: Latent(q, list(here.latents.values()), lambda z: ours(z, above)),
        clip=math.inf,
        start=0,
        bounds={q: (0.0, 0.99999) for q in here.latents if q != "lr"},
    )
    return HyperOptimizer(params, rule=here.rule, **here.options, learn=learner if above else (), **options)


def our_readings(opt):
    """Coefficients of each storey, the lowest first."""
    while opt is not None:
        yield opt.coefficients() | ({} if LR.name in opt.learned else {"lr": float(opt.param_groups[0]["lr"])})
        opt = next((above.hyper_optimizers[0] for above in opt.hyper_optimizers), None)


def their_readings(optimizer, storeys):
    for storey in storeys:
        yield {q: read(optimizer.parameters[name]).item() for q, (name, read) in storey.readings.items()}
        optimizer = optimizer.optimizer


class Prescribed(gdtuo.Optimizable):
    """The bottom of gdtuo's tower: parameters whose gradient is prescribed, as that of a linear loss."""

    def step(self):
        self.optimizer.step(self.parameters)

    def take(self, gradients):
        """One step in gdtuo's protocol."""
        self.begin()
        self.zero_grad()
        sum((g * p).sum() for g, p in zip(gradients, self.parameters.values(), strict=True)).backward()
        self.step()


def plainly(name):
    return name, lambda x: x


def latently(name):
    return name, lambda z: (z.tanh() + 1) / 2


LR_ALONE = {"lr": plainly("alpha")}


def sgd(lr, momentum=0.0):
    """Where there is momentum, gdtuo learns it as it is."""
    latents = {"momentum": itself(momentum), "lr": alpha(lr)} if momentum else {"lr": alpha(lr)}
    readings = LR_ALONE | ({"momentum": plainly("mu")} if momentum else {})
    options = {"lr": lr, "momentum": momentum}
    return Storey(lambda above: gdtuo.SGD(lr, momentum, above), "sgd", options, latents, readings)


def adagrad(lr):
    """gdtuo's sum of squares starts at 0.1, and its eps of 1e-10 is inside of the root."""
    options = {"lr": lr, "initial_accumulator_value": 0.1 + 1e-10, "eps": 0.0}
    return Storey(lambda above: gdtuo.AdaGrad(lr, above), "adagrad", options, {"lr": alpha(lr)}, LR_ALONE)


def rmsprop(lr, decay, rule):
    """With our own rule both have no eps, which it adds outside of the root."""
    name, eps = ("beta2", 1e-8) if rule is RMSPROP else ("alpha", 0.0)

    def make(above):
        made = gdtuo.RMSProp(lr, decay, above)
        made.eps = eps
        return made

    latents = {name: tanh(decay), "lr": root_of_alpha(lr)}
    readings = {name: latently("gamma"), "lr": ("alpha", torch.square)}
    return Storey(make, rule, {"lr": lr, name: decay, "eps": eps}, latents, readings)


def adam(lr, betas=(0.9, 0.999)):
    latents = {"beta1": tanh(betas[0]), "beta2": tanh(betas[1]), "lr": alpha(lr)}
    readings = {"beta1": latently("beta1"), "beta2": latently("beta2"), **LR_ALONE}
    options = {"lr": lr, "betas": betas}
    return Storey(lambda above: gdtuo.Adam(lr, *betas, optimizer=above), ADAM, options, latents, readings)


def adam_baydin(lr, rule):
    """With our own rule eps is small, since gdtuo's v starts there and not at 0."""
    log_eps = -8.0 if rule is ADAM else -16.0
    options = {"lr": lr, "betas": (0.9, 0.999), "eps": 10.0**log_eps}

    def make(above):
        return gdtuo.AdamBaydin(lr, log_eps=log_eps, optimizer=above)

    return Storey(make, rule, options, {"lr": alpha(lr)}, LR_ALONE)
