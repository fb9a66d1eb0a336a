"""Groups from a model's modules: what each weight is, why, and what the user says of it.

Catches: a head, an embedding, a bias or a depthwise kernel that is taken for a hidden matrix, a hidden matrix that is
not; a wrapper, an adapter or a parametrization that hides one; a word of the user that has no effect.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from mada_optim import MADA, AutoMuon, HyperSGD, param_groups
from mada_optim.matrices import hidden_matrices
from tests.problems import same_bits

LINEAR, LSTM, Seq = nn.Linear, nn.LSTM, nn.Sequential


@pytest.fixture(autouse=True)
def engine():
    """What a weight is doesn't depend on the engine: once is enough, with the one that users get."""


class Named(nn.Module):
    """A module with parts and parameters of these names, in this order."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def weight(*shape):
    return nn.Parameter(torch.randn(shape))


def block(width=8):
    attn = Named(qkv=nn.Linear(width, 3 * width), out_proj=nn.Linear(width, width))
    mlp = Named(fc1=nn.Linear(width, 2 * width), output=nn.Linear(2 * width, width))
    return Named(norm=nn.LayerNorm(width), attn=attn, mlp=mlp)


def blocks(count=2, width=8):
    return nn.ModuleList(block(width) for _ in range(count))


def decisions(model, **said):
    """What each weight of two dimensions or more is, by name."""
    return {x.name: x.matrix for x in param_groups(model, **said).weights if x.parameter.ndim >= 2}


def ends(model, **said):
    """The weights of two dimensions or more that are not hidden."""
    return [name for name, matrix in decisions(model, **said).items() if matrix is False]


def reason(model, name, **said):
    return next(x.why for x in param_groups(model, **said).weights if x.name == name)


ACTOR_CRITIC = ["actor.weight", "critic.weight"]
HEADS = ["head.0.weight", "head.1.weight"]

#: Models, and their weights of two dimensions or more that are not hidden; all others are one hidden matrix each.
MODELS = {
    "an MLP": (Seq(LINEAR(2, 64), nn.ReLU(), LINEAR(64, 64), nn.ReLU(), LINEAR(64, 2)), ["4.weight"]),
    "one layer": (LINEAR(4, 3), ["weight"]),
    "one output": (Seq(LINEAR(4, 8), LINEAR(8, 8), LINEAR(8, 1)), ["2.weight"]),
    "an MLP of one list": (
        Named(layers=nn.ModuleList([LINEAR(4, 8), LINEAR(8, 8), LINEAR(8, 3)])),
        ["layers.2.weight"],
    ),
    "layers in Sequentials": (
        Seq(Seq(LINEAR(4, 8), nn.ReLU()), Seq(LINEAR(8, 8), nn.ReLU()), Seq(LINEAR(8, 3))),
        ["2.0.weight"],
    ),
    "layers in modules": (
        Seq(Named(fc=LINEAR(4, 8)), Named(fc=LINEAR(8, 8)), Named(fc=LINEAR(8, 3))),
        ["2.fc.weight"],
    ),
    "fc after convolutions": (
        Named(conv1=nn.Conv2d(3, 8, 3), conv2=nn.Conv2d(8, 8, 3), fc1=LINEAR(8, 16), fc2=LINEAR(16, 10)),
        ["fc2.weight"],
    ),
    "a convolution last": (Seq(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1)), ["2.weight"]),
    "no head": (Named(embed=nn.Embedding(20, 8), blocks=blocks()), ["embed.weight"]),
    "one block, no head": (Named(embed=nn.Embedding(20, 8), layers=blocks(1)), ["embed.weight"]),
    "blocks alone": (blocks(), []),
    "a pooler": (
        Named(embed=nn.Embedding(20, 8), layers=blocks(), pooler=Named(dense=LINEAR(8, 8))),
        ["embed.weight"],
    ),
    "net.output": (Named(net=Named(layers=blocks(), output=LINEAR(8, 3))), ["net.output.weight"]),
    "backbone.out": (Named(backbone=Named(out=LINEAR(8, 3), layers=blocks())), ["backbone.out.weight"]),
    "classifier.out_proj": (
        Named(encoder=Named(layer=blocks()), classifier=Named(dense=LINEAR(8, 8), out_proj=LINEAR(8, 3))),
        ["classifier.out_proj.weight"],
    ),
    "a head of the same width": (
        Named(embed=nn.Embedding(20, 8), layers=blocks(), classifier=Named(dense=LINEAR(8, 8), out_proj=LINEAR(8, 8))),
        ["embed.weight", "classifier.out_proj.weight"],
    ),
    "a head before its blocks": (Named(fc=LINEAR(8, 3), layers=blocks()), ["fc.weight"]),
    "an input layer before blocks": (Named(project=LINEAR(3, 8), layers=blocks()), []),
    "a layer as wide as the embedding": (
        Named(embed=nn.Embedding(20, 8), mix=LINEAR(5, 8), layers=blocks(2, 16)),
        ["embed.weight"],
    ),
    "several heads": (
        Named(body=LINEAR(4, 8), heads=nn.ModuleList([LINEAR(8, 3), LINEAR(8, 2)])),
        ["heads.0.weight", "heads.1.weight"],
    ),
    "parallel heads": (Named(body=LINEAR(4, 8), head=nn.ModuleList([LINEAR(8, 3), LINEAR(8, 5)])), HEADS),
    "a head of two layers": (Named(body=LINEAR(4, 8), head=Seq(LINEAR(8, 16), LINEAR(16, 5))), ["head.1.weight"]),
    "actor and critic": (Named(body=LINEAR(4, 32), actor=LINEAR(32, 2), critic=LINEAR(32, 1)), ACTOR_CRITIC),
    "an autoencoder": (Seq(LINEAR(64, 16), LINEAR(16, 4), LINEAR(4, 16), LINEAR(16, 64)), ["3.weight"]),
    "heads of two layers": (
        Named(body=LINEAR(4, 8), heads=nn.ModuleList(Named(a=LINEAR(8, 8), b=LINEAR(8, 3)) for _ in range(2))),
        ["heads.0.b.weight", "heads.1.b.weight"],
    ),
    "heads of an attention": (
        Named(
            emb=nn.Embedding(9, 8),
            blocks=nn.ModuleList([Named(heads=nn.ModuleList([Named(key=LINEAR(8, 4))] * 2))]),
            lm_head=LINEAR(8, 9),
        ),
        ["emb.weight", "lm_head.weight"],
    ),
    "a pre-classifier": (
        Named(blocks=blocks(), pre_classifier=LINEAR(8, 8), classifier=LINEAR(8, 3)),
        ["classifier.weight"],
    ),
    "ensembles and members": (
        Named(ensemble=Named(members=nn.ModuleList([block(), block()])), assembler=LINEAR(16, 8), head=LINEAR(8, 3)),
        ["head.weight"],
    ),
    "positions, held directly": (
        Named(
            cls_token=weight(1, 1, 8),
            pos_embed=weight(1, 17, 8),
            patch=nn.Conv2d(3, 8, 4),
            blocks=blocks(),
            head=LINEAR(8, 3),
        ),
        ["cls_token", "pos_embed", "head.weight"],
    ),
    "bilinear": (Seq(nn.Bilinear(4, 5, 6), LINEAR(6, 2)), ["1.weight"]),
    "depthwise": (
        Seq(nn.Conv2d(3, 128, 3), nn.Conv2d(128, 128, 3, groups=128), nn.Conv2d(128, 64, 1), LINEAR(64, 5)),
        ["1.weight", "3.weight"],
    ),
    "depthwise with a multiplier": (
        Seq(nn.Conv1d(4, 12, 3, groups=4), nn.Conv1d(12, 4, 1), LINEAR(4, 2)),
        ["0.weight", "2.weight"],
    ),
    "one image channel": (Seq(nn.Conv2d(1, 128, 3), nn.Conv2d(128, 8, 3), LINEAR(8, 2)), ["2.weight"]),
    "transposed": (Seq(LINEAR(4, 8), nn.ConvTranspose2d(8, 16, 3), nn.ConvTranspose2d(16, 3, 3)), ["2.weight"]),
    "transposed depthwise": (
        Seq(nn.ConvTranspose1d(8, 8, 3, groups=8), LINEAR(8, 8), LINEAR(8, 2)),
        ["0.weight", "2.weight"],
    ),
    "a norm of three dimensions": (
        Seq(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 4, 4]), LINEAR(8, 2)),
        ["1.weight", "1.bias", "2.weight"],
    ),
    "an adaptive softmax": (
        Named(body=LINEAR(4, 16), loss=nn.AdaptiveLogSoftmaxWithLoss(16, 30, [5, 10])),
        [
            "loss.head.weight",
            "loss.tail.0.0.weight",
            "loss.tail.0.1.weight",
            "loss.tail.1.0.weight",
            "loss.tail.1.1.weight",
        ],
    ),
    "a bag": (Named(bag=nn.EmbeddingBag(9, 4), fc1=LINEAR(4, 8), fc2=LINEAR(8, 3)), ["bag.weight", "fc2.weight"]),
    "logistic regression": (Named(head=LINEAR(4, 3)), ["head.weight"]),
    "an unused layer and one used twice": (
        Named(a=(shared := LINEAR(8, 8)), b=shared, head=LINEAR(8, 3)),
        ["head.weight"],
    ),
    "columns": (Seq(LINEAR(1, 8), LINEAR(8, 8), LINEAR(8, 3)), ["0.weight", "2.weight"]),
}


@pytest.mark.parametrize(("model", "expected"), MODELS.values(), ids=MODELS)
def test_what_is_not_hidden(model, expected):
    found = decisions(model)
    assert [name for name, matrix in found.items() if matrix is False] == expected
    assert all(matrix is True for name, matrix in found.items() if name not in expected)


class Experts(nn.Module):
    def __init__(self, *shapes, names=("w1", "w2")):
        super().__init__()
        for name, shape in zip(names, shapes, strict=True):
            self.register_parameter(name, weight(*shape))


class GraphConv(nn.Module):
    """A convolution of the user's own."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = weight(*shape)


