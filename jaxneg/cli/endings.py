"""What a verb says once it is done: a table that answers what was asked, where it lies, the next command to type."""

import os
import pathlib
import shlex

from jaxneg import figures, shown
from jaxneg.data.metadata import Metadata
from jaxneg.files import documents
from jaxneg.sweep import leads
from jaxneg.training import convergence, records

LONGEST = 24  # characters of a name in a table
FIGURES = ("pair_accuracy", "auc")  # of a report's table, before one at a cut-off
MOST = 3  # figures of a sweep's table
KINDS = {1: "liked", -1: "disliked", 0: "neither"}  # of feedback, by sign


def then(*commands: str) -> str:
    """What to type next."""
    return f"next: {', or '.join(commands)}"


def prepared(out: pathlib.Path, metadata: Metadata) -> str:
    """What a store holds, by part of the split."""
    counts = metadata.counts
    signs = [sign for sign in KINDS if sign in metadata.polarity.values()]
    rows = []
    for split, kinds in metadata.feedback.items():
        by_sign = [
            sum(n for kind, n in kinds.items() if metadata.polarity.get(kind, 0) == sign) for sign in signs
        ]
        rows.append((split, sum(kinds.values()), *by_sign))
    title = (
        f"{out}: {counts['events']:,} events of {counts['users']:,} users on {counts['items']:,} items in "
        f"{counts['sessions']:,} sessions"
    )
    table = shown.text(title, rows, ("", "events", *(KINDS[sign] for sign in signs)))
    store = shlex.quote(os.fspath(out))
    return f"{table}\n{then(f'jaxneg inspect {store}', f'jaxneg train CONFIG --data.store {store} --workdir RUN')}"


def trained(workdir: pathlib.Path, result: records.Result, before: records.Result | None) -> str:
    """What training has reached.

    Args:
      workdir: of the run.
      result: contents of its result.json.
      before: the same before this call; None of a run that had not ended.
    """
    monitor, of = result["monitor"], result["steps_per_epoch"]
    finished = before is not None and before["steps"] == result["steps"]
    epochs = result["steps"] / of
    title = f"{workdir}: {result['stopped']} after {epochs:.4g} epochs"
    if finished:
        title = f"{workdir} was finished before ({result['stopped']} after {epochs:.4g} epochs): nothing was trained"
    baseline = _baseline(workdir, monitor)
    rows, heads = records.progressed(result["history"], result["best_step"], monitor)
    if baseline is not None:
        rows.append((f"{baseline[0].replace('_', ' ')}, the best baseline", "", baseline[1], ""))
    lines = [shown.text(title, rows, heads)]
    if of_what := figures.validated(result):
        lines.append(f"  of {of_what}")
    lines.append(f"  {convergence.spoken(result)}")
    first = result["history"][0].get(monitor)
    if start := result.get("started_from"):
        lines.append(
            f"  started from {start['run']} at step {start['step']:,}, with {start['items_carried']:,} of "
            f"{start['items']:,} items and {start['events_carried']:.1%} of the training events"
        )
    if len(result["history"]) > 1 and first is not None and result["best_score"] <= first:
        lines.append(
            f"  nothing was learned: no validation {figures.title(monitor)} is above the one before training"
            + (", whose weights are kept" if start else "")
        )
    lines.append(f"  {_seconds(result)}")
    if finished:
        lines.append(f"  {_longer(result)} trains it longer; another --workdir begins anew")
    run = shlex.quote(os.fspath(workdir))
    return "\n".join([*lines, then(f"jaxneg evaluate {run}")])


def evaluated(directory: pathlib.Path, values: documents.Object) -> str:
    """When a run was as good as those that it is compared with, then it beside them and the best baseline.

    Args:
      directory: of the run.
      values: contents of its report.json.
    """
    at_k = next((name for name in values if name.startswith("ndcg@")), None)
    names = [*FIGURES, *([at_k] if at_k else [])]
    best = values["best_baseline"]
    others = {f"run {name}": one for name, one in values["runs"].items()}
    others |= {} if best is None else {best.replace("_", " "): values["baselines"][best]}
    rows: list[tuple[object, ...]] = [("model", *(values.get(name) for name in names), "")]
    rows += [
        (figures.shortened(name, LONGEST), *(one.get(of) for of in names), _difference(one))
        for name, one in others.items()
    ]
    counts = values["counts"]["auc"]
    title = f"{directory}, {values['split']} split: {figures.counted(counts['users'], examples=counts['examples'])}"
    lines = [one["spoken"] for one in values["time_to_target"]]
    lines.append(shown.text(title, rows, ("", *map(figures.title, names), "AUC, model less it")))
    lines += [f"  the model is {_against(one)} {name} by AUC" for name, one in others.items() if _known(one)]
    if best is not None:
        lines.append(
            f"  {best.replace('_', ' ')} is the best of {len(values['baselines'])} baselines on validation"
        )
    page = next(path for path in (directory / "report.html", directory / "report.md") if path.is_file())
    return "\n".join([*lines, _page(page, "all figures")])


