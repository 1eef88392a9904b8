"""Requests drawn from the API's own description: no failure, wrong ones refused, every response as described."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

CALM = settings(
    max_examples=30, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)  # fmt: skip
# A request of the right form may still ask for what there is not (token ids, top_logprobs without logprobs ...).
TOO_STRICT = [schemathesis.checks.positive_data_acceptance]
OPERATIONS = [
    ("/v1/completions", "POST"), ("/v1/chat/completions", "POST"), ("/v1/models", "GET"), ("/v1/models/{model}", "GET"),
    ("/health", "GET"), ("/metrics", "GET"),
]  # fmt: skip


@pytest.fixture(scope="module")
def described(listening: Any) -> Any:
    return schemathesis.openapi.from_url(f"{listening.url}/openapi.json")


def test_all_is_described(described: Any) -> None:
    found = {(operation.ok().path, operation.ok().method.upper()) for operation in described.get_all_operations()}
    assert found == set(OPERATIONS)
    for path, method in OPERATIONS:
        answers = described.raw_schema["paths"][path][method.lower()]["responses"]
        assert "422" not in answers
        for status, response in answers.items():
            if status not in ("200", "503") or path.endswith("completions"):
                schema = response["content"]["application/json"]["schema"]["$ref"]
                assert schema.endswith(("ErrorBody", "Completion"))


DRAWN = [(mode, *operation) for mode, most in (("POSITIVE", 9), ("NEGATIVE", 2)) for operation in OPERATIONS[:most]]


@pytest.mark.parametrize(("mode", "path", "method"), DRAWN)
def test_drawn_requests(described: Any, listening: Any, mode: str, path: str, method: str) -> None:
    operation = described[path][method]
    statuses: Counter[int] = Counter()

    @CALM
    @seed(1)
    @given(
        case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]),
        small=st.sampled_from((True, True, False)),
    )
    def check(case: Any, small: bool) -> None:
        if small and isinstance(case.body, dict) and mode == "POSITIVE":  # more of them within the limits
            case.body |= {key: value for key, value in LIMITED.items() if key in case.body}
        response = case.call_and_validate(excluded_checks=TOO_STRICT, timeout=30)
        statuses[response.status_code] += 1

    check()
    assert set(statuses) <= {200, 400, 404, 405}
    if mode == "NEGATIVE":
        assert 200 not in statuses
    elif path != "/v1/models/{model}":
        assert statuses[200] >= 1  # which are drawn depends on what other tests of the process have drawn before
    assert listening.engine.live == 0


LIMITED = {
    "max_tokens": 3, "max_completion_tokens": 3, "n": 2, "best_of": 2, "prompt": [[5, 6], [7]], "stream": True,
}  # fmt: skip
