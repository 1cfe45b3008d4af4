"""How every program of this project ends: 0 done, 1 found something broken, 2 the user's mistake in one line."""

import contextlib
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from luss_ray.core.errors import UserError

_Parsed = TypeVar("_Parsed")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FRAME = re.compile(r"[│╭╮╰╯─├┤]+")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program's main function and exit with its code.

    A `UserError` or a full disk becomes one line `error: …` on stderr and exit code 2; an interrupt becomes 130.
    Anything else is a bug and keeps its traceback. (tyro ends with code 2 by itself when it can't read the command
    line.)

    Args:
        main: does the work; returns the exit code, None = 0.
    """
    try:
        code = main() or 0
    except UserError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
        code = 2
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        print(f"error: cannot write {error.filename or 'a file'}: {os.strerror(error.errno).lower()}", file=sys.stderr)  # noqa: T201
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        code = 130
    sys.exit(code)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that somebody who mistyped `word` may have meant, None where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return near[0] if near else None


def check_subcommand(words: list[str], known: Iterable[str]) -> None:
    """Return when a command line begins with one of a program's commands, or with none at all.

    Args:
        words: the command line after the program's name.
        known: names of the commands.

    Raises:
        UserError: there is no such command.
    """
    known = list(known)
    if not words or words[0].startswith("-") or words[0] in known:
        return
    near = nearest(words[0], known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"no command {words[0]!r}: {hint}")


def parsed(parse: Callable[[], _Parsed]) -> _Parsed:
    """Return what a command line parser gives; its framed complaints become one line.

    Args:
        parse: calls the parser, which exits with code 2 when it can't read the command line.

    Raises:
        UserError: the command line is wrong.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as end:
        if end.code != 2:
            raise
        complaint = " ".join(_FRAME.sub(" ", said.getvalue()).split())
        said = io.StringIO()
        raise UserError(complaint) from None
    finally:
        sys.stderr.write(said.getvalue())
