"""Networks in Hugging Face's format: `transformers` computes what we compute, and what was written is read back.

Catches: a matrix that is not transposed, a bias that is forgotten, a tokenizer with other ids, a file that is believed
before it was looked at.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mada_lab.data.gpt2 import ENCODER, VOCABULARY_SIZE, Gpt2Tokenizer
from mada_lab.data.sidecar import Vocabulary
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.pretrained import hf_gpt2, hf_tokenizer, weights
from mada_lab.pretrained.export import export
from mada_lab.pretrained.weights import Weights
from tests.app.test_model import SMALL, scrambled

LETTERS = "".join(chr(x) for x in (9, 10, *range(32, 90), 0x1F600))  # 61 characters, as SMALL has
CHARACTERS = Vocabulary("char", 61, characters=LETTERS)
GPT2 = Vocabulary("gpt2", VOCABULARY_SIZE, sha256=ENCODER.sha256)


def network(bias: bool = True, vocabulary: Vocabulary = CHARACTERS, **sizes: int) -> Weights:
    torch.manual_seed(0)
    config = GPTConfig(**{**SMALL, **sizes, "vocab_size": vocabulary.size}, bias=bias)
    return Weights("test", config, scrambled(GPT(config)).state_dict(), vocabulary, None)


def logits_agree(ours: Weights, folder: Path, length: int = 32) -> float:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.randint(ours.config.vocab_size, (2, length))
    with torch.no_grad():
        return float((ours.model()(ids)[0] - theirs(ids).logits).abs().max())


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_computes_the_same_and_we_read_it_back(bias: bool, tmp_path: Path) -> None:
    ours = network(bias)
    folder = export(ours, tmp_path / "export")
    assert logits_agree(ours, folder) < 1e-5
    again = weights.read(str(folder))
    assert again.config == ours.config
    assert again.vocabulary == CHARACTERS
    assert list(again.tensors) == list(ours.tensors)
    assert all(torch.equal(x, ours.tensors[name]) for name, x in again.tensors.items())


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    """Its own save, the base network without the prefix, and the masks that old files carry along."""
    transformers = pytest.importorskip("transformers")
    ours = network()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(export(ours, tmp_path / "export"))
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").write_bytes((tmp_path / "export" / "tokenizer.json").read_bytes())
    theirs.transformer.save_pretrained(tmp_path / "base")
    config, tensors = hf_gpt2.read(tmp_path / "saved")
    assert config == ours.config
    base = hf_gpt2.to_published(config, tensors)
    plain = {name.removeprefix("transformer."): x.contiguous() for name, x in base.items()}
    save_file({**plain, "h.0.attn.bias": torch.ones(1, 1, 32, 32)}, tmp_path / "base" / "model.safetensors")
    for found in (tensors, hf_gpt2.read(tmp_path / "base")[1]):
        assert all(torch.equal(x, ours.tensors[name]) for name, x in found.items())
    save_file({**plain, "lm_head.weight": plain["wte.weight"] + 1}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight tied"):
        hf_gpt2.read(tmp_path / "base")


CONFIGS = [
    ({"activation_function": "relu"}, "key activation_function: expected 'gelu_new', got relu"),
    ({"n_layer": 10**9}, "expected tensors of 1000000000 layers"),
    ({"n_embd": 10**12}, "overflowed"),
    ({"n_embd": 96}, "wte.weight: expected"),
    ({"n_layer": 2}, "got a difference in h.2"),
    ({"n_head": 7}, "expected a multiple of n_head"),
    ({"vocab_size": "61"}, "key vocab_size: expected a positive integer"),
    ({"n_inner": 100}, "key n_inner"),
    ({"scale_attn_by_inverse_layer_idx": True}, "key scale_attn_by_inverse_layer_idx"),
    ({"mada_lab_bias": False}, "expected zeros"),
    ({"model_type": "llama"}, "key model_type"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=lambda x: str(x)[:30])
def test_a_configuration_of_another_network_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    folder = export(network(), tmp_path / "export")
    path = folder / hf_gpt2.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        hf_gpt2.read(folder)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = export(network(), tmp_path / "export")
    path = folder / hf_gpt2.WEIGHTS
    whole = path.read_bytes()
    bad = bytearray(whole)
    bad[-4:] = b"\xff\xff\xff\xff"  # a NaN
    for content in (whole[:-1], whole[:100], b"", whole + b"x", b"\xff" * 8 + whole[8:], bytes(bad)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="weights, in") as error:
            hf_gpt2.read(folder)
        assert "\n" not in str(error.value)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match="expected one safetensors file, got none"):
        hf_gpt2.read(folder)
    (folder / hf_gpt2.CONFIG).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json: expected a configuration in JSON"):
        hf_gpt2.read(folder)


def test_the_tokenizer_of_characters_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = network()
    theirs = transformers.AutoTokenizer.from_pretrained(export(ours, tmp_path / "export"))
    text = "  A TEXT,\n\tOF \U0001f600 CHARACTERS 42\n"
    ids = theirs(text)["input_ids"]
    assert ids == ours.tokenizer().encode(text).tolist()
    assert theirs.decode(ids) == text
    with pytest.raises(Exception, match="UNK"):
        theirs("a small letter, which the vocabulary lacks")


def test_the_tokenizer_of_gpt2_in_transformers(tmp_path: Path, reference: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bpe = reference / "data" / "gpt2_bpe"
    ours = network(vocabulary=GPT2, n_layer=1)
    folder = export(ours, tmp_path / "export", bpe)
    assert (folder / "merges.txt").read_bytes() == (bpe / "vocab.bpe").read_bytes()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = (reference / "data" / "wikitext2" / "test.txt").read_text()[:20_000] + " caf\u00e9\r\n\n  \U0001f600 "
    ids = theirs(text)["input_ids"]
    assert ids == weights.read(str(folder)).tokenizer().encode(text).tolist()
    assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.model_max_length) == (50256, 32)
    assert logits_agree(ours, folder) < 1e-5


def test_gpt2_small_at_its_full_shape(tmp_path: Path, reference: Path) -> None:
    """124 million parameters, written, read by both, and equal."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig())
    tokenizer = Gpt2Tokenizer((reference / "data" / "gpt2_bpe" / "encoder.json").read_bytes())
    assert tokenizer.vocabulary_size == gpt.config.vocab_size
    ours = Weights("test", gpt.config, gpt.state_dict(), GPT2, None)
    folder = export(ours, tmp_path / "export", reference / "data" / "gpt2_bpe")
    assert (folder / hf_gpt2.WEIGHTS).stat().st_size > 4 * 124_439_808
    assert logits_agree(ours, folder, length=64) < 1e-5
    again = weights.read(str(folder))
    assert again.config == ours.config
    assert all(torch.equal(x, ours.tensors[name]) for name, x in again.tensors.items())
    assert again.vocabulary == GPT2


