"""The loop: validate, save, take a batch, dispatch the step, log the steps before it."""

# jax.config.update and jax.block_until_ready leave their arguments untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxneg import errors, figures, files, progress
from jaxneg.batch import Batch
from jaxneg.config import Config, rules
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.errors import UserError
from jaxneg.files import documents, locks
from jaxneg.training import (
    advice,
    agreement,
    alerts,
    beginning,
    carry,
    checkpoint,
    claims,
    compiled,
    convergence,
    cost,
    digests,
    goodput,
    interval,
    jobs,
    logs,
    origin as origins,
    processes,
    program,
    records,
    steps,
    traces,
    validation,
)
from jaxneg.training.history import Progress
from jaxneg.training.jobs import Job

AGAIN = "the same command continues from the last checkpoint"
# What the thread that makes batches raises where it is wrong itself.
OURS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)

Stop = Callable[[int], bool]  # step -> whether to save there and end
Say = Callable[[str], None]  # a line for a person


class Watch(NamedTuple):
    """A person who watches a run, and whoever may end it."""

    on_progress: progress.OnProgress
    stop: Stop
    say: Say
    since: float  # when it was asked for, in seconds since 1970


def train(
    config: Config,
    workdir: str | pathlib.Path,
    on_progress: progress.OnProgress = progress.silent,
    stop: Stop = lambda _: False,
    say: Say = lambda _: None,
    since: float | None = None,
) -> records.Result:
    """Trains in a run directory, or continues there exactly where its latest checkpoint stands.

    Returns the contents of ``result.json``: best and last validation figure and step, what ``convergence`` says,
    seconds, and why training stopped. At the start ``say`` is told what is trained on what, and after the first steps
    how long it will take. Its time counts from ``since``, in seconds since 1970, or from the call. Raises UserError on
    a directory of another experiment, on a figure to monitor that validation cannot give, before anything is written,
    and on a loss that is not finite; processes.Stopped where ``stop`` said so.

    Of many processes each calls it alike, all see one run directory, and the first one writes what is written once.
    Raises processes.Differs, and saves nothing, where they do not hold the same state.
    """
    config, since = rules.check(config), since or time.time()
    sharding.share_cores(config.train.devices)
    with claims.held(workdir) as place, contextlib.ExitStack() as hold:
        job, origin = _claimed(config, place, hold)
        return _train(job, origin, Watch(on_progress, stop, say if processes.first() else _silent, since))


def _silent(line: str) -> None:
    """Says nothing: one process of many tells a person what all do."""


def _claimed(
    config: Config, workdir: pathlib.Path, hold: contextlib.ExitStack
) -> tuple[Job, origins.Origin | None]:
    """The job of a config whose run directory is claimed, and what it starts from; ``hold`` holds it to the end."""
    compiled.keep()
    processes.agree("config", agreement.of_config(config))
    with processes.together("store"):
        store = stores.Store.open(config.data.store)
    processes.agree("files", agreement.of_store(store) if processes.many() else {})
    with processes.together("start"):
        mesh = sharding.make_mesh(config.train.devices, config.train.shards)
        part = pipeline.Part(jax.process_index(), jax.process_count())
        batches = pipeline.of_config(config, store, part, devices=mesh.size)
        total = config.train.epochs * batches.steps_per_epoch
        built = program.build(config, program.catalogue_of(store), mesh, total, batches.form)
        evaluated = validation.Validation(config, store, built)
        sharding.check_batch(config.data.batch_size, mesh, config.optim.accumulate)
        origin = origins.of(config, store, workdir)
        if origin is not None:
            carry.check(origin, built)
        if processes.first():
            claims.check_vacant(workdir)
            hold.enter_context(locks.held(locks.inside(workdir), f"--workdir {workdir}"))
            files.clean_inside(workdir)
            start = None if origin is None else origin.told
            claims.claim(config, store, workdir, batches.steps_per_epoch, start)
    if processes.many():
        with processes.together("claim"):
            claims.check_shared(workdir)
    return Job(config, workdir, store, batches, built, evaluated), origin


