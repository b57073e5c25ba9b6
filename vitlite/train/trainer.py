"""The training loop: it knows tensors, a model and a recipe, and nothing of what the model is.

Read ``Trainer.fit`` first, then ``_train_step``: that is the whole of it. What stands around them has a file each:
which images a step sees (``batches``), what the device can do (``device``), averaged weights (``average``), saving and
resuming (``checkpoint``), several processes (``distributed``), reports (``history``, ``callbacks``).

All randomness of step t (which images, which crops, which dropped paths) follows from the seed and t alone. So a run
that was killed and resumed does exactly what it would have done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitlite.data.datasets import Split, Splits
from vitlite.files import decoding, digest, held, try_writing
from vitlite.train import checkpoint as checkpoints
from vitlite.train import distributed, objectives, recipes
from vitlite.train.average import Average
from vitlite.train.batches import Batches, stream
from vitlite.train.callbacks import Callback, Progress
from vitlite.train.device import autocast_dtype, compiled, compiling_pays, default_device
from vitlite.train.evaluation import evaluate, modes_kept
from vitlite.train.history import VAL_LINES, Log, diverged, empty, possible
from vitlite.train.recipes import Recipe

__all__ = ["Trainer"]

SAVE_SECONDS = 600  # a run with a checkpoint is saved about so often, however long its steps take
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Learner(nn.Module):
    """The model and what is asked of it as one module, for torch to compile and to share between processes."""

    def __init__(self, model: nn.Module, objective: objectives.Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and the number of right answers."""
        return self.objective(self.model, images, targets)