class Ensemble(nn.Module):
    """Eight networks as one: a weight and a bias for each."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = weight(8, inputs, outputs), weight(8, outputs)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
def test_an_empty_layer_is_no_obstacle():
    model = Named(body=LINEAR(4, 8), head=nn.ModuleList([LINEAR(8, 0), LINEAR(8, 3)]))
    assert decisions(model) == {"body.weight": True, "head.0.weight": False, "head.1.weight": False}


def test_modules_of_several_matrices_say_how_many():
    model = Named(
        lstm=LSTM(4, 8, proj_size=3), gru=nn.GRU(4, 8), rnn=nn.RNN(4, 8), cell=nn.LSTMCell(4, 8),
        attn=nn.MultiheadAttention(8, 2, add_bias_kv=True), cross=nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
        grouped=nn.Conv2d(8, 12, 3, groups=2), turned=nn.ConvTranspose2d(8, 4, 3, groups=2), head=LINEAR(8, 2),
    )  # fmt: skip
    assert decisions(model) == {
        "lstm.weight_ih_l0": 4, "lstm.weight_hh_l0": 4, "lstm.weight_hr_l0": True,
        "gru.weight_ih_l0": 3, "gru.weight_hh_l0": 3, "rnn.weight_ih_l0": True, "rnn.weight_hh_l0": True,
        "cell.weight_ih": 4, "cell.weight_hh": 4,
        "attn.in_proj_weight": 3, "attn.bias_k": False, "attn.bias_v": False, "attn.out_proj.weight": True,
        "cross.q_proj_weight": True, "cross.k_proj_weight": True, "cross.v_proj_weight": True,
        "cross.out_proj.weight": True,
        "grouped.weight": 2, "turned.weight": 2, "head.weight": False,
    }  # fmt: skip
    assert reason(model, "attn.out_proj.weight") == "nn.Linear"
    assert reason(model, "attn.in_proj_weight") == "nn.MultiheadAttention in_proj, 3 blocks"
    groups = {group["name"]: group for group in param_groups(model)}
    assert [groups[f"hidden_{n}_blocks"]["matrix"] for n in (2, 3, 4)] == [2, 3, 4]
    no_decay = [name for name, _ in groups["no_decay"]["params"]]
    assert {"attn.bias_k", "lstm.bias_ih_l0", "grouped.bias"} <= set(no_decay)


def test_stacked_matrices_are_a_batch():
    layer = Named(experts=Experts((4, 8, 6), (4, 6, 8)), router=LINEAR(8, 4))
    model = Named(embed=nn.Embedding(20, 8), layers=nn.ModuleList([layer, copy.deepcopy(layer)]), lm_head=LINEAR(8, 20))
    found = decisions(model)
    assert found["layers.1.experts.w1"] == found["layers.0.experts.w2"] == "batched"
    assert found["layers.0.router.weight"] is True
    assert ends(model) == ["embed.weight", "lm_head.weight"]
    assert reason(model, "layers.0.experts.w1") == "batch of 4 matrices in Experts"


def test_an_optimizer_steps_each_kind_of_matrices():
    """Those of each group by the layout that it says, and each parameter of the model."""
    experts = Named(experts=Experts((4, 24, 20), (4, 20, 24)))
    model = Named(
        lstm=LSTM(4, 8),
        attn=nn.MultiheadAttention(8, 2),
        moe=experts,
        grouped=nn.Conv2d(8, 12, 3, groups=2),
        head=LINEAR(8, 2),
    )
    opt = AutoMuon(param_groups(model), lr=1e-2)
    layouts = {
        name: x for g in opt.param_groups for name, x in zip(g["param_names"], g[hidden_matrices.FLAGS], strict=True)
    }
    assert layouts == {x.name: x.matrix for x in param_groups(model).weights}
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    assert not any(torch.equal(p, x) for p, x in zip(model.parameters(), before, strict=True))


def test_stacked_ensembles_have_biases():
    model = nn.Sequential(Ensemble(4, 16), nn.ReLU(), Ensemble(16, 16), nn.ReLU(), Ensemble(16, 2))
    assert decisions(model) == {
        "0.weight": "batched",
        "0.bias": False,
        "2.weight": "batched",
        "2.bias": False,
        "4.weight": False,
        "4.bias": False,
    }
    assert [x.decays for x in param_groups(model).weights] == [True, False] * 3


def test_kernels_of_own_convolutions_are_one_matrix():
    own = {
        "mix": GraphConv(64, 3, 3),
        "stack": Experts((64, 3, 3), names=("w",)),
        "grid": Experts((8, 4, 3, 3), names=("w",)),
    }
    model = Named(**own, filters=Named(kernel=weight(8, 4, 5)), head=LINEAR(8, 2))
    found = decisions(model)
    assert [found[x] for x in ("mix.weight", "stack.w", "grid.w", "filters.kernel")] == [True, "batched", True, True]


def test_own_parameters_are_read_by_whole_words():
    names = {
        "A_log": False, "x_scale": False, "rel_pos_bias": False, "logit_gain": False, "b1": False,
        "query_tokens": False, "latents": False, "position_table": False, "token_emb": False,
        "w": True, "members": True, "proj": True, "ensemble": True, "U": True,
    }  # fmt: skip
    model = Named(**{name: weight(6, 5) for name in names}, head=LINEAR(5, 2))
    assert decisions(model) == {**names, "head.weight": False}
    decay = {x.name: x.decays for x in param_groups(model).weights}
    assert [decay[x] for x in ("A_log", "x_scale", "b1", "token_emb", "w")] == [False, False, False, True, True]


class Tied(nn.Module):
    def __init__(self, head_first=False):
        super().__init__()
        if head_first:
            self.out = LINEAR(8, 20, bias=False)
        self.wte = nn.Embedding(20, 8)
        self.h = blocks()
        if not head_first:
            self.out = LINEAR(8, 20, bias=False)
        self.out.weight = self.wte.weight


def test_tied_weights_are_embeddings():
    assert ends(Tied()) == ["wte.weight"]
    assert reason(Tied(), "wte.weight") == "nn.Embedding, tied to out"
    assert ends(Tied(head_first=True)) == ["out.weight"]
    assert reason(Tied(head_first=True), "out.weight") == "nn.Embedding, tied to out"
    assert [group["name"] for group in param_groups(Tied())] == ["hidden", "other", "no_decay"]


@pytest.mark.parametrize("width", [4, 8])
def test_a_layer_before_a_tied_output_is_hidden(width):
    """Its outputs are as many as the embedding's columns: the embedding, used again, is the output."""
    wte = nn.Embedding(20, width)
    model = Named(
        wte=wte, up=LINEAR(width, 8), h=blocks(), output_projection=LINEAR(8, width), lm_head=LINEAR(width, 20)
    )
    model.lm_head.weight = wte.weight
    assert ends(model) == ["wte.weight"]
    functional = Named(wte=nn.Embedding(20, width), up=LINEAR(width, 8), h=blocks(), proj=LINEAR(8, width))
    assert ends(functional) == ["wte.weight"]


