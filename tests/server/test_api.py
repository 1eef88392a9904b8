"""What the API answers: compared with the ensemble's own decoding and scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.naive import naive_scores
from ensemw2s.server.app import create_app

Post = Callable[..., Any]
PROMPT = "Question: What is 3 plus 4?\nAnswer:"


def own(ensemble: Ensemble, prompt: list[int], count: int, **sampling: Any) -> tuple[list[int], bool]:
    """Our own decoding of one prompt: tokens (the end token too), and whether they ended by themselves."""
    (found,) = generate(
        ensemble.bank, ensemble.alphas, ensemble.mixing, [prompt], max_new_tokens=count, eos_token_ids=[1], pad_token_id=0,
        **sampling,
    )  # fmt: skip
    return found.token_ids + [1] * found.finished, found.finished


def test_texts_and_tokens_go_on(ask: Post, ensemble: Ensemble) -> None:
    texts = [PROMPT, "Question: door milk\nAnswer:", "a"]
    ids = ensemble.prompts(texts)
    wanted = [own(ensemble, prompt, 12) for prompt in ids]
    said = [ensemble.tokenizer.decode(tokens, skip_special_tokens=True) for tokens, _ in wanted]
    for prompt in (texts, ids):
        found = ask("completions", prompt=prompt, max_tokens=12, temperature=0)
        assert [choice["text"] for choice in found["choices"]] == said
        assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
        assert [choice["finish_reason"] for choice in found["choices"]] == [
            "stop" if ended else "length" for _, ended in wanted
        ]
        used = found["usage"]
        assert used["prompt_tokens"] == sum(map(len, ids))
        assert used["completion_tokens"] == sum(len(tokens) for tokens, _ in wanted)
        assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert ask("completions", prompt=texts[0], max_tokens=12, temperature=0)["choices"][0]["text"] == said[0]
    assert ask("completions", prompt=ids[0], max_tokens=12, temperature=0)["choices"][0]["text"] == said[0]
    assert (found["object"], found["model"]) == ("text_completion", "toy")


def test_sampling_is_that_of_decoding(ask: Post, ensemble: Ensemble) -> None:
    (ids,) = ensemble.prompts([PROMPT])
    found = ask("completions", prompt=PROMPT, max_tokens=9, temperature=1.7, top_p=0.95, seed=11, n=4)
    wanted = [
        own(ensemble, ids, 9, ids=[str(k)], do_sample=True, temperature=1.7, top_p=0.95, seed=11)[0] for k in range(4)
    ]
    texts = [choice["text"] for choice in found["choices"]]
    assert texts == [ensemble.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in wanted]
    assert len(set(texts)) > 1
    both = ask("completions", prompt=["a", PROMPT], max_tokens=9, temperature=1.7, top_p=0.95, seed=11, n=4)
    assert [choice["text"] for choice in both["choices"][4:]] == texts  # whatever else was asked
    free = {
        tuple(c["text"] for c in ask("completions", prompt=PROMPT, max_tokens=9, temperature=2.0, n=3)["choices"])
        for _ in range(4)
    }
    assert len(free) > 1


def test_logprobs_of_prompt_and_answer(ask: Post, ensemble: Ensemble) -> None:
    (ids,) = ensemble.prompts([PROMPT])
    found = ask("completions", prompt=PROMPT, max_tokens=6, temperature=0, echo=True, logprobs=3)["choices"][0]
    tokens = ids + own(ensemble, ids, 6)[0]
    told = found["logprobs"]
    spelled = [ensemble.tokenizer.decode([token]) for token in tokens]
    assert told["tokens"] == spelled
    assert found["text"] == "".join(spelled).removesuffix("<|end|>")
    assert told["text_offset"] == [sum(map(len, spelled[:place])) for place in range(len(spelled))]
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    with torch.inference_mode():
        log_probs = ensemble(torch.tensor([tokens])).logits[0].log_softmax(-1)
    for place, token in enumerate(tokens[1:], start=1):
        here = log_probs[place - 1]
        assert told["token_logprobs"][place] == pytest.approx(float(here[token]), abs=1e-4)
        top = told["top_logprobs"][place]
        values, likeliest = here.topk(3)
        assert {ensemble.tokenizer.decode([t]) for t in likeliest.tolist()} <= set(top)
        assert max(top.values()) == pytest.approx(float(values[0]), abs=1e-4)
        assert top[spelled[place]] == told["token_logprobs"][place]
        assert len(top) == 3 + (token not in likeliest.tolist())


def test_echo_and_no_answer(ask: Post) -> None:
    only = ask("completions", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert only["text"] == PROMPT
    assert only["finish_reason"] == "length"
    more = ask("completions", prompt=PROMPT, max_tokens=1, temperature=0, echo=True, logprobs=1)["choices"][0]
    count = len(only["logprobs"]["tokens"])
    assert {name: values[:count] for name, values in more["logprobs"].items()} == only["logprobs"]
    assert len(more["logprobs"]["tokens"]) == count + 1
    plain = ask("completions", prompt=PROMPT, max_tokens=3, temperature=0, echo=True)["choices"][0]
    assert plain["text"].startswith(PROMPT)
    assert plain["logprobs"] is None
    bare = ask("completions", prompt=PROMPT, max_tokens=3, temperature=0, logprobs=0)["choices"][0]
    assert bare["logprobs"]["top_logprobs"] is None
    assert bare["logprobs"]["text_offset"][0] == len(PROMPT)
    ids = ask("completions", prompt=[1, 452, 79], max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert ids["text"] == "<|end|>Question:"
    assert ids["logprobs"]["text_offset"] == [0, 7, 15]


def test_a_prompt_may_fill_the_context(ask: Post) -> None:
    whole = ask("completions", prompt=[5] * 256, max_tokens=0, echo=True, logprobs=1)
    assert len(whole["choices"][0]["logprobs"]["tokens"]) == 256
    last = ask("completions", prompt=[5] * 255, max_tokens=7, temperature=0)
    assert last["usage"]["completion_tokens"] == 1
    assert last["choices"][0]["finish_reason"] in ("length", "stop")


def test_an_empty_prompt_begins_as_lm_eval_has_it(ask: Post, ensemble: Ensemble) -> None:
    options = {"max_tokens": 5, "temperature": 0}
    empty = ask("completions", **options)
    assert empty["choices"] == ask("completions", prompt=[1], **options)["choices"]
    assert empty["usage"]["prompt_tokens"] == 1


def test_stop_strings(ask: Post, ensemble: Ensemble) -> None:
    options = {"prompt": "Question: door milk lamp\nAnswer:", "max_tokens": 20, "temperature": 2.0, "seed": 5}
    found = ask("completions", logprobs=0, **options)["choices"][0]
    text, told = found["text"], found["logprobs"]
    assert len(text) > 8
    stop = text[2:6]  # across tokens
    assert not any(stop in token for token in told["tokens"])
    cut = ask("completions", stop=["no such text", stop], logprobs=0, **options)["choices"][0]
    assert cut["text"] == text[: text.index(stop)]
    assert cut["finish_reason"] == "stop"
    kept = cut["logprobs"]["tokens"]
    assert 0 < len(kept) < len(told["tokens"])
    assert kept == told["tokens"][: len(kept)]
    assert all(offset < len(options["prompt"]) + len(cut["text"]) for offset in cut["logprobs"]["text_offset"])
    assert ask("completions", stop=stop, **options)["choices"][0]["text"] == cut["text"]
    assert ask("completions", stop="", **options)["choices"][0]["text"] == text
    special = ask("completions", prompt=PROMPT, max_tokens=9, temperature=0, stop="<|pad|>", logprobs=0)
    assert special["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_special_token_named_as_stop_ends_the_answer(ensemble: Ensemble) -> None:
    from ensemw2s.server.texts import Texts

    stops, ends = Texts(ensemble).stops(["\n", "<|pad|>", "", "<|end|>"])
    assert stops == ["\n"]
    assert ends == {0, 1}


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_stream_tells_the_same(client: TestClient, chunks: Callable[[str], Any], path: str, numbers: bool) -> None:
    body: dict[str, Any] = {
        "model": "toy",
        "n": 3,
        "seed": 3,
        "temperature": 1.8,
        "max_tokens": 14,
        "stop": [" t", "7"],
    }
    if path == "completions":
        body |= {"prompt": [PROMPT, "Question: é door"], "echo": True} | ({"logprobs": 2} if numbers else {})
    else:
        body |= {"messages": [{"role": "user", "content": "What is 3 plus 4?"}]}
        body |= {"logprobs": True, "top_logprobs": 2} if numbers else {}
    body["experts"] = numbers
    whole = client.post(f"/v1/{path}", json=body).json()
    told = client.post(f"/v1/{path}", json={**body, "stream": True, "stream_options": {"include_usage": True}})
    assert told.headers["content-type"].startswith("text/event-stream")
    *pieces, last = chunks(told.text)
    assert last["usage"] == whole["usage"]
    assert last["choices"] == []
    for choice in whole["choices"]:
        mine = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        ends = [piece["finish_reason"] for piece in mine]
        assert ends == [None] * (len(ends) - 1) + [choice["finish_reason"]]
        if path == "completions":
            assert "".join(piece["text"] for piece in mine) == choice["text"]
            texts = [piece["text"] for piece in mine]
        else:
            texts = [piece["delta"].get("content", "") for piece in mine]
            assert "".join(texts) == choice["message"]["content"]
            assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert len(texts) > 1
        if numbers:
            _same_numbers(choice, mine)
    assert len({piece["id"] for piece in pieces}) == 1


def _same_numbers(choice: dict[str, Any], pieces: list[dict[str, Any]]) -> None:
    parts = [piece["logprobs"] for piece in pieces if piece["logprobs"]]
    for name, wanted in choice["logprobs"].items():
        found = [value for part in parts for value in (part[name] or [])]
        if name == "top_logprobs":
            found, wanted = [bool(top) for top in found], [bool(top) for top in wanted]
        if wanted and isinstance(wanted[0], dict):
            found, wanted = ([token["token"] for token in tokens] for tokens in (found, wanted))
        assert found == pytest.approx(wanted, abs=1e-4) if name == "token_logprobs" and None not in wanted else True
        assert len(found) == len(wanted)
        if name in ("tokens", "text_offset", "content"):
            assert found == wanted
    votes = [vote["token_id"] for piece in pieces for vote in piece.get("experts") or []]
    assert votes == [vote["token_id"] for vote in choice["experts"]]


def test_the_votes_of_the_experts(ask: Post, ensemble: Ensemble) -> None:
    (ids,) = ensemble.prompts([PROMPT])
    tokens, _ = own(ensemble, ids, 5)
    found = ask("completions", prompt=PROMPT, max_tokens=5, temperature=0, experts=True)["choices"][0]["experts"]
    assert [token["token_id"] for token in found] == tokens
    total = sum(ensemble.alphas)
    for place, token in enumerate(found):
        prefix = ids + tokens[:place]
        assert [vote["expert"] for vote in token["votes"]] == [0, 1, 2]
        agreeing = 0.0
        for model, alpha, vote in zip(ensemble.models, ensemble.alphas, token["votes"], strict=True):
            with torch.inference_mode():
                probs = model(torch.tensor([prefix])).logits[0, -1].softmax(-1)
            assert vote["token_id"] == int(probs.argmax())
            assert vote["token"] == ensemble.tokenizer.decode([vote["token_id"]])
            assert vote["probability"] == pytest.approx(float(probs.max()), abs=1e-4)
            assert vote["chosen_probability"] == pytest.approx(float(probs[tokens[place]]), abs=1e-4)
            assert vote["weight"] == pytest.approx(alpha / total)
            agreeing += alpha / total * (vote["token_id"] == tokens[place])
        assert token["agreement"] == pytest.approx(agreeing)
        assert token["likeliest"] == []  # nobody asked for logprobs
        with torch.inference_mode():
            mixed = ensemble(torch.tensor([prefix])).logits[0, -1].softmax(-1)
        assert token["probability"] == pytest.approx(float(mixed[tokens[place]]), abs=1e-4)
    more = ask("completions", prompt=PROMPT, max_tokens=5, temperature=0, experts=True, logprobs=2)["choices"][0]
    for token, tops in zip(more["experts"], more["logprobs"]["top_logprobs"], strict=True):
        assert {one["token"] for one in token["likeliest"]} == set(tops)
        assert [one["probability"] for one in token["likeliest"]] == pytest.approx([math.exp(p) for p in tops.values()])
    message = {"role": "user", "content": "a"}
    chat = ask("chat/completions", messages=[message], experts=True, temperature=0, logprobs=True, top_logprobs=2)
    assert len(chat["choices"][0]["experts"]) == chat["usage"]["completion_tokens"]
    assert [len(token["likeliest"]) for token in chat["choices"][0]["experts"]] == [2] * chat["usage"][
        "completion_tokens"
    ]


def test_chat_by_the_task_format(ask: Post, ensemble: Ensemble) -> None:
    question = "What is 3 plus 4?"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "What is 3 "}, {"type": "text", "text": "plus 4?"}]},
    ]
    found = ask("chat/completions", messages=messages, temperature=0, logprobs=True, top_logprobs=2)
    (ids,) = ensemble.prompts([ensemble.task_format.prompt(Row("a", question))])
    tokens, ended = own(ensemble, ids, ensemble.task_format.max_new_tokens)
    (choice,) = found["choices"]
    text = ensemble.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text.startswith(" ")
    assert choice["message"] == {"role": "assistant", "content": text[1:]}
    assert choice["finish_reason"] == ("stop" if ended else "length")
    told = choice["logprobs"]["content"]
    assert [bytes(token["bytes"]).decode() for token in told] == [
        ensemble.tokenizer.decode([token]) for token in tokens if token != 1
    ]
    assert all(len(token["top_logprobs"]) == 2 for token in told)
    answer = naive_scores(ensemble.models, ensemble.alphas, "mean", ids + tokens, len(ids))
    assert [token["logprob"] for token in told] == pytest.approx(
        [log_prob for label, _, log_prob, _ in answer if label != 1], abs=1e-4
    )


def test_chat_by_the_template(make_ensemble: Callable[..., Ensemble], template: str) -> None:
    ensemble = make_ensemble(2, template=template)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 plus 4?"}]
    prompt = "system: Be brief.\nuser: What is 3 plus 4?\nAnswer:"
    body = {"model": "toy", "temperature": 0, "max_tokens": 8}
    with TestClient(create_app(ensemble, "toy")) as client:
        found = client.post("/v1/chat/completions", json={**body, "messages": messages}).json()
        text = client.post("/v1/completions", json={**body, "prompt": prompt}).json()["choices"][0]["text"]
        assert found["choices"][0]["message"]["content"] == text
        assert found["usage"]["prompt_tokens"] == len(ensemble.prompts([prompt])[0])
        refused = client.post(
            "/v1/chat/completions", json={**body, "messages": [*messages, {"role": "assistant", "content": "7"}]}
        )
        assert refused.status_code == 400
        assert "the chat template refuses this conversation: who asks?" in refused.json()["error"]["message"]
    with TestClient(create_app(ensemble, "toy", chat="format")) as client:
        body["messages"] = messages
        plain = client.post("/v1/chat/completions", json=body).json()
        assert plain["usage"]["prompt_tokens"] == len(ensemble.prompts(["Question: What is 3 plus 4?\nAnswer:"])[0])


@pytest.mark.parametrize("rule", ["prefix", "vote", "product"])
def test_every_rule(make_ensemble: Callable[..., Ensemble], rule: str) -> None:
    ensemble = make_ensemble(3, rule)
    ids = ensemble.prompts([PROMPT, "Question: Which is largest: 3 or 5"])
    with TestClient(create_app(ensemble, "toy")) as client:
        body = {"model": "toy", "prompt": ids, "max_tokens": 10, "temperature": 0}
        found = client.post("/v1/completions", json=body).json()
    assert [choice["text"] for choice in found["choices"]] == [
        ensemble.tokenizer.decode(own(ensemble, prompt, 10)[0], skip_special_tokens=True) for prompt in ids
    ]


def test_models_health_and_metrics(client: TestClient, ask: Post) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["toy"]
    members = listed["data"][0].pop("members")
    assert listed["data"][0] | {"created": 0} == {
        "id": "toy", "object": "model", "created": 0, "owned_by": "ensemw2s", "experts": 3, "rule": "mean",
        "context_length": 256, "max_logprobs": 5,
    }  # fmt: skip
    assert [(one["alpha"], one["error"], one["effective_sample_size"]) for one in members] == [
        (alpha, None, None) for alpha in (1.3, 1.0, 0.7)
    ]
    assert [one["weight"] for one in members] == pytest.approx([1.3 / 3, 1 / 3, 0.7 / 3])
    assert client.get("/v1/models/toy").json() == {**listed["data"][0], "members": members}
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    before = _metrics(client)
    ask("completions", prompt=[[5, 6], [7]], max_tokens=3, temperature=0)
    client.post("/v1/completions", json={"model": "nobody", "prompt": "a"})
    after = _metrics(client)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown['ensemw2s_requests_total{path="/v1/completions",status="200"}'] == 1
    assert grown['ensemw2s_requests_total{path="/v1/completions",status="404"}'] == 1
    assert grown["ensemw2s_prompt_tokens_total"] == 3
    assert 2 <= grown["ensemw2s_generated_tokens_total"] <= 6
    assert grown["ensemw2s_first_token_seconds_count"] == 2
    assert grown['ensemw2s_rows_total{how="length"}'] + grown['ensemw2s_rows_total{how="stop"}'] == 2
    assert after["ensemw2s_running_rows"] == after["ensemw2s_waiting_rows"] == 0
    assert 1 <= grown["ensemw2s_step_seconds_count"] <= 6


def _metrics(client: TestClient) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    text = client.get("/metrics").text
    assert list(text_string_to_metric_families(text))
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_an_impossible_token_is_told_as_a_number() -> None:
    from ensemw2s.server.telling import _finite, as_json

    assert json.loads(as_json(_finite(-math.inf))) == -9999.0
