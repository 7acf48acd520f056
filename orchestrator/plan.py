"""The plan of a run, written before its container exists: all that a successor needs to seal the record.

It is the record's definition, complete but for what only the end can tell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import StoreError

_SCHEMA = "mirage-plan/1"


@dataclass(frozen=True)
class Plan:
    """One run's plan; the JSON parts are canonical text, times are seconds since the epoch.

    ``store`` is where its record goes, ``engine`` the id of the engine that has its container: a recoverer that
    works with others leaves it alone.
    """

    run_id: str
    store: str
    engine: str
    begun: float
    timeout: float | None
    grace: float
    installed: Digest
    definition_json: str
    builder_json: str
    summary_json: str
    sbom: Digest | None = None

    def definition(self) -> Json:
        """SLSA's buildDefinition."""
        return canonical.decode(self.definition_json)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of its secrets."""
        definition: Any = self.definition()
        return tuple(definition["externalParameters"].get("secretNames", ()))

    def has_gpus(self) -> bool:
        """Whether the run is given GPUs."""
        found: Any = self.definition()
        return bool(found["externalParameters"].get("gpus"))

    def builder(self) -> Json:
        """SLSA's builder."""
        return canonical.decode(self.builder_json)

    def summary(self) -> dict[str, Json]:
        """What `--json` says of the run besides its result."""
        found = canonical.decode(self.summary_json)
        assert isinstance(found, dict)
        return found

    def encode(self) -> bytes:
        """The bytes of plan.json."""
        return canonical.encode({"schema": _SCHEMA, **asdict(self)})


def parse(data: bytes) -> Plan:
    """Read plan.json. Raises StoreError where it is damaged."""
    try:
        item = canonical.decode(data)
        assert isinstance(item, dict)
        if item.pop("schema") != _SCHEMA:
            raise ValueError("another schema")
        plan = Plan(**item)  # type: ignore[arg-type]  # the types are checked by use: our own file, by our own user
        parse_digest(plan.installed)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise StoreError(f"a run's plan.json is damaged: {error}") from error
    return plan
