"""What a sweep runs: the grid of options that an experiment file or the command line asks for, as cells."""

import dataclasses
import difflib
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxneg.config import Config, experiments, fields, options, rules, saved
from jaxneg.errors import UserError

Axis = Mapping[str, tuple[str, ...]]  # label of a value -> command-line options
FIGURES = (
    "pair_accuracy",
    "auc",
    "gini@10",
    "mrr_positive",
    "mrr_negative",
    "epochs_to_convergence",
    "seconds_to_convergence",
)
SEEDS = ("data.seed", "train.seed")


@dataclass(frozen=True)
class Sweep:
    """A grid of experiments: every choice of a value per axis, with every seed. What ``get_sweep()`` returns."""

    axes: Mapping[str, Axis]  # by name; see ``over``
    seeds: Annotated[int, fields.Bounds(1, 10_000)] = 3  # seed s adds s to data.seed and train.seed
    figures: tuple[str, ...] = FIGURES  # that table.md and the plots show
    # labels of the cell that others are compared with
    reference: Mapping[str, str] = field(default_factory=dict)


class Cell(NamedTuple):
    """One run of a sweep."""

    labels: tuple[str, ...]
    seed: int
    name: str  # of its directory
    config: Config
    trouble: str | None  # why its settings cannot go together


def over(option: str, *values: Any) -> dict[str, tuple[str, ...]]:
    """An axis of one option: over("--data.p-hard", 0, 0.1) is {"0": ("--data.p-hard", "0"), ...}.

    True and False become --part.name and --part.no-name, a tuple several words.
    """
    axis = {}
    for value in values:
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, float) and value.is_integer() and _is_whole(option):
            value = int(value)
        if isinstance(value, bool):
            part, _, name = option.rpartition(".")
            axis[str(value)] = (option,) if value else (f"{part}.no-{name}",)
        elif isinstance(value, tuple | list):
            axis[" ".join(map(_word, value)) or "none"] = (option, *map(_word, value))
        else:
            axis[_word(value)] = (option, _word(value))
    if len(axis) < len(values):
        raise UserError(f"the axis of {option} has a value twice: {', '.join(map(str, values))}")
    return axis


def _is_whole(option: str) -> bool:
    """Whether an option takes whole numbers."""
    default = _all_fields().get(option.removeprefix("--").replace("-", "_"))
    return isinstance(default, int) and not isinstance(default, bool)


def load(path: str | pathlib.Path) -> Sweep:
    """The sweep that an experiment file's ``get_sweep()`` returns; one without axes if it defines none."""
    with experiments.loaded(path, "a sweep ends in .py and defines get_sweep() -> Sweep") as module:
        made = experiments.called(getattr(module, "get_sweep", lambda: Sweep({})))
        if not isinstance(made, Sweep):
            raise UserError(
                f"get_sweep() in {path} must return a jaxneg.sweep.grids.Sweep, got {type(made).__name__}"
            )
        try:
            return settled(made)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def settled(spec: Sweep) -> Sweep:
    """The sweep with its values as Python may spell them, once they are what a sweep takes."""
    for name, axis in {"axes": spec.axes, "reference": spec.reference, **_named(spec.axes)}.items():
        if not isinstance(axis, Mapping):
            raise UserError(
                f"{name} must be a dict by name, got {type(axis).__name__}; see jaxneg.sweep.grids.over"
            )
    axes = {
        str(name): {str(label): _words(name, label, options) for label, options in axis.items()}
        for name, axis in spec.axes.items()
    }
    reference = {str(name): str(label) for name, label in spec.reference.items()}
    return dataclasses.replace(fields.settled(spec), axes=axes, reference=reference)


def _named(axes: Any) -> dict[str, Any]:
    return {f"axis {name}": axis for name, axis in axes.items()} if isinstance(axes, Mapping) else {}


def _words(name: Any, label: Any, options: Any) -> tuple[str, ...]:
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise UserError(f"axis {name}: {label} must be a tuple of options, as in ('--data.p-hard', '0')")
    return tuple(_word(word) for word in options)


def _word(value: Any) -> str:
    """A value of Python as an option has it: numpy's scalars are Python's, paths are text."""
    return str(value.item() if isinstance(value, np.generic) else value)


def with_axes(spec: Sweep, texts: Sequence[str]) -> Sweep:
    """The sweep with axes as the command line writes them: NAME=V1,V2,... adds or replaces one.

    NAME is a field of the config such as data.p_hard, or p_hard if no other part has one of that name; or an axis of
    the sweep, of which it takes the values named. A value of several words is written with spaces. A reference whose
    value is gone goes too.
    """
    axes = dict(spec.axes)
    for text in texts:
        name, equals, listed = text.partition("=")
        values = listed.split(",")
        if not name or not equals or not listed:
            raise UserError(f"--set {text}: write NAME=V1,V2, as in --set data.p-hard=0,0.4")
        if name in axes and all(value in axes[name] for value in values):
            axes[name] = {value: axes[name][value] for value in values}
            continue
        of = _field(name)
        axis = over(_option(of), *(_value(of, value) for value in values))
        same = [key for key, one in axes.items() if all(_fields(options) == {of} for options in one.values())]
        axes[same[0] if same else _short(of)] = axis
    reference = {name: label for name, label in spec.reference.items() if label in axes.get(name, {label})}
    return dataclasses.replace(spec, axes=axes, reference=reference)


