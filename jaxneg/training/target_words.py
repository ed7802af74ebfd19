"""Time to target in words: a comparison of ``targets`` as a sentence and as a row of a table."""

from collections.abc import Mapping, Sequence
from typing import Literal

from jaxneg import figures, metrics
from jaxneg.training import targets

SPOKEN = {"epochs": "epochs", "steps": "steps", "sequences": "examples seen", "seconds": "seconds of steps"}
FEW = 3  # settings beyond which a sentence counts them
Of = Literal["cost", "other_cost", "within"]
HEADS = ("to the best of", "figure", *SPOKEN.values())


def mean(passages: Sequence[targets.Passage], of: Of, unit: str) -> float | None:
    """Mean of "cost", "other_cost" or "within" over seeds; None where one is not known or there is none."""
    values = [(one[of] or {}).get(unit) for one in passages]
    some = [value for value in values if value is not None]
    return sum(some) / len(some) if some and len(some) == len(values) else None


def spoken(found: targets.Comparison, *, settings: bool = True) -> str:
    """The comparison in one sentence, and further ones on what is unequal; ``settings`` names those that differ.

    "The model has the best validation AUC of run random (0.712, at epoch 8) at epoch 3: 62% fewer epochs and 60% fewer
    seconds of steps; one seed, so without interval. Settings that differ: data.p_hard: 0 -> 0.5."
    """
    name, other, passages = targets.upper(found["name"]), found["other"], found["passages"]
    if found["why_not"] is not None:
        return (
            f"Time to target: {found['name']} and {other} cannot be compared by it, as {found['why_not']}."
            + _unequal(found, settings)
        )
    n, reached = len(passages), found["reached"]
    seeds = f", means of {n} seeds" if n > 1 else ""
    target = sum(one["target"] for one in passages) / n
    best = f"the best validation {figures.title(found['figure'])} of {other} ({target:.4g} at epoch "
    best += f"{_number(mean(passages, 'other_cost', 'epochs'))}{seeds})"
    if found["ratio"] is not None:
        at = _number(mean(passages, "cost", "epochs"))
        text = f"{name} has {best} at epoch {at}: {_ratios(found['ratio'], n)}."
    else:
        ends = _number(mean(passages, "within", "epochs"))
        seconds = mean(passages, "within", "seconds")
        within = f"within {ends} epochs" + ("" if seconds is None else f" and {seconds:.3g} seconds of steps")
        if reached:
            had = [one["cost"] for one in passages if one["cost"] is not None]
            epochs = ", ".join(_number(cost["epochs"]) for cost in had)
            text = f"{name} has {best} in {reached} of {n} seeds, at epoch {epochs}, and never in the others {within}."
        else:
            text = f"{name} never has {best} {within}{_turned(found)}."
    return text + _unequal(found, settings)


def _turned(found: targets.Comparison) -> str:
    """When the other had the best of a run that never has the other's."""
    passages = found["passages"]
    costs = [one["other_to_best"] for one in passages]
    epochs = [cost["epochs"] for cost in costs if cost is not None and cost["epochs"] is not None]
    if len(epochs) < len(passages):
        return ""
    best = sum(one["best"] for one in passages) / len(passages)
    return f", while {found['other']} has its best ({best:.4g}) at epoch {_number(sum(epochs) / len(epochs))}"


def _ratios(ratio: Mapping[str, metrics.Spread], n: int) -> str:
    units = [
        unit for unit in ("epochs", "seconds") if ratio.get(unit, metrics.spread([]))["mean"] is not None
    ]
    text = " and ".join(f"{change(ratio[unit], SPOKEN[unit])}" for unit in units)
    if n < targets.LEAST:
        return f"{text}; {'one seed' if n == 1 else f'{n} seeds'}, so without interval"
    epochs = ratio["epochs"]
    low, high = epochs["low"], epochs["high"]
    told = (
        "; the epochs are not told apart from none saved"
        if low is None or high is None or low <= 1 <= high
        else ""
    )
    return f"{text}, paired over {n} seeds{told}"


def change(ratio: metrics.Spread, unit: str) -> str:
    """A ratio of costs in words, "62% fewer epochs [-75%, -41%]"; empty of none."""
    value = ratio["mean"]
    if value is None:
        return ""
    percent = round(100 * abs(value - 1))
    if percent == 0:
        text = f"as many {unit}"
    elif value < 1:
        text = f"{percent}% fewer {unit}"
    else:
        text = f"{percent}% more {unit}" if value < 2 else f"{value:.1f} times as many {unit}"
    return text + _interval(ratio)


def _unequal(found: targets.Comparison, settings: bool) -> str:
    """Sentences on the settings that differ and on what else is unequal."""
    differs, notes = found["differs"], found["notes"]
    more = f" and {len(differs) - FEW} more" if len(differs) > FEW else ""
    text = f" Settings that differ: {', '.join(differs[:FEW])}{more}." if differs and settings else ""
    return "".join([text, *(f" {note}" for note in notes)])


def row(found: targets.Comparison) -> list[str]:
    """The comparison as a row under HEADS: for each unit the other's cost, the run's, and the change."""
    passages, ratio = found["passages"], found["ratio"]
    if found["why_not"] is not None:
        return [found["other"], found["why_not"], *[""] * len(targets.UNITS)]
    target = sum(one["target"] for one in passages) / len(passages)
    cells = [found["other"], f"{target:.4g}"]
    for unit in targets.UNITS:
        its = _number(mean(passages, "other_cost", unit))
        if ratio is not None:
            one = ratio.get(unit) or metrics.spread([])
            told = f", {share(one)}" if one["mean"] is not None else ""
            cells.append(f"{its} -> {_number(mean(passages, 'cost', unit))}{told}")
        else:
            ends = _number(mean(passages, "within", unit))
            times = f"{found['reached']} of {len(passages)} seeds" if found["reached"] else "never"
            cells.append(f"{its} -> {times} in {ends}")
    return cells


def share(ratio: metrics.Spread) -> str:
    """A ratio of costs in short, "-62% [-75%, -41%]"; empty of none."""
    return "" if ratio["mean"] is None else f"{ratio['mean'] - 1:+.0%}{_interval(ratio)}"


def _interval(ratio: metrics.Spread) -> str:
    low, high = ratio["low"], ratio["high"]
    return "" if low is None or high is None else f" [{low - 1:+.0%}, {high - 1:+.0%}]"


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
