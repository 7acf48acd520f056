"""`mirage init`: a new project, ready to commit."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.terminal import print_json


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--name", help="The project's name (default: the folder's).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def init(folder: Path, name: str | None, as_json: bool) -> None:
    """Make a new project in DIR (default: here), unless one of its files exists there already."""
    from orchestrator.skeleton import write_skeleton

    written = write_skeleton(folder, name)
    if as_json:
        print_json({"folder": str(folder.resolve()), "files": list(written)})
        return
    print(f"made {len(written)} files in {folder.resolve()}")
    change = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    print(f"  -> {change}git init && git add . && git commit -m Begin")
    print("  -> mirage-run --config configs/experiment_001.yaml")
