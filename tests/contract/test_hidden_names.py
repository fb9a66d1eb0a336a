"""Hidden matrices by names and shapes alone, as `named_parameters()` gives them: real names, with what each is.

Catches: a word read where it is only a part of one, a head that hides behind a wrapper or another word, a shape or a
frozen weight that is taken for evidence, a block's last layer that is taken for the head.
"""

import pytest
import torch
from torch import nn

from mada_optim import AutoMuon, param_groups
from mada_optim.matrices import hidden_matrices

HIDDEN, BATCH = "hidden matrix", "batch of hidden matrices"
EMBEDDING, HEAD, KERNEL, BIAS, FACTOR = "embedding", "head", "depthwise kernel", "bias or gain", "low-rank factor"

#: By library and model: name, shape and what it is, in the model's order; large sides are cut.
NAMES = {
    "nanoGPT": [
        ("transformer.wte.weight", (640, 64), EMBEDDING),
        ("transformer.wpe.weight", (128, 64), EMBEDDING),
        ("transformer.h.0.attn.c_attn.weight", (192, 64), HIDDEN),
        ("transformer.h.0.attn.c_proj.weight", (64, 64), HIDDEN),
        ("transformer.h.11.mlp.c_fc.weight", (256, 64), HIDDEN),
        ("transformer.h.11.mlp.c_proj.weight", (64, 256), HIDDEN),
    ],
    "Llama, transformers": [
        ("model.embed_tokens.weight", (640, 64), EMBEDDING),
        ("model.layers.0.self_attn.q_proj.weight", (64, 64), HIDDEN),
        ("model.layers.0.self_attn.o_proj.weight", (64, 64), HIDDEN),
        ("model.layers.0.mlp.gate_proj.weight", (176, 64), HIDDEN),
        ("model.layers.0.mlp.down_proj.weight", (64, 176), HIDDEN),
        ("lm_head.weight", (640, 64), HEAD),
    ],
    "Llama, Meta": [
        ("tok_embeddings.weight", (640, 64), EMBEDDING),
        ("layers.0.attention.wo.weight", (64, 64), HIDDEN),
        ("layers.0.feed_forward.w2.weight", (64, 176), HIDDEN),
        ("output.weight", (640, 64), HEAD),
    ],
    "Qwen-MoE": [
        ("model.embed_tokens.weight", (640, 64), EMBEDDING),
        ("model.layers.0.mlp.gate.weight", (60, 64), HIDDEN),
        ("model.layers.0.mlp.experts.gate_up_proj", (60, 44, 64), BATCH),
        ("model.layers.0.mlp.experts.down_proj", (60, 64, 22), BATCH),
        ("model.layers.0.mlp.shared_expert.gate_proj.weight", (88, 64), HIDDEN),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 64), BIAS),
        ("lm_head.weight", (640, 64), HEAD),
    ],
    "Mixtral, with a module for each expert": [
        ("model.embed_tokens.weight", (640, 64), EMBEDDING),
        ("model.layers.0.block_sparse_moe.gate.weight", (8, 64), HIDDEN),
        ("model.layers.0.block_sparse_moe.experts.7.w2.weight", (64, 224), HIDDEN),
        ("lm_head.weight", (640, 64), HEAD),
    ],
    "gpt-oss": [
        ("model.layers.0.mlp.experts.gate_up_proj", (32, 64, 128), BATCH),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (32, 128), BIAS),
        ("model.layers.0.self_attn.sinks", (8,), BIAS),
    ],
    "T5": [
        ("shared.weight", (640, 64), EMBEDDING),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", (64, 64), HIDDEN),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8), BIAS),
        ("decoder.block.0.layer.2.DenseReluDense.wo.weight", (64, 256), HIDDEN),
        ("lm_head.weight", (640, 64), HEAD),
    ],
    "BERT, masked, its decoder tied": [
        ("bert.embeddings.word_embeddings.weight", (640, 64), EMBEDDING),
        ("bert.embeddings.position_embeddings.weight", (512, 64), EMBEDDING),
        ("bert.embeddings.token_type_embeddings.weight", (2, 64), EMBEDDING),
        ("bert.encoder.layer.0.attention.output.dense.weight", (64, 64), HIDDEN),
        ("bert.encoder.layer.0.output.dense.weight", (64, 256), HIDDEN),
        ("cls.predictions.transform.dense.weight", (64, 64), HIDDEN),
    ],
    "BERT, for classes": [
        ("bert.embeddings.word_embeddings.weight", (640, 64), EMBEDDING),
        ("bert.encoder.layer.0.output.dense.weight", (64, 256), HIDDEN),
        ("bert.pooler.dense.weight", (64, 64), HIDDEN),
        ("classifier.weight", (3, 64), HEAD),
    ],
    "BERT alone": [
        ("embeddings.word_embeddings.weight", (640, 64), EMBEDDING),
        ("encoder.layer.0.output.dense.weight", (64, 256), HIDDEN),
        ("pooler.dense.weight", (64, 64), HIDDEN),
    ],
    "RoBERTa, for classes": [
        ("roberta.embeddings.word_embeddings.weight", (640, 64), EMBEDDING),
        ("roberta.encoder.layer.3.output.dense.weight", (64, 256), HIDDEN),
        ("classifier.dense.weight", (64, 64), HIDDEN),
        ("classifier.out_proj.weight", (3, 64), HEAD),
    ],
    "DistilBERT": [
        ("distilbert.embeddings.word_embeddings.weight", (640, 64), EMBEDDING),
        ("distilbert.transformer.layer.0.ffn.lin1.weight", (256, 64), HIDDEN),
        ("pre_classifier.weight", (64, 64), HIDDEN),
        ("classifier.weight", (3, 64), HEAD),
    ],
    "ViT, transformers": [
        ("vit.embeddings.cls_token", (1, 1, 64), EMBEDDING),
        ("vit.embeddings.position_embeddings", (1, 197, 64), EMBEDDING),
        ("vit.embeddings.patch_embeddings.projection.weight", (64, 3, 16, 16), HIDDEN),
        ("vit.encoder.layer.0.attention.output.dense.weight", (64, 64), HIDDEN),
        ("classifier.weight", (10, 64), HEAD),
    ],
    "ViT, timm": [
        ("cls_token", (1, 1, 64), EMBEDDING),
        ("pos_embed", (1, 197, 64), EMBEDDING),
        ("patch_embed.proj.weight", (64, 3, 16, 16), HIDDEN),
        ("blocks.0.attn.qkv.weight", (192, 64), HIDDEN),
        ("blocks.0.mlp.fc2.weight", (64, 256), HIDDEN),
        ("head.weight", (10, 64), HEAD),
    ],
    "ViT, torchvision": [
        ("class_token", (1, 1, 64), EMBEDDING),
        ("conv_proj.weight", (64, 3, 16, 16), HIDDEN),
        ("encoder.pos_embedding", (1, 197, 64), EMBEDDING),
        ("encoder.layers.encoder_layer_0.self_attention.out_proj.weight", (64, 64), HIDDEN),
        ("encoder.layers.encoder_layer_0.mlp.0.weight", (256, 64), HIDDEN),
        ("heads.head.weight", (10, 64), HEAD),
    ],
    "Swin, timm": [
        ("layers.0.blocks.0.attn.relative_position_bias_table", (169, 4), BIAS),
        ("layers.0.blocks.0.attn.proj.weight", (64, 64), HIDDEN),
        ("layers.1.downsample.reduction.weight", (128, 256), HIDDEN),
        ("head.fc.weight", (10, 128), HEAD),
    ],
    "ResNet, torchvision": [
        ("conv1.weight", (64, 3, 7, 7), HIDDEN),
        ("layer1.0.conv1.weight", (64, 64, 3, 3), HIDDEN),
        ("layer1.1.conv1.weight", (64, 64, 3, 3), HIDDEN),
        ("layer4.0.downsample.0.weight", (512, 256, 1, 1), HIDDEN),
        ("fc.weight", (10, 512), HEAD),
    ],
    "ConvNeXt, transformers": [
        ("convnext.embeddings.patch_embeddings.weight", (96, 3, 4, 4), HIDDEN),
        ("convnext.encoder.stages.0.layers.0.dwconv.weight", (96, 1, 7, 7), KERNEL),
        ("convnext.encoder.stages.0.layers.0.pwconv1.weight", (384, 96), HIDDEN),
        ("classifier.weight", (10, 96), HEAD),
    ],
    "ConvNeXt, torchvision": [
        ("features.0.0.weight", (96, 3, 4, 4), HIDDEN),
        ("features.1.0.layer_scale", (96, 1, 1), BIAS),
        ("features.1.0.block.0.weight", (96, 1, 7, 7), KERNEL),
        ("features.1.0.block.3.weight", (384, 96), HIDDEN),
        ("classifier.2.weight", (10, 96), HEAD),
    ],
    "EfficientNet, timm": [
        ("conv_stem.weight", (32, 3, 3, 3), HIDDEN),
        ("blocks.0.0.conv_dw.weight", (32, 1, 3, 3), KERNEL),
        ("blocks.0.0.se.conv_reduce.weight", (8, 32, 1, 1), HIDDEN),
        ("conv_head.weight", (1280, 320, 1, 1), HIDDEN),
        ("classifier.weight", (10, 1280), HEAD),
    ],
    "VGG, torchvision": [
        ("features.0.weight", (64, 3, 3, 3), HIDDEN),
        ("classifier.0.weight", (256, 512), HIDDEN),
        ("classifier.3.weight", (256, 256), HIDDEN),
        ("classifier.6.weight", (10, 256), HEAD),
    ],
    "Mamba": [
        ("backbone.embeddings.weight", (640, 64), EMBEDDING),
        ("backbone.layers.0.mixer.A_log", (128, 16), BIAS),
        ("backbone.layers.0.mixer.conv1d.weight", (128, 1, 4), KERNEL),
        ("backbone.layers.0.mixer.in_proj.weight", (256, 64), HIDDEN),
        ("backbone.layers.0.mixer.x_proj.weight", (36, 128), HIDDEN),
        ("backbone.layers.0.mixer.dt_proj.weight", (128, 4), HIDDEN),
        ("backbone.layers.0.mixer.out_proj.weight", (64, 128), HIDDEN),
    ],
    "Jamba, blocks of two kinds": [
        ("model.embed_tokens.weight", (640, 64), EMBEDDING),
        ("model.layers.0.mamba.out_proj.weight", (64, 128), HIDDEN),
        ("model.layers.1.self_attn.o_proj.weight", (64, 64), HIDDEN),
        ("lm_head.weight", (640, 64), HEAD),
    ],
    "LoRA, PEFT": [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", (8, 64), FACTOR),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", (64, 8), FACTOR),
        ("base_model.model.model.embed_tokens.lora_embedding_A.default", (8, 640), FACTOR),
    ],
    "PEFT, a copied head": [
        ("base_model.model.roberta.encoder.layer.0.attention.self.query.lora_A.default.weight", (8, 64), FACTOR),
        ("base_model.model.roberta.encoder.layer.0.attention.self.query.base_layer.weight", (64, 64), HIDDEN),
        ("base_model.model.classifier.modules_to_save.default.dense.weight", (64, 64), HIDDEN),
        ("base_model.model.classifier.modules_to_save.default.out_proj.weight", (3, 64), HEAD),
    ],
    "PEFT, a copied head and embedding of an LM": [
        ("base_model.model.model.embed_tokens.modules_to_save.default.weight", (640, 64), EMBEDDING),
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", (176, 64), HIDDEN),
        ("base_model.model.score.modules_to_save.default.weight", (3, 64), HEAD),
    ],
    "loralib": [
        ("transformer.h.0.attn.c_attn.lora_A", (8, 64), FACTOR),
        ("transformer.h.0.attn.c_attn.weight", (192, 64), HIDDEN),
    ],
    "UNet, diffusers": [
        ("conv_in.weight", (320, 4, 3, 3), HIDDEN),
        ("time_embedding.linear_1.weight", (128, 32), HIDDEN),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", (320, 320), HIDDEN),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight", (320, 320), HIDDEN),
        ("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight", (2560, 320), HIDDEN),
        ("down_blocks.0.resnets.0.time_emb_proj.weight", (320, 128), HIDDEN),
        ("conv_out.weight", (4, 320, 3, 3), HEAD),
    ],
    "DiT, diffusers": [
        ("pos_embed.proj.weight", (72, 4, 2, 2), HIDDEN),
        ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", (1001, 72), EMBEDDING),
        ("transformer_blocks.0.norm1.linear.weight", (432, 72), HIDDEN),
        ("transformer_blocks.0.ff.net.2.weight", (72, 288), HIDDEN),
        ("proj_out_2.weight", (32, 72), HEAD),
    ],
    "U-Net of a tutorial": [
        ("inc.double_conv.0.weight", (64, 3, 3, 3), HIDDEN),
        ("down1.maxpool_conv.1.double_conv.0.weight", (128, 64, 3, 3), HIDDEN),
        ("up1.up.weight", (128, 64, 2, 2), HIDDEN),
        ("outc.conv.weight", (2, 64, 1, 1), HEAD),
    ],
    "wav2vec 2.0, torchaudio": [
        ("feature_extractor.conv_layers.0.conv.weight", (512, 1, 10), HIDDEN),
        ("encoder.feature_projection.projection.weight", (64, 512), HIDDEN),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original0", (1, 1, 128), BIAS),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1", (64, 4, 128), HIDDEN),
        ("encoder.transformer.layers.0.attention.out_proj.weight", (64, 64), HIDDEN),
        ("encoder.transformer.layers.0.feed_forward.output_dense.weight", (64, 256), HIDDEN),
        ("aux.weight", (32, 64), HEAD),
    ],
    "Conformer, torchaudio": [
        ("conformer_layers.0.ffn1.sequential.1.weight", (256, 64), HIDDEN),
        ("conformer_layers.0.conv_module.sequential.0.weight", (128, 64, 1), HIDDEN),
        ("conformer_layers.0.conv_module.sequential.2.weight", (64, 1, 31), KERNEL),
        ("conformer_layers.0.self_attn.in_proj_weight", (192, 64), HIDDEN),
        ("conformer_layers.0.self_attn.out_proj.weight", (64, 64), HIDDEN),
    ],
    "DeepSpeech, torchaudio": [
        ("fc1.fc.weight", (128, 64), HIDDEN),
        ("fc2.fc.weight", (128, 128), HIDDEN),
        ("bi_rnn.weight_ih_l0", (128, 128), HIDDEN),
        ("out.weight", (40, 128), HEAD),
    ],
    "LSTM of PyTorch's examples": [
        ("encoder.weight", (640, 64), EMBEDDING),
        ("rnn.weight_ih_l0", (256, 64), HIDDEN),
        ("rnn.weight_hh_l0", (256, 64), HIDDEN),
        ("decoder.weight", (640, 64), HEAD),
    ],
    "GCN": [
        ("convs.0.lin.weight", (64, 1433), HIDDEN),
        ("convs.1.lin.weight", (64, 64), HIDDEN),
        ("convs.2.lin.weight", (7, 64), HEAD),
    ],
    "one attention, no numbered block": [
        ("embed.weight", (640, 64), EMBEDDING),
        ("cross.in_proj_weight", (192, 64), HIDDEN),
        ("cross.out_proj.weight", (64, 64), HIDDEN),
        ("fc.weight", (3, 64), HEAD),
    ],
    "stacked ensemble": [
        ("ensemble.members.0.weight", (8, 17, 64), BATCH),
        ("ensemble.members.0.bias", (8, 64), BIAS),
        ("ensemble.members.2.weight", (8, 64, 64), BATCH),
        ("ensemble.members.2.bias", (8, 64), BIAS),
        ("assembler.weight", (64, 128), HIDDEN),
        ("head.weight", (3, 64), HEAD),
    ],
    "net.output": [
        ("net.layers.0.fc.weight", (64, 64), HIDDEN),
        ("net.layers.1.fc.weight", (64, 64), HIDDEN),
        ("net.output.weight", (64, 64), HEAD),
    ],
    "backbone.out, first": [
        ("backbone.out.weight", (3, 64), HEAD),
        ("backbone.h.0.attn.out_proj.weight", (64, 64), HIDDEN),
        ("backbone.h.0.output.dense.weight", (64, 256), HIDDEN),
    ],
    "parametrized head": [
        ("body.0.weight", (64, 16), HIDDEN),
        ("head.parametrizations.weight.original", (10, 64), HEAD),
    ],
    "weight norm": [
        ("body.0.parametrizations.weight.original0", (64, 1), BIAS),
        ("body.0.parametrizations.weight.original1", (64, 16), HIDDEN),
        ("body.2.parametrizations.weight.original0", (10, 1), BIAS),
        ("body.2.parametrizations.weight.original1", (10, 64), HEAD),
    ],
    "a first layer of two inputs": [
        ("net.2.weight", (64, 64), HIDDEN),
        ("net.4.weight", (3, 64), HEAD),
    ],
    "one block alone": [
        ("h.2.attn.c_attn.weight", (192, 64), HIDDEN),
        ("h.2.attn.c_proj.weight", (64, 64), HIDDEN),
    ],
    "hidden matrices alone": [
        ("module.transformer.h.0.attn.c_attn.weight", (192, 64), HIDDEN),
        ("module.transformer.h.0.mlp.c_proj.weight", (64, 256), HIDDEN),
        ("module.transformer.h.1.mlp.c_proj.weight", (64, 256), HIDDEN),
    ],
    "wrapped": [
        ("module._orig_mod.model.tokens.weight", (640, 64), EMBEDDING),
        ("module._orig_mod.model.blocks.0._checkpoint_wrapped_module.attn.out.weight", (64, 64), HIDDEN),
        ("module._orig_mod.model.blocks.1._checkpoint_wrapped_module.attn.out.weight", (64, 64), HIDDEN),
        ("module._orig_mod.model.output.weight", (640, 64), HEAD),
    ],
}


