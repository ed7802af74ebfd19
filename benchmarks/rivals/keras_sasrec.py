"""SASRec of Keras-RS on JAX: the layers and settings of its example, its ``fit`` and ``predict``.

As there, the negatives are drawn once before training, the table has an L2 term, and lists hold what a user has heard.
Rows come ready out of memory instead of through tf.data, which is faster.
"""

import os
import pathlib
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras  # noqa: E402
import keras_hub  # noqa: E402
import keras_rs  # noqa: E402
import numpy as np  # noqa: E402
import worker  # noqa: E402
from keras import ops  # noqa: E402

LISTS = 100  # ids


class SASRec(keras.Model):
    def __init__(self, items: int, length: int, lists: int):
        super().__init__()
        self.item = keras_hub.layers.ReversibleEmbedding(
            items + 1, worker.WIDTH, embeddings_regularizer=keras.regularizers.l2(0.001)
        )
        self.position = keras_hub.layers.PositionEmbedding(sequence_length=length)
        self.drop = keras.layers.Dropout(worker.DROPOUT)
        self.blocks = [
            keras_hub.layers.TransformerDecoder(
                intermediate_dim=worker.FEED_FORWARD,
                num_heads=worker.HEADS,
                dropout=worker.DROPOUT,
                activation="relu",
                normalize_first=True,
            )
            for _ in range(worker.LAYERS)
        ]
        self.norm = keras.layers.LayerNormalization()
        self.retrieval = keras_rs.layers.BruteForceRetrieval(k=lists, return_scores=False)
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)

    def build(self, input_shape: Any) -> None:
        shape = (None, self.position.sequence_length)
        self.item.build(shape)
        self.position.build((*shape, worker.WIDTH))
        for block in self.blocks:
            block.build(decoder_sequence_shape=(*shape, worker.WIDTH))
        self.norm.build((*shape, worker.WIDTH))
        self.retrieval.candidate_embeddings = self.item.embeddings
        self.retrieval.build((None, worker.WIDTH))
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        real_BL = inputs["item_BL"] > 0
        h_BLD = self.item(inputs["item_BL"])
        h_BLD = self.drop(h_BLD + self.position(h_BLD), training=training)
        for block in self.blocks:
            h_BLD = block(h_BLD, decoder_padding_mask=real_BL, training=training)
        h_BLD = self.norm(h_BLD)
        if training:
            return {"h_BLD": h_BLD}
        last_B = ops.maximum(ops.sum(ops.cast(real_BL, "int32"), axis=1) - 1, 0)
        query_BD = ops.squeeze(ops.take_along_axis(h_BLD, last_B[:, None, None], axis=1), axis=1)
        return {"h_BLD": h_BLD, "query_BD": query_BD, "top": self.retrieval(query_BD)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        h_BLD = y_pred["h_BLD"]
        logit_BM = ops.concatenate(
            [ops.sum(self.item(y[name]) * h_BLD, axis=-1) for name in ("target_BL", "negative_BL")], axis=1
        )
        real_BL = ops.cast(y["target_BL"] > 0, "float32")
        label_BM = ops.concatenate([real_BL, ops.zeros_like(real_BL)], axis=1)
        weight_BM = ops.concatenate([real_BL, real_BL], axis=1)
        each_BM = self.cross_entropy(label_BM[..., None], logit_BM[..., None])
        return ops.sum(each_BM * weight_BM) / ops.sum(weight_BM) + sum(self.losses)


class Batches(keras.utils.PyDataset):
    """Full batches of users in a new order each epoch."""

    def __init__(self, log: worker.Log, seed: int):
        super().__init__()
        self._rng = np.random.default_rng(seed)
        self._item_UL, self._target_UL = log.train_rows()
        self._negative_UL = worker.uniform_negatives(self._target_UL, log.items, self._rng)
        self._order = self._rng.permutation(log.users)

    def __len__(self) -> int:
        return len(self._order) // worker.BATCH_SIZE

    def __getitem__(self, n: int) -> Any:
        at = self._users(n)
        return {"item_BL": self._item_UL[at]}, {
            "target_BL": self._target_UL[at],
            "negative_BL": self._negative_UL[at],
        }

    def _users(self, n: int) -> np.ndarray:
        return self._order[n * worker.BATCH_SIZE : (n + 1) * worker.BATCH_SIZE]

    def on_epoch_end(self) -> None:
        self._order = self._rng.permutation(len(self._order))

    def positions(self) -> float:
        """Targets of a batch, on average."""
        return float((self._target_UL > 0).sum()) / len(self._order) * worker.BATCH_SIZE


class Stopped(Exception):
    """Training is to end before its last epoch."""


class Keeper(keras.callbacks.Callback):
    def __init__(self, gate: worker.Gate, batches: Batches):
        super().__init__()
        self._gate, self._positions = gate, round(batches.positions())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        assert logs is not None
        # Its value is there when the step is done.
        if not self._gate.step(self._positions, worker.BATCH_SIZE, lambda: float(logs["loss"])):
            raise Stopped


class Keras:
    leaves_out_heard = False

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0):
        keras.utils.set_random_seed(seed)
        self._log, self._seed = log, seed
        self._model = SASRec(log.items, log.length, LISTS)
        self._model.build(None)
        self._model.compile(optimizer=keras.optimizers.Adam(worker.LEARNING_RATE, beta_2=0.98))
        self._context_UL: np.ndarray | None = None

    def train(self, gate: worker.Gate) -> None:
        batches = Batches(self._log, self._seed)
        try:
            self._model.fit(batches, epochs=1_000_000, verbose=0, callbacks=[Keeper(gate, batches)])
        except Stopped:
            self._model.jax_state_sync()

    def validate(self) -> float:
        # Training holds the weights elsewhere until they are asked for.
        self._model.jax_state_sync()
        return self._log.ndcg(self._scored)

    def _scored(self, contexts: list[np.ndarray]) -> np.ndarray:
        item_BL = worker.padded(contexts, self._log.length)
        at = np.resize(np.arange(len(contexts)), worker.EVAL_BATCH_SIZE)
        query_BD = self._model.predict_on_batch({"item_BL": item_BL[at]})["query_BD"][: len(contexts)]
        return query_BD @ np.asarray(self._model.item.embeddings).T

    def evaluate(self) -> float:
        log = self._log
        if self._context_UL is None:
            contexts = [log.context(user) for user in range(log.users)]
            self._context_UL = worker.padded(contexts, log.length)
        found = self._model.predict(
            {"item_BL": self._context_UL}, batch_size=worker.EVAL_BATCH_SIZE, verbose=0
        )
        return log.hit_rate(np.asarray(found["top"])[:, : worker.TOP])

    def recommend(self, history: np.ndarray, k: int) -> list:
        item_BL = worker.padded([history[-self._log.length :]], self._log.length)
        found = self._model.predict_on_batch({"item_BL": item_BL})
        return np.asarray(found["top"])[0, :k].tolist()


if __name__ == "__main__":
    worker.main(Keras, lambda: worker.installed("keras", "keras-hub", "keras-rs", "jax"))
