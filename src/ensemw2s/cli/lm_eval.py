"""``ensemw2s lm-eval``: EleutherAI's lm-evaluation-harness on an ensemble."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("lm-eval", context_settings=passed_on, add_help_option=False)(lm_eval)


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval on an ensemble: --model ensemw2s --model_args pretrained=FOLDER --tasks ...; all goes to lm-eval."""
    from ensemw2s.harness.launch import run

    run(context.args)
