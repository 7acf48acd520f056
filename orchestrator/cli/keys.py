"""`mirage key` and `mirage log`: the key that signs here, the keys that are trusted, and the store's log of records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json, print_table
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import CannotVerify, ConfigError, ReproducedWithDifferences

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.trust.checkpoint import Checkpoint
    from orchestrator.trust.trusted import Trust
    from orchestrator.trust.walk import Walk

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


@click.group(context_settings=_HELP)
def key() -> None:
    """Make a key that signs records, and say whose signatures are believed."""


@key.command(context_settings=_HELP)
@click.option("--out", type=click.Path(path_type=Path), metavar="PATH", help="Where the private key goes.")
@_JSON
def new(out: Path | None, as_json: bool) -> None:
    """Make an ed25519 key: PATH, and its public half as PATH.pub. Without --out it signs all your runs from now on."""
    from orchestrator.trust import chosen, keys

    path = out or chosen.own_key(os.environ)
    if out is not None:
        chosen.refuse_inside(out, chosen.repository_of(out.parent))
    pem, public = keys.new()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        beside = Path(f"{path}.pub")
        beside.write_text(f"{public.line}\n")
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already, and a key is never written over",
            hint="use it as it is, or name another file with --out",
        ) from error
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    if as_json:
        print_json({"key": str(path), "public": str(beside), "line": public.line, "keyid": public.keyid})
        return
    print(f"{path}\n{beside}  {public.keyid}")
    if out is not None:
        print(f"  -> MIRAGE_SIGN_KEY={path} (or sign: {{key: ...}} in .mirage/project.yaml) signs with it")
    print(f"  -> in each project that is to believe it: mirage key trust {beside} --name NAME")


@key.command(context_settings=_HELP)
@click.argument("public", metavar="PUB", type=click.Path(path_type=Path))
@click.option("--name", required=True, metavar="NAME", help="Whose it is: a person, a machine, `ci`.")
@click.option(
    "--builder", multiple=True, metavar="ID", help="Only for records of this builder; may be repeated."
)
@_JSON
def trust(public: Path, name: str, builder: tuple[str, ...], as_json: bool) -> None:
    """Believe records that are signed with the key PUB (a .pub of OpenSSH, or PEM). Writes .mirage/keys.yaml: commit it."""
    from orchestrator.trust import keys, trusted

    place = Workplace.here()
    made = trusted.trusted(name, keys.read_public(public), builder)
    known = trusted.add(place.project.folder, made)
    if as_json:
        print_json({"file": trusted.TRUST_FILE, "keys": [_key(each) for each in known.keys]})
    else:
        print(f"{made.name}  {made.key.keyid}")
        print(f"  -> commit {trusted.TRUST_FILE}")


def _key(each: object) -> dict[str, Json]:
    from orchestrator.trust.trusted import TrustedKey

    assert isinstance(each, TrustedKey)
    return {"builders": [], **each.to_json(), "keyid": each.key.keyid}


@key.command("list", context_settings=_HELP)
@_JSON
def list_(as_json: bool) -> None:
    """List the keys that this project trusts, and the one that signs here."""
    from orchestrator.trust import chosen, trusted

    place = Workplace.here()
    folder = place.project.folder
    known = trusted.load(folder)
    path = chosen.chosen(place.settings.sign.key, folder, os.environ)
    if as_json:
        own: Json = None if path is None else str(path)
        print_json({"signs_with": own, "keys": [_key(each) for each in known.keys]})
        return
    print(f"signs with: {path or 'nothing'}")
    if known.keys:
        rows = [[each.name, each.key.keyid, " ".join(each.builders) or "any"] for each in known.keys]
        print_table(["name", "key", "builders"], rows)
    else:
        print(f"trusts no key: {trusted.TRUST_FILE} names none")


@click.group(context_settings=_HELP)
def log() -> None:
    """The store's log, in which every record has its place after all that came before."""


