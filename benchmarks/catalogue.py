"""Step time against the size of the catalogue, with optimisers of touched rows and of all rows, and beside PyTorch.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv/bin/python benchmarks/catalogue.py [--quick]

Length 50, width 64, batch 128, two layers, one negative per target. Inputs and targets fall off with their rank by
count (log-uniform), negatives are uniform; "uniform" draws all ids uniformly, which touches most rows. Small and large
catalogues take turns, a window of steps each, so that what else the machine does falls on both. PyTorch is measured
where it is installed (pip install torch): the same sizes with its own transformer layers, dense Adam on everything, or
SparseAdam on the item table.

Prints one JSON line. ``ratio`` is the step time of row-wise Adagrad with --large rows over that with --small rows, the
median over pairs of windows that follow each other.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from train_step import HUGE_PAGES  # beside this script

from jaxneg.batch import Batch
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig
from jaxneg.embeddings import sharding
from jaxneg.training import program

B, L, D = 128, 50, 64


def batches(items: int, count: int, *, uniform: bool) -> list[Batch]:
    """Full batches of random ids: stations and attributes take no part."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.integers(1, items + 1, shape, dtype=np.int32)

    def popular(*shape: int) -> np.ndarray:
        if uniform:
            return drawn(*shape)
        return np.clip(np.exp(rng.random(shape) * np.log(items + 1.0)).astype(np.int32), 1, items)

    def one() -> Batch:
        event_BM = popular(B, L + 1)
        return Batch(
            item_BL=event_BM[:, :-1],
            feedback_BL=rng.integers(1, 6, (B, L), dtype=np.int32),
            station_BL=np.zeros((B, 0), np.int32),
            target_BL=event_BM[:, 1:],
            label_BL=np.ones((B, L), np.int8),
            negative_BLN=drawn(B, L, 1),
            hard_BLN=np.zeros((B, L, 0), bool),
            event_BM=np.zeros((B, 0), np.int32),
            sign_BM=np.zeros((B, 0), np.int8),
            shared_S=np.zeros(0, np.int32),
            shared_log_q_S=np.zeros(0, np.float32),
            target_log_q_BL=np.zeros((B, 0), np.float32),
            segment_BL=np.zeros((B, 0), np.int32),
        )

    return [one() for _ in range(count)]


def stepper(items: int, rows: str, *, uniform: bool = False) -> Callable[[int], None]:
    """Runs some training steps of jaxneg, as ``train`` does, and waits for them."""
    config = Config(
        data=DataConfig(length=L, batch_size=B, p_hard=0.0),
        model=ModelConfig(width=D, layers=2, station=False, attributes=False),
        optim=OptimConfig(rows=rows, warmup_steps=0),  # type: ignore[arg-type]
    )
    built = program.build(config, program.Catalogue(items, 0, ()), sharding.make_mesh(1))
    state, found = built.init(), batches(items, 16, uniform=uniform)
    attribute_VA = sharding.put(np.zeros(built.attribute_VA.shape, np.int32), built.mesh, "VA")
    turn = 0

    def run(steps: int) -> None:
        nonlocal state, turn
        metrics = {}
        for _ in range(steps):
            batch = sharding.put_fields(found[turn % len(found)], built.mesh)
            state, metrics = built.update(state, batch, attribute_VA)
            turn += 1
        assert np.isfinite(jax.block_until_ready((state, metrics))[1]["loss"])

    return run


def torch_stepper(items: int, sparse: bool) -> Callable[[int], None]:
    """Runs some steps of the same sizes in PyTorch: its transformer layers, BCE with one negative."""
    import torch

    torch.manual_seed(0)
    item = torch.nn.Embedding(items + 1, D, sparse=sparse)
    position = torch.nn.Parameter(0.02 * torch.randn(L, D))
    layer = torch.nn.TransformerEncoderLayer(D, 1, D, 0.2, batch_first=True, norm_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(L)
    others = [position, *encoder.parameters()]
    if sparse:
        optimizers = [torch.optim.Adam(others), torch.optim.SparseAdam(item.parameters())]
    else:
        optimizers = [torch.optim.Adam([*others, *item.parameters()])]
    names = ("item_BL", "target_BL", "negative_BLN")
    found = [
        [torch.from_numpy(getattr(batch, name)).long() for name in names]
        for batch in batches(items, 16, uniform=False)
    ]
    softplus, turn = torch.nn.functional.softplus, 0

    def run(steps: int) -> None:
        nonlocal turn
        for _ in range(steps):
            seen, target, negative = found[turn % len(found)]
            h = encoder(item(seen) * D**0.5 + position, mask=mask, is_causal=True)
            above = softplus(-(h * item(target)).sum(-1)) + softplus((h * item(negative[..., 0])).sum(-1))
            for optimizer in optimizers:
                optimizer.zero_grad()
            above.mean().backward()
            for optimizer in optimizers:
                optimizer.step()
            turn += 1

    return run


def measure(runs: dict[str, Callable[[int], None]], windows: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds per step by window of each, the windows taking turns."""
    for run in runs.values():
        run(3)  # compiles, and touches pages for the first time
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(windows):
        for name, run in runs.items():
            began = time.perf_counter()
            run(steps)
            found[name].append(1000 * (time.perf_counter() - began) / steps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument(
        "--dense", type=int, default=1_000_000, help="rows of the dense paths, whose memory is four tables"
    )
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="per window")
    parser.add_argument("--quick", action="store_true", help="small catalogues, few steps, no PyTorch")
    asked = parser.parse_args()
    if asked.quick:
        asked.small, asked.large, asked.dense, asked.windows, asked.steps = 1000, 20_000, 20_000, 2, 2
    sizes = (asked.small, asked.large)
    median: dict[str, float] = {}
    ratio: dict[str, float] = {}

    def compare(name: str, make: Callable[[int], Callable[[int], None]], sizes: tuple[int, ...]) -> None:
        found = measure({f"{name} {size}": make(size) for size in sizes}, asked.windows, asked.steps)
        median.update({key: round(statistics.median(value), 2) for key, value in found.items()})
        small, large = found.values()
        pairs = [b / a for a, b in zip(small, large, strict=True)]
        ratio[name] = round(statistics.median(pairs), 3)

    compare("adagrad", lambda items: stepper(items, "adagrad"), sizes)
    compare("adagrad, uniform ids", lambda items: stepper(items, "adagrad", uniform=True), sizes)
    compare("lazy_adam", lambda items: stepper(items, "lazy_adam"), sizes)
    compare("dense", lambda items: stepper(items, "dense"), (asked.small, asked.dense))
    if not asked.quick and importlib.util.find_spec("torch"):
        compare("torch SparseAdam", lambda items: torch_stepper(items, True), sizes)
        compare("torch Adam", lambda items: torch_stepper(items, False), (asked.small, asked.dense))
    print(
        json.dumps(
            {
                "benchmark": "catalogue",
                "ratio": ratio["adagrad"],
                "ratios": ratio,
                "ms_per_step": median,
                "device": jax.devices()[0].device_kind,
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "jax": jax.__version__,
                "huge_pages": HUGE_PAGES["GLIBC_TUNABLES"] in os.environ.get("GLIBC_TUNABLES", ""),
            }
        )
    )


if __name__ == "__main__":
    main()
