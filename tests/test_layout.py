"""Who may import whom: a zone imports from lower zones only, and the modules of the package know no circle."""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxneg"

# Zones of a level do not know each other, unless KNOWN says so.
LEVELS = [
    {"errors", "figures", "pages", "signals", "batch", "progress", "shown", "files"},
    {"config", "callbacks"},
    {"data", "models", "metrics", "embeddings", "baselines"},
    {"training"},
    {"evaluation"},
    {"serve", "sweep", "plan", "simulation"},
    {"api"},
    # The package's own file hands on what api has: only what stands above may import it.
    {"jaxneg"},
    {"cli"},
    {"__main__"},
]
KNOWN = {
    ("files", "errors"),  # what is wrong with a file is a person's to mend
    ("progress", "errors"),  # and what a person is told calls paths by their names
    ("batch", "errors"),  # and what is wrong with a request
    ("baselines", "data"),  # they are fitted to a store's training events
    ("embeddings", "metrics"),  # ranks by scores in one place are the metrics' own
    ("simulation", "serve"),  # exports choose songs for simulated listeners
    ("__main__", "cli"),
    ("__main__", "signals"),
}
ALONE = ("jaxneg.training.losses", "jaxneg.metrics", "jaxneg.training.checkpoint", "jaxneg.training.logs")
SHARED = {"jaxneg.errors", "jaxneg.files", "jaxneg.files.documents"}  # what they may import of ours
WITHOUT_JAX = ("data", "baselines", "files", "metrics")
LINES = 400


def imports(path):
    """Modules that a file imports: ours in full, of others what stands before the first dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (_shown(alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield _shown(f"{node.module}.{alias.name}" if module else node.module)


def _shown(module):
    return module if module.split(".")[0] == "jaxneg" else module.split(".")[0]


def name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def zone(module):
    return module.split(".")[1] if "." in module else module


MODULES = {name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
OURS = {module: {other for other in imports(path) if other in MODULES} for module, path in MODULES.items()}


def test_ls_tells_what_the_library_does():
    assert {zone(module) for module in MODULES} == set().union(*LEVELS)
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_a_zone_imports_from_lower_zones_only():
    level = {one: number for number, zones in enumerate(LEVELS) for one in zones}
    wrong = [
        f"{module} imports {other}"
        for module, others in OURS.items()
        for other in others
        if zone(module) != zone(other)
        and level[zone(other)] >= level[zone(module)]
        and (zone(module), zone(other)) not in KNOWN
    ]
    assert not wrong


def test_zones_and_modules_know_no_circle():
    zones = {}
    for module, others in OURS.items():
        zones.setdefault(zone(module), set()).update(map(zone, others))
    for graph in (OURS, zones):
        floors = {}

        def floor(one, above=(), graph=graph, floors=floors):
            assert one not in above, " -> ".join([*above, one])
            if one not in floors:
                below = [floor(other, (*above, one)) for other in graph.get(one, ()) if other != one]
                floors[one] = 1 + max(below, default=-1)
            return floors[one]

        # The package's own file names what is above for type checkers alone; tests/api/test_names.py holds it.
        assert max(floor(one) for one in graph if one != "jaxneg" or graph is zones) < 20
    assert max(floors.values()) <= 9 and len(floors) <= 25


def test_losses_metrics_checkpoint_and_logs_stand_alone():
    for module in ALONE:
        others = set(OURS[module])
        inside = {other for other in others if other.startswith(f"{module}.")}
        assert others - inside <= SHARED, module
        assert all(OURS[other] <= SHARED for other in inside), module


def test_data_and_models_meet_in_batch_only():
    for module, others in OURS.items():
        apart = {"data": "models", "models": "data"}.get(zone(module))
        assert apart not in set(map(zone, others)), module


def test_the_host_needs_no_jax():
    for module, path in MODULES.items():
        if zone(module) in WITHOUT_JAX:
            assert not {"jax", "jaxlib", "flax", "optax"} & set(imports(path)), module


SPINE = ("training", "embeddings", "models")
FLOW = ("data.pipeline", "data.gathering", "data.sequences", "data.negatives", "data.packing", "data.audit")
ARGUMENTS = 6


def test_functions_of_the_spine_take_at_most_six_arguments_all_annotated():
    wide, bare = [], []
    for module, path in MODULES.items():
        if zone(module) not in SPINE and module.removeprefix("jaxneg.") not in FLOW:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            their = node.args
            named = [*their.posonlyargs, *their.args, *their.kwonlyargs]
            named = [one for one in named if one.arg not in ("self", "cls")]
            rest = [one for one in (their.vararg, their.kwarg) if one is not None]
            where = f"{module}, line {node.lineno}: {node.name}"
            wide += [where] * (len(named) > ARGUMENTS)
            bare += [f"{where}({one.arg})" for one in (*named, *rest) if one.annotation is None]
            bare += [where] * (node.returns is None and node.name != "__init__")
    assert not wide and not bare


def test_nothing_outside_embeddings_asks_whether_tables_are_whole():
    asked = re.compile(
        r"layout is|layouts\.Sharded|Looked\b(?!``)|isinstance\(.*Whole|\bif (not )?[\w.]*layout\b"
    )
    found = [
        f"{module}: {line.strip()}"
        for module, path in MODULES.items()
        if zone(module) in ("training", "evaluation", "serve", "sweep", "plan", "simulation", "api", "cli")
        for line in path.read_text().splitlines()
        if asked.search(line)
    ]
    assert not found


def test_listing_runs_needs_no_jax():
    reached, waiting = set(), ["jaxneg.training.records"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        assert not {"jax", "jaxlib", "flax", "optax", "orbax", "ibis"} & set(imports(MODULES[module])), module
        waiting += OURS[module] - reached
    assert "jaxneg.training.runs" not in OURS["jaxneg.cli.runs"]


def test_a_file_is_short_enough_to_be_read():
    lines = {name(path): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert not {module: count for module, count in lines.items() if count > LINES}


def test_what_is_typed_is_not_let_go():
    strict = ("training", "embeddings", "evaluation")
    for module, path in MODULES.items():
        text = path.read_text()
        if zone(module) == "cli":
            assert not re.search(r"\bAny\b", text), module
        if zone(module) in strict:
            let_go = set(re.findall(r"# (?:pyright|type):.*", text))
            assert let_go <= {"# pyright: reportUnknownMemberType=false"}, module
