"""Parameters of every kind: tied, absent from a step, 0-d, empty, complex, bf16, in groups.

Catches: two updates of one tensor, a hypergradient over a pair that never was, promotion of 0-d tensors to fp64.
"""

import copy

import pytest
import torch

from mada_optim import MADA, AutoMuon, HyperAdam, HyperSGD, LearnedLR
from tests.problems import everything, fast, give_gradients, learning, parameters, same_bits, train


def test_tied_weights_are_one_parameter():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 4)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.embedding(ids))

    tied = Tied()
    single = torch.nn.Parameter(tied.embedding.weight.detach().clone())
    ours, twin = learning(tied.parameters()), learning([single])
    for _ in range(8):
        ids = torch.randint(7, (5,))
        ours.zero_grad()
        twin.zero_grad()
        torch.nn.functional.cross_entropy(tied(ids), ids).backward()
        torch.nn.functional.cross_entropy(single[ids] @ single.T, ids).backward()
        single.grad.copy_(tied.embedding.weight.grad)  # autograd may sum the two uses in another order
        ours.step()
        twin.step()
    assert tied.head.weight is tied.embedding.weight
    assert torch.equal(tied.head.weight, single)
    assert ours.coefficients() == twin.coefficients()


def test_a_parameter_named_twice_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="once"):
        MADA([p, p])


def test_a_parameter_without_gradient_sits_the_step_out():
    """Its slots, its own step count and its last update stay; the pair is completed when its gradient returns."""
    params = parameters()[:2]
    alone = torch.nn.Parameter(params[1].detach().clone())
    opt, twin = (learning(x, learn=fast(lr=0.0)) for x in (params, [alone]))
    for seed in range(12):
        give_gradients(params, seed)
        if seed % 3 == 1:
            params[1].grad = None
        else:
            alone.grad = params[1].grad.clone()
            twin.step()
        opt.step()
    assert torch.equal(params[1], alone)
    assert opt.state[params[1]]["step"] == 8
    assert opt.state[params[0]]["step"] == 12
    assert same_bits(list(opt.slots(params[1]).values()), list(twin.slots(alone).values()))


def test_hypergradient_is_the_sum_over_parameters_that_have_a_gradient():
    params = parameters()[:2]
    together = learning(params, learn=fast(lr=0.0))
    apart = [learning([p], learn=fast(lr=0.0)) for p in copy.deepcopy(params)]
    for seed in range(6):
        give_gradients(params, seed)
        for p, twin in zip(params, apart, strict=True):
            twin.param_groups[0]["params"][0].grad = p.grad.clone()
        if seed == 4:
            params[1].grad = None
            apart[1].param_groups[0]["params"][0].grad = None
        together.step()
        for twin in apart:
            twin.step()
        active = apart if seed != 4 else apart[:1]
        for q, h in together.hypergradients().items():
            assert h == pytest.approx(sum(twin.hypergradients()[q] for twin in active), rel=1e-9, abs=1e-15)


def test_no_gradient_at_all_changes_nothing():
    params = parameters()
    opt = learning(params)
    train(opt, params, range(3))
    before = everything(opt)
    opt.zero_grad()
    opt.step()
    assert same_bits(everything(opt), before)


def test_a_0_d_parameter_moves_as_an_element_of_a_vector_does():
    scalar, vector = torch.nn.Parameter(torch.tensor(0.7)), torch.nn.Parameter(torch.tensor([0.7]))
    one, other = learning([scalar]), learning([vector])
    for x in torch.randn(10):
        scalar.grad, vector.grad = x.clone(), x.reshape(1).clone()
        one.step()
        other.step()
    assert scalar.item() == vector.item()
    assert one.coefficients() == other.coefficients()


def test_complex_is_two_reals():
    z = torch.nn.Parameter(torch.randn(3, dtype=torch.complex64))
    x = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
    one, other = learning([z]), learning([x])
    for _ in range(5):
        z.grad = torch.randn(3, dtype=torch.complex64)
        x.grad = torch.view_as_real(z.grad).clone()
        one.step()
        other.step()
    assert torch.equal(torch.view_as_real(z.detach()), x.detach())


