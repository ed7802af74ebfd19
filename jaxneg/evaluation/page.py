"""A report as a page: the figures of report.json in tables, with a sentence on what each says."""

import itertools
from collections.abc import Callable, Mapping

from jaxneg import figures, pages
from jaxneg.batch import forms
from jaxneg.config import Config
from jaxneg.evaluation import probes, serving_page, time_to_target
from jaxneg.files import documents
from jaxneg.metrics import measures
from jaxneg.training import convergence

FEW = 20  # users below which an interval over them is rough


def page(values: documents.Object, titles: Mapping[str, str], config: Config) -> str:
    """The report as Markdown.

    Args:
      values: what report.json holds.
      titles: of the plots, by file name; empty where there are none.
      config: of the run.
    """
    ranked = sorted(values["baselines"].items(), key=lambda pair: -(pair[1]["pair_accuracy"] or 0))
    runs = {f"run {name}": one for name, one in values["runs"].items()}
    last = {"its last epoch": values["last"]} if "pair_accuracy" in values["last"] else {}
    formed = {
        f"in form {name}": values["forms"][name] for name in forms.NAMES if name in values.get("forms", {})
    }
    rows = (
        {"**model**": values} | formed | last | runs | {name.replace("_", " "): one for name, one in ranked}
    )
    k = measures.CUT if measures.CUT in config.eval.ks else min(config.eval.ks)
    left_out = ", those of the context left out" if config.eval.exclude_seen else ""
    parts = [
        f"# Report on the {values['split']} split",
        *time_to_target.parts(values["time_to_target"], titles),
        *values.get("notes", ()),
        f"{_counted(values, 'pair_accuracy')} of {values['examples']:,} examples in all. {_verdict(values)}",
        *_notes(values),
        *_otherwise(values["runs"]),
        "## Liked above disliked",
        "Pair accuracy takes one liked and one disliked item of the same station per example "
        f"({_counted(values, 'pair_accuracy')}), AUC all pairs ({_counted(values, 'auc')}). An item that was liked and "
        f"disliked makes no pair with itself: {values['same_pairs']:,} such pairs are left out. Brackets hold 95% "
        "bootstrap intervals that resample users, each with all of their examples. Differences are paired, the model "
        "less the row's. Chance is 0.5. Baselines with a random start: mean ± standard deviation over "
        "seeds. The last column says what a row sees of a listener.",
        _separation_table(rows, config),
        "Pair accuracy by user: the mean of a user's pairs first, then over users; and with one pair of each user, "
        f"drawn at random, as Mei et al. (2024) have it ({_counted(values, 'drawn_pair_accuracy')}).",
        _user_table(rows),
        _image(titles, "accuracy.png"),
        "## Ranking and exposure",
        f"Held-out items among the whole catalogue{left_out}. Δ is the figure of liked less that of disliked "
        f"items. Gini and coverage are over the top {k} of all examples: a lower Gini is more diverse. Liked: "
        f"{_counted(values, 'mrr_positive')}; disliked: {_counted(values, 'mrr_negative')}.",
        _ranking_table(rows, k),
        f"Ranks of held-out items that are not in the context: MRR cut off at {measures.CUT}, and the mean natural "
        "logarithm of ranks. Disliked items should have a low MRR and a high log rank. Liked: "
        f"{_counted(values, f'unseen_liked_mrr@{measures.CUT}')}; disliked: "
        f"{_counted(values, f'unseen_disliked_mrr@{measures.CUT}')}.",
        _unseen_table(rows),
        _image(titles, "ranks.png"),
        _next_text(values, config),
        _next_table(rows, config),
        _image(titles, "exposure.png"),
        f"Share of examples with an event of context: {_number(values['user_coverage'])}; with "
        f"{measures.ENOUGH} or more: {_number(values[f'user_coverage_{measures.ENOUGH}'])}.",
        *_coverage_parts(values["input_coverage"]),
        "## By share of positive feedback",
        _band_table(values["bands"], k),
        _image(titles, "share.png"),
        *serving_page.parts(values.get("forms", {}), titles),
        *_feedback_parts({"model": values} | runs, titles),
        "## Training",
        "Converged is a run at the first validation that has 95% of its gain over the one before training, if it ended "
        "because patience ran out. Seconds are of training steps, without compiling, validating and saving. "
        f"Validation: {figures.validated(values) or 'not counted by the version that trained it'}.",
        _training_table({"model": values} | runs),
        _image(titles, "validation.png"),
        "" if titles else f"There are {pages.NO_PLOTS}.",
        "## Settings of the baselines",
        "Fitted to the training events, chosen for AUC on validation examples; so is the best of them.",
        _settings_table(values["baselines"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _otherwise(runs: Mapping[str, documents.Object]) -> list[str]:
    """What each run is measured with that the model is not."""
    return [
        f"Run {name} is measured with its own settings ({'; '.join(one['measured_otherwise'])}): its figures are those "
        "of its own report, its differences are over the examples that both have."
        for name, one in runs.items()
        if one.get("measured_otherwise")
    ]


def _separation_table(rows: Mapping[str, documents.Object], config: Config) -> str:
    head = ["", "pair accuracy", "model less it", "AUC", "model less it", "against random items", "sees"]
    return pages.table(
        head,
        [
            [
                name,
                _interval(one, "pair_accuracy"),
                _interval(one, "difference_pair_accuracy", "+"),
                _interval(one, "auc"),
                _interval(one, "difference_auc", "+"),
                _number(one["random_accuracy"]),
                _sees(one.get("sees", "context"), config),
            ]
            for name, one in rows.items()
        ],
    )


def _sees(what: str, config: Config) -> str:
    """What of a listener a row's scores depend on."""
    last = f"last {config.data.length:,} events"
    return {"nothing": "nothing", "context": last, "history": f"all training events, and the {last}"}[what]


def _user_table(rows: Mapping[str, documents.Object]) -> str:
    names = {"user_pair_accuracy": "mean over users", "drawn_pair_accuracy": "one pair a user"}
    return pages.table(
        ["", *names.values()], [[name, *(_interval(one, of) for of in names)] for name, one in rows.items()]
    )


def _counted(values: documents.Object, figure: str) -> str:
    """How many a figure is of, in words."""
    of = values["counts"][figure]
    return figures.counted(of["users"], of.get("pairs"), of["examples"])


def _notes(values: documents.Object) -> list[str]:
    """What a reader should know before the figures: few users, and training that sees the test's future."""
    found: list[str] = []
    users = values["counts"]["pair_accuracy"]["users"]
    if 0 < users < FEW:
        found.append(
            f"**{figures.counted(users)}** with a pair: an interval over so few is rough, and of one there is none."
        )
    if later := values["later_training_share"]:
        found.append(
            f"{later:.1%} of the training events come after the median test event, so that what training knows of an "
            "item includes its future. A split by time (`jaxneg prepare --split time`) leaves none."
        )
    return found


def _ranking_table(rows: Mapping[str, documents.Object], k: int) -> str:
    columns = {
        f"HR@{k}": f"hit_rate@{k}",
        f"ΔHR@{k}": f"delta_hit_rate@{k}",
        f"NDCG@{k}": f"ndcg@{k}",
        f"ΔNDCG@{k}": f"delta_ndcg@{k}",
        f"MAP@{measures.CUT}": f"map@{measures.CUT}",
        "MRR liked": "mrr_positive",
        "MRR disliked": "mrr_negative",
        f"Gini@{k}": f"gini@{k}",
        f"coverage@{k}": f"item_coverage@{k}",
    }
    return _figure_table(rows, columns)


def _unseen_table(rows: Mapping[str, documents.Object]) -> str:
    cut = measures.CUT
    columns = {f"MRR@{cut} {kind}": f"unseen_{kind}_mrr@{cut}" for kind in ("liked", "disliked")}
    columns |= {f"log rank {kind}": f"unseen_{kind}_log_rank" for kind in ("liked", "disliked")}
    return _figure_table(rows, columns)


def _next_text(values: documents.Object, config: Config) -> str:
    text = "Hit rates of the next liked item alone, among the whole catalogue"
    if not config.eval.released:
        return f"{text}."
    return (
        f"{text}, and as the released code of Seshadri and Knees takes them: among the next liked items of the "
        f"{config.eval.released_batch} examples in a row and {config.eval.released:,} random items, "
        f"{values['released_candidates'] or 0:,.0f} candidates on average."
    )


def _next_table(rows: Mapping[str, documents.Object], config: Config) -> str:
    ks = sorted(config.eval.ks)
    columns = {f"HR@{k}": f"next_hit_rate@{k}" for k in ks}
    if config.eval.released:
        columns |= {f"HR@{k}, released": f"released_hit_rate@{k}" for k in ks}
    return _figure_table(rows, columns)


def _figure_table(rows: Mapping[str, documents.Object], columns: Mapping[str, str]) -> str:
    return pages.table(
        ["", *columns],
        [[name, *(_number(one.get(figure)) for figure in columns.values())] for name, one in rows.items()],
    )


def _coverage_parts(coverage: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """What is left of users and examples where a model takes fewer kinds of feedback as inputs."""
    if not coverage:
        return []
    columns = [f"{of}_{n}" for of in ("users", "examples") for n in (1, measures.ENOUGH)]
    head = ["inputs", *(f"{column.replace('_', ', ')} or more" for column in columns)]
    rows = [[name, *(_number(one[column]) for column in columns)] for name, one in coverage.items()]
    return [
        "Share of all users with so many events of these kinds in the training window, and of held-out examples with "
        "so many before them: whom a model with these inputs can serve.",
        pages.table(head, rows),
    ]


def _feedback_parts(runs: Mapping[str, documents.Object], titles: Mapping[str, str]) -> list[str]:
    """The section on what feedback means to a model; nothing where no run takes it as input."""
    cosines = {
        (name, table): (one["probes"]["feedback_cosines"]["kinds"], matrix)
        for name, one in runs.items()
        for table, matrix in one["probes"].get("feedback_cosines", {}).items()
        if table != "kinds"
    }
    moved = {
        name: one["probes"]["responsiveness"]
        for name, one in runs.items()
        if "responsiveness" in one["probes"]
    }
    moved = {name: one for name, one in moved.items() if one["examples"]}
    parts: list[str] = []
    if cosines:
        parts += [
            "## What feedback means to the model",
            "Cosines between the learned rows of feedback kinds: those added to the input, and those of the gate that "
            "scales an item's row, which starts at +1 for likes and -1 for dislikes. Mei et al. (2024) found 0.82 "
            "between skips and thumbs-down, 0.16 between skips and thumbs-up.",
            _cosine_table(cosines),
            _image(titles, "feedback.png"),
        ]
    if moved:
        one = next(iter(moved.values()))
        turned = " or ".join(f"from a {like} into a {dislike}" for like, dislike in one["flip"].items())
        parts += [
            f"How the top {one['top']} of {figures.counted(one['users'], examples=one['examples'])} moves when the "
            "last event turns "
            f"{turned}: the share of it that is similar to that event's item, before and after. Brackets hold 95% "
            "bootstrap intervals over users.".replace("_", " "),
            _responsiveness_table(moved),
        ]
    return parts


def _cosine_table(cosines: Mapping[tuple[str, str], tuple[list[str], list[list[float | None]]]]) -> str:
    pairs = dict.fromkeys(pair for kinds, _ in cosines.values() for pair in itertools.combinations(kinds, 2))
    rows: list[list[str]] = []
    for a, b in pairs:
        row = [f"{a}, {b}".replace("_", " ")]
        for kinds, matrix in cosines.values():
            known = a in kinds and b in kinds
            row.append(_number(matrix[kinds.index(a)][kinds.index(b)], "+") if known else "")
        rows.append(row)
    return pages.table(["", *(f"{name}, {table}" for name, table in cosines)], rows)


def _responsiveness_table(moved: Mapping[str, documents.Object]) -> str:
    names = {
        "attribute": "share of the list with an attribute of the item",
        "row": f"share of the list with a row of cosine above {probes.NEAR:g}",
        "item": "lists that hold the item itself",
    }
    rows = [
        ["items in both lists, of those in either", *(_interval(one, "overlap") for one in moved.values())]
    ]
    for figure, text in names.items():
        if any(figure in one for one in moved.values()):
            of = [one.get(figure, {}) for one in moved.values()]
            ends = ("before", "after")
            rows.append([text, *(" to ".join(_number(one.get(end)) for end in ends) for one in of)])
            rows.append(["its relative change", *(_interval(one, "change", "+") for one in of)])
    return pages.table(["", *moved], rows)


def _band_table(bands: list[documents.Object], k: int) -> str:
    figures = ("auc", "mrr_positive", "mrr_negative", f"gini@{k}")
    return pages.table(
        [
            "share",
            "users",
            "examples",
            "pairs",
            "pair accuracy",
            "AUC",
            "MRR liked",
            "MRR disliked",
            f"Gini@{k}",
        ],
        [
            [
                f"{band['low']:.2f} to {band['high']:.2f}",
                f"{band['users']:,}",
                f"{band['examples']:,}",
                f"{band['pairs']:,}",
                _interval(band, "pair_accuracy"),
                *(_number(band[figure]) for figure in figures),
            ]
            for band in bands
        ],
    )


def _training_table(runs: Mapping[str, documents.Object]) -> str:
    lines: dict[str, Callable[[documents.Object], str]] = {
        "p_hard": lambda one: f"{one['p_hard']:.4g}",
        "share of negatives that were hard": lambda one: _number(one["hard_share"]),
        "share of hard ones that their listener likes elsewhere": lambda one: _number(one["hard_also_liked"]),
        "share of random ones that their listener likes elsewhere": lambda one: _number(
            one["false_negatives"]
        ),
        "converged after epochs": lambda one: _converged(one, "epochs", ".4g"),
        "steps": lambda one: _converged(one, "steps", ",.0f"),
        "sequences": lambda one: _converged(one, "sequences", ",.0f"),
        "seconds of steps": lambda one: _converged(one, "seconds", ".1f"),
        "seconds of compiling": lambda one: _format(one.get("compile_seconds"), ".1f"),
        "epochs trained": lambda one: f"{one['epochs']:.4g} ({one['stopped']})",
        "figure that decided": lambda one: figures.title(one["monitor"]),
        "best validation": lambda one: f"{_number(one['best_validation'])}, epoch {one['best_epoch']:.4g}",
        "last validation": lambda one: f"{_number(one['last_validation'])}, epoch {one['epochs']:.4g}",
    }
    rows = [[name, *(text(one) for one in runs.values())] for name, text in lines.items()]
    return pages.table(["", *runs], rows, numbers=False)


def _converged(one: documents.Object, unit: str, how: str) -> str:
    """A figure of convergence, or that the run has not."""
    if one["epochs_to_convergence"] is None:
        return convergence.short(one) if unit == "epochs" else "not converged"
    return _format(one.get(f"{unit}_to_convergence"), how)


def _format(value: float | int | None, how: str) -> str:
    return "" if value is None else f"{value:{how}}"


def _settings_table(measured: Mapping[str, documents.Object]) -> str:
    rows: list[list[str]] = []
    for name, one in measured.items():
        settings = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        rows.append([name.replace("_", " "), settings or "none"])
    return pages.table(["baseline", "settings"], rows, numbers=False)


def _verdict(values: documents.Object) -> str:
    """Whether the model is above the best baseline and above each run it is compared with."""
    if values["pair_accuracy"] is None:
        return "No example has both a liked and a disliked item, so there is no pair accuracy."
    said = [f"The model puts the liked item first in {_interval(values, 'pair_accuracy')} of pairs."]
    best = values["best_baseline"]
    if best is not None:
        baseline = values["baselines"][best]
        said.append(
            f"The best baseline by AUC on validation, {best.replace('_', ' ')}, does in "
            f"{_number(baseline['pair_accuracy'])}: "
            f"the model is {_against(baseline)}."
        )
    for name, one in values["runs"].items():
        said.append(f"Run {name} does in {_number(one['pair_accuracy'])}: the model is {_against(one)}.")
    if values["runs"]:
        trained = {"the model": values} | values["runs"]
        said.append(f"Trained: {'; '.join(f'{n}, {convergence.short(one)}' for n, one in trained.items())}.")
    return " ".join(said)


def _against(other: documents.Object) -> str:
    low, high = other["difference_pair_accuracy_low"], other["difference_pair_accuracy_high"]
    if other["difference_pair_accuracy"] is None:
        return "not compared with it, as they share no pair"
    return f"**{figures.apart(low, high)}** it, by {_interval(other, 'difference_pair_accuracy', '+')}"


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _interval(values: documents.Object, name: str, sign: str = "") -> str:
    """A figure with its interval, "0.8123 [0.8001, 0.8240]"; empty where there is none."""
    if values.get(name) is None:
        return ""
    text = _number(values[name], sign)
    spread: Mapping[str, float] = values.get("sd") or {}
    if (sd := spread.get(name)) is not None:
        text += f" ± {_number(sd)}"
    if values.get(f"{name}_low") is None:  # of one user
        return text
    return f"{text} [{_number(values[f'{name}_low'], sign)}, {_number(values[f'{name}_high'], sign)}]"


def _image(titles: Mapping[str, str], name: str) -> str:
    return pages.image(titles[name], f"plots/{name}") if name in titles else ""
