"""``ensemw2s cache``: what the store holds, whether it is whole, and what may go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Root = Annotated[
    Path | None, typer.Option("--store", help="Folder or URL, instead of $ENSEMW2S_CACHE or the user's cache folder.")
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    cache = typer.Typer(help="Look after the store of finished stages.", no_args_is_help=True)
    cache.command("list")(list_entries)
    cache.command()(verify)
    cache.command()(prune)
    app.add_typer(cache, name="cache")


def list_entries(
    store: Root = None,
    all_entries: Annotated[bool, typer.Option("--all", help="One line an entry instead of one a stage.")] = False,
) -> None:
    """What lies in the store, by stage."""
    import datetime

    from ensemw2s.experiment.upkeep import Entry

    root, upkeep = _opened(store)
    found = list(upkeep.entries(root))
    typer.echo(f"store: {root}")
    if all_entries:
        for entry in found:
            day = datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            typer.echo(f"{entry.stage:<14} {entry.name:<28} {_size(entry.size):>9}  {day}  {entry.state}")
        return
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in found:
        groups.setdefault((entry.stage, entry.state), []).append(entry)
    for (stage, state), some in groups.items():
        typer.echo(f"{stage:<14} {len(some):>6} {state:<11} {_size(sum(e.size for e in some)):>9}")
    typer.echo(f"{'in all':<14} {len(found):>6} {'':<11} {_size(sum(e.size for e in found)):>9}")


def verify(store: Root = None) -> None:
    """Compare every finished stage with its checksums; exit code 2 where one is damaged."""
    from ensemw2s.errors import CacheError

    root, upkeep = _opened(store)
    bad = list(upkeep.damaged(root))
    for entry, reason in bad:
        typer.echo(f"{entry.stage} {entry.name}: {reason}")
    finished = sum(entry.state == "finished" for entry in upkeep.entries(root))
    if bad:
        raise CacheError(
            f"{len(bad)} of {finished} stages are damaged; they are never used, and made again when needed: "
            "remove them with 'ensemw2s cache prune --damaged'"
        )
    typer.echo(f"all {finished} stages are whole")


def prune(
    store: Root = None,
    older_than: Annotated[float | None, typer.Option(min=0, help="Only what is older than this many days.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Only damaged stages.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Leftovers, checkpoints and locks instead; only while nothing runs.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All finished stages.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
) -> None:
    """Remove stages; what is needed again is made again."""
    from ensemw2s.errors import ConfigError

    if not (everything or damaged or unfinished or older_than is not None or stage is not None):
        raise ConfigError("say what may go: --older-than DAYS, --stage NAME, --damaged, --unfinished or --all")
    root, upkeep = _opened(store)
    gone = upkeep.prune(
        root, older_than_days=older_than, stage=stage, unfinished=unfinished, broken=damaged, dry_run=dry_run
    )
    told = "would go" if dry_run else "removed"
    typer.echo(f"{len(gone)} entries {told}, {_size(sum(entry.size for entry in gone))}")


def _opened(given: Path | None) -> tuple[Any, Any]:
    """The store's place, and the module that looks after stores of its kind."""
    from ensemw2s.errors import ConfigError
    from ensemw2s.experiment import remote_upkeep, upkeep
    from ensemw2s.experiment.where import default_store, locate

    root = locate(given) if given else default_store()
    if isinstance(root, str):
        return root, remote_upkeep
    if given is not None and not root.is_dir():
        raise ConfigError(f"--store {root} is no folder: give the store's folder or URL, or leave it out")
    return root, upkeep


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
