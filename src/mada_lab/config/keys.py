"""The keys of a training run, a class for each kind: flat, named as in nanoGPT and in the MADA paper's code.

A step is an optimizer step. `declarations.Key` says what a key declares: its topic, what another value does at
a resume, its default, the numbers that it may have, and other names that people use for it.
"""

from pathlib import Path
from typing import Literal

from mada_lab.config import derived
from mada_lab.config.declarations import COUNT, SEED, WHOLE, Key, Resume, Topic, configuration
from mada_lab.errors import ConfigError
from mada_optim.checks import NON_NEGATIVE, POSITIVE
from mada_optim.rule import DECAY
from mada_optim.rules import RULES

FIXED, STEPS, LR_STEPS, RECORD, OUTSIDE, RESOLVED = Resume
RUN, DATA, MODEL, OPTIMIZER, LEARNING, SCHEDULE, RECORDS, CHECKPOINTS, DEVICE = Topic

#: Values of init_from with which the first weights are drawn at random.
FRESH = ("scratch", "resume")
DECAYS = {"decay_lr": (True,)}
SHARDED = {"parallel": ("fsdp", "hybrid")}
LENGTHS = "steps iters num_steps max_steps train_steps epochs epoch num_epochs max_epochs num_train_epochs"
PLAIN = ", ".join(name for name in RULES if not name.startswith("mada"))


