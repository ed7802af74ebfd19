"""Who may import whom: a file imports from lower levels only."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxneg"

LEVELS = {
    "jaxneg": 0,
    "jaxneg.errors": 0,
    "jaxneg.figures": 0,
    "jaxneg.training.convergence": 0,
    "jaxneg.files": 0.1,
    "jaxneg.files.locks": 0.2,
    "jaxneg.config.fields": 0.2,
    "jaxneg.config.experiments": 0.1,
    "jaxneg.signals": 0,
    "jaxneg.config": 0.3,
    "jaxneg.batch": 0,
    "jaxneg.progress": 0,
    "jaxneg.files.documents": 0.1,
    "jaxneg.files.arrays": 0.1,
    "jaxneg.data": 0,
    "jaxneg.data.staging": 0.7,
    "jaxneg.data.spark": 0.8,
    "jaxneg.data.engine": 0.9,
    "jaxneg.data.events": 1,
    "jaxneg.data.sessions": 1,
    "jaxneg.data.sources": 1,
    "jaxneg.data.quotes": 1.01,
    "jaxneg.data.columns": 1.02,
    "jaxneg.data.times": 1.03,
    "jaxneg.data.split": 1,
    "jaxneg.simulation.listeners": 1,
    "jaxneg.simulation.simulator": 1.1,
    "jaxneg.simulation.visits": 1.2,
    "jaxneg.data.orders": 1,
    "jaxneg.data.checks": 0.9,
    "jaxneg.data.stores": 1,
    "jaxneg.data.readers": 1.1,  # and each file in it
    "jaxneg.data.writer": 1.1,
    "jaxneg.data.describe": 1.15,
    "jaxneg.data.draws": 0,
    "jaxneg.data.batch_fields": 1,
    "jaxneg.data.histories": 1.05,
    "jaxneg.data.opinions": 1.05,
    "jaxneg.data.negatives": 1.1,
    "jaxneg.data.expected": 1.15,
    "jaxneg.data.packing": 1.1,
    "jaxneg.data.prepare": 1.2,
    "jaxneg.data.pipeline": 1.2,
    "jaxneg.data.biases": 1.3,
    "jaxneg.data.held_out": 1.3,
    "jaxneg.models.layers": 1,
    "jaxneg.baselines.counting": 1,
    "jaxneg.baselines.factorisations": 1.1,
    "jaxneg.models.inputs": 1.1,
    "jaxneg.models.sasrec": 1.1,
    "jaxneg.models.gru4rec": 1.1,
    "jaxneg.models.caser": 1.1,
    "jaxneg.models.ligr": 1.1,
    "jaxneg.models.bert4rec": 1.2,
    "jaxneg.models": 1.3,
    "jaxneg.sweep.grids": 1,
    "jaxneg.training.losses": 1,
    "jaxneg.metrics": 1,
    "jaxneg.training.optim": 1,
    "jaxneg.training.checkpoint": 1,
    "jaxneg.training.logs": 1,
    "jaxneg.evaluation.plots": 1,
    "jaxneg.sweep.runner.plots": 1,
    "jaxneg.sweep.runner.workers": 1,
    "jaxneg.training.processes": 1,
    "jaxneg.training.agreement": 1.5,
    "jaxneg.embeddings.sharding": 1,
    "jaxneg.plan.hlo": 1,
    "jaxneg.plan.estimate.tpu": 2,
    "jaxneg.embeddings.exchange": 2,
    "jaxneg.embeddings.tables": 2.1,
    "jaxneg.embeddings.topk": 2.2,
    "jaxneg.serve": 0,
    "jaxneg.serve.manifest": 0.9,
    "jaxneg.serve.scorer": 1,
    "jaxneg.metrics.released": 1.5,
    "jaxneg.metrics.measures": 2,
    "jaxneg.sweep.runner.table": 2,
    "jaxneg.evaluation.probes": 3,
    "jaxneg.evaluation.page": 4,
    "jaxneg.training.scoring": 2.3,
    "jaxneg.training.objective": 2.4,
    "jaxneg.training.steps": 3,
    "jaxneg.training.program": 3.5,
    "jaxneg.training.runs": 4,
    "jaxneg.training.validation": 4,
    "jaxneg.evaluation.report": 5,
    "jaxneg.plan.estimate": 5,
    "jaxneg.training.loop": 5,
    "jaxneg.serve.export": 5,
    "jaxneg.simulation.trials": 2,
    "jaxneg.simulation.policies": 6,
    "jaxneg.simulation.ab_test": 6.1,
    "jaxneg.cli.demo": 6,
    "jaxneg.sweep.runner": 6,
    "jaxneg.cli": 7,
    "jaxneg.__main__": 8,
}
READERS = "jaxneg.data.readers"
ALONE = ("jaxneg.training.losses", "jaxneg.metrics", "jaxneg.training.checkpoint", "jaxneg.training.logs")
SHARED = {"jaxneg.errors", "jaxneg.files", "jaxneg.files.documents"}  # what they may import of ours


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
