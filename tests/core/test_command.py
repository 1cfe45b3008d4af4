import errno

import pytest

from luss_ray.core.command import check_subcommand, nearest, run
from luss_ray.core.errors import UserError


def end_of(main) -> object:
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def test_the_exit_code_is_what_main_returns():
    assert end_of(lambda: None) == 0
    assert end_of(lambda: 1) == 1


def test_a_user_error_is_one_line_and_code_2(capsys):
    def main() -> None:
        raise UserError("the folder\n  is missing")

    assert end_of(main) == 2
    assert capsys.readouterr().err == "error: the folder is missing\n"


def test_a_full_disk_is_the_users_to_mend_and_other_system_errors_are_bugs(capsys):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/scene.jpg")

    def other() -> None:
        raise OSError(errno.EIO, "Input/output error")

    assert end_of(full) == 2
    assert capsys.readouterr().err == "error: cannot write /tmp/scene.jpg: no space left on device\n"
    with pytest.raises(OSError, match="Input/output"):
        run(other)


def test_an_interrupt_is_130_and_a_bug_keeps_its_traceback():
    def interrupted() -> None:
        raise KeyboardInterrupt

    def bug() -> None:
        raise ZeroDivisionError

    assert end_of(interrupted) == 130
    with pytest.raises(ZeroDivisionError):
        run(bug)


def test_a_mistyped_word_has_a_nearest_one():
    assert nearest("docter", ["doctor", "watch"]) == "doctor"
    assert nearest("xyz", ["doctor", "watch"]) is None


def test_an_unknown_subcommand_names_the_nearest_or_all():
    for words in ([], ["--help"], ["watch", "docter"]):
        check_subcommand(words, ("doctor", "watch"))
    with pytest.raises(UserError, match="no command 'docter': did you mean doctor"):
        check_subcommand(["docter", "--quick"], ("doctor", "watch"))
    with pytest.raises(UserError, match="no command 'xyz': there are doctor, watch"):
        check_subcommand(["xyz"], ("doctor", "watch"))