@pytest.fixture(autouse=True)
def engine():
    """What a weight is doesn't depend on the engine: once is enough, with the one that users get."""


def weights(rows):
    return [(name, nn.Parameter(torch.ones(shape))) for name, shape, _ in rows]


def found(named):
    (flags,) = hidden_matrices.hidden([{"params": [p for _, p in named], "param_names": [name for name, _ in named]}])
    return [bool(flag) for flag in flags]


def nameless(*shapes):
    return [
        bool(x) for x in hidden_matrices.hidden([{"params": [nn.Parameter(torch.ones(shape)) for shape in shapes]}])[0]
    ]


@pytest.mark.parametrize("rows", NAMES.values(), ids=NAMES)
def test_names_say_what_a_weight_is(rows):
    expected = {name: kind in (HIDDEN, BATCH) for name, _, kind in rows}
    named = weights(rows)
    assert dict(zip(expected, found(named), strict=True)) == expected


def test_the_table_is_of_real_names():
    assert sum(map(len, NAMES.values())) > 150
    assert len({name for rows in NAMES.values() for name, *_ in rows}) > 140


@pytest.mark.parametrize("rows", NAMES.values(), ids=NAMES)
def test_names_and_shapes_say_where_the_matrices_are(rows):
    """Stacked ones are a batch; a kernel of any length, named as one, is a matrix."""
    expected = {name: {HIDDEN: True, BATCH: "batched"}.get(kind, False) for name, _, kind in rows}
    params = [p for _, p in weights(rows)]
    assert (
        dict(zip(expected, hidden_matrices.hidden([{"params": params, "param_names": [*expected]}])[0], strict=True))
        == expected
    )