def _train(job: Job, origin: origins.Origin | None, watch: Watch) -> records.Result:
    layout = job.built.layout
    attribute_VA = sharding.put(layout.by_row(np.asarray(job.store.attribute_VA)), layout.mesh, "VA")
    checkpoints = checkpoint.Checkpointer(job.workdir / "checkpoints")
    writer = logs.Writer(job.workdir, silent=not processes.first())
    try:
        state, past = _beginning(job, origin, checkpoints, watch)
        # Without a checkpoint the validation at step 0, too, is written again.
        writer.rewind(-1 if past is None else past.step)
        facts = _facts(job)
        with processes.Watchdog(float(job.config.train.stuck_after)) as watchdog:
            loop = Loop(job, attribute_VA, past or Progress(), checkpoints, writer, watch, watchdog.feed)
            for line in jobs.opening(job, state.params, loop.progress.step):
                watch.say(line)
            if origin is not None:
                watch.say(f"train start       from {origins.spoken(origin.told)}")
            with contextlib.closing(loop.trace):
                return loop.run(state, facts)
    finally:
        checkpoints.close()
        writer.close()


def _beginning(
    job: Job, origin: origins.Origin | None, checkpoints: checkpoint.Checkpointer, watch: Watch
) -> tuple[steps.State, Progress | None]:
    """The state and the progress of the latest checkpoint; without one the first state of all, and None."""
    restored = checkpoints.restore(
        job.built.state, say=lambda line: progress.say(f"jaxneg: {line}") if processes.first() else None
    )
    if restored is None:
        if job.config.like.folds:
            watch.on_progress(0, job.total, {}, stage="factorising")
        first = job.built.init(**beginning.of(job))
        return first if origin is None else carry.state(origin, job.built, job.store, first), None
    state, values = restored
    if "step" not in values:
        raise UserError(f"checkpoint of {job.workdir} says nothing of its step: choose a new --workdir")
    past = Progress.from_json(values)
    checkpoints.prune(past.best_step)
    return state, past


def _facts(job: Job) -> dict[str, float | None]:
    """What the result says of the data; a person is warned of what they and the settings cannot give."""
    false = job.batches.false_negatives(job.store, in_batch=job.config.loss.in_batch)
    hard = job.batches.hard_also_liked(job.store)
    if processes.first():
        none, rejections = job.batches.draws_hard and math.isnan(hard), len(job.store.negative_item)
        said = advice.warnings(job.config, job.per_epoch, rejections, none_to_draw=none)
        for line in [*said, *job.validation.warnings()]:
            progress.say(f"train warning: {line}")
    shares = {"false_negatives": false, "hard_also_liked": hard}
    return {name: share if math.isfinite(share) else None for name, share in shares.items()}


