"""The model card of an export: what the model is, what it learned from, how good it is, how to ask it."""

import dataclasses
import datetime
import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from jaxneg.files import documents
from jaxneg.training import runs

MEASURED = (
    ("pair_accuracy", "pair accuracy: the liked of a liked and a disliked item is put first"),
    ("auc", "AUC over all such pairs"),
    ("ndcg", "NDCG@10 of liked items in the whole catalogue"),
)
ABOUT = {
    "model.stablehlo": "the query, for jax",
    "params.safetensors": "its parameters",
    "query.onnx": "the query, for onnxruntime",
    "scores.onnx": "scores of candidates, for onnxruntime",
    "top_k.onnx": "the best items, for onnxruntime",
    "item_embeddings.npy": "a row for each item; row 0 pads",
    "item_scales.npy": "scale and bias of each row",
    "like_embeddings.npy": "the same for what is liked if it is shown",
    "like_scales.npy": "scale and bias of each row",
    "items.parquet": "vocabulary: row and item id, and attributes",
    "stations.parquet": "vocabulary: row and station id",
}


def commit() -> str | None:
    """The commit of the working directory; None outside of git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def text(trained: runs.Trained, manifest: Mapping[str, Any], run: pathlib.Path | None) -> str:
    """The card as Markdown.

    Args:
      trained: the model.
      manifest: of its export.
      run: its directory, with report.json where it was evaluated.
    """
    config, data = trained.config, trained.store.metadata
    parts = [
        "---\nlibrary_name: jaxneg\ntags:\n- recommender-systems\n- sequential-recommendation\n---",
        f"# {config.model.encoder} for the next song",
        f"Learned from {len(trained.store.item_T):,} events of {trained.store.users:,} users, with "
        f"their rejections, to rank {manifest['items']:,} items. Exported by jaxneg {manifest['jaxneg']}"
        f" from {manifest['source']['run'] or 'a run'} at step {manifest['best_step']:,}"
        + (f", git commit {manifest['source']['git']}." if manifest["source"]["git"] else "."),
        "## Figures",
        _figures(manifest, run),
        "## Data",
        _data(data),
        "## Files",
        _table(("file", "what"), [(name, ABOUT.get(name, "an index")) for name in sorted(manifest["files"])]),
        "## Use",
        "`jaxneg recommend DIR --items ID ID`, or without jaxneg as the guide for serving engineers says. Inputs and "
        "results of each graph stand under `signature` of manifest.json: histories are oldest first and padded on "
        f"the right, {manifest['length']} events long.",
        "## Config",
        f"```json\n{json.dumps(dataclasses.asdict(config), indent=1, default=str)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(manifest: Mapping[str, Any], run: pathlib.Path | None) -> str:
    ((name, score),) = manifest["validation"].items()
    lines = [f"On validation {name} is {_number(score)}, by which this step was chosen."]
    path = run / "report.json" if run else None
    if path and path.is_file():
        report: Mapping[str, Any] = documents.read(path, dict, "jaxneg evaluate again", seal=False)
        rows = [
            (
                said,
                f"{_number(report[name])} [{_number(report[f'{name}_low'])}, {_number(report[f'{name}_high'])}]",
            )
            for name, said in MEASURED
            if isinstance(report.get(f"{name}_low"), float)
        ]
        lines += [
            f"On the {report.get('split', 'test')} split, with 95% intervals over users:",
            _table(("", ""), rows),
        ]
    else:
        lines.append("It was not evaluated: jaxneg evaluate measures it beside baselines.")
    if found := manifest.get("ranking"):
        lines.append(f"{manifest['dtype']} rows keep {_kept(found)}.")
    if found := manifest.get("index"):
        lines.append(f"The index by {found['library']} finds {_kept(found)}.")
    return "\n\n".join(lines)


def _kept(found: Mapping[str, Any]) -> str:
    return f"{found['recall']:.2%} of the best {found['k']} over {found['contexts']:,} {found['of']} contexts"


def _data(data: Any) -> str:
    split = data.split
    rows = [(name, f"{sum(kinds.values()):,}") for name, kinds in data.feedback.items()]
    window = ", ".join(f"{name} {_when(name, value)}" for name, value in split.items())
    return f"{data.reader or 'table'} `{pathlib.PurePath(data.source).name}`; split: {window}.\n\n" + _table(
        ("events", ""), rows
    )


def _when(name: str, value: Any) -> str:
    if name.endswith("_from") and isinstance(value, int):
        return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(value)


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"| {a} | {b} |" for a, b in (head, ("---", "---"), *rows))
