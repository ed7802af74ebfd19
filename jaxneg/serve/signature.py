"""What the graphs of an export take and give."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

HISTORY = ("item", "feedback", "station")  # inputs of every graph


class Tensor(TypedDict):
    """An input or a result; text among the dimensions names what has any length."""

    name: str
    dtype: Literal["int32", "float32"]
    shape: list[int | str]
    what: str


class Graph(TypedDict):
    inputs: list[Tensor]
    outputs: list[Tensor]


def of(length: int, width: int, *, likes: bool) -> dict[str, Graph]:
    """The graphs of an export: what they take and give.

    Args:
      length: of a history, L.
      width: of a query, E.
      likes: whether there is a like head.
    """

    def tensor(name: str, dtype: Any, shape: Sequence[int | str], what: str) -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=["batch", *shape], what=what)

    history = [
        tensor("item", "int32", [length], "rows of items.parquet, oldest first; 0 on the right of the last"),
        tensor("feedback", "int32", [length], "codes by feedback of the manifest; 0 where there is no item"),
        tensor("station", "int32", [length], "rows of stations.parquet; 0 for none"),
    ]
    some = tensor("candidates", "int32", ["candidates"], "rows of items.parquet")
    heads = [tensor("scores", "float32", ["candidates"], "what is listened to next; higher is better")]
    wanted = [tensor("k", "int32", [1], "how many; the largest of the batch counts")]
    if likes:
        heads.append(tensor("likes", "float32", ["candidates"], "log odds of a like of what is shown"))
        wanted.append(tensor("beta", "float32", [1], "weight of likes in the scores; 0 ranks"))
    best = [
        tensor("rows", "int32", ["k"], "of the best items, best first"),
        tensor("scores", "float32", ["k"], "of these"),
    ]
    return {
        "query": {"inputs": history, "outputs": [tensor("query", "float32", [width], "of the listener")]},
        "scores": {"inputs": [*history, some], "outputs": heads},
        "top_k": {"inputs": [*history, *wanted], "outputs": best},
    }