@configuration
class Declared:
    """The keys that mean the same whatever is trained, but for those that the library's declarations give."""

    out_dir: str | None = Key(RUN, OUTSIDE, None, also="out output output_dir run_dir folder")
    """Folder of the run: its record and its checkpoints. None: a new folder `out/DATASET-TIME`."""
    init_from: str = Key(RUN, RESOLVED, "scratch", also="resume checkpoint load from_pretrained pretrained")
    """scratch: fresh weights. resume: the newest checkpoint in out_dir. Or trained weights, with a fresh optimizer: the
    folder of a run, a checkpoint or an export, or gpt2, gpt2-medium, gpt2-large, gpt2-xl."""
    seed: int = Key(RUN, FIXED, 1337, SEED, also="random_seed rng")
    """Seed of the initial weights, of dropout, and of the order of the training data."""
    max_skipped_steps: int = Key(RUN, OUTSIDE, 10, COUNT)
    """Steps in a row with a non-finite loss or gradient that end the run; fewer are skipped."""

    dataset: str = Key(DATA, FIXED, "pydoc", also="data corpus")
    """Name of a data set; small ones are prepared by themselves, larger ones by `mada-lab data prepare NAME`."""
    data_dir: str = Key(DATA, OUTSIDE, "data", also="data_path data_folder")
    """Folder of the data sets."""
    batch_size: int = Key(DATA, FIXED, 12, COUNT, also="batch bs micro_batch_size")
    """Sequences per forward pass."""
    gradient_accumulation_steps: int = Key(DATA, FIXED, 1, COUNT, also="grad_accum grad_accum_steps accumulation_steps")
    """Forward passes per step, of all processes together."""
    first_accumulation: int | None = Key(DATA, FIXED, None, COUNT, none_is="gradient_accumulation_steps")
    """Forward passes of the first step, whose losses are still divided by gradient_accumulation_steps; None: as many as
    that."""

    optimizer: str = Key(
        OPTIMIZER,
        FIXED,
        "automuon",
        also="optim opt",
        text="automuon: Muon on hidden matrices, Adam elsewhere, a learned learning rate (rule mada_matrix; betas are "
        "kept in a safe range). autoadam: the same without Muon (rule mada). mada: the paper's, six learned "
        "coefficients, a given learning rate. mada_matrix: mada with Muon on hidden matrices. hyperadam: Adam "
        "with learned betas (rule adam). mada_released: mada by the rule of the published code. mada_published: "
        "mada as the published training scripts compute it. Or a rule of mada_optim with nothing learned: "
        f"{PLAIN}. Baselines: adamw (torch's), prodigy, schedulefree, torch_muon (torch's, with AdamW on all but "
        "hidden matrices), pytorch_optimizer_normuon (likewise), soap, ademamix, mars. Controls: mada_traced (mada, "
        "and the size of each step in the record), mada_paced (fixed coefficients, each step rescaled to the size that "
        "it had in a recorded run).",
    )
    learning_rate: float | Literal["auto"] | None = Key(OPTIMIZER, LR_STEPS, None, NON_NEGATIVE, also="lr max_lr")
    """Peak learning rate: a number, or auto, computed from the shapes of the hidden matrices. A learned one starts
    there. None: the optimizer's default, auto for automuon and autoadam, 1e-3 for mada and adamw."""
    matrix_lr: float | None = Key(OPTIMIZER, FIXED, None, NON_NEGATIVE, of_optimizer=True, also="muon_lr")
    """Peak learning rate of the hidden matrices (torch_muon, pytorch_optimizer_normuon); None: learning_rate."""
    matrix_lr_ratio: float | None = Key(OPTIMIZER, FIXED, None, NON_NEGATIVE, of_optimizer=True, also="lr_ratio")
    """Learning-rate multiplier of hidden matrices (automuon, mada_matrix); None: the optimizer's default."""
    weight_decay: float | None = Key(OPTIMIZER, FIXED, None, NON_NEGATIVE, also="wd decay")
    """Decoupled decay of tensors with 2 or more dimensions; the others have none. None: .3 for automuon and autoadam,
    .1 for the others."""
    grad_clip: float = Key(OPTIMIZER, STEPS, 1.0, NON_NEGATIVE, also="clip clip_norm max_grad_norm gradient_clip")
    """Largest norm of the whole gradient; 0: no clipping."""
    grad_clip_of: Literal["whole", "each"] = Key(OPTIMIZER, FIXED, "whole")
    """whole: the gradient of the step, averaged over processes, is clipped. each: every process clips the gradient of
    its own passes before the average (needs ddp)."""
    eps: float | None = Key(OPTIMIZER, FIXED, None, NON_NEGATIVE, of_optimizer=True, also="epsilon")
    """Added to the denominator; None: the optimizer's default."""
    state_dtype: Literal["float32", "bfloat16", "8bit"] = Key(OPTIMIZER, FIXED, "float32", of_optimizer=True)
    """Precision of the optimizer's state, rounded stochastically: bfloat16 halves it, 8bit needs a quarter."""
    coefficients_from: str | None = Key(OPTIMIZER, RESOLVED, None, of_optimizer=True)
    """Folder of a finished run, whose final coefficients this run has. They stay fixed unless learn is set."""
    pace_from: str | None = Key(OPTIMIZER, STEPS, None, of_optimizer=True)
    """Folder of a finished run of mada_traced; mada_paced takes steps of the sizes recorded there."""

    learn: str | None = Key(LEARNING, FIXED, None, of_optimizer=True, also="learned")
    """Coefficients to learn: names with commas between (beta1,lr), all, or none. None: the optimizer's default."""
    bounds: str | None = Key(LEARNING, FIXED, None, of_learner=("bounds",), by_coefficient="intervals")
    """Intervals that learned coefficients stay in: beta1=0.01:0.99,rho=0:1. For lr, of its learned factor. None: the
    rule's."""
    hyper_lr: float | str | None = Key(
        LEARNING, FIXED, None, NON_NEGATIVE, of_learner=("lr", "rate"), by_coefficient="numbers"
    )
    """Learning rate of the coefficients: one number, or by coefficient: beta1=5e-4,gamma=0.1. None: the paper's, 5e-4
    for beta1 and beta2 and 1e-1 for the others; for lr, 1 with automuon and autoadam, else 1e-2."""
    hyper_lr_factor: float = Key(LEARNING, FIXED, 1.0, NON_NEGATIVE, of_learner=("lr", "rate"))
    """Multiplies the learning rates of all coefficients."""
    hyper_optimizer: Literal["sgd", "adam", "negated", "shuffled"] = Key(LEARNING, FIXED, "sgd", of_optimizer=True)
    """What moves the coefficients, but not the learned lr of automuon and autoadam. sgd: the paper's. adam: torch's,
    with betas hyper_momentum and .999, and hyper_lr 1e-3 by default. Two controls: negated steps along the
    hypergradient instead of against it, for every learned lr too; shuffled takes the hypergradient of another
    coefficient, drawn anew in each step."""
    hyper_observe: Literal["step", "unclipped", "first"] = Key(LEARNING, STEPS, "step", of_optimizer=True)
    """The gradient for hypergradients. step: that of the step, clipped. unclipped: the same before clipping. first:
    that of the first forward pass of the step on each process, before clipping."""
    clamps: str | None = Key(LEARNING, STEPS, None, of_optimizer=True, by_coefficient="intervals")
    """Intervals that learned coefficients are clamped to after step 1 and every clamp_interval steps from there:
    beta2=0.51:0.99. Between, bounds hold. None: never."""
    clamp_interval: int = Key(LEARNING, STEPS, 10, COUNT, of_optimizer=True)
    """Steps between clamps."""

    max_iters: int = Key(SCHEDULE, LR_STEPS, 2000, COUNT, also=LENGTHS)
    """Length of the run, in steps; an epoch is the training tokens / (batch_size * block_size *
    gradient_accumulation_steps) steps."""
    warmup_iters: int | None = Key(SCHEDULE, LR_STEPS, None, WHOLE, also="warmup warmup_steps")
    """Steps of linear warm-up. None: 100, but at most a fifth of max_iters."""
    decay_lr: bool = Key(SCHEDULE, LR_STEPS, True, also="cosine lr_schedule scheduler")
    """Cosine decay to min_lr; false: constant after the warm-up."""
    lr_decay_iters: int | None = Key(
        SCHEDULE, LR_STEPS, None, WHOLE, needs=DECAYS, none_is="max_iters", also="decay_iters"
    )
    """Step at which min_lr is reached; None: max_iters."""
    min_lr: float | None = Key(SCHEDULE, LR_STEPS, None, NON_NEGATIVE, needs=DECAYS, also="final_lr lr_min")
    """Final learning rate; None: a tenth of the peak."""
    lr_counts: Literal["steps", "passes"] = Key(SCHEDULE, LR_STEPS, "steps")
    """What the schedule counts. steps: optimizer steps from 1. passes: forward passes of a process from 0, as the
    paper's scripts do; the position is the number of a step's last pass over the passes of a step."""

    eval_interval: int = Key(RECORDS, RECORD, 250, COUNT, also="eval_every eval_steps")
    """Steps between evaluations on the fixed validation set."""
    log_interval: int = Key(RECORDS, RECORD, 10, COUNT, also="log_every logging_steps")
    """Steps between lines of the record."""
    digest_interval: int | None = Key(RECORDS, RECORD, None, COUNT)
    """Steps between digests of the whole state in the record; None: one with each checkpoint."""
    peak_flops: float | None = Key(RECORDS, RECORD, None, NON_NEGATIVE)
    """Peak of the device in operations per second, for the utilization in the record; None: known for some GPUs."""
    mirror: str = Key(RECORDS, OUTSIDE, "none", also="wandb tensorboard log_to")
    """Where the rows of the record go too: none, tensorboard, wandb (offline), or several with commas between."""

    checkpoint_interval: int | None = Key(CHECKPOINTS, OUTSIDE, None, COUNT, none_is="eval_interval", also="save_every")
    """Steps between checkpoints; None: eval_interval. The last step always has one."""
    keep_checkpoints: int = Key(CHECKPOINTS, OUTSIDE, 2, COUNT, also="save_total_limit")
    """Number of checkpoints that are kept, the newest ones."""
    on_save_error: Literal["warn", "abort"] = Key(CHECKPOINTS, OUTSIDE, "warn")
    """If a checkpoint can't be written: go on with a warning, or end the run (exit code 4)."""
    background_save: bool = Key(CHECKPOINTS, OUTSIDE, False)
    """Write checkpoints during training, from a copy of the state in memory."""
    checkpoint_shards: Literal["one", "each"] = Key(CHECKPOINTS, OUTSIDE, "one", needs=SHARDED)
    """one: the first process gathers the state and writes it. each: every process writes its own shards; all must see
    out_dir. Any number of processes resume from either."""

    device: str = Key(DEVICE, OUTSIDE, "auto", also="gpu cuda cpu")
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = Key(DEVICE, STEPS, "float32", also="precision amp")
    """Precision of the forward pass; weights and optimizer stay in float32. float16 scales the loss."""
    compile: bool = Key(DEVICE, OUTSIDE, False, also="torch_compile")
    """Run the model through torch.compile."""
    parallel: Literal["ddp", "fsdp", "hybrid"] = Key(DEVICE, OUTSIDE, "ddp", also="ddp fsdp")
    """With several processes. ddp: each has the whole model. fsdp: all share weights, gradients and optimizer state.
    hybrid: those on one machine share them, and each machine has a replica."""
    share_matrices: bool = Key(DEVICE, OUTSIDE, True, of_optimizer=True, needs={"parallel": ("ddp",)})
    """With several processes and ddp, each orthogonalizes a part of the hidden matrices, and sends it to the others;
    false: each orthogonalizes all. The weights are the same, bit by bit."""
    distributed_timeout: float = Key(DEVICE, OUTSIDE, 600.0, POSITIVE)
    """Seconds after which a process that doesn't answer ends the run."""

    @property
    def folder(self) -> Path:
        """The folder of the run. Raises ConfigError if `out_dir` names none."""
        if self.out_dir is None:
            raise ConfigError("out_dir=None: expected the folder of the run, got none; set it")
        return Path(self.out_dir)