class Trainer:
    """Train a model by a recipe, on a CPU or on CUDA devices; Apple's MPS should work and is untested.

    At the end the model has the weights of the last step; their running average, if the recipe has ``average``; or, if
    it has ``keep_best``, those of either that did best on the validation images. ``kept`` says which.

    Modules that are in evaluation mode inside a model in training mode stay so: frozen batch norms keep their
    statistics. Of a model that is in evaluation mode itself, as a loaded one is, the parts without a trained parameter
    do. Afterwards every module is in the mode that it was in.

    Under ``torchrun``, inside ``distributed.joined``, each process trains on its part of every batch. All must be given
    the same arguments and equal models, and see the same checkpoint file, which the first of them writes.

    Args:
        model: Any module from images ``[B, C, H, W]`` to logits ``[B, classes]``; it is trained in place.
        seed: One seed makes one result on one machine.
        device: Where to train; by default as ``device.default_device`` says.
        objective: What to ask of the model; classification with the recipe's label smoothing by default. If it is a
            module, its own parameters are trained too.
        val_objective: What to ask of it in validation; classification without label smoothing by default. A model that
            does not classify needs one here.
        checkpoint: A file to save the run in and, if it is there, to resume it from.
        checkpoint_every: Steps between two saves, rounded up to whole lines of the history; after ten minutes without a
            save the next line brings one.
        autocast: Compute in reduced precision where the device gains from it (``device.autocast_dtype``).
        compile: Compile the model, if that works; by default where it pays (``device.compiling_pays``).
        callbacks: Functions called with the trainer and the moment; see ``callbacks``.
        progress: Show a progress bar; by default only in a terminal.

    Attributes:
        history: What happened, as plain lists: ``step``, ``loss``, ``train_accuracy`` (on augmented images),
            ``learning_rate``, ``images_per_second``; ``val_step``, ``val_loss``, ``val_accuracy``; and as one number
            each ``kept_step``, the step whose weights were kept, and the ``seconds`` so far.

    Example:
        >>> from vitlite import ViT, ViTConfig, data
        >>> from vitlite.train import Recipe
        >>> model = ViT(ViTConfig(32, 8, 3, 10, embed_dim=32, depth=1, num_heads=2, mlp_dim=64))
        >>> trainer = Trainer(model, Recipe("try", steps=2, batch_size=8, keep_best=True), device="cpu")
        >>> trainer.fit(data.load("scenes", train_images=20, held_out=10))["step"], trainer.kept
        ([1, 2], 'weights of step 2, the best on validation')
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        objective: objectives.Objective | None = None,
        val_objective: objectives.Objective | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        autocast: bool = True,
        compile: bool | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
    ) -> None:
        self.world = distributed.world()
        self.device = torch.device(device) if device else default_device()
        self.model, self.recipe, self.seed = model.to(self.device), recipe, seed
        self.learner: nn.Module = Learner(model, objective or objectives.classify(recipe.label_smoothing))
        self.learner.to(self.device)
        self.val_objective = val_objective
        self.optimizer = recipes.optimizer(self.learner, recipe)
        self.average = Average(model, recipe.average) if recipe.average else None
        self.best: dict[str, Tensor] = {}  # weights of the best validation, if the recipe keeps them
        self.dtype = autocast_dtype(self.device) if autocast else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.compile = compiling_pays(self.device, recipe.steps) if compile is None else compile
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.log_every = max(1, recipe.steps // 200)
        self.checkpoint_every = math.ceil(checkpoint_every / self.log_every) * self.log_every
        self.callbacks, self.progress = list(callbacks), progress
        self.step, self.history, self.saved = 0, empty(), 0.0
        self.run: dict = {}  # what a checkpoint must agree with, once the data are known

    def fit(self, data: Splits) -> dict:
        """Train to the recipe's last step, resuming from the checkpoint if there is one.

        Args:
            data: Splits; ``train`` is trained on, ``validation`` watched, ``test`` never touched.

        Raises:
            FloatingPointError: If the loss is no longer finite, or at a save or the end the weights are not;
                the message names the step, and the checkpoint stays at the last good save.
            ValueError: If the checkpoint belongs to another run or is damaged, the batch cannot be cut as asked for, or
                a classifier has another number of logits than the data have classes.
            OSError: If the checkpoint could not be written; no step was taken then.
            RuntimeError: If another run writes the checkpoint, or another process of this run died or is silent.
            KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP, once the run is saved.
        """
        if self.checkpoint and self.world.rank == 0:
            try_writing(self.checkpoint)
        self._resume(data)
        self.saved = time.monotonic()
        train, validation = data.train.to(self.device), data.validation.to(self.device)
        if self.val_objective is None or _name(self.learner.objective) in ("classify", "distil"):
            one = dataclasses.replace(train, images=train.images[:1], labels=train.labels[:1], masks=None)
            evaluate(self.model, one, dtype=self.dtype)  # which compares head and classes
        batches = Batches(train, self.recipe, self.seed)
        rng_devices = [self.device] if self.device.type == "cuda" else []
        alone = held(self.checkpoint) if self.checkpoint and self.world.rank == 0 else contextlib.nullcontext()
        with (
            alone,
            modes_kept(self.model),
            torch.random.fork_rng(rng_devices),
            self._interrupted() as stopped,
            self._listeners() as tell,
            self._contact(),
        ):
            self._set_to_training()
            learner = self._fast_and_shared(batches)
            log = Log(self.device)  # its clock begins after compiling
            while self.step < self.recipe.steps:
                loss, right = self._train_step(learner, *batches[self.step])
                self.step += 1
                log.add(loss, right, batches.size)
                if self.device.type == "cpu":  # elsewhere a look at the loss would make the device wait
                    log.check(self.step)
                last = self.step == self.recipe.steps
                line = last or self.step % self.log_every == 0
                if line:
                    self._write_line(log)
                    tell("log")
                if last or self.step % self.recipe.validate_every == 0:
                    log.pause(self._validate(validation))
                    tell("validate")
                overdue = line and time.monotonic() - self.saved >= SAVE_SECONDS
                if last or overdue or self.step % self.checkpoint_every == 0:
                    self._save()
                tell("step")
                if stopped.is_set() and self.world.rank == 0:  # the others end when they lose the first
                    self._write_line(log)
                    self._save()
                    raise KeyboardInterrupt(self._stop_message())
            self._keep()
            tell("end")
        return self.history

    @property
    def validated(self) -> nn.Module:
        """The model whose weights are validated: the averaged one where the recipe averages, else the model itself."""
        return self.average.model if self.average else self.model

    @property
    def kept(self) -> str:
        """Which weights the model has once training is over, in words."""
        kind = "averaged weights" if self.recipe.average else "weights"
        why = "the best on validation" if self.recipe.keep_best else "the last"
        return f"{kind} of step {self.history['kept_step']}, {why}"

    def _set_to_training(self) -> None:
        resting = [part for part in self.model.modules() if not part.training]
        if not self.model.training:
            trained = [[p.requires_grad for p in part.parameters()] for part in resting]
            resting = [p for part, those in zip(resting, trained, strict=True) if those and not any(those)
                       for p in part.modules()]
        self.model.train()
        for part in resting:
            part.training = False

    # ---- one step

    def _train_step(self, learner: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One update from a whole batch; the mean loss over this process's pieces, and the number of right answers."""
        for group in self.optimizer.param_groups:
            group["lr"] = recipes.learning_rate(self.recipe, self.step)
        self.optimizer.zero_grad()
        loss, right = torch.zeros(2, device=self.device)
        pieces = self._pieces(len(images))
        for index, part in pieces.items():
            torch.manual_seed(stream(self.seed, "step", self.step, index))  # what dropout and drop path draw from
            with distributed.exchanging(learner, index == max(pieces)):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    piece_loss, piece_right = learner(images[part], targets[part])
                self.scaler.scale(piece_loss / len(pieces)).backward()
            loss += piece_loss.detach() / len(pieces)
            right += piece_right
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(self.model, self.step)
        return loss, right

    def _pieces(self, count: int) -> dict[int, slice]:
        """The pieces of a batch of ``count`` images that are this process's, by their number in the whole batch.

        Each piece draws its own random numbers, so it does not matter which process gets it.
        """
        rank, size = self.world
        at_once = min(self.recipe.micro_batch or max(1, count // size), count)
        number, rest = divmod(count, at_once)
        if rest or number % size:
            raise ValueError(f"a batch of {count} images in pieces of {at_once} cannot be shared evenly by {size} "
                             "process(es); choose batch_size and micro_batch so that it can")
        share = number // size
        return {i: slice(i * at_once, (i + 1) * at_once) for i in range(rank * share, (rank + 1) * share)}

    def _fast_and_shared(self, batches: Batches) -> nn.Module:
        """What takes the steps: the learner, compiled where that was asked for, shared where there are processes."""
        learner = self.learner
        if self.compile and self.step < self.recipe.steps:
            images, targets = batches[self.step]
            part = next(iter(self._pieces(len(images)).values()))
            learner = compiled(learner, images[part], targets[part], self.dtype)
        return distributed.shared(learner)

    # ---- reporting and validating

    def _write_line(self, log: Log) -> None:
        """Add a line to the history, if there was a step since the last one and its loss was finite."""
        if log.steps:
            log.check(self.step)
            log.line(self.history, self.step, recipes.learning_rate(self.recipe, self.step - 1))

    def _validate(self, validation: Split) -> float:
        """Add a validation to the history, note the weights if they are the best; returns the seconds it took."""
        began = time.perf_counter()
        result = evaluate(self.validated, validation, dtype=self.dtype, objective=self.val_objective)
        if not self.recipe.keep_best or result.accuracy > max(self.history["val_accuracy"], default=-1.0):
            self.history["kept_step"] = self.step
            if self.recipe.keep_best:
                self.best = {name: tensor.clone() for name, tensor in self.validated.state_dict().items()}
        for name, value in zip(VAL_LINES, (self.step, *result), strict=True):
            self.history[name].append(value)
        seconds = time.perf_counter() - began
        self.history["seconds"] += seconds
        return seconds

    def _keep(self) -> None:
        """Put the weights that are kept into the model."""
        if self.best or self.average:
            self.model.load_state_dict(self.best or self.validated.state_dict())

    @contextlib.contextmanager
    def _listeners(self) -> Iterator[Callable[[str], None]]:
        """A function that tells the callbacks and the progress bar of a moment; the first process alone does."""
        bar = Progress(self.progress)

        def tell(moment: str) -> None:
            for callback in (*self.callbacks, bar) if self.world.rank == 0 else ():
                callback(self, moment)

        with contextlib.closing(bar):
            yield tell

    # ---- stopping, saving and resuming

    @contextlib.contextmanager
    def _interrupted(self) -> Iterator[threading.Event]:
        """Turn the first signal to stop into a flag, so that the step under way can finish; the second acts at once."""
        stopped = threading.Event()
        if threading.current_thread() is not threading.main_thread():
            yield stopped
            return
        before = {number: handler for number in STOPS
                  if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)}

        def put_back() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(*_) -> None:
            stopped.set()
            put_back()

        for number in before:
            signal.signal(number, note)
        try:
            yield stopped
        finally:
            put_back()

    def _stop_message(self) -> str:
        resumes = f"saved in {self.checkpoint}; the same call resumes it"
        saved = resumes if self.checkpoint else "not saved: no checkpoint was named"
        return f"stopped after step {self.step} of {self.recipe.steps}, {saved}"

    @contextlib.contextmanager
    def _contact(self) -> Iterator[None]:
        """Say what it means when this process can no longer reach the others, and how to go on."""
        try:
            yield
        except RuntimeError as error:
            rank, size = self.world
            lost = isinstance(error, dist.DistError) or re.search("onnection|imed out", str(error))
            if size == 1 or not lost:
                raise
            go_on = f"the same command resumes from {self.checkpoint}" if self.checkpoint else "start it again"
            raise RuntimeError(f"process {rank} of {size} lost the others at step {self.step}: one of them died or is "
                               f"silent, so this run ends here; {go_on}. ({str(error).splitlines()[0]})") from error

    def _save(self) -> None:
        states = self.optimizer.state_dict()["state"].items()
        moments = {f"{index}.{name}": tensor for index, state in states for name, tensor in state.items()}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not all(tensor.isfinite().all() for tensor in (*trained, *moments.values())):
            raise diverged(f"the weights are not finite after step {self.step}")
        if self.checkpoint is None or self.world.rank > 0:
            return
        average = self.average.model.state_dict() if self.average else {}
        metadata = {"step": self.step, "history": self.history, "scaler": self.scaler.state_dict(), "run": self.run}
        parts = {"learner": self.learner.state_dict(), "average": average, "best": self.best, "optimizer": moments}
        checkpoints.save(self.checkpoint, metadata, **parts)
        self.saved = time.monotonic()

    def _identity(self, data: Splits) -> dict:
        """All that makes this run this run, as JSON can hold it; what is large by its digest."""
        learner, objective = self.learner, self.learner.objective
        config = getattr(self.model, "config", None)
        frozen = [name for name, p in learner.named_parameters() if not p.requires_grad]
        modules = re.sub(r" at 0x\w+", "", f"{learner} {frozen}")
        given = inspect.getclosurevars(objective).nonlocals if inspect.isfunction(objective) else {}
        parts = {f"{name}.{kind}": getattr(getattr(data, name), kind) for name in ("train", "validation")
                 for kind in ("images", "labels")}
        run = {"seed": self.seed, "recipe": dataclasses.asdict(self.recipe), "objective": _name(objective),
               "train_images": len(data.train), "classes": data.train.classes,
               "model": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {},
               "shapes": {name: list(tensor.shape) for name, tensor in learner.state_dict().items()},
               "asked": {name: _plain(value) for name, value in given.items()},
               "modules": hashlib.sha256(modules.encode()).hexdigest(),
               "data": digest(parts, f"{data.train.mean} {data.train.std}")}
        return json.loads(json.dumps(run, default=repr))

    def _resume(self, data: Splits) -> None:
        """Go on where the checkpoint stopped, if there is one. Everything but step and tensors follows from the run."""
        self.run = self._identity(data) if self.checkpoint else {}
        if self.checkpoint and (saved := checkpoints.load(self.checkpoint, self.run)):
            with decoding(self.checkpoint, "a damaged checkpoint", checkpoints.ADVICE):
                self._restore(*saved)
        distributed.agree(self.step, self.device)

    def _restore(self, parts: dict[str, dict[str, Tensor]], metadata: dict) -> None:
        parts = {"average": {}, "best": {}, "optimizer": {}} | parts
        step, history, scaler = metadata["step"], metadata["history"], metadata["scaler"]
        if not (possible(history, step) and step <= self.recipe.steps
                and all(0 <= number < math.inf for number in scaler.values())):
            raise ValueError(f"step {step} of {self.recipe.steps}, its history or its loss scale cannot be")
        _compare("learner", self.learner.state_dict(), parts["learner"])
        _compare("average", self.average.model.state_dict() if self.average else {}, parts["average"])
        has_best = self.recipe.keep_best and history["kept_step"]
        _compare("best", self.validated.state_dict() if has_best else {}, parts["best"])
        moments = self._moments(parts["optimizer"], step)
        self.learner.load_state_dict(parts["learner"])
        if self.average:
            self.average.model.load_state_dict(parts["average"])
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.scaler.load_state_dict(scaler)
        self.step, self.history = step, history

    def _moments(self, saved: dict[str, Tensor], step: int) -> dict[int, dict[str, Tensor]]:
        """The optimiser's state, checked before torch sees it, which would read past the end of a short tensor."""
        parameters = dict(enumerate((group, p) for group in self.optimizer.param_groups for p in group["params"]))
        wanted: dict[str, Tensor] = {}
        for index in {int(name.partition(".")[0]) for name in saved}:  # a parameter without gradients has no state
            group, p = parameters[index]
            keys = ("step", "exp_avg", "exp_avg_sq") if "betas" in group else ("momentum_buffer",)
            for key in ("momentum",) if group.get("orthogonal") else keys:
                wanted[f"{index}.{key}"] = torch.zeros((), dtype=torch.float32) if key == "step" else p
        _compare("optimizer", wanted, saved)
        if not (saved or self.scaler.is_enabled()):  # which may have left out every step so far
            raise ValueError("the optimiser's state is missing")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            index, _, key = name.partition(".")
            if (key == "step" and not 1 <= tensor <= step) or (key == "exp_avg_sq" and (tensor < 0).any()):
                raise ValueError(f"optimizer.{name} is out of bounds")
            moments.setdefault(int(index), {})[key] = tensor
        return moments


def _name(objective: objectives.Objective) -> str:
    return getattr(objective, "__qualname__", type(objective).__qualname__).partition(".")[0]


def _plain(value: object) -> object:
    """What an objective was made with, as JSON can hold it."""
    if isinstance(value, nn.Module):
        return digest(value.state_dict(), type(value).__qualname__)
    return value if isinstance(value, int | float | str | None) else type(value).__qualname__


def _compare(part: str, wanted: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    for name in sorted(wanted | there):
        one, other = wanted.get(name), there.get(name)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(f"{part}.{name} is missing, or of another form")
        if (one.isfinite().cpu() & ~other.isfinite()).any():  # a mask of -inf is so from the start
            raise ValueError(f"{part}.{name} is not finite, as after a divergence")
