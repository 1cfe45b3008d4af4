import subprocess
import sys


def test_an_unknown_command_names_the_nearest() -> None:
    command = [sys.executable, "-m", "luss_ray.cli.main", "docter", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "error: no command 'docter': did you mean doctor?\n"