def _all_fields() -> dict[str, Any]:
    """Defaults of all fields of a config by dotted name."""
    parts = dataclasses.asdict(Config())
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def _field(name: str) -> str:
    """The dotted name of a field that --set names. Raises UserError if there is none, or more than one."""
    fields = _all_fields()
    plain = name.removeprefix("--").replace("-", "_")
    found = [plain] if plain in fields else [one for one in fields if one.partition(".")[2] == plain]
    if len(found) > 1:
        raise UserError(f"--set {name}: say which of {', '.join(found)}")
    if not found:
        near = difflib.get_close_matches(plain, [*fields, *(one.partition(".")[2] for one in fields)], 2)
        hint = f"; perhaps you meant {' or '.join(near)}" if near else ""
        raise UserError(f"--set {name}: no option has that name{hint}; jaxneg sweep --help lists the options")
    return found[0]


def _short(of: str) -> str:
    """The last part of a field's name where it tells the field."""
    last = of.partition(".")[2]
    return last if [one.partition(".")[2] for one in _all_fields()].count(last) == 1 else of


def _value(of: str, text: str) -> Any:
    """A value of --set as ``over`` takes it."""
    default = _all_fields()[of]
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"--set {_short(of)}: {text!r} is neither True nor False")
        return text.lower() == "true"
    if isinstance(default, tuple):
        return tuple(text.split())
    if not text:
        raise UserError(f"--set {_short(of)} has an empty value: write V1,V2")
    return text


def _option(of: str) -> str:
    return "--" + of.replace("_", "-")


def _fields(options: Sequence[str]) -> set[str]:
    """Fields that command-line options set."""
    names = (word[2:].partition("=")[0].replace("-", "_") for word in options if word.startswith("--"))
    return {re.sub(r"\.no_", ".", name) if name not in _all_fields() else name for name in names}


def expand(config: Config, spec: Sweep) -> list[Cell]:
    """The cells of a sweep, those of one seed after another's.

    A cell whose settings cannot go together says so. Raises UserError on what is wrong in itself: an option that there
    is not, a value that no cell can have, two axes of one option.
    """
    _check_axes(spec)
    for name, axis in spec.axes.items():
        for label, words in axis.items():
            try:
                options.parse(Config, words, default=config, prog="jaxneg sweep")
            except UserError as error:
                raise UserError(f"{name}={label}: {error}") from error
    combinations = []
    for labels in itertools.product(*spec.axes.values()):
        words = [word for axis, label in zip(spec.axes.values(), labels, strict=True) for word in axis[label]]
        made = options.parse(Config, words, default=config, prog="jaxneg sweep")
        combinations.append((labels, made, _trouble(made)))
    for n, (name, axis) in enumerate(spec.axes.items()):
        for label in axis:
            troubles = [trouble for labels, _, trouble in combinations if labels[n] == label]
            if all(troubles):
                raise UserError(f"{name}={label}: {troubles[0]}")
    if not spec.axes and combinations[0][2]:
        raise UserError(combinations[0][2])
    return [
        Cell(labels, s, _slug(spec.axes, labels, s), _seeded(made, s), trouble)
        for s in range(spec.seeds)
        for labels, made, trouble in combinations
    ]


def _check_axes(spec: Sweep) -> None:
    if spec.seeds < 1:
        raise UserError(f"a sweep needs at least 1 seed, got {spec.seeds}")
    owner: dict[str, str] = {}
    for name, axis in spec.axes.items():
        if not axis:
            raise UserError(f"axis {name} has no values")
        fields = set[str]().union(*map(_fields, axis.values()))
        for of in sorted(fields):
            if of in SEEDS:
                raise UserError(f"axis {name} sets {_option(of)}, which the seeds of a sweep do: use --seeds")
            if of in owner:
                raise UserError(f"axes {owner[of]} and {name} both set {_option(of)}: leave one out")
            owner[of] = name
    for name, label in spec.reference.items():
        if label not in spec.axes.get(name, {}):
            raise UserError(
                f"the reference {name}={label} is no value of this sweep: leave it out or choose another"
            )


def _trouble(config: Config) -> str | None:
    try:
        rules.check(config)
    except UserError as error:
        return str(error)
    return None


def _seeded(config: Config, seed: int) -> Config:
    data = dataclasses.replace(config.data, seed=config.data.seed + seed)
    return dataclasses.replace(
        config, data=data, train=dataclasses.replace(config.train, seed=config.train.seed + seed)
    )


def _slug(axes: Mapping[str, Axis], labels: Sequence[str], seed: int) -> str:
    """The name of a cell's directory: readable, and another for each cell."""

    def plain(text: str) -> str:
        return re.sub(r"[^\w.+-]", "-", text)[:40]

    parts = []
    for name, label in zip(axes, labels, strict=True):
        alike = [one for one in axes[name] if plain(one) == plain(label)]
        number = f"~{alike.index(label)}" if alike.index(label) else ""
        parts.append(f"{plain(name)}={plain(label)}{number}")
    return ",".join([*parts, f"seed={seed}"])


def refuse_swept(before: Config, after: Config, spec: Sweep) -> None:
    """Raises UserError if an option was given that an axis of the sweep sets, and so would say nothing."""
    swept = {
        of: name for name, axis in spec.axes.items() for options in axis.values() for of in _fields(options)
    }
    for change in saved.changes(before, after):
        of = change.field
        if of in swept:
            raise UserError(
                f"{_option(of)} is the axis {swept[of]} of this sweep: use --set {swept[of]}=V1,V2"
            )