def swept(workdir: pathlib.Path, table: documents.Object) -> str:
    """When each cell was as good as its reference, then the rows, the highest in the first figure first."""
    shown_ = table["shown"][:MOST]
    order = (
        sorted(table["cells"], key=lambda cell: -(_mean(cell, shown_[0]) or 0.0))
        if shown_
        else table["cells"]
    )
    axes = list(table["axes"])
    rows: list[tuple[object, ...]] = [
        (*cell["labels"].values(), cell["n"], *(_spread(cell["figures"].get(name)) for name in shown_))
        for cell in order
    ]
    best = table["best_baseline"]
    if best is not None:
        found = table["baselines"][best]
        blank = [""] * len(axes)
        rows.append((best.replace("_", " "), *blank, *(shown.cell(found.get(name)) for name in shown_)))
    count = sum(cell["n"] for cell in table["cells"])
    title = f"{workdir}: {count} runs in {len(table['cells'])} rows, {table['split']} split"
    lead = table.get(leads.NAME, ())
    lines = leads.spoken(lead) or (
        [shown.text("time to target", leads.rows(lead), leads.HEADS)] if lead else []
    )
    lines.append(shown.text(title, rows, (*(axes or [""]), "seeds", *map(figures.title, shown_))))
    page = next((p for p in (workdir / "table.html", workdir / "table.md") if p.is_file()), workdir)
    lines.append(_page(page, "all figures and differences"))
    return "\n".join([*lines, then(f"jaxneg runs {shlex.quote(os.fspath(workdir))}")])


def _page(page: pathlib.Path, what: str) -> str:
    """Where all is written; plots need matplotlib."""
    plots = ", with plots" if any((page.parent / "plots").glob("*.png")) else ""
    return f"  {page}: {what}{plots}"


def _baseline(workdir: pathlib.Path, monitor: str) -> tuple[str, float] | None:
    """The best baseline and its figure on validation, where evaluate has measured it there before."""
    try:
        values = documents.loaded(documents.content(workdir / "report.json"))
        best = values["best_baseline"] if values["split"] == "validation" else None
        figure = None if best is None else values["baselines"][best].get(monitor)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if best is None or figure is None else (best, figure)


def _seconds(result: records.Result) -> str:
    parts = [
        f"{seconds:.1f} {what}"
        for seconds, what in (
            (result.get("device_seconds"), "of training steps"),
            (result.get("compile_seconds"), "of compiling"),
        )
        if seconds is not None
    ]
    return f"{result['seconds']:.1f} seconds{', ' if parts else ''}{' and '.join(parts)}"


def _longer(result: records.Result) -> str:
    """What continues a run that has ended."""
    return (
        "a larger --train.patience"
        if result["stopped"] == convergence.PATIENCE
        else "a larger --train.epochs"
    )


def _known(one: documents.Object) -> bool:
    return one.get("difference_auc") is not None and one.get("difference_auc_low") is not None


def _difference(one: documents.Object) -> str:
    if one.get("difference_auc") is None:
        return ""
    ends = [one.get(f"difference_auc_{end}") for end in ("low", "high")]
    interval = "" if None in ends else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    return f"{one['difference_auc']:+.3f}{interval}"


def _against(one: documents.Object) -> str:
    return figures.apart(one["difference_auc_low"], one["difference_auc_high"])


def _mean(cell: documents.Object, name: str) -> float | None:
    return (cell["figures"].get(name) or {}).get("mean")


def _spread(found: documents.Object | None) -> str:
    if found is None or found["mean"] is None:
        return "-"
    return f"{found['mean']:.4f}" + ("" if found["sd"] is None else f" ± {found['sd']:.4f}")
