"""The loop: validate, save, take a batch, dispatch the step, log the steps before it."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxneg import config as configs, errors, files, progress
from jaxneg.batch import Batch
from jaxneg.config import Config
from jaxneg.data import biases, pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.errors import UserError
from jaxneg.files import documents, locks
from jaxneg.training import (
    agreement,
    checkpoint,
    convergence,
    logs,
    processes,
    program,
    runs,
    steps,
    validation,
)

# What may change between the parts of a continued run without changing what it computes.
FREE = (
    "train.epochs", "train.patience", "train.log_every", "train.devices", "train.shards", "train.stuck_after",
    "train.compilation_cache",
    "data.prefetch", "data.store",
    "eval.batch_size", "eval.ks", "eval.bands", "eval.bootstrap", "eval.exclude_seen",
)  # fmt: skip
FEW = 20  # steps of an epoch below which figures by epoch are coarse

AGAIN = "the same command continues from the last checkpoint"
# What the thread that makes batches raises where it is wrong itself.
OURS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)

OnProgress = Callable[[int, int, dict[str, float]], None]  # step, steps in all, latest figures
Stop = Callable[[int], bool]  # step -> whether to save there and end


def train(
    config: Config,
    workdir: str | pathlib.Path,
    on_progress: OnProgress = lambda *_: None,
    stop: Stop = lambda _: False,
) -> dict[str, Any]:
    """Trains in a run directory, or continues there exactly where its latest checkpoint stands.

    Returns the contents of ``result.json``: best and last validation figure and step, what ``convergence`` says,
    seconds, and why training stopped. Raises UserError on a directory of another experiment, on a figure to monitor
    that validation cannot give, before anything is written, and on a loss that is not finite; cluster.Stopped where
    ``stop`` said so.

    Of many processes each calls it alike, all see one run directory, and the first one writes what is written once.
    """
    config = configs.check(config)
    with contextlib.ExitStack() as hold:
        return _train(config, files.local(workdir, "--workdir"), on_progress, stop, hold)


def _train(
    config: Config, workdir: pathlib.Path, on_progress: OnProgress, stop: Stop, hold: contextlib.ExitStack
) -> dict[str, Any]:
    """What ``train`` does; ``hold`` holds the run directory to the end."""
    if config.train.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", config.train.compilation_cache)
    processes.agree("config", agreement.of_config(config))
    with processes.together("store"):
        store = stores.Store.open(config.data.store)
    processes.agree("files", agreement.of_store(store) if processes.many() else {})
    with processes.together("start"):
        batches = pipeline.of_config(config, store, jax.process_index(), jax.process_count())
        mesh = sharding.make_mesh(config.train.devices, config.train.shards)
        per_epoch = batches.steps_per_epoch
        total = config.train.epochs * per_epoch
        built = program.build(config, program.catalogue_of(store), mesh, total)
        evaluated = validation.Validation(config, store, built)
        sharding.check_batch(config.data.batch_size, mesh, config.optim.accumulate)
        if processes.first():
            _check_vacant(workdir)
            hold.enter_context(locks.held(locks.inside(workdir), f"--workdir {workdir}"))
            files.clean_inside(workdir)
            _claim(config, store, workdir, per_epoch)
    if processes.many():
        with processes.together("claim"):
            _check_shared(workdir)

    attribute_VA = sharding.put(program.by_row(built, np.asarray(store.attribute_VA)), mesh, "VA")

    checkpoints = checkpoint.Checkpointer(workdir / "checkpoints")
    writer = logs.Writer(workdir, silent=not processes.first())
    try:
        restored = checkpoints.restore(
            built.state, say=lambda line: progress.say(f"jaxneg: {line}") if processes.first() else None
        )
        if restored is None:
            bias_V = biases.first(config, store, batches.targets)
            state = built.init(bias_V=bias_V if bias_V is None else program.by_row(built, bias_V))
            past = _start()
        else:
            if "step" not in restored[1]:
                raise UserError(f"checkpoint of {workdir} says nothing of its step: choose a new --workdir")
            state, past = restored[0], _start() | restored[1]
            checkpoints.prune(past["best_step"])
        # Without a checkpoint the validation at step 0, too, is written again.
        writer.rewind(-1 if restored is None else past["step"])
        false = batches.false_negatives(store, in_batch=config.loss.in_batch)
        hard = batches.hard_also_liked(store)
        if processes.first():
            none = batches.draws_hard and math.isnan(hard)
            said = warnings(config, per_epoch, len(store.negative_item), none_to_draw=none)
            for line in [*said, *evaluated.warnings()]:
                progress.say(f"train warning: {line}")
        shares = {"false_negatives": false, "hard_also_liked": hard}
        facts = {name: share if math.isfinite(share) else None for name, share in shares.items()}
        loop = _Loop(
            config,
            workdir,
            per_epoch,
            total,
            checkpoints,
            writer,
            evaluated,
            attribute_VA,
            facts,
            stop,
        )
        with processes.Watchdog(float(config.train.stuck_after)) as watchdog:
            return loop.run(
                state,
                past,
                built.update,
                batches,
                lambda batch: sharding.put_fields(batch, mesh),
                on_progress,
                watchdog.feed,
            )
    finally:
        checkpoints.close()
        writer.close()


def _start() -> dict[str, Any]:
    return {"step": 0, "best_score": None, "best_step": 0, "since_best": 0, "history": [], "seconds": 0.0,
            "device_seconds": 0.0, "compile_seconds": 0.0, "hard": 0, "negatives": 0}  # fmt: skip


def warnings(config: Config, per_epoch: int, rejections: int, *, none_to_draw: bool = False) -> list[str]:
    """A line for each setting that does nothing, or with which figures and early stopping say less than they seem to.

    Args:
      config: the experiment.
      per_epoch: steps of an epoch.
      rejections: events of the training window with disliked items.
      none_to_draw: whether hard negatives are asked for, and no target has one in the scope, by what counts.
    """
    warmup, patience, epochs = config.optim.warmup_steps, config.train.patience, config.train.epochs
    allowed = patience * (config.train.evaluate_every or per_epoch)
    found = []
    if config.data.p_hard > 0 and config.data.negatives > 0 and rejections == 0:
        found.append(
            f"nothing was rejected before the validation, so --data.p-hard {config.data.p_hard:g} draws random "
            "negatives: prepare with feedback kinds that count as negative (--negative), or give --data.p-hard 0"
        )
    elif none_to_draw:
        found.append(
            f"no target has a rejection to draw by --data.hard-scope {config.data.hard_scope} and --data.hard-opinion "
            f"{config.data.hard_opinion}, so --data.p-hard {config.data.p_hard:g} draws random negatives: choose "
            "others, or give --data.p-hard 0"
        )
    if per_epoch < FEW:
        found.append(
            f"an epoch has {per_epoch} steps, fewer than {FEW}: figures by epoch are coarse; "
            f"lower --data.batch-size ({config.data.batch_size})"
        )
    if warmup >= epochs * per_epoch:
        found.append(
            f"--optim.warmup-steps {warmup} is no less than all {epochs * per_epoch} steps: "
            "the learning rate never reaches its peak"
        )
    elif patience and warmup > allowed:
        found.append(
            f"--optim.warmup-steps {warmup} is more than the {allowed} steps that --train.patience {patience} allows "
            "without a better validation: patience counts after warm-up"
        )
    return found


def _claim(config: Config, store: stores.Store, workdir: pathlib.Path, per_epoch: int) -> None:
    """Makes a run directory of the config, or checks that it is one of the same experiment."""
    catalogue = runs.catalogue_id(store)
    if (workdir / "config.json").is_file():
        old = runs.read_config(workdir)
        changed = [line for line in configs.differences(old, config) if not line.startswith(FREE)]
        if old.train.epochs != config.train.epochs and config.optim.decay != "constant":
            changed.append(
                f"train.epochs: {old.train.epochs} -> {config.train.epochs} (the learning rate decays over it)"
            )
        if changed:
            raise UserError(
                f"{workdir} holds another experiment ({'; '.join(changed)}): choose a new --workdir"
            )
        if runs.catalogue_of(workdir) not in (None, catalogue):
            raise UserError(
                f"{workdir} was trained on another catalogue than {config.data.store}: choose a new --workdir"
            )
        if runs.preparation_of(workdir) not in (None, runs.preparation_id(store)):
            raise UserError(
                f"{workdir} was trained on another preparation of the log than {config.data.store} now is: give "
                "--data.store the one of before, or choose a new --workdir"
            )
        trained = checkpoint.latest(workdir / "checkpoints") / per_epoch
        if config.train.epochs < trained:
            raise UserError(
                f"--train.epochs {config.train.epochs} is fewer than the {trained:.4g} epochs that {workdir} was "
                f"trained for: give {math.ceil(trained)} or more, or choose a new --workdir"
            )
    _check_vacant(workdir)
    # First, as it makes the claim: what stops it leaves nothing, or a run that can be continued.
    files.write_json(workdir / "config.json", documents.sealed(json.loads(configs.to_json(config))))
    identity = {"catalogue": catalogue, "preparation": runs.preparation_id(store), "store": config.data.store}
    files.write_json(workdir / "store.json", documents.sealed(identity))
    files.write_json(workdir / "environment.json", runs.environment())


def _check_vacant(workdir: pathlib.Path) -> None:
    if not (workdir / "config.json").is_file() and not files.vacant(workdir):
        raise UserError(f"--workdir {workdir} exists and is no run directory: choose a new one")


def _check_shared(workdir: pathlib.Path) -> None:
    """Raises UserError where this process does not see the run that the first one has claimed."""
    if not (workdir / "store.json").is_file():
        raise UserError(f"--workdir {workdir} is not there: give one on a file system that all hosts share")


class _Loop:
    """What the loop knows between steps; ``progress`` is the part of it that checkpoints hold."""

    def __init__(
        self,
        config,
        workdir,
        per_epoch,
        total,
        checkpoints,
        writer,
        validation,
        attribute_VA,
        facts,
        stop,
    ):
        self.config, self.workdir = config, workdir
        self.per_epoch, self.total = per_epoch, total
        self.checkpoints, self.writer, self.validation = checkpoints, writer, validation
        self.attribute_VA = attribute_VA
        self.facts = facts  # of the data, for the result
        self.stop = stop
        # On CPU, JAX 0.10.2 and 0.11.2 deadlock when processes of several devices queue steps.
        self.one_by_one = jax.process_count() > 1 and jax.default_backend() == "cpu"
        self.validate_every = config.train.evaluate_every or per_epoch
        self.save_every = config.train.checkpoint_every or self.validate_every
        self.pending: list[dict[str, jax.Array]] = []  # metrics of steps not logged yet

    def run(self, state, progress, update, batches, put, on_progress, feed) -> dict[str, Any]:
        self.progress, self.feed = progress, feed
        self.before, self.began = progress["seconds"], time.perf_counter()
        self.logged = time.perf_counter()
        step = progress["step"]
        source, begun = batches.since(step), step
        self.sequences_per_step = self.config.data.batch_size * batches.sequences_per_row
        score, fresh, compiled = None, step == 0 and not progress["history"], False
        while True:
            feed(step)
            stopping = self.stop(step)
            due = fresh or (step > 0 and step != progress["step"])
            if due and (step % self.validate_every == 0 or step == self.total):
                self._flush(step)
                score = self._validate(step, state)
                on_progress(step, self.total, self._shown())
            if due and (score is not None or step % self.save_every == 0 or stopping):
                self._flush(step)
                progress.update(step=step, seconds=self.before + time.perf_counter() - self.began)
                # The first of equal scores is the best step; with a score of their own, later ones would displace it.
                best = score is not None and step == progress["best_step"]
                self.checkpoints.save(step, state, progress, score if best else -math.inf)
                score = None
            fresh = False
            if step >= self.total or self._patience_is_out():
                return self._finish(
                    step, convergence.PATIENCE if self._patience_is_out() else convergence.LIMIT
                )
            if stopping:
                self.checkpoints.wait()
                raise processes.Stopped(f"stopped after step {step} of {self.total}")
            if processes.first() and step == begun:  # what an earlier end said no longer holds
                (self.workdir / "result.json").unlink(missing_ok=True)
            if not self.pending:
                self.mark = time.perf_counter()  # of the steps that the next flush waits for
            with errors.carried("batches could not be made ahead", AGAIN, OURS):
                made = next(source)
            batch: Batch = put(made)
            began = time.perf_counter()
            state, metrics_ = update(state, batch, self.attribute_VA)
            if self.one_by_one or not compiled:
                jax.block_until_ready(metrics_)
            if not compiled:  # the first step of a process compiles, and counts for itself
                self.mark = time.perf_counter()
                progress["compile_seconds"] += self.mark - began
                compiled = True
            if len(self.pending) >= self.config.train.log_every:
                self.checkpoints.check()
                on_progress(step, self.total, self._flush(step))
            self.pending.append(metrics_)
            step += 1

    def _shown(self) -> dict[str, float | int]:
        """What a person sees of the last validation: the figure that decides, and how many it is of."""
        line = self.progress["history"][-1]
        return {
            name: line[name] for name in ("epoch", self.config.train.monitor, "pairs", "examples", "users")
        }

    def _patience_is_out(self) -> bool:
        return 0 < self.config.train.patience <= self.progress["since_best"]

    def _flush(self, step: int) -> dict[str, float]:
        """Logs the mean over steps since the last line. Raises UserError where a loss is not finite."""
        if not self.pending:
            return {}
        for line in self.pending:
            jax.block_until_ready(line)
            self.feed(step)
        fetched = jax.device_get(self.pending)
        self.pending = []
        loss = float(np.mean([line["loss"] for line in fetched], dtype=np.float64))
        if not math.isfinite(loss):
            bad = (
                step
                - len(fetched)
                + next(n for n, line in enumerate(fetched) if not math.isfinite(line["loss"]))
                + 1
            )
            raise UserError(
                f"the loss is not finite at step {bad}: "
                f"lower --optim.learning-rate ({self.config.optim.learning_rate}), raise --optim.warmup-steps "
                f"or set --optim.clip; the checkpoints before it are kept in {self.workdir}"
            )
        hard, negatives = (int(sum(line[name] for line in fetched)) for name in ("hard", "negatives"))
        self.progress["hard"] += hard
        self.progress["negatives"] += negatives
        now = time.perf_counter()
        self.progress["device_seconds"] += now - self.mark
        self.mark = now
        line = {
            "epoch": step / self.per_epoch,
            "loss": loss,
            "hard_share": hard / max(negatives, 1),
            "gradient_norm": float(fetched[-1]["gradient_norm"]),
            "sequences_per_s": len(fetched) * self.sequences_per_step / (now - self.logged),
        }
        told = {
            "step_seconds": (now - self.logged) / len(fetched),
            "device_memory": processes.device_memory(),
        }
        self.logged = now
        self.writer.write(step, line | told)
        return line

    def _validate(self, step: int, state: steps.State) -> float:
        figures = self.validation(state, self.attribute_VA, lambda: self.feed(step))
        self.logged = time.perf_counter()
        if self.config.train.monitor not in figures:
            raise UserError(
                f"validation {self.config.train.monitor} is no number at step {step}: "
                f"lower --optim.learning-rate ({self.config.optim.learning_rate})"
            )
        score = figures[self.config.train.monitor]
        progress = self.progress
        better = progress["best_score"] is None or score > progress["best_score"]
        warming = step <= self.config.optim.warmup_steps  # patience counts after it
        progress.update(
            best_score=score if better else progress["best_score"],
            best_step=step if better else progress["best_step"],
            since_best=0 if better or warming else progress["since_best"] + 1,
        )
        seconds = self.before + time.perf_counter() - self.began
        line = {
            "step": step,
            "epoch": step / self.per_epoch,
            "sequences": round(step * self.sequences_per_step),
            "seconds": seconds,
            "device_seconds": progress["device_seconds"],
            **figures,
        }
        progress["history"].append(line)
        self.writer.write(
            step, {f"validation_{name}" if name in figures else name: v for name, v in line.items()}
        )
        return score

    def _finish(self, step: int, stopped: str) -> dict[str, Any]:
        self.checkpoints.wait()
        progress = self.progress
        self.checkpoints.prune(progress["best_step"])
        result = {
            "monitor": self.config.train.monitor,
            "best_score": progress["best_score"],
            "best_step": progress["best_step"],
            "steps": step,
            "steps_per_epoch": self.per_epoch,
            "last_score": progress["history"][-1][self.config.train.monitor],
            "stopped": stopped,
            "seconds": progress["seconds"],
            "device_seconds": progress["device_seconds"],
            "compile_seconds": progress["compile_seconds"],
            "hard_share": progress["hard"] / max(progress["negatives"], 1),
            **{f"validation_{name}": count for name, count in self.validation.counts.items()},
            **self.facts,
            **convergence.convergence(progress["history"], self.config.train.monitor, stopped),
            "history": progress["history"],
        }
        if processes.first():
            files.write_json(self.workdir / "result.json", documents.sealed(result))
        return result
