"""Trackers' libraries repeat addresses with their passwords in what they raise; this takes secrets out."""

import os
import re

_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|PASSWORD|SECRET")
_USER_IN_ADDRESS = re.compile(r"//[^/\s]*@")
_SHORTEST, _MOST_SHOWN = 4, 500


def harmless(text: object) -> str:
    """Return a text as one line without the secrets of this process's environment and those in addresses."""
    line = _USER_IN_ADDRESS.sub("//", " ".join(str(text).split()))
    secrets = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line[:_MOST_SHOWN]
