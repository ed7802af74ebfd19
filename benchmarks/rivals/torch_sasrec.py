"""A plain SASRec in PyTorch, written here: fused attention, fused Adam, compiled, batches cut out of one matrix."""

import pathlib

import numpy as np
import torch
import worker
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_attention, self.norm_forward = nn.LayerNorm(worker.WIDTH), nn.LayerNorm(worker.WIDTH)
        self.joint = nn.Linear(worker.WIDTH, 3 * worker.WIDTH)
        self.out = nn.Linear(worker.WIDTH, worker.WIDTH)
        self.up = nn.Linear(worker.WIDTH, worker.FEED_FORWARD)
        self.down = nn.Linear(worker.FEED_FORWARD, worker.WIDTH)
        self.dropout = nn.Dropout(worker.DROPOUT)

    def forward(self, h_BLD: torch.Tensor) -> torch.Tensor:
        # Padding comes last, so that the causal mask keeps it from all that counts.
        B, L, D = h_BLD.shape
        q, k, v = (
            part.view(B, L, worker.HEADS, D // worker.HEADS).transpose(1, 2)
            for part in self.joint(self.norm_attention(h_BLD)).chunk(3, dim=-1)
        )
        dropout = worker.DROPOUT if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        h_BLD = h_BLD + self.dropout(self.out(attended.transpose(1, 2).reshape(B, L, D)))
        up = self.dropout(torch.relu(self.up(self.norm_forward(h_BLD))))
        return h_BLD + self.dropout(self.down(up))


class SASRec(nn.Module):
    def __init__(self, items: int, length: int):
        super().__init__()
        self.item = nn.Embedding(items + 1, worker.WIDTH, padding_idx=0)
        self.position = nn.Embedding(length, worker.WIDTH)
        nn.init.normal_(self.item.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(worker.LAYERS))
        self.norm, self.dropout = nn.LayerNorm(worker.WIDTH), nn.Dropout(worker.DROPOUT)

    def forward(self, item_BL: torch.Tensor) -> torch.Tensor:
        h_BLD = self.dropout(self.item(item_BL) + self.position.weight[: item_BL.shape[1]])
        for block in self.blocks:
            h_BLD = block(h_BLD)
        return self.norm(h_BLD)

    def loss(self, item_BL: torch.Tensor, target_BL: torch.Tensor, negative_BL: torch.Tensor) -> torch.Tensor:
        h_BLD = self(item_BL)
        positive_BL = (h_BLD * self.item(target_BL)).sum(-1)
        drawn_BL = (h_BLD * self.item(negative_BL)).sum(-1)
        each_BL = functional.softplus(-positive_BL) + functional.softplus(drawn_BL)
        real_BL = target_BL > 0
        return (each_BL * real_BL).sum() / real_BL.sum()

    def last_scores(self, item_BL: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        query_BD = self(item_BL)[torch.arange(len(last_B), device=last_B.device), last_B]
        return query_BD @ self.item.weight.T


class Torch:
    leaves_out_heard = True

    def __init__(self, log: worker.Log, directory: pathlib.Path, seed: int = 0, compiled: bool = True):
        self._log, self._seed = log, seed
        torch.manual_seed(seed)
        self._model = SASRec(log.items, log.length).to(DEVICE)
        self._item_UL, self._target_UL = log.train_rows()
        self._contexts: tuple[np.ndarray, np.ndarray] | None = None
        self._loss, self._scores = self._model.loss, self._model.last_scores
        if compiled:
            self._loss, self._scores = torch.compile(self._loss), torch.compile(self._scores)

    def train(self, gate: worker.Gate) -> None:
        model, rng = self._model.train(), np.random.default_rng(self._seed)
        adam = torch.optim.Adam(model.parameters(), lr=worker.LEARNING_RATE, fused=True)
        finished = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
        while True:
            order = rng.permutation(self._log.users)
            # As its peers here: full batches only, so that one program is compiled.
            for first in range(0, len(order) - worker.BATCH_SIZE + 1, worker.BATCH_SIZE):
                at_B = order[first : first + worker.BATCH_SIZE]
                item_BL, target_BL = self._item_UL[at_B], self._target_UL[at_B]
                negative_BL = worker.uniform_negatives(target_BL, self._log.items, rng)
                loss = self._loss(*(put(array) for array in (item_BL, target_BL, negative_BL)))
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                if not gate.step(int((target_BL > 0).sum()), len(at_B), finished):
                    return

    def validate(self) -> float:
        self._model.eval()
        found = self._log.ndcg(self._scored)
        self._model.train()
        return found

    @torch.inference_mode()
    def _scored(self, contexts: list[np.ndarray]) -> np.ndarray:
        # Always of one shape, so that one program is compiled.
        at = np.resize(np.arange(len(contexts)), worker.EVAL_BATCH_SIZE)
        item_BL = worker.padded(contexts, self._log.length)[at]
        last_B = np.array([max(len(one) - 1, 0) for one in contexts])[at]
        return self._scores(put(item_BL), put(last_B))[: len(contexts)].cpu().numpy()

    @torch.inference_mode()
    def evaluate(self) -> float:
        self._model.eval()
        log = self._log
        if self._contexts is None:
            contexts = [log.context(user) for user in range(log.users)]
            self._contexts = worker.padded(contexts, log.length), np.array([len(one) - 1 for one in contexts])
        item_UL, last_U = self._contexts
        tops = []
        for first in range(0, log.users, worker.EVAL_BATCH_SIZE):
            users = range(first, min(first + worker.EVAL_BATCH_SIZE, log.users))
            at = np.resize(np.arange(users.start, users.stop), worker.EVAL_BATCH_SIZE)
            score_BV = self._scores(put(item_UL[at]), put(last_U[at]))
            seen = [log.history(user, 1) for user in users]
            rows = np.repeat(np.arange(len(users)), [len(one) for one in seen])
            score_BV[put(rows), put(np.concatenate(seen).astype(np.int64))] = -torch.inf
            score_BV[:, 0] = -torch.inf
            tops.append(torch.topk(score_BV[: len(users)], worker.TOP).indices.cpu().numpy())
        return log.hit_rate(np.concatenate(tops))

    @torch.inference_mode()
    def recommend(self, history: np.ndarray, k: int) -> list:
        self._model.eval()
        recent = history[-self._log.length :]
        item_BL = put(worker.padded([recent], self._log.length))
        score_V = self._scores(item_BL, put(np.array([len(recent) - 1])))[0]
        score_V[put(history.astype(np.int64))] = -torch.inf
        score_V[0] = -torch.inf
        return torch.topk(score_V, k).indices.tolist()


def put(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(DEVICE)


if __name__ == "__main__":
    worker.main(Torch, lambda: worker.installed("torch"))
