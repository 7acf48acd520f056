"""Packages as components of a bill of materials, and the bill of an environment: CycloneDX 1.6, JSON.

Fields: cyclonedx.org/docs/1.6/json. Package URLs: github.com/package-url/purl-spec. An environment's bill is made once,
when it is built, and says nothing of a time: the same environment gives the same bytes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import orchestrator
from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
VERSION = "1.6"


def of_environment(
    key: Digest,
    layer: Digest,
    platform: str,
    packages: Iterable[Mapping[str, Any]],
    base_packages: Iterable[tuple[str, str]],
) -> bytes:
    """The document of what a workflow finds installed: the lock's packages, and the base's where they are known."""
    components = [python_package(each) for each in packages]
    components += [debian_package(name, version) for name, version in base_packages]
    own = f"mirage:env:{hex_of(key)}"
    refs: list[Json] = [*sorted({str(each["bom-ref"]) for each in components})]
    document: dict[str, Json] = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'https://mirage.flow/env/{layer}')}",
        "version": 1,
        "metadata": {
            "tools": tools(),
            "component": {
                "type": "platform",
                "bom-ref": own,
                "name": "environment",
                "version": str(key),
                "hashes": [{"alg": "SHA-256", "content": hex_of(layer)}],
                "properties": properties({"platform": platform}),
            },
        },
        "components": unique(components),
        "dependencies": [{"ref": own, "dependsOn": refs}],
    }
    return canonical.encode(document) + b"\n"


def tools() -> Json:
    """Who wrote it."""
    return {"components": [{"type": "application", "name": "mirage", "version": orchestrator.__version__}]}


def unique(components: Iterable[dict[str, Json]]) -> list[Json]:
    """Each component once: references must not be given twice."""
    return list({str(each["bom-ref"]): each for each in components}.values())


def properties(values: Mapping[str, Any]) -> list[Json]:
    """Those of ours that have a value, under `mirage:`."""
    return [
        {"name": f"mirage:{name}", "value": str(value)}
        for name, value in sorted(values.items())
        if value is not None
    ]


def python_package(item: Mapping[str, Any]) -> dict[str, Json]:
    """A wheel: its own hash where the lock allows one file only, else the files of which one was installed."""
    name = re.sub(r"[-_.]+", "-", str(item["name"])).lower()
    version = str(item["version"])
    purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
    hashes: list[Json] = [
        {"alg": "SHA-256", "content": str(each).removeprefix("sha256:")}
        for each in item.get("hashes") or ()
        if re.fullmatch(r"sha256:[0-9a-f]{64}", str(each))
    ]
    found: dict[str, Json] = {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": str(item["name"]),
        "version": version,
        "properties": properties(
            {"record": item.get("record"), "tags": " ".join(item.get("tags") or ()) or None}
        ),
    }
    if len(hashes) == 1:
        found["hashes"] = hashes
    elif hashes:
        found["externalReferences"] = [
            {
                "type": "distribution",
                "url": purl,
                "comment": "The files that the lock allows; one of them was installed",
                "hashes": hashes,
            }
        ]
    return found


def debian_package(name: str, version: str) -> dict[str, Json]:
    """A package of a Debian base."""
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}"
    return {"type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version}