def test_each_parameter_is_in_one_group_once():
    model = Named(lstm=LSTM(4, 8), a=(shared := LINEAR(8, 8)), b=Named(again=shared), norm=nn.LayerNorm(8), c=Tied())
    pairs = [pair for group in param_groups(model) for pair in group["params"]]
    assert {name: id(p) for name, p in pairs} == {name: id(p) for name, p in model.named_parameters()}
    assert len(pairs) == len(list(model.parameters()))


def test_frozen_weights_are_left_out():
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), proj=LINEAR(8, 6), lm_head=LINEAR(6, 20))
    for part in (model.embed, model.lm_head):
        part.requires_grad_(False)
    groups = param_groups(model)
    assert ends(model) == []  # the head is known, though frozen: the layer before it isn't one
    assert not any(name.startswith(("embed", "lm_head")) for group in groups for name, _ in group["params"])
    assert "left out: 3 frozen parameters (requires_grad=False)" in str(groups)
    with pytest.raises(ValueError, match="expected a parameter with requires_grad=True, got none"):
        param_groups(model.requires_grad_(False))


class LowRank(nn.Module):
    """As PEFT wraps a layer: what it wraps is frozen, and called base_layer."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": LINEAR(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": LINEAR(rank, base.out_features, bias=False)})
        self.lora_embedding_A = nn.ParameterDict({"default": weight(rank, 9)})


class Copied(nn.Module):
    """As PEFT trains a copy of a module."""

    def __init__(self, base):
        super().__init__()
        self.original_module = base
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(base)})
        base.requires_grad_(False)


@pytest.mark.parametrize("head", ["score", "out"])
def test_adapters_are_looked_through(head):
    layers = blocks()
    for layer in layers:
        layer.attn.qkv = LowRank(layer.attn.qkv)
    body = Named(embed_tokens=Copied(nn.Embedding(9, 8)), layers=layers)
    model = Named(base_model=Named(model=Named(model=body, **{head: Copied(LINEAR(8, 3))})))
    low_rank = [name for name in decisions(model) if "lora" in name]
    embedding, copied = "base_model.model.model.embed_tokens", f"base_model.model.{head}"
    expected = [f"{embedding}.modules_to_save.default.weight", *low_rank, f"{copied}.modules_to_save.default.weight"]
    assert sorted(ends(model)) == sorted(expected)
    assert len(low_rank) == 6
    for layer in layers:
        layer.attn.qkv.base_layer.requires_grad_(True)
    assert decisions(model)["base_model.model.model.layers.0.attn.qkv.base_layer.weight"] is True


@pytest.mark.parametrize("name", ["spectral_norm", "orthogonal", "weight_norm"])
def test_parametrized_weights_are_their_modules(name):
    parametrize = getattr(parametrizations, name)
    model = nn.Sequential(parametrize(LINEAR(4, 8)), nn.Conv2d(8, 128, 3, groups=1), parametrize(LINEAR(128, 3)))
    parametrize(model[1])
    hidden = ["0.parametrizations.weight.original", "1.parametrizations.weight.original"]
    head = ["2.parametrizations.weight.original"]
    if name != "weight_norm":
        assert decisions(model) == {**dict.fromkeys(hidden, True), head[0]: False}
        return
    found = decisions(model)
    assert [found[f"{x}1"] for x in (*hidden, *head)] == [True, True, False]
    assert [found[f"{x}0"] for x in (*hidden, *head)] == [False] * 3
    assert reason(model, f"{hidden[0]}0") == "gain of weight_norm"
    assert not next(x.decays for x in param_groups(model).weights if x.name == f"{head[0]}0")


def test_parametrized_gates_are_blocks():
    model = Named(lstm=parametrizations.weight_norm(LSTM(4, 8), "weight_hh_l0"), head=LINEAR(8, 2))
    assert decisions(model)["lstm.parametrizations.weight_hh_l0.original1"] == 4
    assert decisions(model)["lstm.parametrizations.weight_hh_l0.original0"] is False


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_older_hooks_are_looked_through():
    pruned = prune.l1_unstructured(LINEAR(4, 8), "weight", 0.5)
    model = nn.Sequential(pruned, nn.utils.spectral_norm(LINEAR(8, 8)), nn.utils.weight_norm(LINEAR(8, 3)))
    assert decisions(model) == {"0.weight_orig": True, "1.weight_orig": True, "2.weight_g": False, "2.weight_v": False}
    assert reason(model, "2.weight_v") == "output layer: the last outside of repeated blocks"
    assert not next(x.decays for x in param_groups(model).weights if x.name == "2.weight_g")


def wrapped(model, *names):
    for name in names:
        model = Named(**{name: model})
    return model


@pytest.mark.parametrize(
    "names", [("module",), ("_orig_mod",), ("_fsdp_wrapped_module", "module"), ("model", "base_model", "_orig_mod")]
)
def test_wrappers_are_looked_through(names):
    model = Named(embed=nn.Embedding(20, 8), out=LINEAR(8, 20), layers=blocks())
    model.layers[0] = wrapped(model.layers[0], "_checkpoint_wrapped_module")
    prefix = ".".join(reversed(names))
    assert ends(wrapped(model, *names)) == [f"{prefix}.embed.weight", f"{prefix}.out.weight"]
    assert ends(wrapped(model, *names), head="layers.1.mlp.fc1") == [
        f"{prefix}.embed.weight", f"{prefix}.layers.1.mlp.fc1.weight",
    ]  # fmt: skip


def test_a_compiled_model_is_its_module():
    compiled = torch.compile(Named(embed=nn.Embedding(20, 8), layers=blocks(), out=LINEAR(8, 20)), backend="eager")
    assert ends(compiled) == ["_orig_mod.embed.weight", "_orig_mod.out.weight"]


class Conv1D(nn.Module):
    """A linear layer whose weight is inputs by outputs."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = weight(nx, nf), nn.Parameter(torch.zeros(nf))


