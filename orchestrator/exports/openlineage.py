"""A run as OpenLineage events, one JSON object a line: START, then COMPLETE, FAIL or ABORT (openlineage.io/spec).

To be posted to a catalogue line by line. The same run gives the same bytes.
"""

from __future__ import annotations

import orchestrator
from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.exports.subject import Subject

PRODUCER = "https://mirage.flow/"
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_ENDS = {"succeeded": "COMPLETE", "failed": "FAIL", "interrupted": "ABORT", "lost": "FAIL"}


def encode(runs: list[Subject]) -> bytes:
    """The events of some runs."""
    events = [event for run in runs for event in (_event(run, started=True), _event(run, started=False))]
    return b"".join(canonical.encode(event) + b"\n" for event in events)


def _event(run: Subject, *, started: bool) -> Json:
    told = run.told
    namespace = f"mirage://{run.project}"
    inputs: list[Json] = [
        {
            "namespace": namespace,
            "name": each.id.rpartition(":")[0],
            "facets": {
                "version": _facet(
                    "DatasetVersionDatasetFacet", "1-0-1", {"datasetVersion": _version(each.id, each.digest)}
                )
            },
        }
        for each in run.inputs
    ]
    outputs: list[Json] = [
        {
            "namespace": namespace,
            "name": each.id.rpartition(":")[0],
            "facets": {
                "version": _facet(
                    "DatasetVersionDatasetFacet", "1-0-1", {"datasetVersion": _version(each.id, each.digest)}
                )
            },
            "outputFacets": {
                "outputStatistics": _facet(
                    "OutputStatisticsOutputDatasetFacet",
                    "1-0-2",
                    {"size": each.size, "fileCount": each.files},
                )
            },
        }
        for each in run.outputs
    ]
    return {
        "eventType": "START" if started else _ENDS.get(str(told["status"]), "OTHER"),
        "eventTime": told["started"] if started else run.finished,
        "producer": PRODUCER,
        "schemaURL": _SPEC,
        "run": {"runId": run.uuid("openlineage"), "facets": _run_facets(run, started=started)},
        "job": {"namespace": namespace, "name": str(told["workflow"]), "facets": _job_facets(run)},
        "inputs": inputs,
        "outputs": [] if started else outputs,
    }


def _version(name: str, digest: str) -> str:
    return f"{name.rpartition(':')[2]} {digest}"


def _facet(name: str, version: str, values: dict[str, Json]) -> Json:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{version}/{name}.json#/$defs/{name}", **values}


def _run_facets(run: Subject, *, started: bool) -> Json:
    engine = run.row.details["builder"]["id"].rpartition("/builders/")[2].partition("/")[0]
    found: dict[str, Json] = {
        "processing_engine": _facet(
            "ProcessingEngineRunFacet",
            "1-1-1",
            {"name": f"mirage {engine}", "version": str(run.row.details["builder"]["version"].get("mirage")),
             "openlineageAdapterVersion": orchestrator.__version__},
        ),
        "tags": _facet(
            "TagsRunFacet",
            "1-0-0",
            {"tags": [{"key": key, "value": str(run.told[key]), "source": "mirage"}
                      for key in ("run_id", "config", "config_digest", "image", "record", "run_key")]},
        ),
    }  # fmt: skip
    if not started and run.told["status"] != "succeeded":
        message = str(run.told["reason"] or run.told["status"])
        found["errorMessage"] = _facet(
            "ErrorMessageRunFacet", "1-0-1", {"message": message, "programmingLanguage": "PYTHON"}
        )
    return found


def _job_facets(run: Subject) -> Json:
    told = run.told
    found: dict[str, Json] = {
        "jobType": _facet(
            "JobTypeJobFacet", "2-0-4", {"processingType": "BATCH", "integration": "MIRAGE", "jobType": "RUN"}
        )
    }
    if run.source:
        location: dict[str, Json] = {
            "type": "git",
            "url": run.source,
            "repoUrl": run.source,
            "version": str(told["commit"]),
        }
        if told["branch"]:
            location["branch"] = str(told["branch"])
        found["sourceCodeLocation"] = _facet("SourceCodeLocationJobFacet", "1-1-0", location)
    return found
