"""SASRec of RecBole with its own loader, trainer and evaluation; BPR, one negative, one target for each sequence.

It makes a sequence of each prefix of a user's items, so that a step trains as many positions as it has sequences. Its
``quick_start`` does not import beside today's packages: this is what it calls.
"""

import pathlib
import warnings

import numpy as np
import torch
import worker
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer


class RecBole:
    leaves_out_heard = True

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0):
        warnings.filterwarnings("ignore")
        self._log = log
        self._write(directory / "log")
        config = Config(
            model="SASRec",
            dataset="log",
            config_dict={
                "data_path": str(directory),
                "checkpoint_dir": str(directory / "saved"),
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "MAX_ITEM_LIST_LENGTH": log.length,
                "n_layers": worker.LAYERS,
                "n_heads": worker.HEADS,
                "hidden_size": worker.WIDTH,
                "inner_size": worker.FEED_FORWARD,
                "hidden_dropout_prob": worker.DROPOUT,
                "attn_dropout_prob": worker.DROPOUT,
                "loss_type": "BPR",
                "train_batch_size": worker.BATCH_SIZE,
                "eval_batch_size": worker.EVAL_BATCH_SIZE,
                "learning_rate": worker.LEARNING_RATE,
                "eval_args": {
                    "split": {"LS": "valid_and_test"},
                    "order": "TO",
                    "mode": "full",
                    "group_by": "user",
                },
                "metrics": ["Hit", "NDCG"],
                "topk": [worker.TOP],
                "valid_metric": f"Hit@{worker.TOP}",
                "show_progress": False,
                "state": "ERROR",
                "seed": seed,
            },
        )
        torch.manual_seed(seed)
        self._dataset = create_dataset(config)
        self._data = dict(
            zip(("train", "valid", "test"), data_preparation(config, self._dataset), strict=True)
        )
        self._model = SASRec(config, self._data["train"].dataset).to(config["device"])
        self._trainer, self._device = Trainer(config, self._model), config["device"]
        # Rows by the ids of the log, and back; 0 for an item that is only in what was cut off.
        row_of = self._dataset.field2token_id["item_id"]
        self._row = np.array([row_of.get(str(n), 0) for n in range(log.items + 1)])
        self._item = {int(row): n for n, row in enumerate(self._row)}

    def train(self, gate: worker.Gate) -> None:
        model, adam = self._model.train(), self._trainer.optimizer
        finished = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        while True:
            # The statements of its trainer's epoch, which has no callback.
            for interaction in self._data["train"]:
                interaction = interaction.to(self._device)
                adam.zero_grad()
                loss = model.calculate_loss(interaction)
                loss.item()
                loss.backward()
                adam.step()
                if not gate.step(len(interaction), len(interaction), finished):
                    return

    def validate(self) -> float:
        found = self._trainer.evaluate(self._data["valid"], load_best_model=False)
        self._model.train()
        return found[f"ndcg@{worker.TOP}"]

    def evaluate(self) -> float:
        return self._trainer.evaluate(self._data["test"], load_best_model=False)[f"hit@{worker.TOP}"]

    @torch.inference_mode()
    def recommend(self, history: np.ndarray, k: int) -> list:
        self._model.eval()
        rows = self._row[history]
        rows = rows[rows > 0]
        recent = rows[-self._log.length :]
        one = Interaction(
            {
                "item_id_list": torch.from_numpy(worker.padded([recent], self._log.length).astype(np.int64)),
                "item_length": torch.tensor([len(recent)]),
            }
        ).to(self._device)
        score_V = self._model.full_sort_predict(one).flatten()
        score_V[torch.from_numpy(rows.astype(np.int64))] = -torch.inf
        score_V[0] = -torch.inf
        return [self._item[row] for row in torch.topk(score_V, k).indices.tolist()]

    def _write(self, directory: pathlib.Path) -> None:
        """The log in its atomic format."""
        directory.mkdir()
        log = self._log
        with (directory / "log.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user in range(log.users):
                file.writelines(f"{user}\t{item}\t{at}\n" for at, item in enumerate(log.history(user)))


if __name__ == "__main__":
    worker.main(RecBole, lambda: worker.installed("recbole", "torch"))