@pytest.mark.parametrize("rows", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "base_model.model.", "student.backbone."])
def test_a_common_prefix_says_nothing(rows, prefix):
    named = weights(rows)
    assert found([(prefix + name, p) for name, p in named]) == found(named)


@pytest.mark.parametrize("rows", NAMES.values(), ids=NAMES)
def test_an_optimizer_takes_them_so(rows):
    """With a vector first, as models have them in between."""
    named = [("norm.weight", nn.Parameter(torch.ones(3))), *weights(rows)]
    (group,) = AutoMuon(named).param_groups
    assert [bool(x) for x in group[hidden_matrices.FLAGS]] == [False, *found(weights(rows))]


@pytest.mark.parametrize("inputs", [2, 4])
def test_a_first_layer_of_few_inputs_leaves_the_head_alone(inputs):
    """Its shape is that of an embedding, and says nothing of the last."""
    shapes = [(64, inputs), (64, 64), (3, 64)]
    assert nameless(*shapes)[1:] == [True, False]
    named = [(f"net.{2 * i}.weight", nn.Parameter(torch.ones(shape))) for i, shape in enumerate(shapes)]
    assert found(named)[1:] == [True, False]


def test_a_depthwise_kernel_leaves_the_head_alone():
    shapes = [(128, 3, 3, 3), (128, 1, 3, 3), (64, 128, 1, 1), (10, 64)]
    assert nameless(*shapes) == [True, False, True, False]
    names = ("stem.weight", "mix.weight", "point.weight", "fc.weight")
    named = [(name, nn.Parameter(torch.ones(shape))) for name, shape in zip(names, shapes, strict=True)]
    assert found(named) == [True, False, True, False]


