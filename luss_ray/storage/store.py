"""Store clients (local disk and S3 behind one interface), and their failures told in one line without secrets."""

import contextlib
import functools
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from luss_ray.core.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_TIMEOUT_S, _PATIENCE_S = 180.0, 600.0
_RETRIES: "RetryConfig" = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
    "retry_timeout": timedelta(seconds=_TIMEOUT_S),
}
_PATIENT_RETRIES: "RetryConfig" = {**_RETRIES, "max_retries": 1000, "retry_timeout": timedelta(seconds=_PATIENCE_S)}
_TIMEOUTS: "ClientConfig" = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "15m"}

_retries = _RETRIES
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")

_ADVICE = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or a role), "
    "and AWS_ENDPOINT_URL for a store other than Amazon's"
)
_NOT_A_FOLDER = "20"
_OS_ERRORS = {
    "13": "permission denied; choose a folder you may write to",
    _NOT_A_FOLDER: "a part of its path is a file, not a folder",
    "21": "it is a folder, not a file",
    "27": "the file size limit was reached; raise it (ulimit -f) and run again",
    "28": "no space left on device; free some space and run again",
    "30": "the file system is read-only",
    "36": "the name is too long",
    "122": "the disk quota is used up; free some space and run again",
}

_TOO_SHORT = "ends before the bytes asked for"
_BAD_NAME = "Could not parse path"

_NO_ANSWER = "the request failed or timed out; check the network and AWS_ENDPOINT_URL"
_LONGEST_PAUSE_S = 10.0


class CutOffError(UserError):
    """The connection ended in the middle of a request: it may have been carried out, or not."""