def test_a_transposed_parameter_moves_as_a_contiguous_one():
    base = torch.randn(4, 3)
    a, b = torch.nn.Parameter(base.T), torch.nn.Parameter(base.T.contiguous())
    one, other = learning([a], engine="eager"), learning([b], engine="eager")
    for _ in range(5):
        g = torch.randn(3, 4)
        a.grad, b.grad = g.clone(), g.clone()
        one.step()
        other.step()
    assert not a.is_contiguous()
    assert torch.equal(a, b)


def test_bf16_parameters_have_fp32_slots_unless_told_otherwise():
    for state_dtype, expected in [(None, torch.float32), (torch.bfloat16, torch.bfloat16)]:
        params = parameters(torch.bfloat16)
        opt = learning(params, state_dtype=state_dtype)
        train(opt, params, range(3))
        assert opt.state[params[0]]["m"].dtype == expected
        assert params[0].dtype == torch.bfloat16
        assert all(x.isfinite().all() for x in everything(opt))


def test_groups_share_what_is_learned_and_keep_what_is_theirs():
    params = parameters()
    groups = [
        {"params": params[:1], "weight_decay": 0.1},
        {"params": params[1:], "weight_decay": 0.0, "lr": 1e-3, "betas": (0.8, 0.95)},
    ]
    opt = learning(groups, learn=fast("beta2", "rho"))
    train(opt, params, range(5))
    first, second = opt.param_groups
    assert first["beta2"] is second["beta2"]
    assert second["beta2"] != 0.95
    assert (first["beta1"].item(), second["beta1"].item()) == (0.9, 0.8)
    with pytest.raises(ValueError, match="all groups share"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "rho": 0.123})


def test_an_empty_first_group():
    p = torch.nn.Parameter(torch.ones(3))
    opt = learning([{"params": []}, {"params": [p], "weight_decay": 0.1}])
    train(opt, [p], range(4))
    assert opt.coefficients()["rho"] != 0.6


def test_a_late_group_starts_at_its_own_first_step():
    params = parameters()
    opt = learning(params[:1])
    train(opt, params[:1], range(3))
    opt.add_param_group({"params": params[1:]})
    train(opt, params, range(3, 5))
    assert opt.state[params[0]]["step"] == 5
    assert opt.state[params[1]]["step"] == 2
    assert opt.param_groups[1]["rho"] is opt.param_groups[0]["rho"]


def test_maximize_mirrors_minimize():
    up, down = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    one, other = learning([up], maximize=True), learning([down])
    for _ in range(5):
        up.grad = torch.randn(4)
        down.grad = -up.grad
        one.step()
        other.step()
    assert torch.equal(up, down)
    assert one.coefficients() == other.coefficients()


def test_sparse_gradients_are_refused():
    p, dense = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    dense.grad = torch.ones(4)
    p.grad = torch.sparse_coo_tensor([[1]], [1.0], (4,), check_invariants=True)
    opt = HyperAdam([dense, p])
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        opt.step()
    assert not opt.state
    assert torch.equal(dense, torch.zeros(4))


def test_closure_is_called_once_with_gradients_enabled():
    p = torch.nn.Parameter(torch.ones(2))
    opt, calls = learning([p]), []

    def closure():
        calls.append(torch.is_grad_enabled())
        opt.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 2.0
    assert calls == [True]


@pytest.mark.parametrize("make", [learning, lambda params, lr: AutoMuon(params, lr, learn=LearnedLR(start=0))])
def test_lr_zero_moves_nothing_and_learns_nothing(make):
    params = parameters()
    before = [p.detach().clone() for p in params]
    opt = make(params, lr=0.0)
    learned = [opt.coefficients()[q] for q in opt.learned]
    train(opt, params, range(4))
    assert same_bits([p.detach() for p in params], before)
    assert [opt.coefficients()[q] for q in opt.learned] == learned
    assert all(group.get("log_lr", 0.0) == 0.0 for group in opt.param_groups)


def test_named_parameters_and_a_scheduler():
    model = torch.nn.Linear(3, 2)
    opt = AutoMuon(model.named_parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    give_gradients(list(model.parameters()), 0)
    opt.step()
    schedule.step()
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert opt.param_groups[0]["lr"] < 1e-2


def test_a_tensor_lr_is_the_float_lr():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    learn = [HyperSGD("all", start=0), LearnedLR(start=0)]
    train(MADA(params, lr=torch.tensor(1e-2, dtype=torch.float64), learn=learn), params, range(4))
    train(MADA(twin_params, lr=1e-2, learn=learn), twin_params, range(4))
    assert same_bits(list(params), list(twin_params))
