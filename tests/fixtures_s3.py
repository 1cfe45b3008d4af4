"""A real S3 server (SeaweedFS) for tests: one process for the whole session, on free ports of this machine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "tester", "not-a-secret-but-must-never-be-printed"
_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
_SERVICES = ("s3", "master", "volume", "filer", "admin")
_PORT_OPTIONS = [f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc")]


class S3Server:
    """A SeaweedFS server: `start`, `stop` and `kill` keep its data and its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = _free_ports(len(_PORT_OPTIONS))
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        config = {"identities": [{"name": "admin", "credentials": [identity], "actions": _ACTIONS}]}
        (folder / "s3.json").write_text(json.dumps(config))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def environment(self) -> dict[str, str]:
        """Return the AWS_* variables a user would set."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """Return a boto3 client with the administrator's keys."""
        import boto3

        return boto3.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )

    def bucket(self, name: str) -> str:
        """Create a bucket and return its URI, `s3://name`."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def start(self) -> None:
        """Start the server and wait until it takes a bucket and an object."""
        weed = shutil.which("weed") or str(Path(sys.executable).parent / "weed")
        fixed = "-ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false"
        safety = "-volume.preStopSeconds=0 -s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false"
        # Every bucket takes volumes of its own; by default there are as many as the disk has free GiB.
        safety += " -master.volumeSizeLimitMB=128 -volume.max=1000"
        ports = [f"-{option}={port}" for option, port in zip(_PORT_OPTIONS, self.ports, strict=True)]
        places = [f"-dir={self.folder}/data", f"-s3.config={self.folder}/s3.json"]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                [weed, f"-logdir={self.folder}", "mini", *places, *fixed.split(), *safety.split(), *ports],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "GOMEMLIMIT": "300MiB", "TMPDIR": str(self.folder)},
            )
        self._wait_until_ready(timeout_s=60)

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                client = self.client()
                with contextlib.suppress(
                    client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
                ):
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except Exception as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS did not start: {error}\n{log}") from error
                time.sleep(0.2)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End the server; its data stays for the next `start`."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal_number)
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End the server as a power cut would."""
        self.stop(signal.SIGKILL)


def _free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Return a running S3 server for the whole session."""
    folder = Path(tempfile.mkdtemp(prefix="seaweedfs-", dir="/tmp"))  # short: it holds unix sockets
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return the running server, with this process's AWS_* variables pointing at it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server
