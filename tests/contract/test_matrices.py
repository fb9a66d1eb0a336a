"""The member for matrices: whose parameters it moves, its corners, and Muon.

Catches: an embedding, a head or a vector that is orthogonalised; a scale, a rate or a momentum that isn't Muon's; state
that doesn't survive being saved.
"""

import pytest
import torch
from torch import nn

from mada_optim import MADA, AutoMuon, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.matrices.hidden_matrices import hidden
from mada_optim.matrices.polar_factor import orthogonal, polar
from tests.problems import along_trace, same_bits, with_muon

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")


def exact_newton_schulz(gradient, coefficients, steps, eps):
    """In the place of torch's own, which rounds to bf16."""
    return orthogonal(gradient) / max(gradient.shape) ** 0.5


@needs_muon
def test_muon_is_torchs(monkeypatch):
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", exact_newton_schulz)
    ours, theirs = ([nn.Parameter(torch.ones(shape).double()) for shape in ((4, 6), (6, 3))] for _ in range(2))
    mine = HyperOptimizer(ours, lr=0.02, rule="muon", learn=(), weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mine.step()
        torchs.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@needs_muon
def test_the_iteration_is_torchs_up_to_its_bf16():
    g = torch.randn(16, 40)
    p, q = nn.Parameter(torch.zeros(16, 40)), nn.Parameter(torch.zeros(16, 40))
    p.grad, q.grad = g.clone(), g.clone()
    HyperOptimizer([p], lr=1.0, rule="muon", learn=()).step()
    torch.optim.Muon([q], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    torch.testing.assert_close(p, q, rtol=0.0, atol=0.02 * q.abs().max().item())


class Named(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def found(params):
    opt = AutoMuon(params)
    return [flag for group in opt.param_groups for flag in group["hidden_matrices"]]


def test_hidden_matrices_are_found_by_shape_and_name():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert found(net.parameters()) == [True, False, False, False, True, False, False, False]  # the last is the head
    tied = Named(wte=nn.Embedding(9, 4), h=nn.Linear(4, 4), proj=nn.Linear(4, 4))
    assert found(tied.named_parameters()) == [False, True, False, True, False]  # the embedding is the head
    own = Named(embed=nn.Embedding(9, 4), h=nn.Linear(4, 4), lm_head=nn.Linear(4, 9))
    assert found(own.named_parameters()) == [False, True, False, False, False]
    kernel = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 3), nn.Linear(4, 2))
    assert found(kernel.parameters()) == [True, False, False, False, False, False]


def test_a_tall_matrix_has_a_row_per_token():
    tied = Named(table=nn.Embedding(33, 4), h=nn.Linear(4, 16), proj=nn.Linear(16, 4))
    assert found(tied.parameters()) == [False, True, False, False, False]  # the last is taken for the head all the same
    assert found(tied.named_parameters()) == [False, True, False, True, False]
    own = Named(table=nn.Embedding(32, 4), h=nn.Linear(4, 16))
    assert found(own.parameters()) == [True, False, False]


#: Names that libraries give, of matrices of 12 by 12: those of hidden ones, and of embeddings and heads.
NAMES = {
    "GPT-2 of transformers": (
        ["transformer.h.0.attn.c_attn.weight", "transformer.h.11.mlp.c_proj.weight"],
        ["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight", "score.weight"],
    ),
    "BERT of transformers": (
        ["bert.encoder.layer.0.attention.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"],
        ["bert.embeddings.word_embeddings.weight", "classifier.weight", "qa_outputs.weight"],
    ),
    "T5 of transformers": (
        ["encoder.block.0.layer.0.SelfAttention.o.weight", "decoder.block.0.layer.2.DenseReluDense.wo.weight"],
        ["shared.weight", "lm_head.weight"],
    ),
    "Llama of transformers": (
        ["model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.down_proj.weight"],
        ["model.embed_tokens.weight", "lm_head.weight"],
    ),
    "Llama of Meta": (
        ["layers.0.attention.wo.weight", "layers.0.feed_forward.w2.weight"],
        ["tok_embeddings.weight", "output.weight"],
    ),
    "nn.TransformerDecoder": (
        ["layers.0.multihead_attn.in_proj_weight", "layers.0.multihead_attn.out_proj.weight"],
        ["embed.weight", "out.weight"],
    ),
    "heads of a tutorial": (
        ["blocks.0.sa.heads.0.key.weight", "blocks.0.sa.proj.weight"],
        ["token_embedding_table.weight", "lm_head.weight"],
    ),
    "ViT of torchvision": (
        [
            "encoder.layers.encoder_layer_0.self_attention.out_proj.weight",
            "encoder.layers.encoder_layer_0.mlp.0.weight",
        ],
        ["heads.head.weight"],
    ),
    "MLP-Mixer": (["blocks.0.token_mixing.fc1.weight"], ["patch_embed.weight", "head.2.weight"]),
    "wrapped": (
        ["module._orig_mod.blocks.0.attn.out.weight", "module.output.mlp.fc.weight"],
        ["module._orig_mod.tokens.weight", "_orig_mod.module.output.weight", "module.unembed.weight", "head"],
    ),
}


@pytest.mark.parametrize(("inside", "ends"), NAMES.values(), ids=NAMES)
def test_names_of_libraries_are_understood(inside, ends):
    named = [(name, nn.Parameter(torch.ones(12, 12))) for name in (*inside, *ends)]
    assert found(named) == [True] * len(inside) + [False] * len(ends)


def test_a_group_may_say_it():
    a, b = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4))
    assert hidden([{"params": [a, b], "matrix": True}, {"params": [b], "matrix": True}]) == [[True, False], [False]]
    assert hidden([{"params": [a], "matrix": False}]) == [[False]]
    c, d = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    assert found([{"params": [a], "matrix": False}, {"params": [c]}, {"params": [d], "matrix": True}]) == [
        False,
        True,
        True,
    ]


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="matrix='yes' in a parameter group: expected True or False"):
        AutoMuon([{"params": [nn.Parameter(torch.ones(3, 4))], "matrix": "yes"}])