@log.command(context_settings=_HELP)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a file.")
@_JSON
def checkpoint(output: Path | None, as_json: bool) -> None:
    """Print the log's size and newest entry as a signed checkpoint: keep it where no one can rewrite it."""
    from orchestrator.trust import checkpoint as checkpoints
    from orchestrator.trust.chain import origin_of

    place = Workplace.here()
    made = checkpoints.make(origin_of(place.store), place.notary.log().head(), place.notary.signer())
    if not made.signatures:
        place.reporter.warn(
            "no key signs here: anybody could have written this checkpoint (`mirage key new`)"
        )
    if output is not None:
        try:
            output.write_text(made.text(), "utf-8")
        except OSError as error:
            raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    if as_json:
        print_json({**_checkpoint(made), "text": made.text()})
    elif output is None:
        print(made.text(), end="")
    else:
        print(f"{output}: {made.size} entries")


def _checkpoint(made: Checkpoint) -> dict[str, Json]:
    return {
        "origin": made.origin,
        "size": made.size,
        "digest": made.digest,
        "signed": bool(made.signatures),
    }


@log.command("verify", context_settings=_HELP)
@click.option(
    "--checkpoint", "seen", type=click.Path(path_type=Path), metavar="FILE", help="An earlier checkpoint."
)
@_JSON
def verify_log(seen: Path | None, as_json: bool) -> int:
    """Walk the store's log beside its records, and say what was removed, reordered, changed, truncated or forked.

    The exit code is 0, 9 where something is false, or 10 where something is not there or cannot be told.
    """
    from orchestrator.trust import trusted
    from orchestrator.trust.walk import walk

    place = Workplace.here()
    known = trusted.load(place.project.folder)
    earlier = None if seen is None else _read(seen)
    problems = [] if earlier is None else _doubts(earlier, known)
    found = walk(place.store, known, earlier, place.notary.log().remembered())
    false = any(not each.missing for each in found.faults) or any(false for false, _ in problems)
    code = ReproducedWithDifferences.exit_code if false else 0
    if not code and (found.faults or problems):
        code = CannotVerify.exit_code
    verdict = {0: "ok", 9: "mismatch", 10: "missing"}[code]
    if as_json:
        faults: list[Json] = [
            {"kind": each.kind, "seq": each.seq, "run": each.run_id, "text": each.text}
            for each in found.faults
        ]
        faults += [{"kind": "checkpoint", "seq": None, "run": None, "text": text} for _, text in problems]
        signed: dict[str, Json] = {**found.signed}
        print_json(
            {
                "verdict": verdict,
                "size": found.size,
                "head": found.head,
                "records": found.records,
                "unchained": found.unchained,
                "signed": signed,
                "faults": faults,
            }
        )
    else:
        _tell(found, problems, verdict)
    return code


def _read(path: Path) -> Checkpoint:
    from orchestrator.trust import checkpoint as checkpoints

    try:
        return checkpoints.parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the checkpoint {path} cannot be read: {error}") from error


def _doubts(earlier: Checkpoint, known: Trust) -> list[tuple[bool, str]]:
    """What speaks against a checkpoint itself: whether it is false, and in words."""
    from orchestrator.trust.trusted import BAD, UNKNOWN, UNSIGNED

    signed = earlier.check(known)
    return {
        BAD: [(True, f"the checkpoint's signature is not that of {signed.keyid}, as it says")],
        UNKNOWN: [(False, "the checkpoint is signed with a key that is not trusted here")],
        UNSIGNED: [(False, "the checkpoint is not signed")],
    }.get(signed.state, [])


def _tell(found: Walk, problems: list[tuple[bool, str]], verdict: str) -> None:
    for each in found.faults:
        at = "" if each.seq is None else f"entry {each.seq}"
        print(f"{each.kind:<10} {at:<14} {each.run_id or '-':<24} {each.text}")
    for _, text in problems:
        print(f"checkpoint {text}")
    names = ", ".join(f"{count} {name}" for name, count in sorted(found.signed.items()))
    older = f", {found.unchained} from before it" if found.unchained else ""
    print(f"{found.size} entries, {found.records} records and verdicts{older}; signed: {names or 'none'}")
    print(f"{found.head or 'empty'}: {verdict}")
