"""GPT-2 against the implementation that published weights are used with, and each property a run relies on."""

import math

import pytest
import torch
from torch import Tensor, nn

from mada_lab.errors import ConfigError
from mada_lab.model.gpt import GPT, GPTConfig

SMALL = {"block_size": 32, "vocab_size": 61, "n_layer": 3, "n_head": 4, "n_embd": 48}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # theirs are Conv1D: (in, out)


def model(seed: int = 0, **changes: float) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(**{**SMALL, **changes}))  # type: ignore[arg-type]


def scrambled(gpt: GPT) -> GPT:
    """Gives every parameter values of its own, so that none of them can be left out unnoticed."""
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return gpt


def ids(rows: int = 2, length: int = 32, seed: int = 1) -> Tensor:
    return torch.randint(SMALL["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def theirs(ours: GPT) -> nn.Module:
    """The model of the library `transformers`, with the weights of ours."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=SMALL["vocab_size"],
        n_positions=SMALL["block_size"],
        n_embd=SMALL["n_embd"],
        n_layer=SMALL["n_layer"],
        n_head=SMALL["n_head"],
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    other: nn.Module = transformers.GPT2LMHeadModel(config).eval()
    weights = {
        f"transformer.{name}": value.t() if name.endswith(TRANSPOSED) else value
        for name, value in ours.state_dict().items()
    }
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied to the embedding there too
    return other


def test_equals_the_reference_implementation() -> None:
    ours = scrambled(model())
    x = ids()
    with torch.no_grad():
        expected = theirs(ours)(x, labels=x)  # which shifts the labels itself
        logits, _ = ours(x)
        _, loss = ours(x[:, :-1], x[:, 1:])
    assert logits.std() > 1.0
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-5)


def test_gradients_equal_the_reference_implementation() -> None:
    ours = scrambled(model())
    other = theirs(ours)
    x = ids()
    ours(x[:, :-1], x[:, 1:])[1].backward()
    other(x, labels=x).loss.backward()
    gradients = {name.removeprefix("transformer."): p.grad for name, p in other.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected = gradients[name]
        assert expected is not None, name
        expected = expected.t() if name.endswith(TRANSPOSED) else expected
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def test_no_position_sees_the_future() -> None:
    gpt = scrambled(model()).eval()
    x = ids(rows=1)
    changed = x.clone()
    changed[0, 20] = (changed[0, 20] + 1) % SMALL["vocab_size"]
    before, after = gpt(x)[0][0], gpt(changed)[0][0]
    torch.testing.assert_close(after[:20], before[:20], rtol=0, atol=1e-6)
    assert (after[20:] - before[20:]).abs().amax(-1).min() > 1e-4, "each later position must see the change"


def test_rows_do_not_see_each_other() -> None:
    gpt = scrambled(model()).eval()
    x = ids(rows=3)
    torch.testing.assert_close(gpt(x)[0][1:2], gpt(x[1:2])[0], rtol=1e-5, atol=1e-5)


def test_loss_is_the_mean_over_all_positions() -> None:
    gpt = scrambled(model())
    x, y = ids(), ids(seed=2)
    logits, loss = gpt(x, y)
    picked = logits.log_softmax(-1).gather(-1, y[..., None])
    torch.testing.assert_close(loss, -picked.mean())
    assert gpt(x)[1] is None


def test_initial_spread_of_each_kind_of_tensor() -> None:
    gpt = model(n_embd=256, n_layer=2, vocab_size=500, block_size=300)
    residual = 0.02 / math.sqrt(2 * 2)
    seen = set()
    for name, parameter in gpt.named_parameters():
        kind = ".".join(name.split(".")[-2:])
        seen.add(kind)
        if kind.endswith("bias"):
            assert not parameter.any(), name
        elif kind.startswith("ln_"):
            assert (parameter == 1).all(), name
        else:
            std = residual if kind == "c_proj.weight" else 0.02
            tolerance = 5 / math.sqrt(2 * parameter.numel())  # five standard errors of a standard deviation
            assert parameter.std().item() == pytest.approx(std, rel=tolerance), name
            assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name
    assert {"wte.weight", "wpe.weight", "c_attn.weight", "c_fc.weight", "c_proj.weight", "ln_f.weight"} <= seen


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    loss = model()(ids(), ids(seed=2))[1]
    assert loss.item() == pytest.approx(math.log(SMALL["vocab_size"]), abs=0.1)


def test_seed_alone_decides_the_initial_weights() -> None:
    first, second, other = model(seed=3), model(seed=3), model(seed=4)
    for (name, p), q, r in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert torch.equal(p, r) == (p.dim() == 1), name


def test_one_tensor_embeds_and_predicts() -> None:
    gpt = model()
    vocabulary_sized = [name for name, p in gpt.named_parameters() if SMALL["vocab_size"] in p.shape]
    assert vocabulary_sized == ["wte.weight"]
    assert list(gpt.state_dict()) == [name for name, _ in gpt.named_parameters()]
    before = gpt(ids())[0]
    with torch.no_grad():
        gpt.wte.weight[60] *= 2  # a token that may be absent from the input: its logit moves all the same
    assert not torch.equal(gpt(ids())[0][..., 60], before[..., 60])


def test_bias_false_leaves_out_every_bias() -> None:
    gpt = model(bias=False)
    assert [name for name, _ in gpt.named_parameters() if "bias" in name] == []
    assert gpt(ids(), ids(seed=2))[1].isfinite()
    with_bias = [name for name, _ in model().named_parameters() if "bias" in name]
    assert len(with_bias) == SMALL["n_layer"] * 6 + 1


def test_dropout_acts_in_training_alone() -> None:
    gpt, plain = model(dropout=0.5), model(dropout=0.0)
    x = ids()
    assert not torch.equal(gpt(x)[0], gpt(x)[0])
    gpt.eval()
    assert torch.equal(gpt(x)[0], plain(x)[0])


def test_dropout_acts_in_each_place() -> None:
    gpt = model(dropout=0.5)
    block, x = gpt.h[0], torch.randn(2, 32, SMALL["n_embd"])
    for sublayer in (block.attn, block.mlp):
        assert (sublayer(x) == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    first, second = block.attn(x), block.attn(x)
    kept = (first != 0) & (second != 0)
    assert not torch.allclose(first[kept], second[kept]), "attention weights must be dropped too"
    for module in gpt.modules():
        module.training = module is gpt
    assert not torch.equal(gpt(ids())[0], gpt(ids())[0]), "and embeddings"


def test_parameter_count_of_gpt2_small() -> None:
    """124 439 808: the size of the published weights."""
    with torch.device("meta"):
        assert GPT(GPTConfig()).parameter_count() == 124_439_808


def test_short_sequences_pass_and_long_ones_are_refused() -> None:
    gpt = model()
    assert gpt(ids(length=1))[0].shape == (2, 1, SMALL["vocab_size"])
    with pytest.raises(ValueError, match="expected at most block_size=32 tokens, got 33"):
        gpt(ids(length=33))


@pytest.mark.parametrize(
    ("key", "value"), [("n_embd", 50), ("n_layer", 0), ("vocab_size", 0), ("n_head", 0), ("dropout", 1.0)]
)
def test_impossible_sizes_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"in key {key}: expected"):
        GPTConfig(**{**SMALL, key: value})  # type: ignore[arg-type]
