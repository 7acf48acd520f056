"""The provenance of a run as people read it: which commit, config, data and image, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from orchestrator.report.account import Account
from orchestrator.report.comparison import shown
from orchestrator.report.markup import Child, Markup, element, join, shortened
from orchestrator.report.words import badge, chip, code, moment, pairs, section, table, took, verdict_badge
from orchestrator.sizes import readable_size

_MOST = 1000  # config values of one run


def provenance(runs: Sequence[Account]) -> Markup:
    """A part for each run; open where there is one only."""
    if len(runs) == 1:
        return section("provenance", "Provenance", _of(runs[0]))
    folds = [
        element(
            "details",
            element("summary", chip(run), f" {run.run_id} ", badge(run.told["status"])),
            # an anchor inside opens what is folded around it
            element("div", _of(run), class_="inside", id=f"run-{run.letter}"),
        )
        for run in runs
    ]
    return section("provenance", "Provenance", folds)


def _of(run: Account) -> Markup:
    return join(
        [
            [element("p", note, class_="aside") for note in run.notes],
            _ending(run),
            element("h3", "Made from"),
            pairs(_made_from(run)),
            element("h3", "Make it again"),
            _again(run),
            _verdicts(run),
            element("h3", "Outputs"),
            _outputs(run),
            element("h3", "Ran on"),
            pairs(_ran_on(run)),
            _config(run),
            _packages(run),
        ]
    )


def _ending(run: Account) -> Markup | None:
    reason = run.told["reason"]
    if not reason and not run.log_end:
        return None
    return join(
        [
            element("h3", "How it ended"),
            element(
                "p", f"{run.told['status']}: {shortened(str(reason))}" if reason else str(run.told["status"])
            ),
            element("pre", run.log_end, aria_label="The end of the log") if run.log_end else None,
        ]
    )


def _made_from(run: Account) -> list[tuple[str, Child]]:
    told, row = run.told, run.row
    source, base, lock = row.dependency("source"), row.dependency("base-image"), row.dependency("lock")
    commit: list[Child] = [code(told["commit"]), f" on {told['branch'] or 'no branch'}"]
    if told["dirty"]:
        commit.append(", a snapshot of uncommitted work")
        commit.append(f"; committed since as {run.committed_as}" if run.committed_as else None)
    inputs = [
        element(
            "div",
            item["annotations"]["id"],
            " ",
            code(f"sha256:{item['digest']['sha256']}"),
            f", saved by {told['resume_of']}, which this run resumes"
            if item["annotations"]["id"] in row.resumed
            else None,
        )
        for item in row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    ]
    overrides = [element("div", code(f"--set {each}")) for each in told["overrides"] or ()]
    return [
        ("Project", shortened(f"{told['project']}, {source.get('uri', '')}")),
        ("Commit", commit),
        ("Project tree", code(told["tree"])),
        ("Config", [shortened(str(told["config"])), " ", code(told["config_digest"])]),
        ("Changed values", overrides or None),
        ("Data", inputs or None),
        ("Lock", [str(lock.get("uri", "")).rpartition("#")[2], " ", code(told["lock"])]),
        ("Base", [str(base.get("annotations", {}).get("name", "")), " ", code(told["base"])]),
        ("Image", code(told["image"])),
        ("Command", code(shlex.join(map(str, row.definition["externalParameters"]["entrypoint"])))),
        ("Record", code(told["record"])),
    ]


def _again(run: Account) -> Markup:
    uri = str(run.row.dependency("source").get("uri", "")).removeprefix("git+").rpartition("@refs/heads/")
    remote = uri[0] or uri[2]
    told = run.told
    lines = []
    if "://" in remote and not remote.startswith("file:"):
        lines.append(f"git clone {shlex.quote(remote)} project && cd project")
    words = ["mirage-run", "--config", str(told["config"])]
    for each in told["overrides"] or ():
        words += ["--set", str(each)]
    lines += [
        f"mirage verify {run.run_id}       # checks the record and all that it names",
        f"mirage reproduce {run.run_id}    # runs it again in the same image and compares every output",
    ]
    commit = run.committed_as or (None if told["dirty"] else told["commit"])
    if commit:
        lines += ["# or as a new run:", f"git checkout {commit}", shlex.join(words)]
    return element("pre", "\n".join(shortened(line, 2000) for line in lines))


def _verdicts(run: Account) -> Markup | None:
    if not run.verdicts:
        return None
    lines = []
    for each in run.verdicts:
        told = each.statement["predicate"]["mirage_verdict"]
        first, sources = told.get("firstDifference"), told.get("probableSources")
        sources = sources if isinstance(sources, list) else []
        about = f"first difference: {first}" if first else ""
        about += f"; probable source: {', '.join(map(str, sources))}" if first and sources else ""
        lines.append((each.by, [badge(each.summary), " ", shortened(about)]))
    return join([element("p", "It was made again by these runs:"), pairs(lines)])


def _outputs(run: Account) -> Markup:
    outputs = run.row.result["outputs"]
    if not outputs:
        return element("p", "None.", class_="aside")
    lines = [
        element(
            "tr",
            element("th", shortened(str(item["id"])), scope="row"),
            element("td", str(item["format"])),
            element("td", readable_size(item["size"]), class_="number"),
            element("td", code(str(item["digest"])[:19])),
        )
        for item in outputs[:_MOST]
    ]
    return table(
        ("Artifact", "Format", "Size", "Digest"), [element("tbody", lines)], f"Outputs of {run.run_id}"
    )


def _ran_on(run: Account) -> list[tuple[str, Child]]:
    hardware, builder = run.row.details.get("mirage_hardware", {}), run.row.details["builder"]
    cpu = hardware.get("cpu", {})
    versions = builder.get("version", {})
    memory = hardware.get("memory")
    sandbox = run.row.definition["internalParameters"].get("sandbox", {})
    return [
        ("When", f"{moment(run.told['started'])}, {took(run.told['seconds'])}"),
        (
            "Processor",
            f"{cpu.get('model', '')}, {cpu.get('cores', '?')} cores, {hardware.get('architecture', '')}",
        ),
        ("Memory", readable_size(memory) if isinstance(memory, int) else None),
        ("Engine", ", ".join(f"{name} {value}" for name, value in versions.items())),
        ("Network", str(sandbox.get("network", ""))),
        (
            "Threads, seed",
            ", ".join(str(run.row.definition["internalParameters"].get(n)) for n in ("threads", "seed")),
        ),
        ("Judged", verdict_badge(run)),
    ]


def _config(run: Account) -> Markup | None:
    if not run.config:
        return None
    items: list[tuple[str, Child]] = [
        (shortened(name, 120), element("span", shortened(shown(value)), class_="code"))
        for name, value in run.config[:_MOST]
    ]
    left = len(run.config) - len(items)
    return element(
        "details",
        element("summary", f"All {len(run.config)} values of the config"),
        element("div", pairs(items), element("p", f"{left} more") if left else None, class_="inside"),
    )


def _packages(run: Account) -> Markup | None:
    if not run.packages:
        return None
    items: list[tuple[str, Child]] = [
        (shortened(name, 120), shortened(version, 120)) for name, version in run.packages
    ]
    return element(
        "details",
        element("summary", f"{len(run.packages)} Python packages"),
        element("div", pairs(items), class_="inside"),
    )
