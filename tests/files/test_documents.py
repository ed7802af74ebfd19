"""What is asked to be a document and is none."""

import os
import pathlib
import threading

import pytest

from jaxneg.data import stores
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.training import logs


@pytest.mark.parametrize("name", ["metadata.json", "metrics.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    said = []

    def read():
        try:
            said.append(logs.read(tmp_path) if name == "metrics.jsonl" else stores.Store.open(tmp_path))
        except UserError as error:
            said.append(str(error))

    waiting = threading.Thread(target=read, daemon=True)
    waiting.start()
    waiting.join(timeout=20)
    assert said and isinstance(said[0], str) and "\n" not in said[0]


def test_what_is_larger_than_a_document_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b" " * 11)
    assert documents.content(path, 11) == b" " * 11
    with pytest.raises(documents.Wrong, match="more than 10 bytes"):
        documents.content(path, 10)
    with pytest.raises(documents.Wrong, match="it is no file"):
        documents.content(pathlib.Path("/dev/zero"))
