"""The callbacks that log coefficients, and the one helper that flattens them.

Catches: an import of transformers or lightning where nobody asked, a log that stays silent about an optimizer without
coefficients, a key that two coefficients share, a callback that comes too late for a tracker.
"""

import importlib
import subprocess
import sys

import pytest
import torch

from mada_optim import MADA, AutoMuon, param_groups
from mada_optim.integrations import logs

LIGHTNINGS_OWN = r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning"


def made(**options):
    return MADA([torch.nn.Parameter(torch.ones(2))], **options)


class Wrapper:
    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_coefficients_become_one_flat_dict():
    opt = made()
    flat = logs.flat_coefficients(opt)
    assert flat == {f"mada/{q}": x for q, x in opt.coefficients().items()}
    assert flat["mada/beta1"] == 0.9


def test_scopes_become_parts_of_the_keys(monkeypatch):
    opt = made()
    scoped = {"body.0.weight": {"beta1": 0.9, "rho": 1.0}, "head": {"beta1": 0.8, "rho": 0.5}}
    monkeypatch.setattr(opt, "coefficients", lambda: scoped)
    assert logs.flat_coefficients(opt, "opt") == {
        "opt/body.0.weight/beta1": 0.9,
        "opt/body.0.weight/rho": 1.0,
        "opt/head/beta1": 0.8,
        "opt/head/rho": 0.5,
    }


def test_wrapped_optimizers_are_found():
    opt, other = made(), torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    assert logs.expect_hyper_optimizers([Wrapper(other), Wrapper(Wrapper(opt))]) == [opt]


@pytest.mark.parametrize("optimizers", [[], [None], [Wrapper(torch.optim.SGD([torch.ones(2)]))]])
def test_an_optimizer_without_coefficients_is_refused(optimizers):
    with pytest.raises(TypeError, match=r"expected one of mada_optim, got (none|NoneType|SGD)"):
        logs.expect_hyper_optimizers(optimizers)


def test_hidden_matrices_that_shapes_alone_decide_are_warned_of():
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    logs.warn_of_shapes_alone([AutoMuon(param_groups(model)), AutoMuon(model.named_parameters()), made()])
    with pytest.warns(UserWarning, match=r"AutoMuon: hidden matrices were guessed.*param_groups\(model\)"):
        logs.warn_of_shapes_alone([AutoMuon(model.parameters())])


@pytest.mark.parametrize(("library", "extra"), [("transformers", "hf"), ("lightning", "lightning")])
def test_a_missing_library_is_named_with_its_extra(library, extra, monkeypatch):
    for name in {library, *(name for name in sys.modules if name.startswith(f"{library}."))}:
        monkeypatch.setitem(sys.modules, name, None)  # makes `import` raise ImportError
    monkeypatch.delitem(sys.modules, f"mada_optim.integrations.{library}", raising=False)
    with pytest.raises(ImportError, match=rf'{library!r}, which could not .* pip install "mada-optim\[{extra}\]"'):
        importlib.import_module(f"mada_optim.integrations.{library}")


def test_the_library_imports_no_integration():
    program = """
import sys, mada_optim, mada_optim.integrations
print({"transformers", "lightning", "pytorch_lightning", "accelerate"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "set()"


def transformers_trainer(folder, opt_class, callbacks):
    from transformers import Trainer, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, x):
            return {"loss": self.linear(x).pow(2).mean()}

    arguments = TrainingArguments(
        str(folder), max_steps=3, logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    data = [{"x": torch.ones(3)}] * 8
    named = {"optimizer_cls_and_kwargs": (opt_class, {"lr": 0.1})}
    return Trainer(Model(), arguments, train_dataset=data, callbacks=callbacks, **named)


def test_the_trainer_with_another_optimizer_is_refused(tmp_path):
    from mada_optim.integrations.transformers import MADACallback

    trainer = transformers_trainer(tmp_path, torch.optim.SGD, [MADACallback()])
    with pytest.raises(TypeError, match="got SGD"):
        trainer.train()


@pytest.mark.parametrize("first", [True, False])
def test_trackers_see_coefficients_where_the_callback_is_put_first(tmp_path, first):
    from transformers import TrainerCallback

    from mada_optim.integrations.transformers import MADACallback

    class Tracker(TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_log(self, args, state, control, logs, **_):
            self.seen.append(dict(logs))

    tracker = Tracker()
    trainer = transformers_trainer(tmp_path, MADA, [tracker] if first else [tracker, MADACallback(prefix="c")])
    if first:
        MADACallback(prefix="c").put_first(trainer)
    trainer.train()
    assert len(tracker.seen) == 4
    assert all(("c/beta1" in entry) == first for entry in tracker.seen)
    assert all("c/beta1" in entry for entry in trainer.state.log_history)


@pytest.mark.filterwarnings(LIGHTNINGS_OWN)
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")  # advice on speed
def test_two_optimizers_in_lightning_have_keys_of_their_own(tmp_path):
    from lightning.pytorch import LightningModule, Trainer

    from mada_optim.integrations.lightning import MADACallback

    class Two(LightningModule):
        def __init__(self, *classes):
            super().__init__()
            self.automatic_optimization, self.classes = False, classes
            self.nets = torch.nn.ModuleList(torch.nn.Linear(2, 1) for _ in classes)

        def training_step(self, batch, _):
            for net, opt in zip(self.nets, self.optimizers(), strict=True):
                opt.zero_grad()
                self.manual_backward(net(batch).pow(2).mean())
                opt.step()

        def configure_optimizers(self):
            return [cls(net.parameters(), lr=0.1) for cls, net in zip(self.classes, self.nets, strict=True)]

    def fitted(*classes):
        options = dict.fromkeys(
            ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
        )
        trainer = Trainer(accelerator="cpu", max_epochs=1, log_every_n_steps=2, callbacks=[MADACallback()], **options)
        trainer.fit(Two(*classes), torch.utils.data.DataLoader(torch.ones(8, 2), 2))
        return trainer.callback_metrics

    both = fitted(MADA, MADA)
    assert both["mada/beta1"] == both["mada-1/beta1"] == torch.tensor(0.9)
    one = fitted(torch.optim.SGD, MADA)
    assert "mada/beta1" in one
    assert "mada-1/beta1" not in one
    with pytest.raises(TypeError, match="got SGD, SGD"):
        fitted(torch.optim.SGD, torch.optim.SGD)
