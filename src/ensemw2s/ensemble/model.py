"""An ensemble as a model of transformers: forward gives the mixture, so ``generate``, pipelines and evaluation follow.

Its folder is described in ``folder``; how the experts' passes are computed in ``engine``.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ensemw2s.artifacts import read_json
from ensemw2s.data.encoding import padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble import folder as folders
from ensemw2s.ensemble.card import add_tags
from ensemw2s.ensemble.combine import MixRule, check_alphas, open_rule
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.engine.choose import check_engine, load_experts, make_bank
from ensemw2s.ensemble.engine.members import expert_writer, one_kind
from ensemw2s.ensemble.engine.packed import check_moves
from ensemw2s.ensemble.experts import context_limit, end_tokens, vocabulary_size
from ensemw2s.ensemble.live import LiveExperts, one_vocabulary
from ensemw2s.ensemble.mixing import Mixer
from ensemw2s.ensemble.requests import check_request, loading_options
from ensemw2s.ensemble.uploading import push_folder
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.loading import load_tokenizer, quiet

log = logging.getLogger("ensemw2s.engine")


class EnsembleConfig(PreTrainedConfig):
    """What transformers asks of a configuration; everything about the ensemble itself is in ``ensemble.json``."""

    model_type = folders.MODEL_TYPE


class Ensemble(LiveExperts, PreTrainedModel, GenerationMixin):
    """Experts that act as one causal language model: its logits are log-probabilities of their mixture.

    ``generate``, ``pipeline("text-generation", ...)`` and evaluation harnesses take it as any model. Inference only.

    Args:
        config: made by :meth:`of`.
        models: T causal LMs over one vocabulary.
        mixing: the opened combine rule.
        alphas: ``[expert]``, any scale.
        engine: see ``engine.choose``.
        pack: see there.

    Attributes:
        bank: the experts and how their passes are computed.
        alphas: one non-negative weight an expert.
        mixing: the combine rule.
        tokenizer: shared by all experts; None where none was given.
        task_format: how questions become prompts and answers are compared.
        meta: base model, kind, rounds and whatever else its maker recorded.
    """

    config_class = EnsembleConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: EnsembleConfig,
        models: Sequence[Any],
        mixing: MixRule,
        alphas: Sequence[float],
        engine: str,
        pack: bool,
    ) -> None:
        super().__init__(config)
        self.bank: Bank = make_bank(models, engine, pack=pack)
        self.pack = pack
        self.mixing, self.alphas, self.engine = mixing, [float(a) for a in alphas], engine
        self.tokenizer: Any = None
        self.task_format = TaskFormat()
        self.meta: Mapping[str, Any] = {}
        self.eval()

    @classmethod
    def of(
        cls,
        models: Sequence[Any],
        alphas: Sequence[float],
        rule: str | MixRule = "mean",
        tokenizer: Any = None,
        task_format: TaskFormat | None = None,
        meta: Mapping[str, Any] | None = None,
        rule_state: Mapping[str, Any] | None = None,
        engine: str = "auto",
        pack: bool = False,
    ) -> Ensemble:
        """An ensemble of live models.

        Args:
            models: T causal LMs over one vocabulary, which the ensemble takes over.
            alphas: one non-negative weight an expert; of rule "additive" with a state in any unit, and the ensemble's
                ``alphas`` are then the weights of its sum.
            rule: of combining.
            tokenizer: of all of them; needed to save, to decode texts and for pipelines.
            task_format: of questions and answers.
            meta: base model and whatever else is to be recorded.
            rule_state: what fitting the rule left, JSON data.
            engine: "auto", "turns" or "stacked".
            pack: pack the models' weights in place where the platform can; for inference only from then on.

        Raises:
            ConfigError: unusable alphas, unknown rule or engine, a rule that must be fitted and was not.
            ModelError: no expert, different vocabularies, or a tokenizer that knows more tokens than they do.
        """
        check_engine(engine)
        mixing = open_rule(rule, rule_state)
        alphas = mixing.weights([float(a) for a in check_alphas(alphas, len(models))])
        mixing = mixing.reweighted(alphas)  # folders of old may hold another total in the rule's state alone
        experts = one_vocabulary(models, tokenizer)
        with quiet():
            self = cls(_config(experts), experts, mixing, alphas, engine, pack)
        self.generation_config = _generation_config(experts[0], tokenizer)
        self.tokenizer, self.meta = tokenizer, dict(meta or {})
        self.task_format = task_format or TaskFormat()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **options: Any) -> Ensemble:
        """Load an ensemble folder or a hub repository that holds one.

        Args:
            pretrained_model_name_or_path: as ``save_pretrained``, ``ensemw2s boost`` or ``write_ensemble`` made it.
            *args: unused; transformers' signature.
            **options: ``device`` ("cpu"; ``device_map`` with one device is the same), ``dtype`` ("float32"),
                ``engine`` ("auto"), ``verify`` (True: compare every file with its checksum first), ``pack`` (True:
                packed weights where the platform has them), ``trust_remote_code`` (False).

        Raises:
            ModelError: no ensemble, or one that is damaged or does not fit together.
            ConfigError: unusable alphas, an unknown rule or option.
            PrerequisiteError: the hub or the device is out of reach.
        """
        wanted = loading_options(options)
        folder = folders.find_ensemble(pretrained_model_name_or_path)
        settings = folders.read_settings(folder)
        if settings.get("task") == "binary":
            raise ModelError(f"{folder} holds a yes/no ensemble, which writes no text: use 'label' or 'evaluate'")
        if wanted.verify:
            folders.check_whole(folder)
        tokenizer = load_tokenizer(folder)
        folders.check_tokenizers(folder, settings["experts"], tokenizer)
        with quiet():
            models = load_experts(
                [folder / name for name in settings["experts"]], settings["base"], dtype=wanted.dtype,
                device=wanted.device, trust_remote_code=wanted.trust_remote_code, pack=wanted.pack,
            )  # fmt: skip
        task_format = TaskFormat.from_dict(read_json(folder / folders.FORMAT_FILE))
        state = settings.get("rule_state") or {}
        return cls.of(
            models, settings["alphas"], settings["rule"], tokenizer, task_format, settings, state, wanted.engine,
            wanted.pack,
        )  # fmt: skip

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the whole ensemble: settings, tokenizer, ordinary model or adapter folders, checksums. All or nothing.

        Args:
            save_directory: a new or empty folder, or an ensemble that is replaced once the new one is whole.
            **options: ``push_to_hub=True`` uploads it too, with ``push_to_hub``'s arguments; of transformers' others
                ``max_shard_size`` is used. ``title`` is the card's.

        A card (``README.md``) is written with it; one that lies there and was edited is kept.

        Raises:
            ModelError: no tokenizer.
            CacheError: the folder holds something else, or cannot be written.
        """
        if self.tokenizer is None:
            raise ModelError("this ensemble has no tokenizer: set ensemble.tokenizer before saving it")
        shards = options.pop("max_shard_size", "50GB")
        push, hub = options.pop("push_to_hub", False), options.pop("repo_id", Path(save_directory).name)
        title = str(options.pop("title", ""))
        kind, base = one_kind(self.bank.experts), str(self.meta.get("base", ""))
        folders.write_ensemble(
            Path(save_directory), [expert_writer(model, base, shards) for model in self.models], self.alphas,
            self.rule, tokenizer=self.tokenizer, task_format=self.task_format, base=base, kind=kind, meta=self.meta,
            rule_state=self.rule_state, replace=True, title=title,
        )  # fmt: skip
        if push:
            names = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "base_id")
            add_tags(Path(save_directory), options.get("tags") or ())
            push_folder(Path(save_directory), hub, **{name: options[name] for name in names if name in options})

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the whole folder to the Hugging Face hub, in one commit.

        Args:
            repo_id: ``owner/name``; made where it does not exist. A card there that a person edited is kept.
            **options: of transformers' ``push_to_hub``: ``commit_message``, ``commit_description``, ``private``,
                ``token``, ``revision``, ``create_pr``, ``max_shard_size``, ``tags`` (added to the card's); and
                ``base_id``, under which others find a base that is a local folder here.

        Returns:
            The commit's address.

        Raises:
            ModelError: no tokenizer, adapters whose base nobody else has, or the hub refuses.
            PrerequisiteError: the hub cannot be reached.
        """
        shards, tags = options.pop("max_shard_size", "50GB"), options.pop("tags", None)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "ensemble"
            self.save_pretrained(folder, max_shard_size=shards, title=repo_id)
            add_tags(folder, tags or ())
            return push_folder(folder, repo_id, **options)

    @property
    def rule_state(self) -> Mapping[str, Any]:
        """What fitting the rule left."""
        return self.mixing.state

    # ---- as a model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EnsembleCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        prompt_lengths: Tensor | None = None,
        as_one_model: bool = False,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Log-probabilities of the mixture as logits: softmax of them is the mixture, log_softmax changes nothing.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: int64 ``[batch, cached + seq]``, 1 on real tokens.
            position_ids: int64 ``[batch, seq]``; made from the mask where it has padding.
            past_key_values: what an earlier call returned, or ``bank.new_cache()``.
            labels: int64 ``[batch, seq]``, -100 where ignored; adds the mean loss of next tokens, nats.
            use_cache: keep keys and values for a later call.
            logits_to_keep: the last so many positions only, or these columns; 0 is all.
            prompt_lengths: int64 ``[batch]``, columns before the answer (padding included), for rules that look at
                the answer so far, without a cache. None: all is prompt. With a cache the first call is the prompt.
            as_one_model: with one expert return its own logits instead, which differ by a constant at every position;
                ``generate`` asks so, since a repetition penalty depends on that constant.
            return_dict: False returns a tuple.
            **unused: what other models take (``output_attentions`` ...) and a mixture does not have.

        Returns:
            ``.logits`` float32 ``[batch, kept, vocab]``, ``.past_key_values``, ``.loss``.

        Raises:
            ConfigError: no ``input_ids``, or a cache of another model.
        """
        if input_ids is None:
            raise ConfigError(
                "an ensemble reads tokens: give input_ids (inputs_embeds cannot be shared by its experts)"
            )
        if past_key_values is not None and not isinstance(past_key_values, EnsembleCache):
            raise ConfigError(
                "past_key_values is no cache of an ensemble: use what forward returned, or bank.new_cache()"
            )
        cache = past_key_values
        if cache is None and use_cache:
            cache = self.bank.new_cache()
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        mixer = Mixer(self.mixing, self.alphas, input_ids, cache, prompt_lengths)
        keep = mixer.columns(logits_to_keep if labels is None else 0)
        raw = self.bank(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache, keep=keep
        )  # [expert, batch, kept, vocab]
        logits = raw[0] if as_one_model and len(raw) == 1 else mixer(raw, logits_to_keep if labels is None else 0)
        loss = None if labels is None else _loss(logits, labels)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        return output if return_dict is not False else output.to_tuple()

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **options: Any) -> Any:
        """As of any transformers model; the prompt is checked first.

        Raises:
            DataError: an empty prompt, or one that leaves no room in the context.
            ConfigError: a setting out of range.
        """
        given: Any = inputs if inputs is not None else options.get("input_ids")
        check_request(given, generation_config, options, context_limit(self.models), self.bank.vocabulary)
        if self.mixing.needs_prefix:  # where a first call holds more than the prompt: no cache, drafts
            options.setdefault("prompt_lengths", torch.full((len(given),), given.shape[1], device=given.device))
        return super().generate(inputs, generation_config, **options)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As of any model, and that a single expert's own logits are wanted."""
        return {**super().prepare_inputs_for_generation(*args, **kwargs), "as_one_model": True}

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int,
        max_cache_length: int, *unused: Any,
    ) -> bool:  # fmt: skip
        """Hook of transformers: the cache is ours."""
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return False
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic", "static"):
            raise ConfigError(f"cache_implementation is {kind!r}: an ensemble has 'dynamic' and 'static'")
        longest = max(max_cache_length, getattr(generation_config, "max_cache_len", None) or 0)
        cache = self.bank.new_cache(longest if kind == "static" else None)
        if generation_config.is_assistant:
            cache.activate_past_recording()
        model_kwargs["past_key_values"] = cache
        return False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Ensemble:
        """Hook of ``.to``, ``.half`` ...: refused before anything has moved, where packed weights could not follow."""
        check_moves(self, fn)
        return super()._apply(fn, recurse)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: every expert ties its own when it is made, and stacked weights stand elsewhere."""

    def _get_candidate_generator(self, *args: Any, model_kwargs: dict[str, Any], **named: Any) -> Any:
        """Hook of transformers: what only an ensemble understands is not for the drafting model."""
        plain = {name: value for name, value in model_kwargs.items() if name != "prompt_lengths"}
        return super()._get_candidate_generator(*args, model_kwargs=plain, **named)

    def _supports_logits_to_keep(self) -> bool:
        return True


def _config(models: Sequence[Any]) -> EnsembleConfig:
    """Sizes that others ask for, as of the first expert; the context of the shortest."""
    first = models[0].config.get_text_config()
    known = {name: getattr(first, name, None) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    return EnsembleConfig(
        vocab_size=vocabulary_size(models[0]), max_position_embeddings=context_limit(models),
        bos_token_id=first.bos_token_id, eos_token_id=first.eos_token_id, pad_token_id=first.pad_token_id,
        tie_word_embeddings=False, **{name: value for name, value in known.items() if value is not None},
    )  # fmt: skip


def _generation_config(model: Any, tokenizer: Any) -> Any:
    """The first expert's, with the end tokens that decoding uses and something to pad with."""
    settings = copy.deepcopy(model.generation_config)
    if tokenizer is not None:
        settings.eos_token_id = end_tokens(model, tokenizer)
        settings.pad_token_id = padding_token(tokenizer)
    return settings


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the next tokens, nats."""
    return torch.nn.functional.nll_loss(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(logits.device), ignore_index=-100
    )


AutoConfig.register(folders.MODEL_TYPE, EnsembleConfig)
AutoModelForCausalLM.register(EnsembleConfig, Ensemble)
