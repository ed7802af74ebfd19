"""SasRec of RePlay's new interface: its Parquet loader, Lightning module and callback of top items.

Binary cross-entropy; its one negative is drawn once for a whole batch, as its transform does.
"""

import pathlib
import warnings

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import worker
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import PandasTopItemsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.loss import BCESampled
from replay.nn.sequential import SasRec
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Keeper(lightning.Callback):
    def __init__(self, gate: worker.Gate):
        self._gate = gate

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        positions = int(batch["target_padding_mask"].sum())
        if not self._gate.step(positions, len(batch["padding_mask"]), lambda: float(outputs["loss"])):
            trainer.should_stop = True


class RePlay:
    leaves_out_heard = True

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0):
        warnings.filterwarnings("ignore")
        lightning.seed_everything(seed)
        self._log, self._directory = log, directory
        # Rows are counted from 0, and padding is one past the last.
        self._schema = TensorSchema(
            [
                TensorFeatureInfo(
                    "item_id",
                    is_seq=True,
                    feature_type=FeatureType.CATEGORICAL,
                    embedding_dim=worker.WIDTH,
                    padding_value=log.items,
                    cardinality=log.items,
                    feature_hint=FeatureHint.ITEM_ID,
                    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
                )
            ]
        )
        model = SasRec.from_params(
            self._schema,
            embedding_dim=worker.WIDTH,
            num_heads=worker.HEADS,
            num_blocks=worker.LAYERS,
            max_sequence_length=log.length,
            dropout=worker.DROPOUT,
            hidden_dim=worker.FEED_FORWARD,
        )
        model.loss = BCESampled()
        model.loss.logits_callback = model.get_logits
        self._module = LightningModule(
            model, optimizer_factory=OptimizerFactory("adam", learning_rate=worker.LEARNING_RATE)
        )
        self._predict: ParquetModule | None = None

    def train(self, gate: worker.Gate) -> None:
        log, path = self._log, self._directory / "train.parquet"
        write(path, [log.train(user) for user in range(log.users)])
        transforms = make_default_sasrec_transforms(self._schema)
        transforms["train"].append(UniformNegativeSamplingTransform(log.items, 1))
        shape = {"item_id": {"shape": log.length + 1, "padding": log.items}}
        data = ParquetModule(
            worker.BATCH_SIZE, {"train": shape}, {"train": transforms["train"]}, train_path=str(path)
        )
        trainer(max_epochs=1_000_000, callbacks=[Keeper(gate)], limit_val_batches=0).fit(self._module, data)

    def evaluate(self) -> float:
        log = self._log
        if self._predict is None:
            path = self._directory / "predict.parquet"
            heard = [log.history(user, 1) for user in range(log.users)]
            write(path, [log.context(user) for user in range(log.users)], seen_ids=heard)
            shapes = {
                "item_id": {"shape": log.length, "padding": log.items},
                "seen_ids": {"shape": max(map(len, heard)), "padding": -1},
                "user_id": {},
            }
            transforms = make_default_sasrec_transforms(self._schema)["predict"]
            self._predict = ParquetModule(
                worker.EVAL_BATCH_SIZE, {"predict": shapes}, {"predict": transforms}, predict_path=str(path)
            )
        found = PandasTopItemsCallback(
            top_k=worker.TOP,
            query_column="user_id",
            item_column="item_id",
            postprocessors=[SeenItemsFilter(log.items, "seen_ids")],
        )
        trainer(callbacks=[found]).predict(self._module, self._predict, return_predictions=False)
        frame = found.get_result().explode("item_id")
        hits = frame["item_id"].to_numpy() + 1 == log.targets()[frame["user_id"].to_numpy().astype(int)]
        return float(hits.sum()) / log.users

    @torch.inference_mode()
    def recommend(self, history: np.ndarray, k: int) -> list:
        self._module.model.eval()
        score_V = self._logits([history[-self._log.length :]])[0]
        score_V[torch.from_numpy(history.astype(np.int64) - 1)] = -torch.inf
        return (torch.topk(score_V, k).indices + 1).tolist()

    @torch.inference_mode()
    def validate(self) -> float:
        self._module.model.eval()
        # Row 0 is padding in the log, and here there is none.
        found = self._log.ndcg(
            lambda contexts: np.pad(self._logits(contexts).cpu().numpy(), ((0, 0), (1, 0)))
        )
        self._module.model.train()
        return found

    def _logits(self, contexts: list[np.ndarray]) -> torch.Tensor:
        row_BL = worker.padded(contexts, self._log.length, left=True).astype(np.int64) - 1
        item_BL = torch.from_numpy(np.where(row_BL < 0, self._log.items, row_BL)).to(DEVICE)
        real_BL = item_BL < self._log.items
        return self._module.model(feature_tensors={"item_id": item_BL}, padding_mask=real_BL)["logits"]


def trainer(**settings) -> lightning.Trainer:
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def write(path: pathlib.Path, sequences: list[np.ndarray], **more: list[np.ndarray]) -> None:
    columns = {"item_id": sequences, **more}
    table = {name: [(row - 1).tolist() for row in rows] for name, rows in columns.items()}
    pq.write_table(pa.table({"user_id": list(range(len(sequences)))} | table), path)


if __name__ == "__main__":
    worker.main(RePlay, lambda: worker.installed("replay-rec", "torch", "lightning"))
