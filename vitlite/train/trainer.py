"""The training loop: it knows tensors, a model and a recipe, and nothing of what the model is.

All randomness of step t (which images, which crops, which dropped paths) follows from the seed and t alone.
So a run that was killed and resumed does exactly what it would have done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vitlite.data.augment import cutmix, normalise, random_crop, random_flip
from vitlite.data.datasets import Split, Splits
from vitlite.files import written_whole
from vitlite.train import objectives, recipes
from vitlite.train.recipes import Recipe

__all__ = ["Evaluation", "Trainer", "autocast_dtype", "evaluate"]

Callback = Callable[["Trainer", str], None]

# What the history keeps, a list each: at every log step, and at every validation.
LINES = ("step", "loss", "train_accuracy", "learning_rate", "images_per_second")
VAL_LINES = ("val_step", "val_loss", "val_accuracy")


class Evaluation(NamedTuple):
    """Mean cross-entropy and top-1 accuracy (a fraction) over a split."""

    loss: float
    accuracy: float


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The reduced precision in which this device gains time, or None.

    CUDA: bfloat16, or float16 where it has none (a T4). CPU: bfloat16 where there are instructions for it.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":
        abilities = getattr(torch.cpu, "get_capabilities", dict)()
        return torch.bfloat16 if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else None
    return None


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, batch_size: int = 500, dtype: torch.dtype | None = None) -> Evaluation:
    """Loss and top-1 accuracy of a model over a split.

    Args:
        model: Images ``[B, C, H, W]`` to logits; it is evaluated where its parameters are.
        split: What to evaluate on.
        batch_size: Images at a time; it does not change the result.
        dtype: Reduced precision to compute in; float32 by default.

    Returns:
        Mean cross-entropy without label smoothing, and the fraction of images whose largest logit is the label's.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    loss = right = 0.0
    for start in range(0, len(split), batch_size):
        labels = split.labels[start : start + batch_size].to(device)
        images = normalise(split.images[start : start + batch_size].to(device), split.mean, split.std)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            batch_loss, batch_right = objectives.classify()(model, images, labels)
        loss += batch_loss.item() * len(labels)
        right += batch_right.item()
    model.train(training)
    return Evaluation(loss / len(split), right / len(split))


