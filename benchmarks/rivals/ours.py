"""jaxneg as its users call it: ``prepare``, the loop of training, ``evaluate``'s figures, and an export's scorer."""

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import worker

import jaxneg
from jaxneg import config as configs
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.evaluation import eval_sets
from jaxneg.training import program, runs
from jaxneg.training.validation import Validation


def config_of(length: int, store: str) -> Config:
    """Plain SASRec: no input but items and positions, no item biases, uniform negatives."""
    return Config(
        data=DataConfig(
            store=store, length=length, reach="user", batch_size=worker.BATCH_SIZE, negatives=1, p_hard=0.0
        ),
        model=ModelConfig(
            width=worker.WIDTH,
            layers=worker.LAYERS,
            heads=worker.HEADS,
            feed_forward=worker.FEED_FORWARD,
            dropout=worker.DROPOUT,
            feedback="none",
            station=False,
            attributes=False,
            item_bias="none",
        ),
        optim=OptimConfig(learning_rate=worker.LEARNING_RATE, warmup_steps=0, clip=0.0),
        eval=EvalConfig(exclude_seen=True),
        train=TrainConfig(epochs=1, monitor="ndcg@10"),
    )


class Ours:
    leaves_out_heard = True

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0, options: Sequence[str] = ()):
        # Item ids are their numbers, so that lists can be compared; a second between events.
        size_U = np.diff(log.indptr)
        rejected_T = np.zeros(len(log.item_T), bool) if log.rejected_T is None else log.rejected_T
        frame = pa.table(
            {
                "user": np.repeat(np.arange(log.users), size_U).astype(str),
                "item": log.item_T.astype(str),
                "time": 1_600_000_000 + np.arange(len(log.item_T)),
                "feedback": np.where(rejected_T, "thumb_down", "thumb_up"),
            }
        )
        with warnings.catch_warnings(record=True):
            jaxneg.prepare(frame, directory / "store", split="leave-last", progress=False)
        self._store = stores.Store.open(directory / "store")
        self._directory = directory
        plain = config_of(log.length, str(directory / "store"))
        seeds = [f"--data.seed={seed}", f"--train.seed={seed}"]
        self._config = configs.override(plain, [*seeds, *options])
        sharding.share_cores(self._config.train.devices)
        self._validate: Callable[[], float] = lambda: 0.0
        self._scorer: Any = None
        self._measured: Any = None

    def train(self, gate: worker.Gate) -> None:
        config, store = self._config, self._store
        batches = pipeline.of_config(config, store)
        built = program.build(
            config,
            program.catalogue_of(store),
            sharding.make_mesh(config.train.devices or 1),
            batches.steps_per_epoch,
            batches.form,
        )
        state, mesh, update = built.init(), built.mesh, built.update
        attribute_VA = sharding.put(np.asarray(store.attribute_VA), mesh)
        validation = Validation(config, store, built)
        self._validate = lambda: validation(state, attribute_VA)["ndcg@10"]
        for batch in batches.since(0):
            state, metrics = update(state, sharding.put_fields(batch, mesh), attribute_VA)
            item_BL = np.asarray(batch.item_BL)
            sequences = worker.BATCH_SIZE  # on average: rows hold several
            if not gate.step(int((item_BL > 0).sum()), sequences, lambda: jax.block_until_ready(metrics)):  # noqa: B023
                return

    def validate(self) -> float:
        return self._validate()

    def _trained(self) -> runs.Trained:
        workdir = self._directory / "run"
        if not workdir.exists():
            jaxneg.train(self._config, workdir, progress=False)
        return runs.load(workdir)

    def evaluate(self) -> float:
        if self._measured is None:
            trained = self._trained()
            self._measured = eval_sets.EvalSet(trained.store, trained.config), runs.catalogue_score(trained)
        eval_set, score = self._measured
        return eval_set.measure(score).figures["hit_rate@10"]

    def recommend(self, history: np.ndarray, k: int) -> list:
        if self._scorer is None:
            self._trained()
            jaxneg.export(self._directory / "run", self._directory / "export")
            self._scorer = jaxneg.Scorer.open(self._directory / "export")
        found = self._scorer.recommend([str(item) for item in history], k, exclude_seen=True)
        return [one.item for one in found]


if __name__ == "__main__":
    worker.main(Ours, lambda: worker.installed("jaxneg", "jax", "flax"))