@dataclass
class Loop:
    """A run between its steps."""

    job: Job
    attribute_VA: Int[Array, "V A"]  # as they lie on the devices
    progress: Progress
    checkpoints: checkpoint.Checkpointer
    writer: logs.Writer
    watch: Watch
    feed: Callable[[int], None]  # of the watchdog: that a step was reached
    compiled: set[int] = field(default_factory=set[int])  # of how many steps programs are

    def __post_init__(self) -> None:
        job, workdir = self.job, self.job.workdir
        self.interval, self.alerts = interval.Interval(), alerts.Alerts()
        self.digests = digests.Digests(self.watch.say)
        self.trace = traces.Trace(job.config.train.profiled, workdir, self.watch.say)
        self.cost, self.forecast = cost.of(job), jobs.Forecast(job, self.watch.say)
        since, silent = self.watch.since, not processes.first()
        self.clock = goodput.Clock(workdir, self.progress, since=since, silent=silent)

    def run(self, state: steps.State, facts: dict[str, float | None]) -> records.Result:
        """Trains to the end, and gives what ``result.json`` then holds.

        Args:
          state: at the step of ``progress``.
          facts: of the data, for the result.
        """
        job, train = self.job, self.job.config.train
        validate_every = train.evaluate_every or job.per_epoch
        save_every = train.checkpoint_every or validate_every
        step = begun = self.progress.step
        source = job.batches.since(step)
        score, fresh = None, step == 0 and not self.progress.history
        while True:
            self._alive(step)
            stopping = self.watch.stop(step)
            due = fresh or (step > 0 and step != self.progress.step)
            if due and (step % validate_every == 0 or step == job.total):
                self._tell(step, self._flush(step), "validation")
                score = self._validate(step, state)
                self._tell(step, {"epoch": step / job.per_epoch}, progress.MILESTONE)
            if due and (score is not None or step % save_every == 0 or stopping):
                self._flush(step)
                self.digests(step, state)
                self._save(step, state, score)
                score = None
            fresh = False
            patience_is_out = 0 < train.patience <= self.progress.since_best
            if step >= job.total or patience_is_out:
                return self._finish(
                    step, convergence.PATIENCE if patience_is_out else convergence.LIMIT, facts
                )
            if stopping:
                self.checkpoints.wait()
                raise processes.Stopped(f"stopped after step {step} of {job.total}")
            if processes.first() and step == begun:  # what an earlier end said no longer holds
                (job.workdir / "result.json").unlink(missing_ok=True)
            self.trace(step, self._flush)
            idle_since = self.interval.begin()
            with errors.carried("batches could not be made ahead", AGAIN, OURS):
                made = [next(source) for _ in range(self._together(step, validate_every, save_every))]
            self.interval.batched(idle_since)
            state, found = self._update(state, made)
            if self.interval.steps >= train.log_every:
                self.checkpoints.check()
                self._tell(step, self._flush(step))
            self.interval.pending.append(found)
            step += len(made)
            if self.digests.due(step):
                self.interval.apart(self.digests(step, state, found))

    def _alive(self, step: int, stage: str = "training") -> None:
        """Says that a step was reached, or that something long before the next one goes on."""
        self.feed(step)
        self.clock.beat(step, self.job.total, stage)

    def _together(self, step: int, *every: int) -> int:
        """How many of the next steps one call takes: several only where nothing is due before the last of them."""
        train = self.job.config.train
        due = [each - step % each for each in every]
        left = min(self.job.total - step, train.log_every - self.interval.steps % train.log_every, *due)
        return train.steps_per_dispatch if train.steps_per_dispatch <= left else 1

    def _update(self, state: steps.State, made: list[Batch]) -> tuple[steps.State, dict[str, jax.Array]]:
        """Dispatches a step or several. The first of a process compile, and count for themselves."""
        built, count = self.job.built, len(made)
        new = count not in self.compiled
        if new:
            self._tell(self.progress.step, {}, "compiling")
            jax.block_until_ready(self.interval.pending)
        began = time.perf_counter()
        if count == 1:
            batch = sharding.put_fields(made[0], built.layout.mesh)
            state, found = built.update(state, batch, self.attribute_VA)
        else:
            batches = sharding.put_stacked(made, built.layout.mesh)
            state, found = built.updates(state, batches, self.attribute_VA)
        # On CPU, JAX 0.10.2 and 0.11.2 deadlock when several devices queue steps, of one process or of many.
        one_by_one = built.mesh.size > 1 and jax.default_backend() == "cpu"
        if one_by_one or new:
            jax.block_until_ready(found)
        if new:
            seconds = time.perf_counter() - began
            self.interval.apart(seconds)
            self.progress.compile_seconds += seconds
            self.compiled.add(count)
        return state, found

    def _tell(self, step: int, line: Mapping[str, float], stage: str = "") -> None:
        """Shows where the run is, with the loss, and the last and the best validation and how many it is of."""
        found = {name: line[name] for name in ("epoch", "loss") if name in line}
        if self.progress.history:
            last, monitor = self.progress.history[-1], self.job.config.train.monitor
            counts = {name: last[name] for name in ("pairs", "examples", "users") if name in last}
            found |= {
                figures.title(monitor): last[monitor],
                "best": self.progress.best_score or 0.0,
                **counts,
            }
        self.watch.on_progress(step, self.job.total, found, stage=stage)

    def _save(self, step: int, state: steps.State, score: float | None) -> None:
        self.progress.step, self.progress.seconds = step, self.clock.seconds
        # The first of equal scores is the best step; with a score of their own, later ones would displace it.
        of_best = -math.inf if score is None or step != self.progress.best_step else score
        with self.clock.spent(goodput.SAVING):
            self.checkpoints.save(step, state, self.progress.to_json(), of_best)

    def _flush(self, step: int) -> dict[str, float]:
        """Logs the mean over steps since the last line. Raises UserError where a loss is not finite."""
        if not self.interval.pending:
            return {}
        for line in self.interval.pending:
            jax.block_until_ready(line)
            self._alive(step)
        count, found, seconds, since, waited = self.interval.sums()
        loss = float(found["loss"].mean(dtype=np.float64))
        if not math.isfinite(loss):
            bad = int(np.isfinite(found["loss"]).argmin())
            raise UserError(
                f"the loss is not finite at step {step - count + bad + 1}: "
                f"lower --optim.learning-rate ({self.job.config.optim.learning_rate}), raise --optim.warmup-steps "
                f"or set --optim.clip; the checkpoints before it are kept in {self.job.workdir}"
            )
        hard, negatives, positions = (
            int(found[name].sum(dtype=np.int64)) for name in ("hard", "negatives", "positions")
        )
        self.progress.hard += hard
        self.progress.negatives += negatives
        self.progress.device_seconds += seconds
        self.clock.count(goodput.WAITING, waited)
        self.forecast(step, count, seconds)
        line = {
            "epoch": step / self.job.per_epoch,
            "loss": loss,
            "hard_share": hard / max(negatives, 1),
            "gradient_norm": float(found["gradient_norm"][-1]),
            "sequences_per_s": count * self.job.batches.sequences_per_step / since,
        }
        waiting = waited / max(seconds, 1e-9)
        told = {
            "step_seconds": since / count,
            "positions_per_s": positions / since,
            "waiting": waiting,
            "device_memory": processes.device_memory(),
        }
        told |= {} if self.cost is None else {"mfu": self.cost.mfu(since / count)}
        for alert in self.alerts(step, float(found["gradient_norm"].max()), waiting):
            self.watch.say(alert)
        self.writer.write(step, line | told)
        return line

    def _validate(self, step: int, state: steps.State) -> float:
        """The figure that decides, after all figures are noted."""
        job, monitor = self.job, self.job.config.train.monitor
        with self.clock.spent(goodput.VALIDATING):
            found = job.validation(state, self.attribute_VA, lambda: self._alive(step, goodput.VALIDATING))
        self.interval.logged = time.perf_counter()
        if monitor not in found:
            raise UserError(
                f"validation {monitor} is no number at step {step}: "
                f"lower --optim.learning-rate ({job.config.optim.learning_rate})"
            )
        line = {
            "step": step,
            "epoch": step / job.per_epoch,
            "sequences": round(step * self.job.batches.sequences_per_step),
            "seconds": self.clock.seconds,
            "device_seconds": self.progress.device_seconds,
            **found,
        }
        warming = step <= job.config.optim.warmup_steps
        self.progress.validated(line, found[monitor], warming=warming)
        self.writer.write(
            step, {f"{figures.VALIDATION}{name}" if name in found else name: v for name, v in line.items()}
        )
        return found[monitor]

    def _finish(self, step: int, stopped: str, facts: dict[str, float | None]) -> records.Result:
        with self.clock.spent(goodput.SAVING):
            self.checkpoints.wait()
        self.checkpoints.prune(self.progress.best_step)
        counts = {f"{figures.VALIDATION}{name}": count for name, count in self.job.validation.counts.items()}
        found = self.progress.result(self.job.config.train.monitor, stopped)
        result = {"steps": step, "steps_per_epoch": self.job.per_epoch, **counts, **facts, **found}
        result |= self.clock.goodput(step)
        if (start := records.started_from(self.job.workdir)) is not None:
            result["started_from"] = start
        if processes.first():
            files.write_json(self.job.workdir / "result.json", documents.sealed(result))
        return cast(records.Result, result)