def test_transposed_layers_are_not_split():
    model = Named(h=nn.ModuleList(Named(c_attn=Conv1D(24, 8), c_fc=Conv1D(16, 8)) for _ in range(2)), head=LINEAR(8, 2))
    assert ends(model) == ["head.weight"]
    assert "fused outputs are columns" in reason(model, "h.0.c_attn.weight")
    with pytest.raises(ValueError, match=r"'c_attn': 2 .* for h.0.c_attn.weight: expected outputs along the rows"):
        param_groups(model, blocks={"c_attn": 2})


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("odd", ["embed.weight", "odd.weight"]),
        (("odd", "layers.0.attn.qkv"), ["embed.weight", "layers.0.attn.qkv.weight", "odd.weight"]),
        ("layers.1.mlp", ["embed.weight", "layers.1.mlp.fc1.weight", "layers.1.mlp.output.weight"]),
        ("odd.weight", ["embed.weight", "odd.weight"]),
        ((), ["embed.weight"]),
    ],
)
def test_the_user_says_the_head(head, expected):
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), odd=LINEAR(8, 8), fc=LINEAR(8, 3))
    assert ends(model) == ["embed.weight", "fc.weight"]
    assert ends(model, head=head) == expected
    if head == "odd":
        assert ends(model, head=model.odd) == ends(model, head=[model.odd.weight]) == expected
        assert reason(model, "odd.weight", head=head) == "output layer, said by the user"


