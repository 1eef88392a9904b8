"""The training loop: what it minimises, and what must change nothing."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.training.batches import flatten_rows
from ensemw2s.training.finetune import TrainingDiverged, fine_tune, make_optimizer
from ensemw2s.training.forward import shortcut_agrees
from ensemw2s.training.settings import TrainSettings

Rows = Callable[..., list[Any]]
Model = Callable[..., Any]

ONE_STEP = TrainSettings(max_steps=1, batch_size=64, warmup_fraction=0.0, gradient_clip=None, learning_rate=1e-2)
SHORT = TrainSettings(epochs=2, batch_size=4, learning_rate=1e-2)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def differs(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, right[name]) for name, value in left.items())


def train(model: Any, rows: list[Any], settings: TrainSettings = SHORT, **options: Any) -> Any:
    return fine_tune(model, rows, settings, **{"seed": 1, "pad_token_id": 0, **options})


def last_gradient(model: Any, rows: list[Any], settings: TrainSettings, **options: Any) -> dict[str, torch.Tensor]:
    """Train, and return the gradient as the optimiser last saw it."""
    seen: dict[str, torch.Tensor] = {}
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.update({name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None})
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(model, rows, settings, **options)
    assert seen
    return seen


def test_the_loss_is_the_weighted_mean_over_the_whole_step(make_model: Model, make_rows: Rows, nll: Any) -> None:
    rows = make_rows(9)
    model = make_model()
    each = torch.cat([nll(model, row) for row in rows])
    weights = torch.rand(len(each), generator=torch.Generator().manual_seed(0))
    expected = float((each * weights).sum() / weights.sum())
    for micro in (None, 1, 2, 4):
        result = train(
            make_model(),
            rows,
            TrainSettings(max_steps=1, batch_size=9, micro_batch_size=micro),
            token_weights=weights.double(),
        )
        assert result.losses == [pytest.approx(expected, abs=1e-5)]
    assert train(make_model(), rows, ONE_STEP).losses == [pytest.approx(float(each.mean()), abs=1e-5)]


def test_one_step_equals_plain_adamw_on_unpadded_rows(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(6)
    count = sum(len(row.input_ids) - row.prompt_length for row in rows)
    weights = torch.linspace(0.1, 2.0, count, dtype=torch.float64)
    model = make_model()
    # AdamW's first step is nearly the sign of the gradient and hides its size, so the gradient is compared too.
    plain = make_model()
    total, start = 0.0, 0
    for row in rows:
        labels = torch.tensor(row.input_ids)
        logits = plain(labels[None]).logits[0]
        for place in range(row.prompt_length, len(row.input_ids)):
            loss = torch.nn.functional.cross_entropy(logits[place - 1], labels[place])
            total = total + weights[start].float() * loss
            start += 1
    (total / weights.sum()).backward()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, eps=1e-8, weight_decay=0.0)
    optimizer.step()

    seen = last_gradient(model, rows, ONE_STEP, token_weights=weights)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, atol=1e-6, rtol=1e-4)
    large = {name: value.grad.abs() > 1e-4 for name, value in plain.named_parameters()}
    for name, parameter in plain.named_parameters():
        got = dict(model.named_parameters())[name]
        torch.testing.assert_close(got[large[name]], parameter[large[name]], atol=2e-5, rtol=0)


def test_many_steps_equal_a_plain_loop(make_model: Model, make_rows: Rows) -> None:
    rows, plain = make_rows(12), make_model()
    settings = TrainSettings(epochs=3, batch_size=4, learning_rate=1e-2, warmup_fraction=0.3, shuffle=False)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    # 9 steps, 2 of them warm-up, then a half cosine over 7.
    factors = [1 / 3, 2 / 3, *(0.5 + 0.5 * math.cos(math.pi * step / 7) for step in range(7))]
    losses = []
    for step, factor in enumerate(factors):
        optimizer.zero_grad()
        each = []
        for row in rows[step % 3 * 4 : step % 3 * 4 + 4]:
            labels = torch.tensor(row.input_ids)
            logits, start = plain(labels[None]).logits[0], row.prompt_length
            each.append(torch.nn.functional.cross_entropy(logits[start - 1 : -1], labels[start:], reduction="none"))
        loss = torch.cat(each).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * factor
        optimizer.step()
        losses.append(loss.item())
    assert train(make_model(), rows, settings).losses == pytest.approx(losses, abs=1e-3)


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_change_nothing(make_model: Model, make_rows: Rows, micro: int) -> None:
    rows = make_rows(24)
    count = sum(len(row.input_ids) - row.prompt_length for row in rows)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    settings = TrainSettings(max_steps=1, batch_size=24)
    whole = last_gradient(make_model(), rows, settings, token_weights=weights)
    parts = dataclasses.replace(settings, micro_batch_size=micro)
    assert_same(last_gradient(make_model(), rows, parts, token_weights=weights), whole, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-2


def test_no_logits_outlive_their_step(make_model: Model, make_rows: Rows) -> None:
    model, calls, alive = make_model(), [], []
    vocabulary = model.config.vocab_size

    def look(*_: Any) -> None:
        calls.append(1)
        if len(calls) in (4, 12):  # looking at every object takes a while
            tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
            alive.append(sum(one.dim() > 1 and one.shape[-1] == vocabulary for one in tensors))

    model.get_output_embeddings().register_forward_hook(look)
    train(model, make_rows(24), TrainSettings(epochs=2, batch_size=8, micro_batch_size=4))
    early, late = alive
    assert late <= early


def test_the_gradient_is_clipped_by_its_whole_norm(make_model: Model, make_rows: Rows) -> None:
    norms: list[float] = []
    for clip in (None, 0.05, 1e6):
        settings = TrainSettings(max_steps=1, batch_size=8, gradient_clip=clip)
        gradient = last_gradient(make_model(), make_rows(8), settings)
        norms.append(float(torch.stack([part.norm() for part in gradient.values()]).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.05, rel=1e-3)
    assert norms[2] == pytest.approx(norms[0])


def test_robustness_is_what_is_minimised(make_model: Model, make_rows: Rows, nll: Any) -> None:
    """The first loss is Σ w (1 - p^q) / q / Σ w of the untrained model, over micro-batches too."""
    rows, settings = make_rows(5), TrainSettings(epochs=1, batch_size=5, micro_batch_size=2, robustness=0.4)
    model = make_model()
    log_p = -torch.cat([nll(model, row) for row in rows])
    weights = torch.arange(len(log_p)) % 3 + 0.5
    expected = ((1 - (0.4 * log_p).exp()) / 0.4 * weights).sum() / weights.sum()
    found = fine_tune(model, rows, settings, seed=0, token_weights=weights, pad_token_id=0)
    assert found.losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_robustness_is_refused_where_the_loss_has_none(make_model: Model, make_rows: Rows) -> None:
    with pytest.raises(ConfigError, match="and loss 'confidence' has no robust form"):
        fine_tune(make_model(), make_rows(2), TrainSettings(robustness=0.4), seed=0, pad_token_id=0, loss="confidence")


def test_padding_and_its_token_change_nothing(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(20)
    zero, other = make_model(), make_model()
    train(zero, rows, pad_token_id=0)
    train(other, rows, pad_token_id=17)
    assert_same(weights_of(zero), weights_of(other))


def test_rows_of_weight_zero_are_as_if_absent(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(12)
    counts = [len(row.input_ids) - row.prompt_length for row in rows]
    weights = torch.cat([torch.full((n,), float(i % 3 != 0)) for i, n in enumerate(counts)])
    masked, absent = make_model(), make_model()
    result = train(masked, rows, token_weights=weights)
    train(absent, [row for i, row in enumerate(rows) if i % 3])
    assert_same(weights_of(masked), weights_of(absent))
    assert result.answer_tokens == 2 * sum(n for i, n in enumerate(counts) if i % 3)


def test_the_scale_of_the_weights_changes_nothing(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(12)
    count = sum(len(row.input_ids) - row.prompt_length for row in rows)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one, two = make_model(), make_model()
    train(one, rows, token_weights=weights)
    train(two, rows, token_weights=weights * 2.0**-40)
    assert_same(weights_of(one), weights_of(two))


def test_a_masked_last_token_is_not_learned(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows([([5, 6], [7, 8]), ([4, 3, 2], [9, 8])])
    garbage = make_rows([([5, 6], [7, 1]), ([4, 3, 2], [9, 1])])
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0])
    clean, dirty, learned = make_model(), make_model(), make_model()
    train(clean, rows, token_weights=weights)
    train(dirty, garbage, token_weights=weights)
    train(learned, garbage)
    assert_same(weights_of(clean), weights_of(dirty))
    assert differs(weights_of(clean), weights_of(learned))


def test_same_seed_same_bytes_and_global_generators_untouched(make_model: Model, make_rows: Rows) -> None:
    rows, models = make_rows(20), [make_model(dropout=0.2) for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, rows, seed=seed)
        torch.rand(1)  # what others draw in between has no influence
    torch.set_rng_state(state)
    train(make_model(dropout=0.2), rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(weights_of(models[0]), weights_of(models[1]))
    assert differs(weights_of(models[0]), weights_of(models[2]))


def test_dropout_is_on_while_training_and_off_afterwards(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(8)
    plain, dropped = make_model(), make_model(dropout=0.5)
    assert train(plain, rows, ONE_STEP).losses != train(dropped, rows, ONE_STEP).losses
    assert not dropped.training
    assert all(parameter.grad is None for parameter in dropped.parameters())


def test_it_learns_and_counts(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows([([i, i + 1], [i + 20, 39]) for i in range(1, 17)])
    ticks: list[tuple[int, int]] = []
    model = make_model()
    settings = TrainSettings(epochs=25.5, batch_size=8, learning_rate=1e-2)
    result = train(model, rows, settings, progress=lambda done, total: ticks.append((done, total)))
    assert result.steps == 51 == len(result.losses)
    assert ticks == [(step, 51) for step in range(1, 52)]
    assert result.answer_tokens == 51 * 8 * 2
    assert result.tokens == 51 * 8 * 3  # the end token is never fed
    assert result.seconds > 0
    assert result.losses[-1] < 0.3 < result.losses[0]
    with torch.no_grad():
        guesses = model(torch.tensor([row.input_ids for row in rows])).logits[:, 1].argmax(-1)
    assert guesses.tolist() == [row.input_ids[2] for row in rows]


def test_a_model_whose_logits_depend_on_its_mask_is_run_the_plain_way(
    make_model: Model, make_rows: Rows, nll: Any
) -> None:
    model = make_model()
    inner = model.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        output = inner(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:  # something that only the plain pass does
            output.logits = output.logits * 3.0
        return output

    rows = make_rows(5)
    model.forward = forward
    tripled = train(model, rows, ONE_STEP).losses[0]
    other = make_model()
    other.get_output_embeddings().weight.data *= 3.0
    assert tripled == pytest.approx(train(other, rows, ONE_STEP).losses[0], abs=1e-4)


def test_dropout_does_not_spoil_the_choice_of_the_short_way(make_model: Model, make_rows: Rows) -> None:
    model = make_model(dropout=0.5).train()
    assert shortcut_agrees(model, flatten_rows(make_rows(4), None, 0).micro_batch(np.arange(4)))
    assert model.training


def test_bfloat16_is_trained_in_float32_and_comes_back(make_model: Model, make_rows: Rows) -> None:
    rows = make_rows(16)
    model, reference = make_model(dtype=torch.bfloat16), make_model()
    reference.load_state_dict(model.state_dict())
    before = weights_of(model)
    # So small a step that most of it is lost when bfloat16 weights are updated in place, twenty times over.
    settings = TrainSettings(epochs=20, batch_size=16, learning_rate=3e-5, schedule="constant", warmup_fraction=0)
    train(model, rows, settings)
    train(reference, rows, settings)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.gpt_neox.embed_in.weight.grad is None
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    moved = (weights_of(model)[name].float() - before[name].float()).flatten()
    wanted = (weights_of(reference)[name] - before[name].float()).flatten()
    assert float(torch.nn.functional.cosine_similarity(moved, wanted, dim=0)) > 0.8
    assert float(moved.norm() / wanted.norm()) == pytest.approx(1.0, abs=0.3)


def test_gradient_checkpointing_changes_nothing(make_model: Model, make_rows: Rows) -> None:
    rows, plain, checkpointed = make_rows(8), make_model(), make_model()
    train(plain, rows)
    train(checkpointed, rows, TrainSettings(epochs=2, batch_size=4, learning_rate=1e-2, gradient_checkpointing=True))
    assert_same(weights_of(plain), weights_of(checkpointed), atol=1e-6)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules())


def test_only_the_adapter_is_trained(make_model: Model, make_rows: Rows) -> None:
    from ensemw2s.models.adapters import LoraSettings, add_lora

    model = add_lora(make_model(), LoraSettings(r=4, alpha=8), seed=1)
    before = weights_of(model)
    result = train(model, make_rows(20), TrainSettings(epochs=10, batch_size=8, learning_rate=1e-2))
    changed = {name for name, value in weights_of(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize("rate", [1e30, 1e5])
def test_divergence_is_named(make_model: Model, make_rows: Rows, rate: float) -> None:
    settings = TrainSettings(epochs=60, batch_size=4, learning_rate=rate, gradient_clip=None, schedule="constant")
    model = make_model()
    try:
        result = train(model, make_rows(8), settings)
    except TrainingDiverged as error:
        assert "lower train.learning_rate" in str(error)
        assert isinstance(error, ModelError)
    else:
        assert rate < 1e30  # a large finite rate may survive, and then with finite weights only
        assert all(torch.isfinite(torch.tensor(result.losses)))
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert not model.training


def test_a_weight_that_breaks_in_the_very_last_step_is_found(make_model: Model, make_rows: Rows) -> None:
    settings = TrainSettings(max_steps=1, batch_size=8, learning_rate=1e39, gradient_clip=None, warmup_fraction=0.0)
    with pytest.raises(TrainingDiverged, match="not finite"):
        train(make_model(), make_rows(8), settings)


def test_not_finite_from_the_start_names_the_step(make_model: Model, make_rows: Rows) -> None:
    model = make_model()
    model.get_output_embeddings().weight.data[3] = float("nan")
    with pytest.raises(TrainingDiverged, match="at step 1;"):
        train(model, make_rows(8))


def test_refused(make_model: Model, make_rows: Rows) -> None:
    with pytest.raises(ModelError, match="float16 weights cannot be trained"):
        train(make_model(dtype=torch.float16), make_rows(3))
    with pytest.raises(ModelError, match="no trainable parameters"):
        train(make_model().requires_grad_(False), make_rows(3))
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        train(make_model(), make_rows(3), loss="cross_entropi")
    with pytest.raises(DataError, match="answer tokens"):
        train(make_model(), make_rows(3), token_weights=torch.ones(1))


def test_interrupted_it_leaves_the_model_in_order(make_model: Model, make_rows: Rows) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    model = make_model(dtype=torch.bfloat16)
    with pytest.raises(KeyboardInterrupt):
        train(model, make_rows(8), progress=stop)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_weight_decay_spares_norms_and_biases(make_model: Model) -> None:
    parameters = list(make_model().parameters())
    optimizer = make_optimizer(parameters, TrainSettings(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(parameters)
    assert {(p.ndim >= 2, decay[id(p)]) for p in parameters} == {(True, 0.1), (False, 0.0)}
