"""The model type ``ensemw2s`` of lm-eval: an ensemble's folder, scored and decoded by our own code."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from ensemw2s.ensemble.experts import context_limit
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.harness.scoring import Continuation, Score, continuation_scores, fit
from ensemw2s.harness.writing import Settings, write
from ensemw2s.models.devices import resolve_device, resolve_dtype

log = logging.getLogger("ensemw2s.harness")

MAX_GEN_TOKS = 256  # lm-eval's own default; half of a shorter context


class EnsembleLM(TemplateLM):
    """An ensemble as lm-eval asks for one.

    Contexts, continuations and special tokens are as lm-eval's own ``hf`` model has them, so that numbers compare.

    Args:
        pretrained: an ensemble's folder or hub repository, or a live ensemble with a tokenizer, which is taken as it
            is (``dtype``, ``device``, ``engine`` and ``trust_remote_code`` are of loading).
        dtype: float32, bfloat16, float16 or auto.
        device: auto, cpu, cuda, cuda:N or mps. "cuda:0", which lm-eval says where nobody chose, is "auto" on a machine
            without CUDA.
        batch_size: "auto", or a number: rows decoded together; scoring takes the memory of as many of the longest.
        max_batch_size: upper limit of "auto".
        engine: auto, turns or stacked.
        max_length: of the context in tokens, where it is to be shorter than the experts' own.
        max_gen_toks: longest answer of tasks that do not say; 256, or half of a shorter context.
        add_bos_token: put the start token first, or do not; None: as the tokenizer does.
        prefix_token_id: stands for an empty context; the start token, or without one the end token.
        chat_template_args: passed to the chat template (``enable_thinking`` ...).
        trust_remote_code: run code that comes with a model.

    Raises:
        ModelError: no ensemble, a yes/no ensemble, or one that is damaged.
        ConfigError: an unusable argument.
    """

    def __init__(
        self,
        pretrained: str | Path | Ensemble,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        engine: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.rows = _rows(batch_size, max_batch_size)
        if isinstance(pretrained, Ensemble):
            self.ensemble = pretrained
        else:
            resolve_dtype(dtype)
            self.ensemble = Ensemble.from_pretrained(
                str(pretrained), dtype=dtype, device=str(_device(device)), engine=engine,
                trust_remote_code=trust_remote_code,
            )  # fmt: skip
        if self.ensemble.tokenizer is None:
            raise ConfigError("this ensemble has no tokenizer: set ensemble.tokenizer first")
        self.tokenizer = self.ensemble.tokenizer
        self._device = self.ensemble.bank.device
        context = context_limit(self.ensemble.models)
        if max_length is not None and not 2 <= max_length <= context:
            raise ConfigError(f"max_length is {max_length}: give 2 to {context}, the experts' context")
        self.max_length = max_length or context
        self.max_gen_toks = max_gen_toks or min(MAX_GEN_TOKS, max(1, self.max_length // 2))
        self.add_bos_token, self._prefix_token_id = add_bos_token, prefix_token_id
        self.chat_template_args = dict(chat_template_args or {})
        first, bare = self.ensemble.prompts(["a"])[0], self._plain("a")
        self._start = first[: len(first) - len(bare)]

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: Any = None) -> EnsembleLM:
        """From the command line's ``--model_args``; what they say goes before ``--device`` and ``--batch_size``.

        Raises:
            ConfigError: no ``pretrained``, or an unknown argument.
        """
        known = list(inspect.signature(cls).parameters)
        for name in arg_dict:
            if name not in known:
                raise ConfigError(f"model type 'ensemw2s' has no argument '{name}': {nearest(name, known)}")
        if "pretrained" not in arg_dict:
            raise ConfigError("model type 'ensemw2s' needs an ensemble: give --model_args pretrained=FOLDER")
        general = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**general, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> EnsembleLM:
        """As :meth:`create_from_arg_obj`, from ``key=value,key=value``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # ---- tokens

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        if self._prefix_token_id is not None:
            return int(self._prefix_token_id)
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """Token ids, with what the tokenizer puts first (never last) unless it stands there already."""
        ids = self._plain(string)
        wanted = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            wanted = False
        start = self._start
        if self.add_bos_token and not start and self.tokenizer.bos_token_id is not None:
            start = [int(self.tokenizer.bos_token_id)]
        return ids if wanted is False else [*start, *ids]

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as a prompt; without its system message where the template knows none.

        Raises:
            ConfigError: a tokenizer without a chat template.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError("this ensemble's tokenizer has no chat template: leave --apply_chat_template out")
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt,
                   "continue_final_message": not add_generation_prompt, **self.chat_template_args}  # fmt: skip
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **options))
        except jinja2.exceptions.TemplateError as error:
            without = [message for message in chat_history if message["role"] != "system"]
            if len(without) == len(chat_history):
                raise ConfigError(f"the chat template refuses this conversation: {error}") from error
            log.warning("the chat template refuses the system message, which is left out: %s", error)
            return str(self.tokenizer.apply_chat_template(without, **options))

    # ---- what lm-eval asks

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding would write it) of continuations of contexts.

        Raises:
            DataError: a continuation without a text or tokens of its own, or longer than the context.
        """
        empty = next((request.args for request in requests if not request.args[1]), None)
        if empty is not None:
            raise DataError(f"nothing to score after the context {_shown(empty[0])}: give a continuation")
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **unused: Any,
    ) -> list[tuple[float, bool]]:
        """Of token ids; the pair of texts is lm-eval's key for its cache of answers."""
        for pair, _, tokens in requests:
            if not 0 < len(tokens) <= self.max_length:
                raise DataError(
                    f"the continuation {_shown(pair[1] if pair else '')} has {len(tokens)} tokens of its own: "
                    f"1 to {self.max_length} can be scored"
                )
        fitted = [fit(context, tokens, self.max_length) for _, context, tokens in requests]
        cut = sum(len(now.context) < len(context) for now, (_, context, _) in zip(fitted, requests, strict=True))
        if cut:
            log.warning("%d contexts are cut from their beginning: %d tokens can be read", cut, self.max_length)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for number, score in self._scores(fitted, "loglikelihood", disable_tqdm):
            answers[number] = (score.log_prob, score.greedy)
            key = requests[number][0]
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answers[number])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, every token once, in windows as long as the context.

        Rules that look at the answer so far take what a window scores as the answer.
        """
        windows: list[Continuation] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            found = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            pairs = [Continuation(*make_disjoint_window(window)) for window in found]
            windows += pairs
            owners += [number] * len(pairs)
        totals = [0.0] * len(requests)
        for number, score in self._scores(windows, "loglikelihood_rolling", disable_tqdm):
            totals[owners[number]] += score.log_prob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers up to their stop strings, their end token or ``max_gen_toks``.

        Raises:
            ConfigError: an unknown generation setting, or one out of range.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="Running generate_until requests", disable=disable_tqdm) as progress:
            for members in groups.values():
                settings = self._settings(requests[members[0]].args[1])
                prompts = [self.tok_encode(requests[number].args[0]) or [self.prefix_token_id] for number in members]
                written = write(self.ensemble, prompts, settings, rows=self.rows, context=self.max_length)
                for place, text in written:
                    number = members[place]
                    answers[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    progress.update()
        return answers

    def _settings(self, asked: Mapping[str, Any]) -> Settings:
        """A task's generation settings in our terms."""
        given = dict(normalize_gen_kwargs(dict(asked), self.max_gen_toks))
        until = [stop for stop in given.pop("until") if stop is not None]
        longest = given.pop("max_gen_toks")
        if not given.get("do_sample"):
            given.pop("temperature", None)
        return Settings(int(longest), tuple(until), given)

    def _scores(self, continuations: Sequence[Continuation], what: str, quiet: bool) -> Iterable[tuple[int, Score]]:
        found = continuation_scores(self.ensemble, continuations, rows=self.rows)
        return tqdm(found, total=len(continuations), desc=f"Running {what} requests", disable=quiet)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results."""
        ensemble = self.ensemble
        return {
            "ensemble_rule": ensemble.rule,
            "ensemble_alphas": list(ensemble.alphas),
            "ensemble_engine": ensemble.bank.name,
            "model_dtype": str(next(ensemble.parameters()).dtype),
        }


def _device(name: str) -> torch.device:
    if name == "cuda:0" and not torch.cuda.is_available():
        name = "auto"
    return resolve_device(str(name))


def _rows(batch_size: int | str, most: int | None) -> int | None:
    """Rows at once; None: as many as fit."""
    if str(batch_size).split(":")[0] == "auto":
        return None if most is None else int(most)
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise ConfigError(f"batch_size is {batch_size!r}: give 'auto' or a number of at least 1")
    return int(batch_size)


def _shown(text: str) -> str:
    """The end of a text, short enough for a line."""
    return repr(text if len(text) <= 40 else "…" + text[-40:])