def test_a_head_that_is_none_is_refused():
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), norm=nn.LayerNorm(8), fc_final=LINEAR(8, 3))
    with pytest.raises(ValueError, match="head='fc_fnal': expected the path of a module; did you mean 'fc_final'"):
        param_groups(model, head="fc_fnal")
    with pytest.raises(
        ValueError, match=r"head=Linear\(...\): expected a module or parameter of the model, got another"
    ):
        param_groups(model, head=[LINEAR(8, 3)])
    with pytest.raises(ValueError, match="head='norm': expected a layer with a weight matrix, got none"):
        param_groups(model, head="norm")


@pytest.mark.parametrize("key", ["qkv", "attn.qkv", "layers.*.attn.qkv", "attn.qkv.weight", "layers.?.attn.q*"])
def test_the_user_says_the_blocks(key):
    model = Named(layers=blocks(), head=LINEAR(8, 3))
    found = decisions(model, blocks={key: 3})
    assert [name for name, matrix in found.items() if matrix == 3] == [
        "layers.0.attn.qkv.weight",
        "layers.1.attn.qkv.weight",
    ]
    assert decisions(model)["layers.0.attn.qkv.weight"] is True  # not by its name alone
    assert reason(model, "layers.0.attn.qkv.weight", blocks={key: 3}) == "said by the user"