@configuration
class RunConfig(derived.keys_beside(Declared), Declared):
    """The keys that mean the same whatever is trained."""

    usual_warmup = 100  # steps, where warmup_iters is None and the run isn't too short


@configuration
class TrainConfig(RunConfig):
    """A training run. The defaults train a GPT of 0.8M parameters on the embedded corpus, on a laptop, in minutes."""

    n_layer: int = Key(MODEL, FIXED, 4, COUNT, also="layers num_layers depth")
    """Transformer blocks."""
    n_head: int = Key(MODEL, FIXED, 4, COUNT, also="heads num_heads")
    """Attention heads per block; divides n_embd."""
    n_embd: int = Key(MODEL, FIXED, 128, COUNT, also="d_model width hidden_size embed_dim")
    """Channels of the residual stream."""
    block_size: int = Key(MODEL, FIXED, 64, COUNT, also="context context_length seq_len max_length")
    """Context length, in tokens."""
    dropout: float = Key(MODEL, FIXED, 0.0, DECAY)
    """Probability that an activation is dropped, in [0, 1)."""
    bias: bool = Key(MODEL, FIXED, False)
    """Biases in linear layers and norms."""

    eval_iters: int = Key(RECORDS, RECORD, 20, COUNT, also="eval_batches")
    """Batches of the validation set."""
    eval_seed: int = Key(RECORDS, RECORD, 0, SEED)
    """Seed of the validation set: runs with the same one are evaluated on the same text, whatever their seed."""


