"""A run as a Process Run Crate 0.5 on RO-Crate 1.1: a folder that can be published (w3id.org/ro/wfrun/process/0.5).

The crate holds the record, the resolved config, log and metrics, and the files of the outputs unless told otherwise.
Inputs are named by id and digest, not copied: they may be large, and somebody else's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator import canonical
from orchestrator.artifacts import copying_out, tree
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.digest import hex_of, of_bytes
from orchestrator.exports.subject import Input, Output, Subject
from orchestrator.reference import parse_artifact
from orchestrator.trust import dsse

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CONTEXTS = ("https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context")
_MOST_FILES = 10_000  # of one output that are described one by one
_MEDIA = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".parquet": "application/vnd.apache.parquet",
}
# What lies beside the record, as (byproduct, name in the crate, media type, what it is).
_BESIDE = (
    ("log", "log.txt", "text/plain", "The output of the workflow"),
    ("metrics.jsonl", "metrics.jsonl", "application/jsonl", "All values of the metrics, in order"),
    ("events.jsonl", "events.jsonl", "application/jsonl", "Flows and steps with their times"),
    ("environment.json", "environment.json", "application/json", "The Python packages that were installed"),
)


def write(folder: Path, run: Subject, *, license: str | None, data: bool) -> None:
    """Fill a folder with the crate. ``license`` is a URL; ``data`` says whether output files are copied in."""
    crate = _Crate(folder, run)
    crate.beside()
    for output in run.outputs:
        crate.output(output, data)
    graph = crate.graph(license)
    text = canonical.encode({"@context": [*CONTEXTS], "@graph": graph})
    (folder / "ro-crate-metadata.json").write_bytes(text + b"\n")


class _Crate:
    def __init__(self, folder: Path, run: Subject) -> None:
        self._folder = folder
        self._run = run
        self._entities: list[dict[str, Json]] = []
        self._parts: list[Json] = []
        self._results: list[Json] = []
        self._objects: list[Json] = []
        self._names: set[str] = set()
        self._action = f"urn:uuid:{run.uuid('action')}"

    def beside(self) -> None:
        """The record and what explains it."""
        run = self._run
        config = canonical.encode(run.row.config)
        self._file(
            "config.json", config, "application/json", f"{run.told['config']}, resolved", self._objects
        )
        about: dict[str, Json] = {"about": _ref(self._action)}
        media = dsse.ENVELOPE_TYPE if dsse.is_sealed(run.row.record) else dsse.PAYLOAD_TYPE
        self._file("record.intoto.json", run.row.record, media, "The record", None, about)
        result = canonical.encode(run.row.result)
        self._file(
            "run.json", result, "application/json", "How the run ended and what it left", self._results
        )
        for name, path, media, text in _BESIDE:
            content = run.blob(name)
            if content is not None:
                self._file(path, content, media, text, self._results)
        for each in run.inputs:
            self._objects.append(_ref(self._input(each)))
        lock = run.row.dependency("lock")
        self._add(
            {
                "@id": f"#lock-{lock['digest']['sha256'][:16]}",
                "@type": "CreativeWork",
                "name": str(lock.get("uri", "")).rpartition("#")[2] or "lock",
                "sha256": lock["digest"]["sha256"],
            }
        )
        self._objects.append(_ref(f"#lock-{lock['digest']['sha256'][:16]}"))

    def _file(
        self,
        name: str,
        content: bytes,
        media: str,
        text: str,
        to: list[Json] | None,
        more: dict[str, Json] | None = None,
    ) -> None:
        (self._folder / name).write_bytes(content)
        self._add(
            {
                "@id": name,
                "@type": "File",
                "name": text,
                "encodingFormat": media,
                "contentSize": str(len(content)),
                "sha256": hex_of(of_bytes(content)),
                **(more or {}),
            }
        )
        self._parts.append(_ref(name))
        if to is not None:
            to.append(_ref(name))

    def _input(self, each: Input) -> str:
        name = f"mirage:{each.id}"
        self._add({"@id": name, "@type": "Dataset", "name": each.id, "identifier": str(each.digest)})
        # a data entity is a part, also one that is elsewhere (RO-Crate 1.1, "Web-based Data Entities")
        self._parts.append(_ref(name))
        return name

    def output(self, output: Output, data: bool) -> None:
        """An output with its files, or by its id alone where they are not wanted or gone."""
        made = output.version(self._run.run_id) if data else None
        if made is None:
            name = f"mirage:{output.id}"
            self._add(
                {
                    "@id": name,
                    "@type": "Dataset",
                    "name": output.id,
                    "identifier": str(output.digest),
                    "contentSize": str(output.size),
                }
            )
            self._parts.append(_ref(name))
            self._results.append(_ref(name))
            return
        ref = parse_artifact(output.id)
        place = f"outputs/{ref.kind}/{ref.name}/{ref.version}"
        entry = made.manifest.entry
        target = self._folder / place / entry if entry else self._folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        copying_out.copy_out(self._run.store, made, target)
        files = [
            each
            for each in tree.parse(read_verified(self._run.store, made.manifest.tree))
            if each.kind == "f"
        ]
        described: list[Json] = []
        for each in files[:_MOST_FILES]:
            name = quote(f"{place}/{each.path}")
            self._add(
                {
                    "@id": name,
                    "@type": "File",
                    "name": each.path,
                    "encodingFormat": _MEDIA.get(Path(each.path).suffix.lower(), "application/octet-stream"),
                    "contentSize": str(each.size),
                    "sha256": hex_of(each.digest) if each.digest else "",
                }
            )
            described.append(_ref(name))
        self._add(
            {
                "@id": f"{quote(place)}/",
                "@type": "Dataset",
                "name": output.id,
                "identifier": str(output.digest),
                "hasPart": described,
            }
        )
        self._parts.append(_ref(f"{quote(place)}/"))
        self._results.append(_ref(f"{quote(place)}/"))

    def graph(self, license: str | None) -> list[Json]:
        """All entities, the crate's own first."""
        run, told = self._run, self._run.told
        commit = str(told["commit"])
        source = run.source
        code = f"{source}#{commit}" if source else f"#source-{commit[:16]}"
        title = f"{run.project}: run {run.run_id}"
        terms = license or "#license"
        root: dict[str, Json] = {
            "@id": "./",
            "@type": "Dataset",
            "name": title,
            "description": f"{told['workflow']} with {told['config']}, {told['status']}.",
            "datePublished": run.finished,
            "license": _ref(terms),
            "conformsTo": _ref(PROFILE),
            "hasPart": self._parts,
            "mentions": [_ref(self._action)],
        }
        metadata: dict[str, Json] = {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": _ref("https://w3id.org/ro/crate/1.1"),
            "about": _ref("./"),
        }
        profile: dict[str, Json] = {
            "@id": PROFILE,
            "@type": "CreativeWork",
            "name": "Process Run Crate",
            "version": "0.5",
        }
        stated = (
            "See its address" if license else "The run's record states no license: ask its authors before use"
        )
        self._add(
            {"@id": terms, "@type": "CreativeWork", "name": license or "not stated", "description": stated}
        )
        self._add(
            {
                "@id": code,
                "@type": "SoftwareSourceCode",
                "name": run.project,
                "version": commit,
                "identifier": f"gitTree:{told['tree']}",
                **({"codeRepository": source, "url": source} if source else {}),
            }
        )
        self._add(
            {
                "@id": "#image",
                "@type": "ContainerImage",
                "additionalType": _ref("https://w3id.org/ro/terms/workflow-run#DockerImage"),
                "name": f"mirage/run/{run.project}",
                "sha256": str(told["image"]).removeprefix("sha256:"),
            }
        )
        action = self._create_action(code, self._environment())
        return [metadata, root, profile, *self._entities, action]

    def _environment(self) -> list[Json]:
        """The variables that every run gets, as contextual entities; gives their references."""
        values = self._run.row.definition["internalParameters"].get("determinism") or {}
        found: list[Json] = []
        for name, value in values.items():
            own = f"#env-{quote(str(name), safe='')}"
            self._add({"@id": own, "@type": "PropertyValue", "name": str(name), "value": str(value)})
            found.append(_ref(own))
        return found

    def _create_action(self, code: str, variables: list[Json]) -> dict[str, Json]:
        run, told = self._run, self._run.told
        done = told["status"] == "succeeded"
        action: dict[str, Json] = {
            "@id": self._action,
            "@type": "CreateAction",
            "name": f"Run {run.run_id}",
            "description": " ".join(run.command),
            "identifier": str(run.row.details["metadata"]["invocationId"]),
            "startTime": told["started"],
            "endTime": run.finished,
            "actionStatus": _ref(f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus"),
            "instrument": _ref(code),
            "containerImage": _ref("#image"),
            "object": self._objects,
            "result": self._results,
        }
        if variables:
            action["environment"] = variables
        if told["user"]:
            self._add({"@id": "#user", "@type": "Person", "name": told["user"]})
            action["agent"] = _ref("#user")
        if not done:
            action["error"] = str(told["reason"] or told["status"])
        return action

    def _add(self, entity: dict[str, Any]) -> None:
        if entity["@id"] not in self._names:
            self._names.add(entity["@id"])
            self._entities.append(entity)


def _ref(name: str) -> dict[str, Json]:
    return {"@id": name}
