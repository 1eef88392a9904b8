"""``ensemw2s generate``: one prompt, one answer."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(generate)


def generate(
    prompt: Annotated[str, typer.Argument(help="A question; with --raw a prompt as it stands.")],
    model: Annotated[str, typer.Option(help="Ensemble folder, model folder, built-in name or hub id.")],
    raw: Annotated[
        bool, typer.Option("--raw/--format", help="Leave the prompt as it stands, or apply the task format.")
    ] = False,
    max_new_tokens: o.MaxNewTokens = None,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Answer one prompt, greedily: the same every time. Standard error says which task format was applied."""
    from ensemw2s import api

    machine = o.machine(device, dtype, trust_remote_code=trust_remote_code)
    text, told = api.generate(model, prompt, use_format=not raw, max_new_tokens=max_new_tokens, machine=machine)
    typer.echo(told, err=True)
    typer.echo(text)
