"""Where the time of a training step goes: each of its parts compiled alone, beside what the machine allows.

    .venv/bin/python benchmarks/step_budget.py [--length 200] [--quick] [--out DIR]

The setting is that of train_step.py. A part is a function of the library, forward and backward, in the shapes of
the step's packed rows. Alone a part reads what the part before it has written and writes the gradients of its inputs,
which in the step may be fused: the parts need not add up to the step, and ``rest_ms`` is what they differ by. Two
floors stand beside each:

    product_ms   FLOP of its matrix products at the best rate of 2048^3 products in this run
    memory_ms    its inputs and outputs, read or written once, at the rate of copying 256 MB

Takes medians of rounds in which all parts take turns. Prints one JSON line; --out DIR writes step_budget.json.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import train_step  # beside this script
from flax import nnx

from jaxneg.batch import PAD
from jaxneg.embeddings import sharding
from jaxneg.models import attention, layers
from jaxneg.training import losses


class Part(NamedTuple):
    """A part of the step."""

    title: str
    call: Callable[..., Any]  # of ``inputs``
    inputs: tuple[Any, ...]
    times: int  # in a step
    flop: float = 0.0  # of matrix products, forward and backward
    differentiated: bool = True  # in its first input, or all of a tuple there


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    train_step.start_with(train_step.KEPT)
    rounds = 2 if args.quick else 15
    gflops, copied = train_step.matmul_gflops(), copy_gb_per_s()
    with tempfile.TemporaryDirectory() as directory:
        found, rows = measured(pathlib.Path(directory) / "store", args.length, rounds)
    gflops, copied = max(gflops, train_step.matmul_gflops()), max(copied, copy_gb_per_s())
    lines = []
    for part, milliseconds, moved in found[1:]:
        lines.append(
            {
                "part": part.title,
                "times": part.times,
                "ms": round(part.times * milliseconds, 2),
                "product_ms": round(part.times * part.flop / gflops / 1e6, 2),
                "memory_ms": round(part.times * moved / copied / 1e6, 2),
            }
        )
    whole = found[0][1]
    result = {
        "benchmark": "step_budget",
        "quick": args.quick,
        "length": args.length,
        "rows": rows,
        "step_ms": round(whole, 2),
        "rest_ms": round(whole - sum(line["ms"] for line in lines), 2),
        "parts": lines,
        "matmul_gflops": round(gflops),
        "copy_gb_per_s": round(copied, 1),
        "rounds": rounds,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "step_budget.json").write_text(json.dumps(result) + "\n")


def copy_gb_per_s(megabytes: int = 256, repeats: int = 6) -> float:
    """Bytes read and written a second by one pass over an array that no cache holds."""
    array = jnp.ones(megabytes * 250_000, jnp.float32)
    double = jax.jit(lambda array: 2 * array)
    double(array).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        double(array).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * array.nbytes / min(seconds) / 1e9


def measured(path: pathlib.Path, length: int, rounds: int) -> tuple[list[tuple[Part, float, float]], int]:
    """Parts, the whole step first, with the milliseconds and the bytes of one call; and the rows of a batch."""
    train_step.write_store(path, length, np.random.default_rng(0))
    store, batches, built = train_step.begun(path, length, sharding.make_mesh(1))
    batch = next(batches.since(0))
    parts = parts_of(batch, length)
    calls, moved = [], []
    for part in parts:
        inputs = part.inputs
        if part.differentiated:
            out = jax.eval_shape(part.call, *inputs)
            cotangent = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), out)

            def both(cotangent, *inputs, call=part.call):
                out, pull = jax.vjp(lambda first: call(first, *inputs[1:]), inputs[0])
                return out, pull(cotangent)[0]

            function, inputs = jax.jit(both), (cotangent, *inputs)
        else:
            function = jax.jit(part.call)
        calls.append((function, inputs))
        leaves = jax.tree.leaves((inputs, jax.eval_shape(function, *inputs)))
        moved.append(float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)))
        jax.block_until_ready(function(*inputs))
    state, attribute_VA = built.init(), sharding.put(np.asarray(store.attribute_VA), built.mesh)
    placed = sharding.put_fields(batch, built.mesh)
    milliseconds: list[list[float]] = [[] for _ in range(len(parts) + 1)]
    for n in range(rounds + 2):
        began = time.perf_counter()
        state, metrics = built.update(state, placed, attribute_VA)
        jax.block_until_ready((state, metrics))
        times = [time.perf_counter() - began]
        for function, inputs in calls:
            began = time.perf_counter()
            jax.block_until_ready(function(*inputs))
            times.append(time.perf_counter() - began)
        if n >= 2:
            for list_, second in zip(milliseconds, times, strict=True):
                list_.append(1000 * second)
    medians = [statistics.median(each) for each in milliseconds]
    step = Part("whole step", built.update, (), 1)
    return list(zip([step, *parts], medians, [0.0, *moved], strict=True)), batches.form.rows


def parts_of(batch: Any, length: int) -> list[Part]:
    """The parts of a step of plain SASRec."""
    model = train_step.setting(length, "").model
    B, L, D = len(batch.item_BL), length, model.width
    key, rngs = jax.random.key(0), nnx.Rngs(0)
    x_BLD = jax.random.normal(key, (B, L, D))
    table_VD = jax.random.normal(key, (train_step.ITEMS + 1, D)) * 0.02
    item_BL, target_BL = jnp.asarray(batch.item_BL), jnp.asarray(batch.target_BL)
    negative_BLN, segment_BL = jnp.asarray(batch.negative_BLN), jnp.asarray(batch.segment_BL)
    linear = [layers.Linear(D, D, dtype=jnp.dtype("float32"), rngs=rngs) for _ in range(4)]
    graphs, weights = zip(*(nnx.split(one) for one in linear), strict=True)
    feed = layers.FeedForward(D, D, model.dropout, jnp.dtype("float32"), rngs=rngs)
    feed_graph, feed_weights = nnx.split(feed)
    norm_graph, norm_weights = nnx.split(layers.LayerNorm(D, rngs=rngs))
    heads = tuple(jnp.split(jax.random.normal(key, (B, L, model.heads, 3 * D // model.heads)), 3, axis=-1))
    product = 3 * 2 * B * L * D * D  # of a matrix D x D, forward and twice that backward
    size = attention.block_size(L)
    seen = sum(min(start + size, L) * (min(start + size, L) - start) for start in range(0, L, size))

    def projected(trained, key):
        x_BLD, weights = trained
        query, keys, value, out = (
            nnx.merge(graph, part) for graph, part in zip(graphs, weights, strict=True)
        )
        made = layers.joint([query, keys, value], x_BLD)
        return made[0] + made[1], out(made[2])

    def attended(q_k_v, segment_BL, key):
        return attention.attention(*q_k_v, segment_BL, drop=attention.Drop(model.dropout, key))

    def scored(trained, target_BL, negative_BLN):
        h_BLD, table_VD = trained
        pos_BL = jnp.einsum("BLD,BLD->BL", h_BLD, table_VD[target_BL])
        neg_BLN = jnp.einsum("BLD,BLND->BLN", h_BLD, table_VD[negative_BLN])
        return losses.bce(pos_BL, neg_BLN, target_BL != PAD)

    adam = optax.adam(1e-3)
    opt_state = adam.init(table_VD)

    def updated(gradient_VD, opt_state, table_VD):
        change, opt_state = adam.update(gradient_VD, opt_state, table_VD)
        return optax.apply_updates(table_VD, change), opt_state

    return [
        Part("item rows and their gradient", lambda table_VD, at: table_VD[at], (table_VD, item_BL), 1),
        Part(
            "query, key, value and output projections",
            projected,
            ((x_BLD, list(weights)), key),
            model.layers,
            4 * product,
        ),
        Part("attention core", attended, (heads, segment_BL, key), model.layers, 3 * 2 * 2 * B * seen * D),
        Part(
            "feed-forward",
            lambda trained, key: nnx.merge(feed_graph, trained[1])(trained[0], key),
            ((x_BLD, feed_weights), key),
            model.layers,
            2 * product,
        ),
        Part(
            "layer norms",
            lambda trained: nnx.merge(norm_graph, trained[1])(trained[0]),
            ((x_BLD, norm_weights),),
            2 * model.layers + 1,
        ),
        Part(
            "dropout and residual",
            lambda x_BLD, y_BLD, key: y_BLD + layers.dropout(x_BLD, model.dropout, key),
            (x_BLD, x_BLD, key),
            2 * model.layers + 1,
        ),
        Part("scores and loss", scored, ((x_BLD, table_VD), target_BL, negative_BLN), 1),
        Part("Adam of the item rows", updated, (table_VD, opt_state, table_VD), 1, differentiated=False),
    ]


if __name__ == "__main__":
    main()
