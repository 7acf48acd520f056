"""What a helper's process does (helping.py), with the files that it is sent: it names none."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import MirageError
from orchestrator.store.following import Unreadable, copied
from orchestrator.store.helping import LONGEST, MOST


def work() -> None:
    """Until its starter has nothing more, or is gone.

    Its words: socket, and what to do: `link` or `copy` into the store in a folder, or `out` from one file to another.
    """
    place, what = sys.argv[2:4]
    do, each = (_copy, 2) if what == "out" else (_taking(place, link=what == "link"), 1)
    with socket.socket(fileno=int(sys.argv[1])) as starter:
        while True:
            data, files, _, _ = socket.recv_fds(starter, LONGEST, MOST)
            if not data:
                return
            asked = json.loads(data)
            starts, answers = asked.get("starts"), []
            for number, size in enumerate(asked["sizes"]):
                made = None
                mine = files[number * each : (number + 1) * each] if starts is None else files[:1]
                if len(mine) == each:
                    with suppress(OSError, MirageError, Unreadable):  # its starter tries too, and tells
                        if starts is not None:  # all of them lie in one
                            os.lseek(mine[0], starts[number], os.SEEK_SET)
                        made = do(mine, size)
                answers.append(made)
            for descriptor in files:
                os.close(descriptor)
            starter.send(json.dumps({"number": asked["number"], "made": answers}).encode())


def _taking(place: str, *, link: bool) -> Callable[[Sequence[int], int], object]:
    from orchestrator.store.folder import FolderStore
    from orchestrator.store.intake import FolderIntake

    intake = FolderIntake(FolderStore(Path(place)), link=link)
    return lambda files, size: intake.ahead(files[0], size)


def _copy(files: Sequence[int], size: int) -> object:
    return copied(files[0], files[1], size)
