"""The section of a report on serving forms, and its plot."""

from collections.abc import Mapping, Sequence

from jaxneg import pages
from jaxneg.batch import forms
from jaxneg.evaluation.canvas import DISLIKED, GREY, LIKED, MODEL, Figure, canvas, titled
from jaxneg.files import documents

PLOT = "forms.png"
LINES = {forms.SUM: MODEL, forms.DEMOTE: LIKED}


def parts(served: documents.Object, titles: Mapping[str, str]) -> list[str]:
    """The section in Markdown; nothing of a model without a like head.

    Args:
      served: what report.json holds of forms.
      titles: of the plots, by file name.
    """
    if not served:
        return []
    numbers, cut = served["numbers"], served["cut"]
    return [
        "## Serving forms",
        "One model, whose two heads make one score in four forms: rank (what is listened to next), judge (what is "
        "liked if shown), their sum, and demote, which moves down only what a listener would like less than most. On "
        f"validation beta is {numbers['sum']['beta']:g} for the sum; for demote it is {numbers['demote']['beta']:g} at "
        f"a threshold of {numbers['demote']['threshold']:.3g}, quantile {numbers['demote']['quantile']:g} of the like "
        f"logits: what keeps most of both heads, of the AUC of judge and of the NDCG@{cut} of rank. Rows of tables "
        "above are these, over all examples.",
        f"The curve over beta, of {served['examples']:,} examples of this split:",
        _table(served["curve"], cut),
        pages.image(titles[PLOT], f"plots/{PLOT}") if PLOT in titles else "",
    ]


def _table(curve: Sequence[documents.Object], cut: int) -> str:
    head = ["form", "beta", "quantile", "pair accuracy", f"NDCG@{cut}", f"disliked in the top {cut}"]
    return pages.table(
        head,
        [
            [
                point["form"],
                f"{point['beta']:g}" if forms.NUMBERS[point["form"]] else "",
                "" if point["quantile"] is None else f"{point['quantile']:g}",
                *(_number(point[name]) for name in ("pair_accuracy", "ndcg", "disliked_hit_rate")),
            ]
            for point in curve
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def plot(served: documents.Object) -> Figure:
    """Pair accuracy against NDCG of each form, over beta. Raises ImportError without matplotlib."""
    figure, axes = canvas(4.6)
    known = [one for one in served["curve"] if one["pair_accuracy"] is not None and one["ndcg"] is not None]
    ends = {one["form"]: one for one in known if not forms.NUMBERS[one["form"]]}
    lines: dict[tuple[str, float | None], list[documents.Object]] = {}
    for one in known:
        if one["form"] not in ends:
            lines.setdefault((one["form"], one["quantile"]), []).append(one)
    styles = ("-", "--", ":", "-.")
    for k, ((form, quantile), line) in enumerate(lines.items()):
        whole = [ends.get(forms.RANK), *line] + ([ends.get(forms.JUDGE)] if form == forms.SUM else [])
        drawn = [one for one in whole if one is not None]
        axes.plot(
            [one["ndcg"] for one in drawn],
            [one["pair_accuracy"] for one in drawn],
            color=LINES[form],
            linestyle=styles[k % len(styles)] if form == forms.DEMOTE else "-",
            marker="o",
            markersize=4,
            label=form if quantile is None else f"{form}, quantile {quantile:g}",
        )
    for name, one in ends.items():
        axes.annotate(
            name, (one["ndcg"], one["pair_accuracy"]), xytext=(6, 6), textcoords="offset points", color=GREY
        )
    for form, number in served["numbers"].items():
        for one in known:
            if one["form"] == form and (one["beta"], one["quantile"]) == (
                number["beta"],
                number.get("quantile"),
            ):
                axes.plot(
                    one["ndcg"], one["pair_accuracy"], "o", markersize=11, fillstyle="none", color=DISLIKED
                )
    axes.set(
        xlabel=f"NDCG@{served['cut']} of liked items",
        ylabel="pair accuracy",
        title=titled(
            "Serving forms over beta; circles: chosen on validation", f"{served['examples']:,} examples"
        ),
    )
    axes.legend(frameon=False)
    return figure
