"""From a batch to a trained run: losses, objective, step, loop, checkpoints and the run directory."""
