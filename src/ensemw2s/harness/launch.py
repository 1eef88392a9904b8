"""lm-eval's own command line with our model type registered."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence

import yaml

from ensemw2s.errors import ConfigError, PrerequisiteError

MODEL_TYPE = "ensemw2s"
_CLASS = "ensemw2s.harness.model:EnsembleLM"
# Parts of lm-eval that read what the user gave; an error from elsewhere keeps its traceback.
_READERS = ("lm_eval.config", "lm_eval._cli", "lm_eval.tasks", "lm_eval.api.registry", "lm_eval.utils")


def register() -> None:
    """Make ``ensemw2s`` a model type of lm-eval, and ensembles loadable by its type ``hf``; again does nothing.

    Raises:
        PrerequisiteError: lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise PrerequisiteError("lm-eval is not installed: pip install 'ensemw2s[eval]'")
    import lm_eval.models  # noqa: F401  lm-eval's own types first
    from lm_eval.api.registry import model_registry

    import ensemw2s.ensemble.model  # noqa: F401  registers the ensemble with transformers

    if MODEL_TYPE not in model_registry:
        model_registry.register(MODEL_TYPE, target=_CLASS)


def run(arguments: Sequence[str]) -> None:
    """Call lm-eval's command line, all arguments as they are.

    With ``--model ensemw2s`` the device and the batch size are "auto" where neither the arguments nor a configuration
    file can have named them (lm-eval's own defaults are cuda:0 and 1).

    Raises:
        PrerequisiteError: lm-eval is not installed.
        ConfigError: what lm-eval refuses of its arguments and tasks, or a file that is missing, in one line.
    """
    register()
    from lm_eval.__main__ import cli_evaluate

    before, sys.argv = sys.argv, ["ensemw2s lm-eval", *with_defaults(arguments)]
    try:
        cli_evaluate()
    except (ValueError, KeyError, TypeError, FileNotFoundError, yaml.YAMLError) as error:
        if not isinstance(error, FileNotFoundError) and not _about_arguments(error):
            raise
        said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise ConfigError(f"lm-eval: {said}") from error
    finally:
        sys.argv = before


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """The arguments, completed as :func:`run` says.

    >>> with_defaults(["--model", "ensemw2s", "--device", "cpu"])
    ['--model', 'ensemw2s', '--device', 'cpu', '--batch_size', 'auto']
    """
    given = list(arguments)
    ours = _names(given, "--model", "-M") and MODEL_TYPE in {argument.split("=")[-1] for argument in given}
    if not ours or _names(given, "--config", "-C"):
        return given
    if not _names(given, "--device"):
        given += ["--device", "auto"]
    if not _names(given, "--batch_size", "-b"):
        given += ["--batch_size", "auto"]
    return given


def _names(arguments: Sequence[str], *options: str) -> bool:
    return any(argument == option or argument.startswith(f"{option}=") for argument in arguments for option in options)


def _about_arguments(error: BaseException) -> bool:
    """Whether the innermost code of lm-eval in the traceback is what reads arguments and tasks."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [name for name in modules if name.startswith("lm_eval")]
    return bool(own) and own[-1].startswith(_READERS)
