"""`mirage cancel`: a request in the run's folder, which whoever follows the run carries out, now or later."""

from __future__ import annotations

import json
import os
import pwd

from orchestrator.errors import StoreError
from orchestrator.journal import RunFolders, write_durably
from orchestrator.reference import RunId

_NAME = "cancel"


def ask(folders: RunFolders, run_id: RunId) -> None:
    """Ask for the run's end, in the name of this process's user; asked again, the first one stands."""
    path = folders.of(run_id) / _NAME
    if path.exists():
        return
    try:
        write_durably(path, json.dumps({"by": _user()}).encode())
    except OSError as error:
        raise StoreError(f"cannot write into the run's folder: {error.strerror}") from error


def asked(folders: RunFolders, run_id: RunId) -> str | None:
    """Who asked for the run's end, or None."""
    try:
        told = json.loads((folders.of(run_id) / _NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "somebody"  # the wish is clear, whatever became of the name
    return str(told.get("by")) if isinstance(told, dict) else "somebody"


def _user() -> str:
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
