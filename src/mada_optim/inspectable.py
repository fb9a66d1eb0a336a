"""What an optimizer tells of itself: engine, learners, coefficients, hypergradients, slots and memory."""

from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_optim import modes
from mada_optim.inspection import MemoryBill, Reading, Readings, described
from mada_optim.learning.banks import Banks
from mada_optim.learning.learner import Learner
from mada_optim.rule import Rule
from mada_optim.stepping.step import StepCount, Stepper


class Inspectable(Optimizer):
    """The readings of a `HyperOptimizer`, which sets these attributes. Reading changes nothing."""

    rule: Rule
    _banks: Banks
    _readings: Readings
    _step_count: StepCount
    _stepper: Stepper

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped for a gradient that was not finite, since construction or `load_state_dict`.

        Reads from the device. If all steps so far were skipped, this, `coefficients` and `state_dict` warn once.
        """
        return self._step_count.read()[1]

    @property
    def engine(self) -> str:
        """The fastest engine in use: "cpu", "tiled", "triton" or "eager". Tensors that it can't move run on "eager"."""
        return self._stepper.dispatcher.engine

    @property
    def engine_reasons(self) -> list[str]:
        """Why the eager engine runs: a reason for each form of the rule without a faster one."""
        return list(self._stepper.dispatcher.reasons)

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learners of the coefficients."""
        return tuple(bank.learner for bank in self._banks.banks)

    @property
    def hyper_optimizers(self) -> list[Optimizer]:
        """The optimizers that `HyperTorch` learners have made: the next level of a tower."""
        return self._banks.optimizers

    def __repr__(self) -> str:
        """The rule, the learners with their coefficients and scopes, and the options of each group."""
        return described(type(self).__name__, self.rule, self._banks, self.param_groups)

    def coefficients(self) -> Reading:
        """The coefficients by name, as the next step applies them. Reads from the device; changes nothing.

        Betas are those after the guard, and a learned lr is the scheduled one times the learned factor. With the scope
        "global" the values are those of the first parameter that was stepped. With "group" or "tensor" there is a dict
        for each group (by its `name` or number) or parameter (by its name or "group.number"); the number is added to a
        name that repeats. Of several scopes, the finest counts.
        """
        with modes.neutral():
            self._stepper.follow(self.param_groups)
        self._step_count.read()
        return self._readings.coefficients(self.param_groups, self.state, self._stepper.home(self.param_groups))

    def hypergradients(self) -> Reading:
        """The hypergradients that the last step used, before clipping, in the form of `coefficients`."""
        return self._readings.hypergradients(self.param_groups, self.state)

    def memory(self) -> MemoryBill:
        """The size of the state on this process, before or after the first step. `print` it for a table."""
        return self._readings.memory(self.param_groups)

    @modes.neutral()
    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """Copies of the slots of the parameter `p` after its last update, by name; empty before its first."""
        return self._readings.slots(p, self.param_groups, self.state)