def test_a_head_of_one_output_is_the_last():
    assert nameless((16, 4), (16, 16), (1, 16)) == [True, True, False]


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ((), {"embed.weight": False, "layers.0.w.weight": True, "fc.weight": True, "lm_head.weight": False}),
        (("lm_head.weight",), {"embed.weight": False, "layers.0.w.weight": True, "fc.weight": True}),
        (("embed.weight", "lm_head.weight"), {"layers.0.w.weight": True, "fc.weight": False}),
    ],
)
def test_frozen_weights_are_no_evidence(frozen, expected):
    """Neither as a head, nor as an embedding, as wide as which the last layer is no head."""
    shapes = {"embed.weight": (20, 8), "layers.0.w.weight": (8, 8), "fc.weight": (8, 8), "lm_head.weight": (20, 8)}
    named = [(name, nn.Parameter(torch.ones(shape), name not in frozen)) for name, shape in shapes.items()]
    flags = {name: flag for (name, _), flag in zip(named, found(named), strict=True) if name not in frozen}
    assert flags == expected


def test_a_frozen_last_matrix_is_not_the_head():
    params = [nn.Parameter(torch.ones(8, 8), trained) for trained in (True, True, False)]
    assert [bool(x) for x in hidden_matrices.hidden([{"params": params}])[0]][:2] == [True, False]


