"""A user's error that was raised in a task or an actor of Ray comes out as the one line that it is."""

import contextlib
import re
from collections.abc import Iterator

from ray.exceptions import RayError

from luss_ray.core.errors import UserError

_LINE = re.compile(rf"^\s*{re.escape(f'{UserError.__module__}.{UserError.__qualname__}')}: (.+)$", re.MULTILINE)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Return a context in which what Ray makes of a `UserError` becomes that error again.

    Ray keeps the cause of a failed task. Ray Data, and actors that fail in their constructor, keep its text alone, as
    a line of the traceback.

    Raises:
        UserError: a task or an actor did.
    """
    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise cause from None
        if line := _LINE.search(str(error)):
            raise UserError(line[1]) from None
        raise
