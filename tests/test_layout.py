"""Who may import whom: a file imports from lower levels only."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxneg"

LEVELS = {
    "jaxneg": 0,
    "jaxneg.errors": 0,
    "jaxneg.figures": 0,
    "jaxneg.convergence": 0,
    "jaxneg.files": 0.1,
    "jaxneg.locks": 0.2,
    "jaxneg.fields": 0.2,
    "jaxneg.experiments": 0.1,
    "jaxneg.signals": 0,
    "jaxneg.config": 0.3,
    "jaxneg.batch": 0,
    "jaxneg.console": 0,
    "jaxneg.documents": 0.1,
    "jaxneg.arrays": 0.1,
    "jaxneg.data": 0,
    "jaxneg.data.staging": 0.7,
    "jaxneg.data.spark": 0.8,
    "jaxneg.data.engine": 0.9,
    "jaxneg.data.events": 1,
    "jaxneg.data.sessions": 1,
    "jaxneg.data.sources": 0.91,
    "jaxneg.data.heads": 0.92,
    "jaxneg.data.scans": 1,
    "jaxneg.data.quotes": 1.01,
    "jaxneg.data.columns": 1.02,
    "jaxneg.data.times": 1.03,
    "jaxneg.data.split": 1,
    "jaxneg.data.listeners": 1,
    "jaxneg.data.simulate": 1.1,
    "jaxneg.data.visits": 1.2,
    "jaxneg.data.order": 1,
    "jaxneg.data.checks": 0.9,
    "jaxneg.data.store": 1,
    "jaxneg.data.readers": 1.1,  # and each file in it
    "jaxneg.data.assemble": 1.1,
    "jaxneg.data.inspect": 1.15,
    "jaxneg.data.draws": 0,
    "jaxneg.data.fields": 1,
    "jaxneg.data.histories": 1.05,
    "jaxneg.data.opinions": 1.05,
    "jaxneg.data.negatives": 1.1,
    "jaxneg.data.expected": 1.15,
    "jaxneg.data.packing": 1.1,
    "jaxneg.data.prepare": 1.2,
    "jaxneg.data.pipeline": 1.2,
    "jaxneg.data.biases": 1.3,
    "jaxneg.data.evaluation": 1.3,
    "jaxneg.models.layers": 1,
    "jaxneg.models.baselines": 1,
    "jaxneg.models.factorisations": 1.1,
    "jaxneg.models.inputs": 1.1,
    "jaxneg.models.sasrec": 1.1,
    "jaxneg.models.gru4rec": 1.1,
    "jaxneg.models.caser": 1.1,
    "jaxneg.models.ligr": 1.1,
    "jaxneg.models.bert4rec": 1.2,
    "jaxneg.models": 1.3,
    "jaxneg.grid": 1,
    "jaxneg.losses": 1,
    "jaxneg.metrics": 1,
    "jaxneg.optim": 1,
    "jaxneg.checkpoint": 1,
    "jaxneg.logs": 1,
    "jaxneg.plots": 1,
    "jaxneg.sweep_plots": 1,
    "jaxneg.workers": 1,
    "jaxneg.cluster": 1,
    "jaxneg.agreement": 1.5,
    "jaxneg.sharding": 1,
    "jaxneg.hlo": 1,
    "jaxneg.slices": 2,
    "jaxneg.routes": 2,
    "jaxneg.tables": 2.1,
    "jaxneg.ranks": 2.2,
    "jaxneg.serve": 0,
    "jaxneg.serve.manifest": 0.9,
    "jaxneg.serve.scorer": 1,
    "jaxneg.released": 1.5,
    "jaxneg.evaluate": 2,
    "jaxneg.sweep_table": 2,
    "jaxneg.probes": 3,
    "jaxneg.markdown": 4,
    "jaxneg.scoring": 2.3,
    "jaxneg.objective": 2.4,
    "jaxneg.step": 3,
    "jaxneg.program": 3.5,
    "jaxneg.run": 4,
    "jaxneg.validation": 4,
    "jaxneg.report": 5,
    "jaxneg.plan": 5,
    "jaxneg.train": 5,
    "jaxneg.serve.export": 5,
    "jaxneg.trial": 2,
    "jaxneg.arms": 6,
    "jaxneg.ab": 6.1,
    "jaxneg.demo": 6,
    "jaxneg.sweep": 6,
    "jaxneg.cli": 7,
    "jaxneg.__main__": 8,
}
READERS = "jaxneg.data.readers"
ALONE = ("jaxneg.losses", "jaxneg.metrics", "jaxneg.checkpoint", "jaxneg.logs")
SHARED = {"jaxneg.errors", "jaxneg.files", "jaxneg.documents"}  # what they may import of ours


def level(module):
    return LEVELS[READERS if module.startswith(READERS) else module]


def imports(path):
    """Modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "jaxneg")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxneg":
            for alias in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if module else node.module


def name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_module_has_a_level():
    modules = {name(path) for path in PACKAGE.rglob("*.py")}
    assert {module for module in modules if not module.startswith(f"{READERS}.")} == set(LEVELS)


def test_files_import_from_lower_levels_only():
    wrong = [
        f"{name(path)} imports {other}"
        for path in PACKAGE.rglob("*.py")
        for other in imports(path)
        if other not in (name(path), "jaxneg")
        and level(other) >= level(name(path))
        and not _sibling(name(path), other)
    ]
    assert not wrong


def _sibling(importer, imported):
    """Files of a package of interchangeable parts may share a base; readers build on the registry's types."""
    return importer.startswith(READERS) and imported.startswith(READERS)


def test_losses_metrics_checkpoint_and_logs_stand_alone():
    used = {name(path): set(imports(path)) - SHARED for path in PACKAGE.rglob("*.py") if name(path) in ALONE}
    assert used == {module: set() for module in ALONE}


def test_data_and_models_meet_in_batch_only():
    for path in PACKAGE.rglob("*.py"):
        if name(path).startswith("jaxneg.data"):
            assert not [other for other in imports(path) if other.startswith("jaxneg.models")], path
            assert "jax" not in [
                alias.name.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            ], path
        if name(path).startswith("jaxneg.models"):
            assert not [other for other in imports(path) if other.startswith("jaxneg.data")], path
