"""Judges exports with their formats' own validators: `judge.py KIND PATH...`, one JSON object a path.

KIND is ro-crate, cyclonedx-1.6, cyclonedx-1.7 or openlineage. Runs in the validators' environment, without a network.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def ro_crate(path: Path, cache: Path) -> list[str]:
    """The REQUIRED part of Process Run Crate, offline."""
    from rocrate_validator import models, services

    settings = services.ValidationSettings(
        rocrate_uri=str(path),
        profile_identifier="process-run-crate",
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
        cache_path=cache,
    )
    result = services.validate(settings)
    return [
        f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues(models.Severity.REQUIRED)
    ]


def seed(cache: Path) -> None:
    """Put both JSON-LD contexts into the validator's cache: RO-Crate's from its wheel, the other written by us."""
    import requests
    import rocrate
    from requests.adapters import BaseAdapter, HTTPAdapter
    from requests_cache import CachedSession
    from urllib3.response import HTTPResponse

    contexts = {
        "https://w3id.org/ro/crate/1.1/context": Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld",
        "https://w3id.org/ro/terms/workflow-run/context": HERE / "workflow-run-context.json",
    }

    class FromFiles(BaseAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
            data = contexts[request.url].read_bytes()
            raw = HTTPResponse(
                body=io.BytesIO(data),
                status=200,
                headers={"Content-Type": "application/ld+json", "Content-Length": str(len(data))},
                preload_content=False,
                request_url=request.url,
            )
            return HTTPAdapter().build_response(request, raw)

        def close(self) -> None:
            pass

    session = CachedSession(
        cache_name=str(cache), expire_after=-1, backend="sqlite", allowable_codes=(200, 302, 404)
    )
    session.mount("https://", FromFiles())
    for address in contexts:
        for accept in (None, "application/ld+json", "application/ld+json, application/json"):
            session.get(address, headers={"Accept": accept} if accept else {})
    session.close()


def cyclonedx(path: Path, version: str) -> list[str]:
    """The strict schema, formats included."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text()
    found = JsonStrictValidator(getattr(SchemaVersion, version)).validate_str(text)
    return [] if found is None else [str(found)[:500]]


def openlineage(path: Path) -> list[str]:
    """Each event taken apart and put together by the client's own classes, which must give the same JSON."""
    from openlineage.client import event_v2, facet_v2
    from openlineage.client.serde import Serde

    def facets(items: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, item in items.items():
            values = {name: value for name, value in item.items() if not name.startswith("_")}
            kind = item["_schemaURL"].rpartition("/")[2]
            module = getattr(facet_v2, _snake(kind), None)
            if module is None:
                raise ValueError(f"{kind} is no facet")
            if kind == "TagsRunFacet":
                values["tags"] = [module.TagsRunFacetFields(**tag) for tag in values["tags"]]
            made = getattr(module, kind)(**values, producer=item["_producer"])
            if made._schemaURL != item["_schemaURL"]:
                raise ValueError(f"{item['_schemaURL']}, expected {made._schemaURL}")
            found[key] = made
        return found

    problems = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        told = json.loads(line)
        try:
            event = event_v2.RunEvent(
                eventTime=told["eventTime"],
                producer=told["producer"],
                eventType=event_v2.RunState(told["eventType"]),
                run=event_v2.Run(told["run"]["runId"], facets(told["run"]["facets"])),
                job=event_v2.Job(
                    told["job"]["namespace"], told["job"]["name"], facets(told["job"]["facets"])
                ),
                inputs=[
                    event_v2.InputDataset(
                        namespace=i["namespace"], name=i["name"], facets=facets(i["facets"])
                    )
                    for i in told["inputs"]
                ],
                outputs=[
                    event_v2.OutputDataset(
                        namespace=o["namespace"],
                        name=o["name"],
                        facets=facets(o["facets"]),
                        outputFacets=facets(o["outputFacets"]),
                    )
                    for o in told["outputs"]
                ],
            )
            again = json.loads(Serde.to_json(event))
            if event.schemaURL != told["schemaURL"]:
                problems.append(f"line {number}: {told['schemaURL']}, expected {event.schemaURL}")
            if _bare(again) != _bare(told):
                problems.append(f"line {number}: the client gives other JSON back")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"line {number}: {error!r}")
    return problems


def _snake(name: str) -> str:
    name = name.removesuffix("Facet")
    return "".join(("_" if each.isupper() and at else "") + each.lower() for at, each in enumerate(name))


def _bare(value: Any) -> Any:
    """Without what is empty: to the client that is the same as not there."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if inner not in (None, [], {})}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def main(kind: str, paths: list[str]) -> None:
    """Judge each path."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        judges: dict[str, Callable[[Path], list[str]]] = {
            "ro-crate": lambda path: ro_crate(path, cache),
            "cyclonedx-1.6": lambda path: cyclonedx(path, "V1_6"),
            "cyclonedx-1.7": lambda path: cyclonedx(path, "V1_7"),
            "openlineage": openlineage,
        }
        if kind == "ro-crate":
            seed(cache)
        for path in paths:
            print(json.dumps({"path": path, "problems": judges[kind](Path(path))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
