"""``ensemw2s serve``: an ensemble or a model behind OpenAI's HTTP API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    model: Annotated[str, typer.Argument(help="Ensemble folder, model or adapter folder, built-in name or hub id.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What the API calls the model; the folder's name.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Bearer keys, one a line; also in ENSEMW2S_API_KEYS, commas between.")
    ] = None,
    chat: Annotated[
        str, typer.Option(help="Conversations become prompts by the tokenizer's template, the task format, or auto.")
    ] = "auto",
    rows: Annotated[int, typer.Option(min=1, help="Answers decoded together.")] = 64,
    cache_tokens: Annotated[
        int, typer.Option(min=1, help="Answers decoded together times the longest; less takes less memory.")
    ] = 262_144,
    queue: Annotated[int, typer.Option(min=1, help="Answers that may wait; more are refused with 429.")] = 256,
    max_body: Annotated[int, typer.Option(min=1, metavar="BYTES", help="Largest request.")] = 2**20,
    max_prompt: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Longest prompt.")] = 32_768,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Longest answer.")] = 4096,
    max_choices: Annotated[int, typer.Option(min=1, help="Prompts times n of one request.")] = 128,
    max_logprobs: Annotated[int, typer.Option(min=1, help="Likeliest tokens a completion may ask for.")] = 5,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Longest time of one request.")] = 300,
    grace: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="For running requests, when stopped.")] = 30,
    engine: Annotated[str, typer.Option(help="How experts are computed: auto, turns or stacked.")] = "auto",
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; the fastest of a few that are tried at the start.")
    ] = None,
    trust_remote_code: o.TrustRemoteCode = False,
    viewer: Annotated[bool, typer.Option(help="A page at / that asks, and shows answers token by token.")] = True,
    log_level: Annotated[str, typer.Option(help="critical, error, warning, info or debug.")] = "warning",
) -> None:
    """Serve OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics."""
    import importlib.util

    from ensemw2s.errors import ConfigError, PrerequisiteError, nearest

    if not all(importlib.util.find_spec(package) for package in _NEEDED):
        raise PrerequisiteError("the server's packages are not installed: pip install 'ensemw2s[serve]'")
    levels = ("critical", "error", "warning", "info", "debug")
    if log_level not in levels:
        raise ConfigError(f"unknown --log-level '{log_level}': {nearest(log_level, levels)}")
    from ensemw2s.server.limits import KEYS_VARIABLE, Keys, Limits, read_keys

    limits = Limits(
        rows=rows, cache_tokens=cache_tokens, queue=queue, body_bytes=max_body, prompt_tokens=max_prompt,
        max_tokens=max_tokens, choices=max_choices, logprobs=max_logprobs, seconds=timeout, grace=grace,
    )  # fmt: skip
    keys = Keys(read_keys(key_file, os.environ.get(KEYS_VARIABLE)))

    from ensemw2s.server.app import create_app
    from ensemw2s.server.opening import open_served, served_name
    from ensemw2s.server.running import is_public, run
    from ensemw2s.server.threads import choose_threads

    served = open_served(model, device=device, dtype=dtype, engine=engine, trust_remote_code=trust_remote_code)
    count = choose_threads(served.bank, threads)
    called = name or served_name(model)
    app = create_app(served, called, limits=limits, keys=keys, chat=chat, viewer=viewer)
    texts = app.state.service.texts
    way = "the tokenizer's template" if texts.by_template else "the task format, the last user message as question"
    typer.echo(
        f"model '{called}': {served.bank.size} experts, rule {served.rule}, {served.bank.name}, "
        f"{count} thread{'s' if count > 1 else ''}; conversations by {way}",
        err=True,
    )
    if is_public(host) and not keys:
        typer.echo(f"warning: anyone who reaches {host}:{port} may use this server: give --key-file", err=True)
    run(app, host, port, log_level=log_level)
