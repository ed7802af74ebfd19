"""From raw feedback logs to batches: events, readers, store, pipeline. Nothing in here needs jax."""