def test_an_export_never_overwrites(tmp_path: Path) -> None:
    export(network(), tmp_path / "export")
    before = {x.name: x.read_bytes() for x in (tmp_path / "export").iterdir()}
    with pytest.raises(ConfigError, match="expected a folder that isn't there yet"):
        export(replace(network(), config=network().config), tmp_path / "export")
    assert before == {x.name: x.read_bytes() for x in (tmp_path / "export").iterdir()}


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = export(network(), tmp_path / "export")
    (folder / hf_tokenizer.TOKENIZER).write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}}))
    with pytest.raises(CheckpointError, match="tokenizer, in"):
        weights.read(str(folder))
    (folder / hf_tokenizer.TOKENIZER).unlink()
    with pytest.raises(CheckpointError, match=r"61 token ids, and no tokenizer\.json"):
        weights.read(str(folder))


def test_names_of_the_hub_ask_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of paper: it shows what is asked for, and what is made of its failure; the network stays untested."""
    hub = pytest.importorskip("huggingface_hub")
    folder, asked = export(network(), tmp_path / "export"), []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    found = weights.read("gpt2-medium")
    assert asked == [("openai-community/gpt2-medium", x) for x in ("config.json", "model.safetensors")]
    assert (found.origin, found.folder) == ("openai-community/gpt2-medium", None)
    (folder / hf_gpt2.CONFIG).unlink()

    def fail(repository: str, name: str) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors, got OSError: no network; try again"):
        weights.read("gpt2")
