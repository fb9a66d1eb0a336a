"""The task of training a GPT on a text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from mada_lab.compute.device import Precision
from mada_lab.compute.world import World
from mada_lab.config.keys import TrainConfig
from mada_lab.data.batches import Batches, fixed_batches
from mada_lab.data.corpus import Corpus
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.pretrained import init_from
from mada_lab.pretrained.weights import Weights
from mada_lab.tasks.measure import Batch, Measured, mean_loss, require_size

MODEL_KEYS = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")


def build_model(config: TrainConfig, vocabulary_size: int) -> GPT:
    """The network that `config` describes, with fresh weights."""
    return GPT(GPTConfig(vocab_size=vocabulary_size, **{key: getattr(config, key) for key in MODEL_KEYS}))


def rebuild_model(config: TrainConfig, sizes: dict[str, Any], tensors: dict[str, Tensor]) -> GPT:
    """The network of a checkpoint, with fresh weights; arguments and errors as of `choice.rebuild`."""
    vocabulary = sizes["vocabulary"]
    require_size(config.n_embd * (vocabulary + config.block_size + 12 * config.n_layer * config.n_embd), tensors)
    return build_model(config, vocabulary)


@dataclass(frozen=True)
class Language:
    """The task of `mada-lab train`: predict the next token."""

    config: TrainConfig
    data: Corpus
    trained: Weights | None = None

    @classmethod
    def of(cls, config: TrainConfig, data: Corpus) -> "Language":
        """The task, with the weights that `init_from` names. Raises as `init_from.find` and `adopt`."""
        trained = init_from.find(config.init_from, data.meta.vocabulary)
        return cls(config if trained is None else init_from.adopt(config, trained.config), data, trained)

    def model(self) -> GPT:
        model = build_model(self.config, self.data.vocabulary_size)
        if self.trained is not None:
            init_from.put(self.trained, model)
        return model

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, GPT)
        return list(model.h)

    def batches(self, world: World) -> Batches:
        sizes = (self.config.block_size, self.config.batch_size, self.config.seed)
        return Batches(self.data.train, *sizes, world.rank, world.size)

    def validation(self) -> list[Batch]:
        return fixed_batches(self.data.val, *self._evaluation())

    def training(self) -> list[Batch]:
        return fixed_batches(self.data.train, *self._evaluation())

    def _evaluation(self) -> tuple[int, int, int, int]:
        return self.config.block_size, self.config.batch_size, self.config.eval_iters, self.config.eval_seed

    def measure(self, model: nn.Module, batches: Sequence[Batch], precision: Precision, world: World) -> Measured:
        return Measured(mean_loss(model, batches, precision, world))

    def seen(self, passes: int) -> dict[str, int]:
        return {"tokens": passes * self.config.batch_size * self.config.block_size}

    def flops(self, model: nn.Module) -> float:
        """6 N + 12 L C T per token (Chowdhery et al. 2022, PaLM, appendix B); N excludes position embeddings."""
        config = self.config
        weights = sum(p.numel() for p in model.parameters()) - config.block_size * config.n_embd
        tokens = self.seen(config.gradient_accumulation_steps)["tokens"]
        return tokens * (6.0 * weights + 12 * config.n_layer * config.n_embd * config.block_size)

    def sizes(self) -> dict[str, Any]:
        return {"vocabulary": self.data.vocabulary_size, "tokenizer": asdict(self.data.meta.vocabulary)}