def test_the_user_says_the_matrix():
    model = Named(stack=Experts((4, 6, 5), (4, 5, 6)), router=LINEAR(8, 4), head=LINEAR(8, 2))
    assert decisions(model, matrix={"stack.w1": True, "stack.w2": False, "router": 2, "head": True}) == {
        "stack.w1": True, "stack.w2": False, "router.weight": 2, "head.weight": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"blocks": {"qvk": 3}}, r"'qvk' in blocks or matrix: .*, got none; did you mean 'qkv'"),
        ({"blocks": {"tn.qkv": 3}}, "expected the end of a weight's path"),
        ({"blocks": {"norm": 3}}, "expected the end of a weight's path"),
        ({"blocks": {"qkv": 5}}, "'qkv': 5 .* expected a divisor of its 24 rows"),
        ({"blocks": {"qkv": 24}}, "'qkv': 24 .* expected a divisor of its 24 rows, less than all"),
        ({"blocks": {"qkv": 0}}, "'qkv': 0 .* expected True, False, 'batched' or a number of blocks"),
        ({"matrix": {"qkv": "batch"}}, "'qkv': 'batch' .* expected True, False, 'batched' or a number of blocks"),
        ({"matrix": {"qkv": "batched"}}, r"'qkv': 'batched' .* expected three dimensions or more, got \(24, 8\)"),
        ({"blocks": {"qkv": 3}, "matrix": {"qkv": True}}, "expected 'qkv' in one of them, got it in both"),
        ({"blocks": {"qkv": 3, "attn.qkv": 2}}, "expected one value for layers.0.attn.qkv.weight, got two"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: expected a number in"),
        ({"weight_decay": "all"}, "weight_decay='all': expected a number in"),
    ],
)
def test_what_has_no_effect_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        param_groups(Named(layers=blocks(), head=LINEAR(8, 3)), **said)