class Trainer:
    """Train a model by a recipe.

    Args:
        model: Any module from images ``[B, C, H, W]`` to logits ``[B, classes]``; it is trained in place.
        recipe: How to train.
        seed: One seed makes one result on one machine.
        device: Where to train; by default CUDA if there is one, else the CPU.
        objective: What to ask of the model; classification with the recipe's label smoothing by default.
        checkpoint: A file to save the run in and, if it is there, to resume it from.
        checkpoint_every: Steps between two saves, rounded up to whole lines of the history.
        autocast: Compute in reduced precision where the device gains from it (``autocast_dtype``).
        callbacks: Functions called with the trainer and the moment: ``"step"``, ``"validate"`` or ``"end"``.
        progress: Show a progress bar; by default only in a terminal.

    Attributes:
        history: What happened, as plain lists: ``step``, ``loss``, ``train_accuracy`` (on augmented images),
            ``learning_rate``, ``images_per_second``; ``val_step``, ``val_loss``, ``val_accuracy``; and ``seconds`` so
            far, as one number.
        step: Steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        objective: objectives.Objective | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        autocast: bool = True,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.recipe, self.seed = model.to(self.device), recipe, seed
        self.objective = objective or objectives.classify(recipe.label_smoothing)
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.callbacks, self.progress = list(callbacks), progress
        self.optimizer = recipes.optimizer(model, recipe)
        self.dtype = autocast_dtype(self.device) if autocast else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.log_every = max(1, recipe.steps // 200)
        self.checkpoint_every = math.ceil(checkpoint_every / self.log_every) * self.log_every
        self.step = 0
        self.history: dict = {name: [] for name in LINES + VAL_LINES} | {"seconds": 0.0}

    def fit(self, data: Splits) -> dict:
        """Train to the recipe's last step, resuming from the checkpoint if there is one.

        Args:
            data: Splits; ``train`` is trained on, ``validation`` watched, ``test`` never touched.

        Returns:
            ``history``.

        Raises:
            FloatingPointError: If the loss is no longer finite; the message names the step, and the checkpoint stays
                at the last good save.
            ValueError: If the checkpoint belongs to another run.
            KeyboardInterrupt: After Ctrl-C, once the run is saved.
        """
        if self.checkpoint and self.checkpoint.exists():
            self._resume()
        train, validation = data.train.to(self.device), data.validation.to(self.device)
        batches = self._batches(train)
        rng_devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(rng_devices), _ctrl_c() as stopped, self._bar() as bar:
            self.model.train()
            log = _Log(self.device)
            while self.step < self.recipe.steps:
                loss, right = self._train_step(*next(batches))
                self.step += 1
                log.add(loss, right, self._batch_size(train), self.step)
                last = self.step == self.recipe.steps or stopped.is_set()
                if self.step % self.log_every == 0 or last or self.device.type == "cpu":
                    log.check()
                if self.step % self.log_every == 0 or last:
                    self._write_log(log, bar)
                if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                    self._validate(validation, log, bar)
                if self.checkpoint and (self.step % self.checkpoint_every == 0 or last):
                    self._save()
                self._call("step")
                bar.update()
                if stopped.is_set():
                    raise KeyboardInterrupt(self._stop_message())
        self._call("end")
        return self.history

    # ---- one step

    def _train_step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = recipes.learning_rate(self.recipe, self.step)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss, right = self.objective(self.model, images, targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), right

    def _batches(self, train: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches from ``self.step`` on: each epoch is a fresh permutation, its rest dropped."""
        size, epoch, order = self._batch_size(train), -1, None
        per_epoch = len(train) // size
        while True:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = torch.randperm(len(train), generator=self._generator("epoch", epoch)).to(self.device)
            start = self.step % per_epoch * size
            chosen = order[start : start + size]
            generator = self._generator("step", self.step)
            torch.manual_seed(generator.initial_seed())  # dropout and drop path draw from torch's own state
            yield self._augment(train.images[chosen], train.labels[chosen], generator, train)

    def _augment(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, split: Split
    ) -> tuple[Tensor, Tensor]:
        if self.recipe.crop_padding:
            images = random_crop(images, self.recipe.crop_padding, generator)
        if self.recipe.flip:
            images = random_flip(images, generator)
        if self.recipe.cutmix:
            images, targets = cutmix(images, targets, len(split.classes), self.recipe.cutmix, generator)
        return normalise(images, split.mean, split.std), targets

    def _batch_size(self, train: Split) -> int:
        return min(self.recipe.batch_size, len(train))

    def _generator(self, what: str, number: int) -> torch.Generator:
        """A random generator for one epoch or one step: a different stream for each, the same on every machine."""
        stream = {"epoch": 0, "step": 1}[what]
        return torch.Generator().manual_seed((self.seed * 2 + stream) * 10**9 + number)

    # ---- what is told

    def _write_log(self, log: _Log, bar: tqdm) -> None:
        loss, accuracy, speed, seconds = log.flush()
        rate = recipes.learning_rate(self.recipe, self.step - 1)
        self.history["seconds"] += seconds
        for name, value in zip(LINES, (self.step, loss, accuracy, rate, speed), strict=True):
            self.history[name].append(value)
        bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}, {speed:.0f} images/s")

    def _validate(self, validation: Split, log: _Log, bar: tqdm) -> None:
        began = time.perf_counter()
        result = evaluate(self.model, validation, dtype=self.dtype)
        for name, value in zip(VAL_LINES, (self.step, *result), strict=True):
            self.history[name].append(value)
        bar.set_description(f"validation {result.accuracy:.1%}")
        log.began += time.perf_counter() - began  # not training time
        self.history["seconds"] += time.perf_counter() - began
        self._call("validate")

    def _call(self, moment: str) -> None:
        for callback in self.callbacks:
            callback(self, moment)

    def _bar(self) -> tqdm:
        hidden = None if self.progress is None else not self.progress  # None: shown in a terminal only
        return tqdm(total=self.recipe.steps, initial=self.step, unit="step", disable=hidden)

    def _stop_message(self) -> str:
        saved = (
            f"saved in {self.checkpoint}; the same call resumes it"
            if self.checkpoint
            else "not saved: no checkpoint was named"
        )
        return f"stopped after step {self.step} of {self.recipe.steps}, {saved}"

    # ---- saving and resuming

    def _save(self) -> None:
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        told = {"step": self.step, "history": self.history, "scaler": self.scaler.state_dict(), "run": self._identity()}
        with written_whole(self.checkpoint) as path:
            safetensors.torch.save_file(state, path, metadata={"trainer": json.dumps(told)})

    def _resume(self) -> None:
        with safetensors.safe_open(self.checkpoint, "pt") as file:
            told = json.loads((file.metadata() or {}).get("trainer", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        here = json.loads(json.dumps(self._identity()))
        if told.get("run") != here:
            then = told.get("run") or {}
            differ = ", ".join(f"{k}: {then.get(k)!r} there, {here[k]!r} here" for k in here if then.get(k) != here[k])
            raise ValueError(
                f"checkpoint {self.checkpoint} belongs to another run ({differ}); "
                "give this run another checkpoint path, or remove that file to start afresh"
            )
        self.model.load_state_dict(_part(state, "model."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(state, "optimizer.").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.scaler.load_state_dict(told["scaler"])
        self.step, self.history = told["step"], told["history"]

    def _identity(self) -> dict:
        shapes = {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()}
        return {"seed": self.seed, "recipe": dataclasses.asdict(self.recipe), "model": shapes}


class _Log:
    """Sums over the steps since the last line of the history, kept on the device so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bad_step = torch.tensor(-1, device=device)
        self.restart()

    def restart(self) -> None:
        self.loss, self.right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        self.steps = self.images = 0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, right: Tensor, images: int, step: int) -> None:
        self.loss += loss
        self.right += right
        self.steps, self.images = self.steps + 1, self.images + images
        self.bad_step = torch.where((self.bad_step < 0) & ~loss.isfinite(), step, self.bad_step)

    def check(self) -> None:
        bad = int(self.bad_step)
        if bad >= 0:
            raise FloatingPointError(
                f"the loss is not finite at step {bad}; training stopped there and the last good checkpoint is kept. "
                "Lower learning_rate, lengthen warmup_steps, set clip_norm, and check that the images are normalised"
            )

    def flush(self) -> tuple[float, float, float, float]:
        loss, accuracy = float(self.loss) / self.steps, float(self.right) / self.images
        seconds = time.perf_counter() - self.began
        speed = self.images / seconds
        self.restart()
        return loss, accuracy, speed, seconds


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that the step under way can finish; the second one interrupts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(*_) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
