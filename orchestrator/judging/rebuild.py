"""The image of a record built again from its commit: a clean checkout of its own, then the stages of a run up to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import prepare
from orchestrator.config import load_config, load_project
from orchestrator.digest import Digest, hex_of
from orchestrator.errors import CannotVerify
from orchestrator.image.base_lock import LOCK_FILE, Pin, write_pin
from orchestrator.image.base_shelf import Shelf
from orchestrator.judging.checkout import checked_out
from orchestrator.judging.record import Record, recorded_key, sha256_of
from orchestrator.prepare import Prepared, Request, Services, Stages


@dataclass(frozen=True)
class Rebuilt:
    """An image that was built again."""

    prepared: Prepared
    run_key: Digest

    @property
    def digest(self) -> Digest:
        """Its digest: the original's, if it came out equal."""
        return self.prepared.image.image.digest

    @property
    def engine_id(self) -> str:
        """What the engine calls it."""
        return self.prepared.image.engine_id

    def enter(self, internal: dict[str, Any], dependencies: dict[str, Any]) -> None:
        """Write it into a run's definition."""
        made, image = self.prepared, self.prepared.image
        internal.update(
            runKey=self.run_key,
            imageKey=image.key.digest,
            envKey=made.environment.key,
            python=made.base.python.version,
            environment=made.environment.origin.to_json(),
        )
        dependencies["base-image"].update(uri=made.base.source, digest={"sha256": hex_of(made.base.digest)})
        dependencies["image"].update(
            digest={"sha256": hex_of(image.image.digest)},
            annotations={
                "configDigest": image.image.config_digest,
                "manifestDigest": image.image.digest,
                "diffIds": [*image.image.diff_ids],
                "engineId": image.engine_id,
            },
        )


def rebuild(services: Services, record: Record, *, anew: bool) -> Rebuilt:
    """Build a record's image again, on the base and environment that are known; ``anew``: those too.

    Raises CannotVerify where the commit is not here.
    """
    prepared = prepare_again(services, record, anew=anew)
    return Rebuilt(prepared, recorded_key(record, prepared.image.key).digest)


def prepare_again(services: Services, record: Record, *, anew: bool) -> Prepared:
    """The stages of a record's run up to its image, from a clean checkout of its commit. Raises CannotVerify."""
    external = record.external
    source = record.dependency("source")
    commit, prefix = str(source["digest"]["gitCommit"]), str(external["projectPath"])
    services.reporter.stage("rebuild", f"building the image of {commit[:12]} anew")
    with checked_out(services.project.folder, commit, prefix) as folder:
        if not anew:
            _pin(services, record, folder)
        return _prepare(services, record, folder, anew)


def _prepare(services: Services, record: Record, folder: Path, anew: bool) -> Prepared:
    external = record.external
    project = load_project(folder)
    flags = {
        "workflow": external["workflow"],
        "run.network": external["network"],
        "run.gpus": _gpus(external["gpus"]),
    }
    config = load_config(project, folder / external["configPath"], external["overrides"], flags)
    if config.digest != record.internal["configHash"]:
        raise CannotVerify(
            f"the config of this commit has the digest {config.digest}, the record says "
            f"{record.internal['configHash']}",
            hint=f"`mirage verify {record.run_id}`",
        )
    return prepare.prepare(Request(config, no_cache=anew), replace(services, project=project), Stages())


def _pin(services: Services, record: Record, folder: Path) -> None:
    """Hold the recorded base by its digest, where it is kept: a recipe built today may give another one.

    git is told to ignore the pin, so that the checkout stays the commit's; one that is committed is left alone.
    """
    item = record.dependency("base-image")
    digest = sha256_of(item)
    shelf = Shelf(services.engine, services.library, services.reporter)
    name, platform = str(item["annotations"]["name"]), str(record.internal["platform"])
    if (folder / LOCK_FILE).exists() or shelf.find(digest) is None:
        return
    write_pin(folder, name, platform, Pin(digest, str(item["uri"])))


def _gpus(recorded: list[str]) -> Any:
    """GPUs as project.yaml writes them."""
    if recorded == ["all"]:
        return "all"
    if len(recorded) == 1 and recorded[0].startswith("count="):
        return int(recorded[0].removeprefix("count="))
    return recorded or 0