def test_lazy_weights_are_refused():
    with pytest.raises(ValueError, match=r"parameter 0.weight: expected an initialized one, got a lazy one"):
        param_groups(nn.Sequential(nn.LazyLinear(4)))


def test_weight_decay_is_the_optimizers_or_the_users():
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), head=LINEAR(8, 20))
    assert [group.get("weight_decay") for group in param_groups(model)] == [None, None, 0.0]
    assert [group["weight_decay"] for group in param_groups(model, 0.1)] == [0.1, 0.1, 0.0]
    opt = AutoMuon(param_groups(model))
    assert [group["weight_decay"] for group in opt.param_groups] == [0.3, 0.3, 0.0]
    spared = {x.name for x in param_groups(model, decay_embeddings=False).weights if not x.decays}
    assert "embed.weight" in spared
    assert "head.weight" not in spared


def test_the_table_has_a_line_for_each_weight():
    model = Named(embed=nn.Embedding(20, 8), fc=LINEAR(8, 16), head=LINEAR(16, 2, bias=False))
    groups = param_groups(model)
    assert str(groups) == repr(groups) == groups.describe()
    assert groups.describe().splitlines() == [
        "name          shape  hidden  decay  why",
        "embed.weight  20x8   no      yes    nn.Embedding",
        "fc.weight     16x8   yes     yes    nn.Linear",
        "fc.bias       16     no      no     bias",
        "head.weight   2x16   no      yes    output layer, by its name",
    ]


