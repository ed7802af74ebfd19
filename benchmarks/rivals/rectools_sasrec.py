"""SASRecModel of RecTools with its own loader, trainer and ``recommend``; binary cross-entropy, one negative."""

import pathlib
import warnings

import numpy as np
import pandas as pd
import worker
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class Keeper(Callback):
    def __init__(self):
        self.gate: worker.Gate

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        finished = lambda: float(outputs["loss"])  # noqa: E731
        if not self.gate.step(int((batch["y"] != 0).sum()), len(batch["y"]), finished):
            trainer.should_stop = True


class RecTools:
    leaves_out_heard = True

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0):
        warnings.filterwarnings("ignore")
        seed_everything(seed)
        self._log, self._keeper = log, Keeper()
        self._model = SASRecModel(
            n_blocks=worker.LAYERS,
            n_heads=worker.HEADS,
            n_factors=worker.WIDTH,
            dropout_rate=worker.DROPOUT,
            session_max_len=log.length,
            loss="BCE",
            n_negatives=1,
            batch_size=worker.BATCH_SIZE,
            lr=worker.LEARNING_RATE,
            recommend_batch_size=worker.EVAL_BATCH_SIZE,
            get_trainer_func=lambda: Trainer(
                max_epochs=1_000_000,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[self._keeper],
            ),
        )
        self._contexts: Dataset | None = None
        self._before: Dataset | None = None

    def train(self, gate: worker.Gate) -> None:
        self._keeper.gate = gate
        self._model.fit(dataset([self._log.train(user) for user in range(self._log.users)]))

    def validate(self) -> float:
        log, module = self._log, self._model.lightning_model
        if self._before is None:
            self._before = dataset([log.history(user, worker.HELD_OUT) for user in range(log.users)])
        # It recommends while it is trained, which it does not expect.
        self._model.is_fitted = True
        found = self._model.recommend(np.arange(log.users), self._before, k=worker.TOP, filter_viewed=True)
        module.train()
        hits = self._hits(found, worker.HELD_OUT)
        return float((hits / np.log2(found[Columns.Rank].to_numpy() + 1)).sum()) / log.users

    def evaluate(self) -> float:
        log = self._log
        if self._contexts is None:
            self._contexts = dataset([log.history(user, 1) for user in range(log.users)])
        found = self._model.recommend(np.arange(log.users), self._contexts, k=worker.TOP, filter_viewed=True)
        return float(self._hits(found, 1).sum()) / log.users

    def recommend(self, history: np.ndarray, k: int) -> list:
        found = self._model.recommend([0], dataset([history]), k=k, filter_viewed=True)
        return found[Columns.Item].tolist()

    def _hits(self, found: pd.DataFrame, held_out: int) -> np.ndarray:
        """Which rows of lists have the held-out item of their user."""
        target_U = self._log.targets(held_out)
        return found[Columns.Item].to_numpy() == target_U[found[Columns.User].to_numpy()]


def dataset(sequences: list[np.ndarray]) -> Dataset:
    """A dataset of users 0, 1 and so on, as its users make one: from a frame."""
    size = [len(one) for one in sequences]
    item = np.concatenate(sequences)
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(size)), size),
            Columns.Item: item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(1_600_000_000 + np.arange(len(item)), unit="s"),
        }
    )
    return Dataset.construct(frame)


if __name__ == "__main__":
    worker.main(RecTools, lambda: worker.installed("rectools", "torch", "pytorch-lightning"))