def train(opt, net, steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(16, 4, generator=generator, dtype=next(net.parameters()).dtype)
        opt.zero_grad()
        (net(x) - x.flip(1)).square().mean().backward()
        opt.step()


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


@pytest.mark.parametrize("learn", [(), HyperSGD("beta1", "rho", "lr", start=2)], ids=["fixed", "learning"])
def test_omega_0_is_mada_and_other_tensors_are_always(learn):
    nets = [network() for _ in range(3)]
    options = {"lr": 1e-2, "weight_decay": 0.1, "learn": learn, "rho": 0.7}
    train(MADA(nets[0].parameters(), **options), nets[0], 8)
    train(with_muon(nets[1].parameters(), omega=0.0, **options), nets[1], 8)
    assert same_bits(list(nets[0].parameters()), list(nets[1].parameters()))
    groups = [{"params": list(nets[2].parameters()), "matrix": False}]
    train(with_muon(groups, omega=1.0, **options), nets[2], 8)
    assert same_bits(list(nets[0].parameters()), list(nets[2].parameters()))


@needs_muon
@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_omega_1_is_muon_on_hidden_matrices(monkeypatch, ratio):
    """torch's, at the momentum's polar factor as this member takes it, and at its own learning rate."""

    def taken(gradient, coefficients, steps, eps):
        return polar(gradient) / max(gradient.shape) ** 0.5

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", taken)
    ours, theirs = network(), network()
    matrices = [theirs[0].weight, theirs[2].weight]
    rest = [p for p in theirs.parameters() if all(p is not x for x in matrices)]
    options = {"lr": 1e-2, "weight_decay": 0.1, "learn": ()}
    train(with_muon(ours.parameters(), matrix_lr_ratio=ratio, **options), ours, 8)
    muon = torch.optim.Muon(matrices, lr=ratio * 1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    opts = [muon, MADA(rest, **options)]
    both = type("Both", (), {})()
    both.zero_grad, both.step = theirs.zero_grad, lambda: [opt.step() for opt in opts]
    train(both, theirs, 8)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-11, atol=1e-13)


def gradients(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def test_the_trace_of_a_matrix_has_its_own_lr():
    net = network()
    params = list(net.parameters())
    learner = LearnedLR(horizon=0.9, start=1)
    opt = AutoMuon(net.named_parameters(), 1e-2, weight_decay=0.1, learn=learner, matrix_lr_ratio=3.0)
    trace = [torch.zeros_like(p) for p in params]
    for seed in range(8):
        gradients(net, seed)
        expected = sum((p.grad * s).sum() for p, s in zip(params, trace, strict=True))
        before = [p.detach().clone() for p in params]
        opt.step()
        assert opt.hypergradients()["lr"] == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
        rates = [opt.coefficients()["lr"] * (3 if p is net[0].weight or p is net[2].weight else 1) for p in params]
        moved = [p.detach() - x for p, x in zip(params, before, strict=True)]
        trace = [0.9 * (1 - 0.1 * a) * s + d for a, s, d in zip(rates, trace, moved, strict=True)]


def test_a_group_may_have_its_own_ratio():
    ours, theirs = network(), network()
    first = AutoMuon(ours.named_parameters(), 1e-2, matrix_lr_ratio=2.0)
    second = AutoMuon([{"params": list(theirs.named_parameters()), "matrix_lr_ratio": 2.0}], 1e-2, matrix_lr_ratio=7.0)
    train(first, ours, 4)
    train(second, theirs, 4)
    assert same_bits(list(ours.parameters()), list(theirs.parameters()))
    with pytest.raises(ValueError, match="matrix_lr_ratio=-1"):
        AutoMuon(network().parameters(), matrix_lr_ratio=-1.0)


def test_a_learned_omega_alone_leaves_other_tensors_alone():
    nets = [network(torch.float32), network(torch.float32)]
    for net, learn in zip(nets, (HyperSGD("omega", scope="tensor"), ()), strict=True):
        opt = with_muon(net.named_parameters(), learn=learn)
        for seed in range(4):
            gradients(net, seed)
            opt.step()
    one, other = ([net[0].bias, net[2].bias, net[4].weight, net[4].bias] for net in nets)
    assert same_bits(one, other)


@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
def test_a_learned_omega_moves_and_is_saved(scope):
    learn = [HyperSGD("omega", lr=1.0, start=0, scope=scope), along_trace(start=0, scope=scope)]
    options = {"lr": 1e-2, "omega": 0.5, "learn": learn}
    one, other = network(torch.float32), network(torch.float32)
    first = with_muon(one.named_parameters(), **options)
    train(first, one, 6)
    reading = first.coefficients()
    omegas = [row["omega"] for row in (reading.values() if scope != "global" else [reading])]
    assert omegas[0] != 0.5
    second = with_muon(other.named_parameters(), **options)
    train(second, other, 1)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    train(first, one, 5)
    train(second, other, 5)
    assert same_bits(list(one.parameters()), list(other.parameters()))


def test_its_memory_is_one_slot_on_matrices():
    opt = with_muon(network(torch.float32).named_parameters())
    assert set(opt.memory().bytes) >= {"b", "m", "v"}
    train(opt, net := network(torch.float32), 0)
    assert opt.memory().bytes["b"] == 4 * (net[0].weight.numel() + net[2].weight.numel())