class Patience:
    """How long a request that is cut off again and again is repeated.

    obstore goes on by itself when there is no connection, or when a read is cut off. It does not where what was cut
    off may have been done already, such as a conditional write or a deletion, nor within the answer to a listing.
    """

    def __init__(self) -> None:
        self._ends = time.monotonic() + (_PATIENCE_S if _retries is _PATIENT_RETRIES else _TIMEOUT_S)
        self._pause_s = 0.1

    def wait(self, error: CutOffError) -> None:
        """Pause before the next attempt, longer each time; raise the error when it has gone on for too long."""
        if time.monotonic() > self._ends:
            raise error
        time.sleep(random.uniform(0, self._pause_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def persevering(request: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Make a function that may as well be called twice try again when it was cut off."""

    @functools.wraps(request)
    def again_and_again(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        patience = Patience()
        while True:
            try:
                return request(*args, **kwargs)
            except CutOffError as error:
                patience.wait(error)

    return again_and_again


def check_credentials(uri: str) -> None:
    """Return when there are credentials for S3 in the environment, a profile or a role.

    Args:
        uri: what they are needed for, for the message.

    Raises:
        UserError: there are none; the message names the variables to set.
    """
    if not _static_credentials() and _session_credentials(_environment()) is None:
        raise UserError(f"no credentials for {uri}: {_ADVICE}")


def be_patient() -> None:
    """From now on let this process wait ten minutes for an S3 store that is away, instead of three.

    A program's first look at a store should fail soon, since its address may be wrong; what is under way should not.
    """
    global _retries  # noqa: PLW0603 (a property of the process, as its environment is)
    _retries = _PATIENT_RETRIES


def open_store(bucket: str) -> LocalStore | S3Store:
    """Return the client for a bucket, or for local disk when `bucket` is empty; one per process and environment."""
    return _open_s3(bucket, _environment(), _retries is _PATIENT_RETRIES) if bucket else _open_local()


@contextlib.contextmanager
def one_line_errors(uri: str, doing: str) -> Iterator[None]:
    """Return a context in which a store's failures become one line that names the URI and the remedy.

    What the store itself said is left out unless it is known to be harmless: answers may repeat request headers.

    Args:
        uri: the object or folder concerned.
        doing: "read", "write", "list" or "delete".

    Raises:
        FileNotFoundError: the object does not exist.
        EOFError: the object ends before the bytes asked for.
        CutOffError: the connection ended before the answer did.
        UserError: anything else, such as a full disk, a refused request or a bucket that does not exist.
    """
    try:
        yield
    except AlreadyExistsError:
        raise
    except (InvalidPathError, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith(_BAD_NAME):
            raise
        raise UserError(f"cannot {doing} {uri}: {_misnamed(str(error))}") from None
    except (BaseError, OSError) as error:
        reason = _reason(error, uri)
        if reason is None or (doing == "read" and reason == _OS_ERRORS[_NOT_A_FOLDER]):
            raise FileNotFoundError(f"{uri} does not exist") from None
        if reason == _TOO_SHORT:
            raise EOFError(f"{uri} {_TOO_SHORT}") from None
        kind = CutOffError if reason == _NO_ANSWER else UserError
        raise kind(f"cannot {doing} {uri}: {reason}") from None


def _misnamed(text: str) -> str:
    name = re.search(r'Path "(.*?)"(?::| contained)', text, re.DOTALL)
    named = f": rename {name[1]!r}" if name else ""
    return f"a name has characters that are not kept (control characters, an empty part, not UTF-8){named}"


def _reason(error: Exception, uri: str) -> str | None:
    text = str(error)
    if "NoSuchBucket" in text:
        return "the bucket does not exist; create it, or check the URI and AWS_ENDPOINT_URL"
    if isinstance(error, FileNotFoundError):
        return None
    if number := re.search(r"os error (\d+)\)", text):
        return _OS_ERRORS.get(number[1], f"the system says: {os.strerror(int(number[1])).lower()}")
    if "416 Range Not Satisfiable" in text or re.search(r"range .* (start|end) .*beyond|[Rr]equested range", text):
        return _TOO_SHORT
    if isinstance(error, OSError) and error.errno is not None:
        return _OS_ERRORS.get(str(error.errno), f"the system says: {os.strerror(error.errno).lower()}")
    return _s3_reason(error, text) if uri.startswith("s3://") else f"the system says: {text.splitlines()[0]}"


def _s3_reason(error: Exception, text: str) -> str:
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d{3})", text)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if refused or (status is not None and status[1] in ("401", "403")):
        return f"access refused ({code[1] if code else 'no permission'}); {_ADVICE}"
    if status is not None:
        return f"the store answered {status[1]}{f' ({code[1]})' if code else ''}"
    if "incorrectly configured region" in text:
        return "the bucket is in another region; set AWS_REGION"
    if "kind: Connect," in text:
        return f"no connection to {_endpoint() or 'Amazon S3'}; check the network and AWS_ENDPOINT_URL"
    return _NO_ANSWER


def _environment() -> str:
    """Return a fingerprint of the AWS variables: clients are kept per environment, and keys stay out of the cache."""
    variables = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return hashlib.sha256(repr(variables).encode()).hexdigest()


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _static_credentials() -> bool:
    keys = os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")
    return bool(keys) or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")


@functools.cache
def _session_credentials(environment: str) -> Any:
    """Return boto3's session where it finds credentials in profiles, roles or the instance, else None."""
    import boto3  # noqa: PLC0415 (slow to import, and most environments carry plain keys)
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    del environment
    with contextlib.suppress(BotoCoreError):
        session = boto3.Session()
        return session if session.get_credentials() is not None else None
    return None


@functools.cache
def _open_local() -> LocalStore:
    return LocalStore()


@functools.lru_cache(maxsize=64)
def _open_s3(bucket: str, environment: str, patient: bool) -> S3Store:
    retries = _PATIENT_RETRIES if patient else _RETRIES
    options: "ClientConfig" = {**_TIMEOUTS, "allow_http": _endpoint().startswith("http://")}
    if _static_credentials():
        return S3Store(bucket, client_options=options, retry_config=retries)
    session = _session_credentials(environment)
    if session is None:
        raise UserError(f"no credentials for s3://{bucket}: {_ADVICE}")
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

    region = {"region": session.region_name} if session.region_name else {}
    provider = Boto3CredentialProvider(session)
    return S3Store(bucket, client_options=options, retry_config=retries, credential_provider=provider, **region)