@configuration
class VisionConfig(RunConfig):
    """A training run on images. The defaults train a CNN on the digits of scikit-learn, in seconds."""

    usual_warmup = 20

    dataset: str = Key(DATA, FIXED, "digits", also="data corpus")
    """Name of a data set of images, prepared by `mada-lab data prepare NAME`; digits is prepared by itself."""
    train_images: int | None = Key(DATA, FIXED, None, COUNT)
    """Number of training images, drawn once for all seeds; None: all."""
    test_images: int | None = Key(DATA, FIXED, None, COUNT)
    """Number of test images, drawn once for all seeds; None: all."""
    crop_padding: int = Key(DATA, FIXED, 0, WHOLE)
    """Pixels of padding on each side, before random crops of the training images."""
    flip: bool = Key(DATA, FIXED, False)
    """Mirror training images, left to right, every second time."""
    label_noise: float = Key(DATA, FIXED, 0.0, DECAY)
    """Share of the training images whose label is drawn anew, once for all seeds, in [0, 1)."""
    batch_size: int = Key(DATA, FIXED, 64, COUNT, also="batch bs micro_batch_size")
    """Images per forward pass."""

    model: Literal["cnn", "resnet", "mlp", "logistic"] = Key(MODEL, FIXED, "cnn", also="arch architecture network net")
    """cnn: 5 layers. resnet: the residual network for CIFAR-10 of He et al. (2016). mlp: two hidden layers. logistic:
    none."""
    width: int = Key(MODEL, FIXED, 16, COUNT, needs={"model": ("cnn", "resnet", "mlp")})
    """Channels of the first layer, later ones have 2 and 4 times as many; for the mlp, units of a hidden layer."""
    depth: int = Key(MODEL, FIXED, 20, COUNT, needs={"model": ("resnet",)})
    """Layers of the resnet: 6n + 2."""

    max_iters: int = Key(SCHEDULE, LR_STEPS, 200, COUNT, also=LENGTHS)
    """Length of the run, in steps; an epoch is train_images / (batch_size * gradient_accumulation_steps) steps."""
    warmup_iters: int | None = Key(SCHEDULE, LR_STEPS, None, WHOLE, also="warmup warmup_steps")
    """Steps of linear warm-up. None: 20, but at most a fifth of max_iters."""
    eval_interval: int = Key(RECORDS, RECORD, 50, COUNT, also="eval_every eval_steps")
    """Steps between evaluations on the test images."""
