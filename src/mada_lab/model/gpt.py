"""GPT-2: a decoder-only transformer with the norm before each sublayer (Radford et al. 2019).

Shapes: B rows, T positions, C = n_embd channels, H = n_head heads, V = vocab_size. Parameters have the names of the
published weights, so that those load by name; `nn.Linear` holds the transposes of the published matrices.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.errors import ConfigError

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The sizes of the network; the defaults are GPT-2 small."""

    block_size: int = 1024  #: longest sequence
    vocab_size: int = 50257  #: number of token ids
    n_layer: int = 12  #: number of blocks
    n_head: int = 12  #: attention heads per block; divides n_embd
    n_embd: int = 768  #: channels
    dropout: float = 0.0  #: probability that an activation is dropped in training, in [0, 1)
    bias: bool = True  #: whether linear layers and norms have a bias

    def __post_init__(self) -> None:
        """Raises ConfigError for impossible sizes."""
        for key in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, key) < 1:
                raise ConfigError(f"model, in key {key}: expected at least 1, got {getattr(self, key)}; raise it")
        if self.n_embd % self.n_head:
            what = f"expected a multiple of n_head ({self.n_head}), got {self.n_embd}; change one of the two"
            raise ConfigError(f"model, in key n_embd: {what}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model, in key dropout: expected a number in [0, 1), got {self.dropout}; change it")


class LayerNorm(nn.Module):
    """Layer norm over the channels, with or without a bias."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, eps=1e-5)


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each position to itself and to those before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        heads = self.c_attn(x).unflatten(-1, (3, self.n_head, -1))  # (B, T, 3, H, C/H)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, C/H)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        mixed: Tensor = self.c_proj(y.transpose(1, 2).flatten(-2))
        return F.dropout(mixed, self.dropout, self.training)


class MLP(nn.Module):
    """Two linear layers, four times as wide between them, with GPT-2's tanh approximation of GELU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        y: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then the MLP, each on the normed stream and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The language model; its initial weights depend on torch's global seed alone."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config)
        self._initialize()

    def _initialize(self) -> None:
        """GPT-2's initialization; norms keep that of their construction."""
        # each block adds to the stream twice: this keeps its variance independent of the depth
        residual_std = INIT_STD / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=residual_std if name.endswith("c_proj.weight") else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predicts the token after each position.

        Args:
            ids: Token ids: int64 of shape (B, T), T <= block_size.
            targets: The true next tokens, like `ids`.

        Returns:
            Logits of shape (B, T, V), and the mean cross-entropy, 0-d, or None without targets.

        Raises:
            ValueError: The sequence is longer than block_size.
        """
        length = ids.shape[1]
        if length > self.config.block_size:
            raise ValueError(f"sequence: expected at most block_size={self.config.block_size} tokens, got {length}")
        x = self.wte(ids) + self.wpe(torch.arange(length, device=ids.device))
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # tied: the embedding is the output layer too
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    def parameter_count(self) -> int:
        """Number of parameters, position embeddings included; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
