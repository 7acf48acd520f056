"""What a record may ask of this machine's fences when its run is made again: what the user here allows, and no more.

A record comes from a store that others write to. Reads settings only; what is asked of an engine is reproduce.py's.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.errors import CannotVerify
from orchestrator.judging.record import Record
from orchestrator.settings import RunSettings
from orchestrator.sizes import readable_size

KEYS = ("network", "gpus", "runtime", "pids", "memory", "cpus", "shm_size", "secrets")
_NETWORKS = ("none", "bridge", "host")  # each reaches more than the one before it


def loosened(record: Record, here: RunSettings) -> dict[str, str]:
    """What a well-formed record asks for beyond ``here``, by the setting's key."""
    external, sandbox = record.external, record.internal["sandbox"]
    secrets = [each for each in external["secretNames"] if each not in here.secrets]
    network, gpus, runtime = external["network"], tuple(external["gpus"]), sandbox.get("runtime")
    beyond = {
        "network": _NETWORKS.index(network) > _NETWORKS.index(here.network),
        "gpus": bool(gpus) and gpus != here.gpus and here.gpus != ("all",),
        "runtime": runtime != here.runtime,  # also none where a stronger one is set here
        "pids": sandbox["pids"] > max(here.pids, RunSettings().pids),
        # no limit here: none was wanted, whatever the record has
        "memory": here.memory is not None and not 0 < (sandbox["memory"] or 0) <= here.memory,
        "cpus": here.cpus is not None and not 0 < (sandbox["cpus"] or 0) <= here.cpus,
        "shm_size": sandbox["shm"] > max(here.shm_size, RunSettings().shm_size),
        "secrets": bool(secrets),
    }
    asked = {
        "network": network,
        "gpus": ",".join(gpus),
        "runtime": runtime or "the engine's own",
        "pids": str(sandbox["pids"]),
        "memory": _size(sandbox["memory"]),
        "cpus": str(sandbox["cpus"] or "unlimited"),
        "shm_size": _size(sandbox["shm"]),
        "secrets": ",".join(secrets),
    }
    return {key: asked[key] for key in KEYS if beyond[key]}


def _size(value: int | None) -> str:
    return "unlimited" if value is None else readable_size(value)


def require(record: Record, here: RunSettings, allow: Collection[str]) -> None:
    """Raises CannotVerify where the record asks for more than ``here`` and ``allow`` (keys of KEYS) give."""
    refused = {key: value for key, value in loosened(record, here).items() if key not in allow}
    if refused:
        told = ", ".join(f"{key}={value}" for key, value in refused.items())
        options = " ".join(f"--allow {key}" for key in refused)
        raise CannotVerify(
            f"the record of {record.run_id} asks for weaker fences than this project allows: {told}",
            hint=f"where you trust whoever made it: mirage reproduce {record.run_id} {options}; "
            "or allow it in project.yaml, under run",
        )
