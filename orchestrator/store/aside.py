"""What a helper's process does (helping.py): it reads, hashes and stages the files that it is sent, and names none."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import MirageError
from orchestrator.ports import Ahead
from orchestrator.store.folder import FolderStore
from orchestrator.store.helping import LONGEST, MOST
from orchestrator.store.intake import FolderIntake


def work() -> None:
    """Until its starter has nothing more, or is gone. Its words: socket, folder of the store, `link` or `copy`."""
    intake = FolderIntake(FolderStore(Path(sys.argv[2])), link=sys.argv[3] == "link")
    with socket.socket(fileno=int(sys.argv[1])) as starter:
        while True:
            data, files, _, _ = socket.recv_fds(starter, LONGEST, MOST)
            if not data:
                return
            asked = json.loads(data)
            answers: list[Ahead | None] = []
            for number, size in enumerate(asked["sizes"]):
                made = None
                if number < len(files):
                    with suppress(OSError, MirageError):  # its starter tries too, and tells
                        made = intake.ahead(files[number], size)
                    os.close(files[number])
                answers.append(made)
            starter.send(json.dumps({"number": asked["number"], "made": answers}).encode())
