"""When a run had learned what it learned: in epochs, steps, sequences seen and seconds of its steps."""

from collections.abc import Sequence

from jaxneg.files import documents

SHARE = 0.95  # of the gain over the first validation
PATIENCE, LIMIT = "patience ran out", "epochs done"  # why a run stops
UNITS = {"epochs": "epoch", "steps": "step", "sequences": "sequences", "seconds": "device_seconds"}


def convergence(history: Sequence[documents.Object], monitor: str, stopped: str) -> documents.Object:
    """Figures of the first validation that has 95% of the gain, or None and why there is none.

        gain = best - first,   converged where figure >= first + 0.95 * gain

    The first validation is that of step 0. A share of the best figure itself would be below the noise of validation:
    .1% of an AUC of .82 is a fifth of its usual standard error.

    Returns ``epochs_to_convergence``, ``steps_to_convergence``, ``sequences_to_convergence`` and
    ``seconds_to_convergence``, of training steps alone, all None where it is not known that the run had converged;
    ``not_converged`` says why, else None.

    Args:
      history: lines of validations, oldest first, with the figure, epoch, step, sequences and device_seconds.
      monitor: the figure that decides.
      stopped: why the run ended.
    """
    first, best = history[0][monitor], max(line[monitor] for line in history)
    why = None
    if stopped != PATIENCE:
        why = "it stopped at its limit"
    elif best <= first:
        why = "no validation was above the first"
    found = next(line for line in history if line[monitor] >= first + SHARE * (best - first))
    return {f"{unit}_to_convergence": None if why else found.get(key) for unit, key in UNITS.items()} | {
        "not_converged": why
    }


def short(result: documents.Object) -> str:
    """ "converged after 5 epochs", or why a run is not known to have converged."""
    epochs = result.get("epochs_to_convergence")
    if epochs is None:
        return f"not converged: {result.get('not_converged') or 'it stopped at its limit'}"
    return f"converged after {epochs:.4g} epochs"


def spoken(result: documents.Object) -> str:
    """ "converged after 5 epochs, 60 steps, 7,680 sequences and 3.2 seconds of steps", or why it is not known to."""
    text, values = short(result), [result.get(f"{unit}_to_convergence") for unit in UNITS]
    if None in values:  # not converged, or a run of an earlier version
        return text
    _, steps, sequences, seconds = values
    return f"{text}, {steps:,} steps, {sequences:,.0f} sequences and {seconds:.1f} seconds of steps"
