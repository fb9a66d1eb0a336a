"""The keys of a training run, a class for each kind: flat, named as in nanoGPT and in the MADA paper's code.

A step is an optimizer step. Each key says first what another value of it does at a resume (`declarations.Resume`).
"""

from dataclasses import dataclass
from typing import Literal

from mada_lab.config.declarations import Resume, declarations, key

FIXED, STEPS, SCHEDULE, RECORD, OUTSIDE, RESOLVED = Resume


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The keys that mean the same whatever is trained."""

    dataset: str = key(FIXED)
    """Name of a data set; small ones are prepared by themselves, larger ones by `mada-lab data prepare NAME`."""
    data_dir: str = key(OUTSIDE, "data")
    """Folder that holds the data sets."""
    out_dir: str = key(OUTSIDE, "out")
    """Folder of the run: its record and its checkpoints."""
    init_from: str = key(RESOLVED, "scratch")
    """scratch for fresh weights, resume for the newest checkpoint in out_dir, or trained weights that a fresh optimizer
    goes on from: the folder of a run, a checkpoint or an export, or gpt2, gpt2-medium, gpt2-large, gpt2-xl."""
    seed: int = key(FIXED, 1337)
    """Seed of the initial weights, of dropout, and of the order of the training data."""
    device: str = key(OUTSIDE, "auto")
    """auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = key(STEPS, "float32")
    """Precision of the forward pass; weights and optimizer stay in float32. float16 scales the loss."""
    compile: bool = key(OUTSIDE, False)
    """Run the model through torch.compile."""
    parallel: Literal["ddp", "fsdp", "hybrid"] = key(OUTSIDE, "ddp")
    """On several processes: each has the whole model (ddp); weights, gradients and optimizer are shared out among all
    (fsdp), or among those on one machine, and machines hold replicas (hybrid)."""
    distributed_timeout: float = key(OUTSIDE, 600.0)
    """Seconds until a process that doesn't answer ends the run."""

    batch_size: int = key(FIXED, 12)
    """Sequences, or images, per forward pass."""
    gradient_accumulation_steps: int = key(FIXED, 1)
    """Forward passes per optimizer step, of all processes together, which share them."""
    max_iters: int = key(SCHEDULE, 2000)
    """Optimizer steps."""

    first_accumulation: int | None = key(FIXED, None, none_is="gradient_accumulation_steps")
    """Forward passes of the first optimizer step, their losses divided by gradient_accumulation_steps even so; None is
    that number."""

    optimizer: str = key(FIXED, "automuon")
    """automuon (Muon on hidden matrices, Adam elsewhere, the learning rate learned), autoadam (without Muon), mada (the
    paper's: six coefficients learned at a given learning rate), mada_matrix (mada with Muon on hidden matrices),
    hyperadam (Adam with learned betas), mada_released (the six by the published code's rule), mada_published (as the
    published training scripts computed it), or a rule of mada_optim with nothing learned (sgd, adagrad, rmsprop, adam,
    amsgrad, avgrad, nadam, yogi, adan, lion, muon). Of others: adamw (torch's own), prodigy, schedulefree, torch_muon
    (torch's, with AdamW on all but hidden matrices). Controls: mada_traced (mada, with its steps' sizes in the record),
    mada_paced (nothing learned, steps of such sizes)."""
    learn: str | None = key(FIXED, None, of_optimizer=True)
    """Coefficients to learn, with commas between: beta1,beta2,lr, say; all, none; None is the optimizer's default."""
    learning_rate: float | Literal["auto"] | None = key(SCHEDULE, None)
    """Peak learning rate: a number, or auto, which computes it from the shapes of the hidden matrices. None is the
    optimizer's default: auto for automuon and autoadam, 1e-3 for mada and adamw. A learned one starts there."""
    matrix_lr: float | None = key(FIXED, None, of_optimizer=True)
    """Peak learning rate of the hidden matrices (torch_muon); None is learning_rate."""
    decay_lr: bool = key(SCHEDULE, True)
    """Cosine decay to min_lr; off: constant after the warm-up."""
    warmup_iters: int = key(SCHEDULE, 100)
    """Steps of linear warm-up."""
    lr_counts: Literal["steps", "passes"] = key(SCHEDULE, "steps")
    """What the schedule counts: optimizer steps, from 1; or the forward passes of a process, from 0, as the paper's
    scripts do: a step has the learning rate that belongs to the number of its last pass over the passes of a step."""
    lr_decay_iters: int | None = key(SCHEDULE, None, needs={"decay_lr": (True,)}, none_is="max_iters")
    """Step at which min_lr is reached; None is max_iters."""
    min_lr: float | None = key(SCHEDULE, None, needs={"decay_lr": (True,)})
    """Final learning rate; None is a tenth of the peak."""
    weight_decay: float | None = key(FIXED, None)
    """Decoupled decay of tensors with 2 or more dimensions; the others have none. None is .3 for automuon and autoadam,
    .1 for the others."""
    grad_clip: float = key(STEPS, 1.0)
    """Largest norm of the whole gradient; 0 leaves it as it is."""
    grad_clip_of: Literal["whole", "each"] = key(FIXED, "whole")
    """What grad_clip clips: the gradient of the step, the mean over all processes (whole); or each process its own, of
    all its passes, before the mean (each; under ddp alone). On one process both are the same."""
    eps: float | None = key(FIXED, None, of_optimizer=True)
    """Added to the denominator; None is the optimizer's default."""
    beta1: float | None = key(FIXED, None, of_optimizer=True)
    """First decay; None is the optimizer's default, for each of the coefficients."""
    beta2: float | None = key(FIXED, None, of_optimizer=True)
    """Second-moment decay; at least .99 with automuon and autoadam."""
    beta3: float | None = key(FIXED, None, of_optimizer=True)
    """Difference decay (Adan, MADA)."""
    rho: float | None = key(FIXED, None, of_optimizer=True)
    """1 is Adam's second moment, 0 is AVGrad's mean of it (MADA)."""
    c: float | None = key(FIXED, None, of_optimizer=True)
    """1 is Adam's target, 0 is Yogi's (MADA)."""
    gamma: float | None = key(FIXED, None, of_optimizer=True)
    """1 is the adaptive step, 0 is Lion's sign (MADA)."""
    momentum: float | None = key(FIXED, None, of_optimizer=True)
    """Decay of the momentum (sgd, rmsprop)."""
    nesterov: float | None = key(FIXED, None, of_optimizer=True)
    """1 is Nesterov's momentum, 0 the heavy ball (sgd)."""
    alpha: float | None = key(FIXED, None, of_optimizer=True)
    """Second-moment decay (rmsprop)."""
    centered: float | None = key(FIXED, None, of_optimizer=True)
    """1 divides by the standard deviation, 0 by the root mean square (rmsprop)."""
    mu: float | None = key(FIXED, None, of_optimizer=True)
    """Decay of the momentum that is orthogonalised (muon)."""
    omega: float | None = key(FIXED, None, of_optimizer=True)
    """1 is Muon's step on hidden matrices, 0 is MADA's (automuon, mada_matrix)."""
    state_dtype: Literal["float32", "bfloat16"] = key(FIXED, "float32", of_optimizer=True)
    """Precision of the optimizer's slots; bfloat16 halves them, with stochastic rounding (not of adamw)."""
    coefficients_from: str | None = key(RESOLVED, None, of_optimizer=True)
    """Folder of a finished run whose final coefficients this one has, in the place of the keys above; fixed, unless
    learn is set."""
    pace_from: str | None = key(STEPS, None, of_optimizer=True)
    """Folder of a finished run of mada_traced, whose steps' sizes mada_paced has."""
    bounds: str | None = key(FIXED, None, of_learner=("bounds",), by_coefficient="intervals")
    """Intervals that learned coefficients stay in, as beta1=0.01:0.99,rho=0:1; for lr of its factor on the schedule.
    None is the rule's own."""
    hyper_lr: float | str | None = key(FIXED, None, of_learner=("lr", "rate"), by_coefficient="numbers")
    """Learning rate of the coefficients: one number, or by coefficient, as beta1=5e-4,gamma=0.1. None is the default:
    the paper's, 5e-4 for beta1 and beta2 and 1e-1 for the others; 1 for the learned lr of automuon and autoadam, 1e-2
    for that of others."""
    hyper_lr_factor: float = key(FIXED, 1.0, of_learner=("lr", "rate"))
    """Multiplies the learning rates of all coefficients."""
    hyper_optimizer: Literal["sgd", "adam", "negated", "shuffled"] = key(FIXED, "sgd", of_optimizer=True)
    """What moves the coefficients, except the learned lr of automuon and autoadam: the paper's SGD (sgd), or torch's
    Adam (adam), with betas hyper_momentum and .999, and 1e-3 where hyper_lr isn't given. Two are controls. negated is
    SGD along the hypergradient instead of against it, for the lr of automuon and autoadam too. shuffled is SGD by the
    hypergradient of another coefficient, drawn anew in each step."""
    hyper_momentum: float | str | None = key(FIXED, None, of_learner=("momentum",), by_coefficient="numbers")
    """Momentum of the coefficients' steps, in [0, 1): one number, or by coefficient; None is 0."""
    hyper_rebound: float | None = key(FIXED, None, of_learner=("rebound",))
    """On a bound, momentum pushes outward with at most so many times the present hypergradient; None is no limit."""
    hyper_observe: Literal["step", "unclipped", "first"] = key(STEPS, "step", of_optimizer=True)
    """The gradient that hypergradients are taken from: the step's, clipped (step); that before clipping (unclipped); or
    that of the step's first forward pass alone, before clipping (first; of the first pass of each process)."""
    clamps: str | None = key(STEPS, None, of_optimizer=True, by_coefficient="intervals")
    """Intervals that learned coefficients are set into every clamp_interval steps, after the first step at first, as
    beta2=0.51:0.99; in between, bounds hold. None is never."""
    clamp_interval: int = key(STEPS, 10, of_optimizer=True)
    """Steps between these. It needs clamps."""
    hyper_clip: float | None = key(STEPS, None, of_learner=("clip",))
    """Each hypergradient is clipped to this size; None is the default: the paper's 10, and 1 for the learned lr of
    automuon and autoadam."""
    hyper_start: int | None = key(FIXED, None, of_learner=("start",))
    """Steps before the coefficients start to move; None is the default: the paper's 50, and 10 for the learned lr of
    automuon and autoadam."""
    hyper_stop: int | None = key(STEPS, None, of_learner=("stop",))
    """Steps after which they stay; None is never."""
    hyper_freeze: float | None = key(FIXED, None, of_learner=("freeze",))
    """The learned lr stays while the schedule is below this share of its peak, in [0, 1]; 0 is never. This key and the
    next ones are of the learned lr of automuon and autoadam."""
    hyper_memory: float | None = key(FIXED, None, of_learner=("memory",))
    """Decay of the mean square that its hypergradients are divided by the root of, in [0, 1); 0 doesn't divide."""
    hyper_averaging: float | None = key(FIXED, None, of_learner=("averaging",))
    """Decay of a mean of these, in [0, 1), of which only what exceeds its noise moves lr; 0 takes each as it is."""
    hyper_reach: float | None = key(FIXED, None, of_learner=("reach",))
    """How far ln lr goes at most in one step, and over what distance that mean is forgotten; 0 is no limit."""
    hyper_fall: float | None = key(FIXED, None, of_learner=("fall",))
    """Steps in which the least that a learned lr may fall to is halved; 0 lets it fall at once."""
    hyper_rise: float | None = key(FIXED, None, of_learner=("rise",))
    """How far hypergradients have to agree before a learned lr rises above its start, in [0, 1); 0 lets it rise at
    once."""
    horizon: float | None = key(FIXED, None, of_learner=("horizon",))
    """Decay of the trace that a learned lr is learned from, in [0, 1); 0 looks one step back."""
    matrix_lr_ratio: float | None = key(FIXED, None, of_optimizer=True)
    """Learning rate of hidden matrices over that of all else (automuon, mada_matrix, muon); None is the optimizer's
    default."""

    eval_interval: int = key(RECORD, 250)
    """Steps between evaluations on the fixed validation set, or on the test images."""
    log_interval: int = key(RECORD, 10)
    """Steps between lines of the record."""
    checkpoint_interval: int | None = key(OUTSIDE, None, none_is="eval_interval")
    """Steps between checkpoints; None is eval_interval. One is written at the end in any case."""
    keep_checkpoints: int = key(OUTSIDE, 2)
    """Number of newest checkpoints that are kept."""
    on_save_error: Literal["warn", "abort"] = key(OUTSIDE, "warn")
    """A checkpoint that can't be written: go on, with a warning, or end the run (exit code 4)."""
    background_save: bool = key(OUTSIDE, False)
    """Write checkpoints beside the training, from a copy of its state in memory."""
    checkpoint_shards: Literal["one", "each"] = key(OUTSIDE, "one", needs={"parallel": ("fsdp", "hybrid")})
    """Under fsdp and hybrid: the first process gathers the state and writes all of it (one), or each process writes the
    shards that it has (each); then all must see out_dir. Any number of processes resume from either."""
    digest_interval: int | None = key(RECORD, None)
    """Steps between digests of the whole state in the record; None: with each checkpoint."""
    max_skipped_steps: int = key(OUTSIDE, 10)
    """So many steps in a row with a loss or gradient that is not finite end the run; fewer are skipped."""
    peak_flops: float | None = key(RECORD, None)
    """Operations per second that a device can do, for the utilisation in the record; None: known for some GPUs."""
    mirror: str = key(OUTSIDE, "none")
    """Where rows of the record go too: none, tensorboard, wandb (offline), or several with commas between."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A training run. The defaults train a GPT of 0.8M parameters on the embedded corpus, on a laptop, in minutes."""

    dataset: str = key(FIXED, "pydoc")
    """Name of a text data set; small ones are prepared by themselves, larger ones by `mada-lab data prepare NAME`."""

    n_layer: int = key(FIXED, 4)
    """Transformer blocks."""
    n_head: int = key(FIXED, 4)
    """Attention heads per block; divides n_embd."""
    n_embd: int = key(FIXED, 128)
    """Channels."""
    block_size: int = key(FIXED, 64)
    """Tokens of context."""
    dropout: float = key(FIXED, 0.0)
    """Probability that an activation is dropped, in [0, 1)."""
    bias: bool = key(FIXED, False)
    """Biases in linear layers and norms."""

    eval_iters: int = key(RECORD, 20)
    """Batches of the validation set."""
    eval_seed: int = key(RECORD, 0)
    """Draws the validation set; runs of one eval_seed are evaluated on the same text, whatever their seed."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig(RunConfig):
    """A training run on images. The defaults train a CNN on the digits of scikit-learn, in seconds."""

    dataset: str = key(FIXED, "digits")
    """Name of a data set of images, prepared by `mada-lab data prepare NAME`; digits is prepared by itself."""
    train_images: int | None = key(FIXED, None)
    """Train on so many images of the training split, drawn once for all seeds; None is all."""
    test_images: int | None = key(FIXED, None)
    """Evaluate on so many images of the test split, drawn once for all seeds; None is all."""
    crop_padding: int = key(FIXED, 0)
    """Train on random crops of the images, padded by so many pixels on each side."""
    flip: bool = key(FIXED, False)
    """Train on mirror images, left to right, every second time."""

    label_noise: float = key(FIXED, 0.0)
    """Share of the training images whose label is drawn anew, once for all seeds, in [0, 1)."""

    model: Literal["cnn", "resnet", "mlp", "logistic"] = key(FIXED, "cnn")
    """cnn has 5 layers; resnet is the residual network for CIFAR-10 of He et al. (2016); mlp has two hidden layers, and
    logistic none."""
    width: int = key(FIXED, 16, needs={"model": ("cnn", "resnet", "mlp")})
    """Channels of the first layer, of which the later ones have 2 and 4 times as many; of the mlp, units of a layer."""
    depth: int = key(FIXED, 20, needs={"model": ("resnet",)})
    """Layers of the resnet: 6n + 2."""

    batch_size: int = key(FIXED, 64)
    """Images per forward pass."""
    max_iters: int = key(SCHEDULE, 200)
    """Optimizer steps; an epoch has train_images / (batch_size * gradient_accumulation_steps) of them."""
    warmup_iters: int = key(SCHEDULE, 20)
    """Steps of linear warm-up."""
    eval_interval: int = key(RECORD, 50)
    """Steps between evaluations on the test images."""


for kind in (RunConfig, TrainConfig, VisionConfig):
    declarations(kind)  # a key that was added without a declaration ends the import
