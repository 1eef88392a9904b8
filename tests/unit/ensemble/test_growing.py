"""Caches with room: whatever is done to them, they hold what transformers' own hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from ensemw2s.ensemble.engine import growing
from ensemw2s.ensemble.engine.growing import GrowingLayer, growing_cache

steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.integers(1, 9)), st.tuples(st.just("keep"), st.integers(0, 10**6)),
        st.tuples(st.just("crop"), st.integers(0, 3)), st.tuples(st.just("repeat"), st.integers(1, 2)),
        st.tuples(st.just("select"), st.integers(0, 10**6)), st.tuples(st.just("grad"), st.integers(1, 2)),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(first=st.integers(1, 20), room=st.integers(1, 8), todo=steps, least=st.sampled_from([0, 12]))
def test_any_life_is_that_of_the_plain_layer(first, room, todo, least) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "LEAST_TOKENS", least)
        plain, ours = DynamicLayer(), GrowingLayer(room)
        generator = torch.Generator().manual_seed(first * room)
        for what, number in [("update", first), *todo]:
            rows = plain.keys.shape[0] if plain.is_initialized else 3
            if what in ("update", "grad"):
                pair = torch.randn(2, rows, 2, number, 4, generator=generator)
                for layer in (plain, ours):
                    given = [one.clone().requires_grad_(what == "grad") for one in pair]
                    with torch.inference_mode(what == "update" and number % 2 == 0):
                        found = layer.update(*given)
                    assert [t.shape for t in found] == [layer.keys.shape, layer.values.shape]
            elif what == "crop":
                if plain.get_seq_length() > number:
                    plain.crop(-number)
                    ours.crop(-number)
            elif what == "repeat":
                plain.batch_repeat_interleave(number)
                ours.batch_repeat_interleave(number)
            else:
                index = torch.randint(0, rows, (1 + number % 3,), generator=torch.Generator().manual_seed(number))
                for layer in (plain, ours):
                    (layer.reorder_cache if what == "keep" else layer.batch_select_indices)(index)
            assert ours.get_seq_length() == plain.get_seq_length()
            assert ours.get_mask_sizes(2) == plain.get_mask_sizes(2)
            assert torch.equal(ours.keys, plain.keys)
            assert torch.equal(ours.values, plain.values)


def test_a_step_copies_nothing_while_there_is_room(monkeypatch) -> None:
    monkeypatch.setattr(growing, "LEAST_TOKENS", 0)
    layer = GrowingLayer(room=4)
    state = torch.randn(2, 3, 5, 4)
    layer.update(state, state)
    where = layer.keys.data_ptr()
    for _ in range(4):
        layer.update(state[:, :, :1], state[:, :, :1])
        assert layer.keys.data_ptr() == where
    layer.update(state[:, :, :1], state[:, :, :1])
    assert layer.keys.data_ptr() != where
    assert layer.get_seq_length() == 10
    layer.reset()
    assert layer.get_seq_length() == 0
    layer.update(state, state)
    assert torch.equal(layer.keys, state)


def test_short_prompts_and_bfloat16_stay_with_plain_copies() -> None:
    for state in (torch.randn(1, 1, 5, 2), torch.randn(1, 1, 300, 2).bfloat16()):
        layer = GrowingLayer()
        layer.update(state, state)
        assert layer._buffers is None
    long = torch.randn(1, 1, 300, 2)
    layer = GrowingLayer()
    layer.update(long, long)
    assert layer._buffers is not None


def test_layers_that_slide_are_left_alone() -> None:
    from transformers import MistralConfig, Qwen2Config

    cache = growing_cache(MistralConfig(num_hidden_layers=2, sliding_window=8))
    assert not any(isinstance(layer, GrowingLayer) for layer in cache.layers)
    cache = growing_cache(Qwen2Config(num_hidden_layers=2))
    assert all(isinstance(layer, GrowingLayer) for layer in cache.layers)