@pytest.mark.parametrize(
    "name", ["ensemble.0.fc.weight", "members.fc.weight", "assembler.weight", "remember.weight", "vocabless.weight"]
)
def test_a_word_inside_another_says_nothing(name):
    named = [(name, nn.Parameter(torch.ones(8, 8))), ("head.weight", nn.Parameter(torch.ones(3, 8)))]
    assert found(named) == [True, False]


@pytest.mark.parametrize(
    "name",
    "wte.weight tokEmbeddings.weight pos_emb time_embed.weight token_embedding_table.weight embedder.weight "
    "positional_encoding item_embs.weight vocab.weight embeddings.0.weight embed_in.weight mask_token".split(),
)
def test_words_of_embeddings(name):
    shapes = {name: (8, 8), "layers.0.w.weight": (8, 8), "layers.1.w.weight": (8, 8)}
    assert found([(x, nn.Parameter(torch.ones(shape))) for x, shape in shapes.items()]) == [False, True, True]


@pytest.mark.parametrize(
    "name",
    "lm_head.weight classifier.weight score.weight scores.weight logits.weight to_logits.weight out.weight "
    "outputs.weight output_projection.weight out_proj.weight fc_out.weight mlp_head.1.weight net.head.weight "
    "cls_head.fc.weight classification_head.weight prediction_head.decoder.weight unembed.weight "
    "qa_outputs.weight".split(),
)
def test_words_of_heads(name):
    """Registered before the blocks, so that the place says nothing."""
    shapes = {name: (8, 8), "layers.0.w.weight": (8, 8), "layers.1.w.weight": (8, 8)}
    assert found([(x, nn.Parameter(torch.ones(shape))) for x, shape in shapes.items()]) == [False, True, True]


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
VISION = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 5}
SEQUENCES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "vocab_size": 99,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 99,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
AUDIO = {
    **SMALL, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip

#: Classes of transformers with their configurations, and what is not hidden by their modules beside embeddings, biases
#: and depthwise kernels: the output layers; None where the tied embedding is.
TRANSFORMERS = {
    "GPT2LMHeadModel": ("GPT2Config", GPT2, None),
    "GPT2ForSequenceClassification": ("GPT2Config", GPT2, "score"),
    "GPT2Model": ("GPT2Config", GPT2, None),
    "LlamaForCausalLM": ("LlamaConfig", SMALL, "lm_head"),
    "LlamaForSequenceClassification": ("LlamaConfig", SMALL, "score"),
    "Qwen2MoeForCausalLM": (
        "Qwen2MoeConfig",
        {**SMALL, "num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 48},
        "lm_head",
    ),
    "MixtralForCausalLM": ("MixtralConfig", {**SMALL, "num_key_value_heads": 4, "num_local_experts": 4}, "lm_head"),
    "T5ForConditionalGeneration": ("T5Config", T5, None),
    "BertForSequenceClassification": ("BertConfig", SMALL, "classifier"),
    "BertForMaskedLM": ("BertConfig", SMALL, None),
    "BertForPreTraining": ("BertConfig", SMALL, "cls.seq_relationship"),
    "BertForQuestionAnswering": ("BertConfig", SMALL, "qa_outputs"),
    "BertModel": ("BertConfig", SMALL, None),
    "RobertaForSequenceClassification": ("RobertaConfig", SMALL, "classifier.out_proj"),
    "RobertaForMaskedLM": ("RobertaConfig", SMALL, None),
    "DistilBertForSequenceClassification": (
        "DistilBertConfig",
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99},
        "classifier",
    ),
    "ViTForImageClassification": ("ViTConfig", VISION, "classifier"),
    "ViTModel": ("ViTConfig", VISION, None),
    "ViTMAEForPreTraining": (
        "ViTMAEConfig",
        {
            **VISION, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
        },
        "decoder.decoder_pred",
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"depths": [1, 2], "hidden_sizes": [16, 32], "num_stages": 2},
        "classifier",
    ),
    "SwinForImageClassification": (
        "SwinConfig",
        {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "image_size": 32},
        "classifier",
    ),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"},
        "classifier.1",
    ),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {
            "hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 32,
        },
        "decode_head.classifier",
    ),
    "MambaForCausalLM": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 8},
        None,
    ),
    "JambaForCausalLM": (
        "JambaConfig",
        {
            **SMALL, "num_key_value_heads": 4, "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4,
            "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        },
        "lm_head",
    ),
    "GptOssForCausalLM": (
        "GptOssConfig",
        {**SMALL, "num_key_value_heads": 4, "num_local_experts": 4, "head_dim": 8},
        "lm_head",
    ),
    "WhisperForConditionalGeneration": ("WhisperConfig", SEQUENCES, None),
    "BartForConditionalGeneration": ("BartConfig", SEQUENCES, None),
    "BartForSequenceClassification": ("BartConfig", SEQUENCES, "classification_head.out_proj"),
    "Wav2Vec2ForCTC": ("Wav2Vec2Config", AUDIO, "lm_head"),
    "OPTForCausalLM": (
        "OPTConfig",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 99,
            "word_embed_proj_dim": 16,
        },
        None,
    ),
}  # fmt: skip

