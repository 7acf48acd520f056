"""A run's image as a bill of materials, and its models with what they were trained on: CycloneDX 1.6, JSON.

Fields: cyclonedx.org/docs/1.6/json. Package URLs: github.com/package-url/purl-spec. The same run gives the same bytes.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import orchestrator
from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import hex_of
from orchestrator.exports.subject import Input, Output, Subject


def encode(run: Subject) -> bytes:
    """The document's bytes."""
    image = _image(run)
    packages = [_python_package(each) for each in run.packages]
    packages += [_debian_package(name, version) for name, version in run.base_packages]
    data = [_data(each) for each in run.inputs]
    models = [_output(each, run) for each in run.outputs]
    refs: list[Json] = [*sorted({str(each["bom-ref"]) for each in packages})]
    dependencies: list[Json] = [{"ref": image["bom-ref"], "dependsOn": refs}]
    sources: list[Json] = [each["bom-ref"] for each in data]
    dependencies += [{"ref": each["bom-ref"], "dependsOn": sources} for each in models]
    document: dict[str, Json] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{run.uuid('sbom')}",
        "version": 1,
        "metadata": {
            "timestamp": run.finished,
            "tools": {
                "components": [{"type": "application", "name": "mirage", "version": orchestrator.__version__}]
            },
            "component": image,
        },
        "components": [*_unique(packages), *_unique(data), *_unique(models)],
        "dependencies": dependencies,
    }
    return canonical.encode(document) + b"\n"


def _unique(components: list[dict[str, Json]]) -> list[Json]:
    """Each component once: references must not be given twice."""
    return list({str(each["bom-ref"]): each for each in components}.values())


def _image(run: Subject) -> dict[str, Json]:
    digest, told = str(run.told["image"]), run.told
    name = re.sub(r"[^a-z0-9._-]", "-", run.project.lower())
    return {
        "type": "container",
        "bom-ref": f"pkg:oci/{name}@{quote(digest, safe='')}",
        "purl": f"pkg:oci/{name}@{quote(digest, safe='')}",
        "name": run.project,
        "version": digest,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
        "properties": _properties(
            {
                "run": run.run_id,
                "commit": told["commit"],
                "tree": told["tree"],
                "lock": told["lock"],
                "base": told["base"],
                "platform": run.row.definition["internalParameters"].get("platform"),
                "python": run.row.definition["internalParameters"].get("python"),
            }
        ),
    }


def _properties(values: dict[str, Any]) -> list[Json]:
    return [
        {"name": f"mirage:{name}", "value": str(value)}
        for name, value in sorted(values.items())
        if value is not None
    ]


def _python_package(item: dict[str, Any]) -> dict[str, Json]:
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
        "properties": _properties(
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


def _debian_package(name: str, version: str) -> dict[str, Json]:
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}"
    return {"type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version}


def _data(each: Input) -> dict[str, Json]:
    return {
        "type": "data",
        "bom-ref": f"mirage:{each.id}",
        "name": each.id.rpartition(":")[0],
        "version": each.id.rpartition(":")[2],
        "hashes": [{"alg": "SHA-256", "content": hex_of(each.digest)}],
        "data": [{"type": "dataset", "name": each.id}],
    }


def _output(each: Output, run: Subject) -> dict[str, Json]:
    """What the run made: a model with its card, all else as data."""
    name, _, version = each.id.rpartition(":")
    found: dict[str, Json] = {
        "type": "data",
        "bom-ref": f"mirage:{each.id}",
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": hex_of(each.digest)}],
        "properties": _properties({"format": each.format, "size": each.size, "run": run.run_id}),
    }
    if not each.id.startswith("model:"):
        found["data"] = [{"type": "dataset" if each.id.startswith("dataset:") else "other", "name": each.id}]
        return found
    numbers: list[Json] = [
        {"type": metric, "value": canonical.encode(value).decode()}
        for metric, value in run.told["metrics"].items()
        if value is not None
    ]
    card: dict[str, Json] = {
        "modelParameters": {"datasets": [{"ref": f"mirage:{one.id}"} for one in run.inputs]}
    }
    if numbers:
        card["quantitativeAnalysis"] = {"performanceMetrics": numbers}
    return {**found, "type": "machine-learning-model", "modelCard": card}
