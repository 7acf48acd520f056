"""A run's image as a bill of materials, and its models with what they were trained on: CycloneDX 1.6, JSON.

Fields: cyclonedx.org/docs/1.6/json. Package URLs: github.com/package-url/purl-spec. The same run gives the same bytes.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import hex_of
from orchestrator.exports.subject import Input, Output, Subject
from orchestrator.image.sbom import SCHEMA, VERSION, debian_package, properties, python_package, tools, unique


def encode(run: Subject) -> bytes:
    """The document's bytes."""
    image = _image(run)
    packages = [python_package(each) for each in run.packages]
    packages += [debian_package(name, version) for name, version in run.base_packages]
    data = [_data(each) for each in run.inputs]
    models = [_output(each, run) for each in run.outputs]
    refs: list[Json] = [*sorted({str(each["bom-ref"]) for each in packages})]
    dependencies: list[Json] = [{"ref": image["bom-ref"], "dependsOn": refs}]
    sources: list[Json] = [each["bom-ref"] for each in data]
    dependencies += [{"ref": each["bom-ref"], "dependsOn": sources} for each in models]
    document: dict[str, Json] = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{run.uuid('sbom')}",
        "version": 1,
        "metadata": {
            "timestamp": run.finished,
            "tools": tools(),
            "component": image,
        },
        "components": [*unique(packages), *unique(data), *unique(models)],
        "dependencies": dependencies,
    }
    return canonical.encode(document) + b"\n"


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
        "properties": properties(
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
        "properties": properties({"format": each.format, "size": each.size, "run": run.run_id}),
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
