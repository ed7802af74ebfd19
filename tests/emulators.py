"""Services of buckets on this machine, each in a process of its own: moto's server for S3, another one for GCS.

A file of its own, for tests and benchmarks alike: python emulators.py s3|gs PORT serves until it is ended.
"""

import base64
import contextlib
import email.message
import email.parser
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

BUCKET = "bucket"


@contextlib.contextmanager
def running(scheme: str) -> Iterator[int]:
    """The port of a service that has one bucket, empty and called BUCKET."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(pathlib.Path(__file__)), scheme, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield port
        finally:
            process.kill()


def settings(scheme: str, port: int) -> dict[str, str]:
    """Variables of the environment of whoever speaks to it."""
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **keys}


def _serve_s3(port: int) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    os.environ.update(settings("s3", port))
    boto3.client("s3").create_bucket(Bucket=BUCKET)


class _Whole(email.parser.BytesParser):
    """Takes an object as it was sent: the standard library drops a carriage return before the boundary."""

    def parsebytes(self, text: bytes, headersonly: bool = False) -> email.message.Message:
        message = super().parsebytes(text, headersonly)
        if message.get_content_type() == "multipart/related":
            boundary = f"\n--{message.get_boundary()}".encode()
            # Opened by a boundary, what is said of the object, another boundary, and a head before its bytes.
            _, _, last = text.rpartition(boundary)[0].split(boundary, 2)[2].partition(b"\n\n")
            part: Any = message.get_payload()[-1]
            part["Content-Transfer-Encoding"] = "base64"
            part.set_payload(base64.b64encode(last).decode())
        return message


def _serve_gs(port: int) -> None:
    from gcp_storage_emulator import server

    server.BytesParser = _Whole
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET).start()


if __name__ == "__main__":
    (_serve_s3 if sys.argv[1] == "s3" else _serve_gs)(int(sys.argv[2]))
    print("ready", flush=True)
    while True:
        time.sleep(60)