#: Where names alone give something else than modules, and why.
DIFFERENCES = {
    "ViTMAEForPreTraining": {"decoder.decoder_embed.weight": "a linear layer by its module, an embedding by its name"},
    "OPTForCausalLM": {"model.decoder.project_out.weight": "the tied head comes after it, and has no name of its own"},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_modules_and_names_of_transformers_agree(name):
    transformers = pytest.importorskip("transformers", reason="compares with the models of transformers")
    config, sizes, output = TRANSFORMERS[name]
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)(**sizes))
    by_module = {x.name: x for x in param_groups(model).weights}
    named = [(x, p) for x, p in model.named_parameters() if p.requires_grad]
    by_name = dict(zip(by_module, found(named), strict=True))
    outputs = [x.name for x in by_module.values() if x.why.startswith("output layer")]
    assert outputs == ([] if output is None else [f"{output}.weight"])
    differing = {x for x, flag in by_name.items() if flag != (by_module[x].matrix is not False)}
    assert differing == set(DIFFERENCES.get(name, ()))
    embeddings = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    assert not [x for x in embeddings & set(by_module) if by_module[x].matrix is not False]
    linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    matrices_of_linear = {x for x in linear & set(by_module) if min(by_module[x].parameter.shape) > 1}
    assert {x for x in matrices_of_linear if by_module[x].matrix is False} <= {*outputs, *embeddings}
