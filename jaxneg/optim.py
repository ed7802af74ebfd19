"""Optimisers of parameters and dense tables."""

import jax
import optax

from jaxneg.config import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up to the peak, then constant, or a cosine to zero at ``steps``."""
    peak, warmup = config.learning_rate, config.warmup_steps
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, max(steps - warmup, 1)),
    }[config.decay]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def dense_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Adam with gradient clipping and decoupled weight decay on matrices and tables, not on biases and scales."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip > 0 else optax.identity(),
        optax.adamw(
            schedule(config, steps),
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
