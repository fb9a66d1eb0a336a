"""GPT-2 small (124M parameters) on OpenWebText, as a configuration of the MADA authors' train_ddp.py.

mada-lab train configs/upstream/train_gpt2_small.py --dtype='float32' \
    --beta1=0.9 --beta2=0.95 --beta3=0.0 --rho=0.6 --c=1.0 --gamma=1.0

The file is read, not run: literals are assigned, and arithmetic on them. docs/lab/upstream.md says what a key becomes.
configs/gpt2_small.toml is the same run in the keys of this application.
"""

wandb_log = False
wandb_project = "mada"
wandb_run_name = "gpt2-124M"
always_save_checkpoint = False
backend = "nccl"

n_layer = 12
n_head = 12
n_embd = 768
bias = False
dropout = 0.0

# 12 sequences of 1,024 tokens, 5 micro-batches, 8 processes: 491,520 tokens in an optimizer step
batch_size = 12
block_size = 1024
gradient_accumulation_steps = 5

# train_ddp.py counts micro-batches
max_iters = 100_000 * gradient_accumulation_steps
lr_decay_iters = max_iters
warmup_iters = 2000 * gradient_accumulation_steps
hypergrad_init_iter = 50 * gradient_accumulation_steps
eval_interval = 500 * gradient_accumulation_steps
log_interval = 10 * gradient_accumulation_steps
eval_iters = 200

learning_rate = 6e-4
min_lr = 1.5e-5
weight_decay = 1e-1
