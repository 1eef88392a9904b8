"""The command line's door: one line and exit code 2 for what the user can mend, no traceback.

Heavy imports (torch, transformers) wait until a verb needs them.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import Annotated, Any, cast

import typer

from ensemw2s import interrupts, parallel
from ensemw2s.cli.flags import FLAGS
from ensemw2s.errors import ConfigError, EnsemW2SError

app = typer.Typer(
    name="ensemw2s",
    help="Weak-to-strong supervision with token-level boosted ensembles of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"ensemw2s {version('ensemw2s')}")
        raise typer.Exit


#: Verbs whose work several processes can share.
_SHARED = ("run", "boost", "student", "label", "evaluate", "rate")


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    sharing: Annotated[
        str | None,
        typer.Option(
            "--parallel",
            metavar="ddp|fsdp",
            envvar=parallel.CHOICE,
            help="Under torchrun: every process trains a whole model (ddp), or each a part of one (fsdp).",
        ),
    ] = None,
) -> None:
    """Weak-to-strong supervision with token-level boosted ensembles of language models."""
    verb = cast(Any, context.command).get_command(context, context.invoked_subcommand or "")
    FLAGS.options = frozenset(name for option in (verb.params if verb else ()) for name in option.opts)
    if sharing is not None:
        parallel.choose(sharing)
    if parallel.world() > 1 and context.invoked_subcommand not in _SHARED:
        raise ConfigError(
            f"'{context.invoked_subcommand}' is work for one process: start it without torchrun (several processes can "
            f"share {', '.join(_SHARED)})"
        )


def _register() -> None:
    if app.registered_commands:  # done before in this process
        return
    from ensemw2s.cli import (
        boost,
        cache,
        evaluate,
        explain,
        generate,
        label,
        listing,
        lm_eval,
        plan,
        rate,
        report,
        run,
        serve,
        student,
        study,
    )

    modules = (
        run,
        plan,
        explain,
        study,
        boost,
        label,
        student,
        evaluate,
        generate,
        rate,
        report,
        listing,
        cache,
        lm_eval,
        serve,
    )
    for module in modules:
        module.register(app)


def main() -> None:
    """Run the command line."""
    interrupts.install()
    try:
        _register()
        parallel.start()
        with parallel.quiet():
            app(standalone_mode=True)
    except SystemExit as done:
        if not done.code:
            parallel.finish()
        raise
    except interrupts.Stopped as stopped:
        _resume_hint(stopped.number)
    except EnsemW2SError as error:
        _fail(str(error))
    except Exception as error:
        # Libraries below may meet a full disk or a missing permission first; still the user's to mend.
        from pathlib import Path

        from ensemw2s.artifacts import disk_error, system_error

        refused = system_error(error)
        if refused is not None and refused.errno is not None:
            _fail(str(disk_error(refused, Path(str(refused.filename or "a file")))))
        if _is_out_of_memory(error):
            _fail(
                "out of memory: take fewer rows at once (evaluation.batch_size, or --batch-size), read fewer rows "
                "(data.limit), or take a smaller model; finished stages are kept"
            )
        if parallel.is_lost_peer(error):
            _fail("another process of this run is gone (killed, or out of memory): run the same command again")
        if not parallel.first_to_fail():
            raise SystemExit(1) from None
        raise


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out where nothing smaller could be tried."""
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from ensemw2s.training.step import is_out_of_memory

    return is_out_of_memory(error)


def _fail(message: str) -> None:
    """One line. Of processes that work together the first that fails tells why; the others fail because it did."""
    if parallel.first_to_fail():
        sys.stderr.write(f"error: {FLAGS.speak(' '.join(message.split()))}\n")
    interrupts.uninstall()  # a launcher ends those that are left, and nothing is left to be said
    raise SystemExit(2)


def _resume_hint(number: int) -> None:
    again = f":\n  {shlex.join(['ensemw2s', *sys.argv[1:]])}"
    if parallel.world() > 1:  # how it was launched is not known here
        again = ", launch the same command again"
    if parallel.first_to_fail():
        with contextlib.suppress(OSError):  # the terminal itself may be gone
            sys.stderr.write(f"\nstopped; finished stages are kept. To go on from there{again}\n")
            sys.stderr.flush()
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
