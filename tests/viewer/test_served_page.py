"""The page of ``ensemw2s serve``: what it lets be known, and in a real browser that it shows what the API says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'ensemw2s[serve]'")
pytest.importorskip("httpx", reason="httpx is not installed")

from fastapi.testclient import TestClient

from ensemw2s.server.app import create_app
from ensemw2s.server.limits import Keys
from ensemw2s.viewer.text import visible

Go = Callable[..., Any]
KEY = "sesame-123"
NAME = "toy & <b>co</b>"
QUESTION = "How often is the 5 in 5 5 0?"
PARTS = ("page.css", "viewer.css", "viewer.js", "served.css", "served.js")


# ---- without a browser


def test_the_page_needs_no_key_and_the_api_does(ensemble: Any) -> None:
    client = TestClient(create_app(ensemble, NAME, keys=Keys([KEY])))
    pages = [client.get(path) for path in ("/", "/viewer")]
    parts = [client.get(f"/viewer/{name}") for name in PARTS]
    for response in (*pages, *parts):
        assert response.status_code == 200
        policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert response.headers["x-content-type-options"] == "nosniff"
    assert {part.headers["content-type"].split(";")[0] for part in parts} == {"text/css", "text/javascript"}
    for path in (
        "/v1/models",
        "/openapi.json",
        "/metrics",
        "/viewer/",
        "/viewer/x",
        "/viewer/../app.py",
        "/viewer/%2e%2e/app.py",
    ):
        assert client.get(path, follow_redirects=False).status_code == 401, path
    assert client.post("/").status_code == 405


def test_the_page_tells_the_models_name_and_nothing_else(ensemble: Any) -> None:
    pages = [
        TestClient(create_app(ensemble, NAME, keys=Keys(keys))).get("/").text for keys in ([], [KEY], ["another-key"])
    ]
    assert pages[1] == pages[2]
    assert ['id="key"' in page for page in pages] == [False, True, True]
    assert "toy &amp; &lt;b&gt;co&lt;/b&gt;" in pages[0]
    assert "<b>co" not in pages[0]
    plain = TestClient(create_app(ensemble, "plain")).get("/").text
    assert plain == pages[0].replace("toy &amp; &lt;b&gt;co&lt;/b&gt;", "plain")
    gone = re.sub(r'<p><label for="key">.*?</p>\n', "", pages[1].replace(" data-locked", ""), flags=re.DOTALL)
    assert gone.split() == pages[0].split()
    assert not re.findall(r"https?:|//\w", pages[1])


def test_the_page_can_be_left_out(ensemble: Any) -> None:
    for keys, status in (([], 404), ([KEY], 401)):
        client = TestClient(create_app(ensemble, NAME, viewer=False, keys=Keys(keys)))
        assert {client.get(path).status_code for path in ("/", "/viewer", "/viewer/viewer.js")} == {status}


def test_the_description_of_the_api_does_not_name_it(ensemble: Any) -> None:
    described = TestClient(create_app(ensemble, NAME)).get("/openapi.json").json()
    assert [path for path in described["paths"] if not path.startswith("/v1/")] == ["/health", "/metrics"]


def test_members_are_told_with_what_training_found(ensemble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> list[dict[str, Any]]:
        return TestClient(create_app(ensemble, "plain")).get("/v1/models/plain").json()["members"]

    assert told()[1] == pytest.approx({"weight": 0.3, "alpha": 0.9, "error": 0.2, "effective_sample_size": 450.0})
    rounds = ensemble.meta["rounds"]
    for other in (
        None,
        [],
        rounds[:2],
        [*rounds, *rounds],
        [{"alpha": "x"}] * 3,
        "abc",
        [{**r, "alpha": 9} for r in rounds],
    ):
        monkeypatch.setitem(ensemble.meta, "rounds", other)
        assert {one["error"] for one in told()} == {None}, other
    dropped = {"round": 4, "alpha": None, "error": float("nan"), "effective_sample_size": 1.0}
    monkeypatch.setitem(ensemble.meta, "rounds", [{**rounds[0], "error": float("inf")}, *rounds[1:], dropped])
    assert [one["error"] for one in told()] == [None, 0.2, pytest.approx(0.3)]


# ---- in a browser


def ask(page: Any, text: str, **fields: str) -> None:
    page.get_by_label("Question").fill(text)
    for label, value in fields.items():
        field = page.get_by_label(label.replace("_", " "))
        field.select_option(value) if label == "Ask_as" else field.fill(value)
    page.get_by_role("button", name="Answer").click()


def ended(page: Any) -> str:
    """How it ended, told in the line of status, whatever became of the question before.

    A click has set the line to "reading ..." when it returns; the stop button alone could still be that of the answer
    before.
    """
    from playwright.sync_api import expect  # not everywhere installed

    status = page.get_by_role("status")
    expect(status).to_have_text(re.compile("^(done|cut|stopped|failed)"), timeout=60_000)  # not 5 s: machines are busy
    page.wait_for_selector("#stop[aria-disabled='true']")
    return str(status.text_content())


def percents(shares: list[float]) -> list[str]:
    return ["< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %" for share in shares]


@pytest.mark.parametrize(
    ("mode", "fields"),
    [("chat", {}), ("completion", {"Temperature": "1.5", "Seed": "7", "Tokens_at_most": "12"})],
)
def test_what_is_shown_is_what_the_api_says(visit: Go, served: Any, mode: str, fields: dict[str, str]) -> None:
    shown = visit(served.url)
    page = shown.page
    ask(page, QUESTION, Ask_as=mode, **fields)
    if mode == "chat":
        message = [{"role": "user", "content": QUESTION}]
        found = served.ask(
            "chat/completions", messages=message, max_tokens=64, temperature=0, logprobs=True, top_logprobs=3
        )
        text = found["message"]["content"]
    else:
        found = served.ask("completions", prompt=QUESTION, max_tokens=12, temperature=1.5, seed=7, logprobs=3)
        text = found["text"]
    tokens = found["experts"]
    how = "done" if found["finish_reason"] == "stop" else "cut at the limit"
    assert ended(page) == f"{how}, {len(tokens)} token{'s' * (len(tokens) > 1)}"
    assert page.locator("#answer").text_content() == text
    assert page.get_by_role("tab").locator("bdi").all_text_contents() == [visible(token["token"]) for token in tokens]
    for place in {0, len(tokens) - 1}:
        page.get_by_role("tab").nth(place).click()
        mixture, experts = page.get_by_role("tabpanel").get_by_role("table").all()
        cells = [cell.replace("\u00a0", " ") for cell in mixture.locator("td.num").all_text_contents()]
        assert cells == percents([one["probability"] for one in tokens[place]["likeliest"]])
        votes = tokens[place]["votes"]
        cells = [cell.replace("\u00a0", " ") for cell in experts.locator("td.num:last-child").all_text_contents()]
        assert cells == percents([vote["chosen_probability"] for vote in votes])
        assert experts.locator("bdi").all_text_contents() == [visible(vote["token"]) for vote in votes]
        agreeing = [vote["token_id"] == tokens[place]["token_id"] for vote in votes]
        assert [row.locator(".yes").count() == 1 for row in experts.locator("tbody tr").all()] == agreeing
        assert experts.locator("td:nth-child(2)").first.text_content().replace("\u00a0", " ") == "40.0 % α 1.20"
    assert all(asked.startswith(served.url + "/") for asked in shown.asked)
    assert {asked.removeprefix(served.url).split("?")[0] for asked in shown.asked} <= {
        "/", *(f"/viewer/{name}" for name in PARTS), "/v1/models/toy%20%26%20%3Cb%3Eco%3C%2Fb%3E", f"/v1/{'chat/' * (mode == 'chat')}completions"
    }  # fmt: skip


def test_a_question_is_asked_by_keyboard(visit: Go, served: Any) -> None:
    page = visit(served.url).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type(QUESTION)
    for _ in range(5):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    assert ended(page).startswith("done")
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    total = page.get_by_role("tab").count()
    assert page.get_by_role("tabpanel").inner_text().startswith(f"Token {total} of {total}, <|end|>")
    for element in page.locator(
        "textarea, input, select, button, [role=tabpanel], [role=region], [role=tablist]"
    ).all():
        assert element.evaluate("one => Boolean(one.labels?.length || one.textContent || one.ariaLabel)")
    rows = page.locator("#members-table tbody tr").all_text_contents()
    assert rows[1].replace("\u00a0", " ") == "expert 230.0 %0.90020.0 %450"


def test_a_wrong_key_is_one_line_and_a_right_one_stays_in_memory(visit: Go, listen: Any, ensemble: Any) -> None:
    with listen(ensemble, keys=Keys([KEY])) as served:
        shown = visit(served.url)
        page = shown.page
        problem = page.get_by_role("alert")
        for key, said in (
            ("", "this server wants a key"),
            ("not-this-one", "this server wants a key"),
            ("schlüssel", "the key has"),
        ):
            ask(page, QUESTION, Key_of_this_server=key)
            assert ended(page).startswith("failed")
            problem.wait_for()
            assert problem.text_content().startswith(said)
            assert "\n" not in problem.text_content()
        ask(page, QUESTION, Key_of_this_server=KEY)
        assert ended(page).startswith("done")
        assert problem.is_hidden()
        assert page.url == f"{served.url}/"
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert not [asked for asked in shown.asked if KEY in asked]
        assert page.get_by_label("Key of this server").get_attribute("type") == "password"
        shown.problems[:] = [problem for problem in shown.problems if "401" not in problem]


def test_errors_are_told_in_one_line(visit: Go, served: Any) -> None:
    shown = visit(served.url)
    page = shown.page
    problem = page.get_by_role("alert")
    for text, fields, said in (
        (" ", {}, "there is no question: write one"),
        ("a", {"Tokens_at_most": "5000"}, "max_tokens is 5000: this server gives at most 4096"),
        ("a", {"Tokens_at_most": "2", "Temperature": "3"}, "Temperature: "),
        ("a " * 300, {"Temperature": "0"}, "the prompt has"),
    ):
        ask(page, text, **fields)
        page.wait_for_selector(f"#problem:text('{said}')")
        assert "\n" not in problem.text_content()
        page.wait_for_selector("#go[aria-disabled='false'], #go:not([aria-disabled])")
    shown.context.set_offline(True)
    ask(page, "a")
    page.wait_for_selector("#problem:text('the server cannot be reached')")
    shown.problems[:] = [line for line in shown.problems if not re.search(r"status of 400|INTERNET_DISCONNECTED", line)]


def test_an_answer_can_be_stopped(visit: Go, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served.app.state.service.engine
    step, steps, go_on = engine._batch.step, count(), threading.Event()

    def held() -> Any:
        """The first few steps; the next one waits until the page has stopped."""
        if engine.live and next(steps) >= 3:
            go_on.wait(120)
        return step()

    monkeypatch.setattr(engine._batch, "step", held)
    page = visit(served.url).page
    ask(page, "a b c d e f", Ask_as="completion", Tokens_at_most="200", Temperature="2", Seed="3")
    page.get_by_role("tab").nth(1).wait_for()  # while it comes, tokens can be looked at
    page.get_by_role("tab").nth(0).click()
    assert page.get_by_role("tabpanel").is_visible()
    page.get_by_role("button", name="Stop").click()
    said = ended(page)
    go_on.set()
    assert said.startswith("stopped, ")
    assert page.get_by_role("alert").is_hidden()
    until = time.monotonic() + 60
    while engine.live and time.monotonic() < until:
        time.sleep(0.02)
    assert engine.live == 0
    assert page.get_by_role("tab").count() < 10


def test_the_page_is_narrow_and_dark_where_wanted(visit: Go, served: Any) -> None:
    for scheme, width in (("light", 360), ("dark", 360)):
        shown = visit(served.url, color_scheme=scheme, viewport={"width": width, "height": 700})
        ask(shown.page, QUESTION)
        assert ended(shown.page).startswith("done")
        assert shown.width() == width
        lowest = shown.contrasts("body")
        assert {"label.", "button.tv-button", "b.no", "span.token", "p.note", "bdi."} & set(lowest)
        assert {name: ratio for name, ratio in lowest.items() if ratio < 4.5} == {}


def test_texts_from_the_server_stay_texts(visit: Go, served: Any, nasty: list[str]) -> None:
    """Whatever the API answers: here a stand-in for it says what no tokenizer of ours does."""
    import json

    def answer(route: Any) -> None:
        votes = [{"expert": n, "weight": 0.5, "token": text, "token_id": 1, "probability": 0.5, "chosen_probability": 0.5}
                 for n, text in enumerate(nasty[:2])]  # fmt: skip
        lines = []
        for text in nasty:
            told = {"token": text, "token_id": 1, "probability": 0.5, "agreement": 1.0, "votes": votes,
                    "likeliest": [{"token": text, "token_id": 1, "probability": 0.5}]}  # fmt: skip
            choice = {
                "index": 0,
                "delta": {"content": text},
                "logprobs": None,
                "experts": [told],
                "finish_reason": None,
            }
            lines.append(f"data: {json.dumps({'choices': [choice]})}\n\n")
        route.fulfill(status=200, content_type="text/event-stream", body="".join(lines) + "data: [DONE]\n\n")

    shown = visit(served.url)
    page = shown.page
    page.route("**/v1/chat/completions", answer)
    ask(page, nasty[0])
    assert ended(page) == f"done, {len(nasty)} tokens"
    assert page.locator("#answer").text_content() == "".join(nasty)
    assert page.get_by_role("tab").locator("bdi").all_text_contents() == [visible(text) for text in nasty]
    assert page.get_by_role("tabpanel").get_by_role("table").last.locator("bdi").all_text_contents() == [
        visible(t) for t in nasty[:2]
    ]
    assert page.evaluate("window.hit") is None
    assert page.locator("img, #answer *").count() == 0