def test_groups_are_a_list_that_may_be_used_twice():
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), head=LINEAR(8, 20))
    groups = param_groups(model)
    assert isinstance(groups, list)
    assert copy.deepcopy(groups).frozen == 0
    first, second = AutoMuon(groups), AutoMuon(groups)
    assert [g["hidden_matrices"] for g in first.param_groups] == [g["hidden_matrices"] for g in second.param_groups]
    assert first.param_groups[0]["hidden_matrices"] == [True] * 8
    assert not any(first.param_groups[1]["hidden_matrices"] + first.param_groups[2]["hidden_matrices"])
    assert torch.optim.AdamW(groups, lr=1e-3).param_groups[2]["weight_decay"] == 0.0


def test_coefficients_of_a_group_have_its_name():
    model = Named(embed=nn.Embedding(20, 8), layers=blocks(), head=LINEAR(8, 20))
    opt = MADA(param_groups(model), learn=HyperSGD("all", scope="group"))
    assert list(opt.coefficients()) == ["hidden", "other", "no_decay"]


def test_both_ways_train_alike():
    """The groups from modules and those from names make the same step, as they tell the same weights apart."""
    torch.manual_seed(0)
    one = nn.Sequential(LINEAR(6, 16), nn.Tanh(), LINEAR(16, 16), nn.Tanh(), LINEAR(16, 3)).double()
    other = copy.deepcopy(one)
    opts = [AutoMuon(param_groups(one, 0.0)), AutoMuon(other.named_parameters(), weight_decay=0.0)]
    for _ in range(3):
        x = torch.randn(8, 6).double()
        for net, opt in zip((one, other), opts, strict=True):
            opt.zero_grad()
            net(x).square().mean().backward()
            opt.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert not same_bits(list(one.parameters()), [torch.zeros_like(p) for p in one.parameters()])


class TwoHeads(nn.Module):
    """As of PPO and of dueling networks: two small networks beside each other, maybe after a common one."""

    def __init__(self, first, second, common):
        super().__init__()
        width = 8
        if common:
            self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        for name, outputs in ((first, 3), (second, 1)):
            layers = nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
            self.add_module(name, nn.Sequential(*layers))


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("names", [("actor", "critic"), ("advantage", "value"), ("pi", "v")], ids="-".join)
def test_networks_beside_each_other_have_an_output_each(names, common):
    model = TwoHeads(*names, common)
    outputs = {f"{name}.4.weight" for name in names}
    groups = param_groups(model)
    assert {x.name for x in groups.weights if x.matrix is False and x.parameter.ndim == 2} == outputs
    (group,) = AutoMuon(model.named_parameters()).param_groups
    guessed = zip(group["param_names"], group["params"], group["hidden_matrices"], strict=True)
    assert {name for name, p, hidden in guessed if p.ndim == 2 and not hidden} == outputs


def test_an_encoder_is_no_output_beside_its_decoder():
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 6))
    model.decoder = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 40))
    groups = param_groups(model)
    assert {x.name for x in groups.weights if x.matrix is False and x.parameter.ndim == 2} == {"decoder.2.weight"}
