"""A real browser, pages of a report and of a server to look at, and what is measured on them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SAMPLE = Path(__file__).parents[1] / "unit" / "report" / "sample.py"
# What a text can do to a page, a script, a line or a reader.
NASTY = [
    "</script ><script>window.hit = 1</script >", "\"'`<img src=x onerror='window.hit = 1'>", "a\u2028b\u2029c", "\x00\x1b[1m",
    "\u202eabc", "\\xe2\\x82", " ", "\n", "\t", "", "\u0301", "שלום", "{{ 7 * 7 }}", "&lt;b&gt;", "\u200b\ufeff", "\x85\x7f",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One a module: while it runs no other event loop can, which other tests want."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = os.environ.get("ENSEMW2S_BROWSER") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found:
        pytest.skip(f"no browser: install one of {', '.join(PROGRAMS)}, or name a Chromium in ENSEMW2S_BROWSER")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found)
        yield opened
        opened.close()


class Visit:
    """A page in a fresh profile, with all that it asked for and complained of."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1000, "height": 800}, **options})
        self.context.set_default_timeout(60_000)
        self.asked: list[str] = []
        self.problems: list[str] = []
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.problems.append("a dialog"), dialog.dismiss()))
        self.page.goto(url)

    def open_all(self) -> None:
        """Every part that can be unfolded."""
        for _ in range(2):  # what is opened makes more of them
            self.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
            self.page.wait_for_timeout(50)

    def width(self) -> int:
        """Of all that the page shows, which one would have to scroll to see."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def contrasts(self, selector: str) -> dict[str, float]:
        """The lowest contrast ratio (WCAG 2.2) of visible text below a selector, by the elements' names."""
        return dict(self.page.evaluate(CONTRASTS, selector))


CONTRASTS = """(selector) => {
  const numbers = (text) => text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const channels = (text) => text.startsWith("color(srgb") ? numbers(text.slice(10)) :
    numbers(text).map((value, place) => place < 3 ? value / 255 : value);
  const light = (found) => {
    const [r, g, b] = found.slice(0, 3).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    if (!element) return [1, 1, 1];
    const [r, g, b, alpha = 1] = channels(getComputedStyle(element).backgroundColor);
    return alpha === 1 ? [r, g, b] : behind(element.parentElement).map((c, place) => alpha * [r, g, b][place] + (1 - alpha) * c);
  };
  const lowest = {};
  for (const element of document.querySelectorAll(`${selector}, ${selector} *`)) {
    const own = [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, option")) continue;
    const [one, other] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const name = `${element.tagName.toLowerCase()}.${element.className}`;
    lowest[name] = Math.min(lowest[name] ?? 99, (one + 0.05) / (other + 0.05));
  }
  return Object.entries(lowest);
}"""


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open a page; afterwards it has complained of nothing."""
    opened: list[Visit] = []

    def go(url: str, **options: Any) -> Visit:
        opened.append(Visit(browser, url, **options))
        return opened[-1]

    yield go
    for one in opened:
        one.context.close()
    assert [problem for one in opened for problem in one.problems] == []


# ---- a report


def token(text: str, mixture: float, top: list, votes: list, **more: Any) -> dict[str, Any]:
    likely = [{"text": t, "probability": p} for t, p in top]
    seen = [{"text": t, "probability": p, "chosen": chosen, "agrees": t == text} for t, p, chosen in votes]
    return {"text": text, "probability": mixture, "likeliest": top[0][0] == text, "top": likely, "votes": seen, **more}


def sample_views() -> dict[str, Any]:
    """Two experts with alphas 3 and 1; the mixture is their weighted mean."""
    sure = token(" 7", 0.8, [(" 7", 0.8), (" 9", 0.2)], [(" 7", 0.9, 0.9), (" 7", 0.5, 0.5)])
    split = token(" 9", 0.625, [(" 9", 0.625), (" 7", 0.375)], [(" 9", 0.75, 0.75), (" 7", 0.75, 0.25)])
    end = token(
        "<end>", 0.9996, [("<end>", 0.9996), (" 7", 0.0004)], [("<end>", 0.9998, 0.9998), ("<end>", 0.999, 0.999)]
    )
    missed = token(" 2", 0.25, [(" 7", 0.75), (" 2", 0.25)], [(" 7", 0.8, 0.2), (" 7", 0.6, 0.4)], weights=[1.0, 2.9])
    nasty = [token(text, 0.5, [(text, 0.5), ("x", 0.25)], [(text, 0.5, 0.5), ("x", 0.6, 0.4)]) for text in NASTY]
    long = [
        token(f" {'long' * 20}{place}", 0.5, [("a" * 90, 0.5)], [("b" * 90, 0.5, 0.1), ("c", 0.5, 0.1)])
        for place in range(40)
    ]
    head = {"difficulty": 3.0, "finished": True, "left_out": 0, "answers": [], "right": True}
    answers = [
        {"system": "ensemble", "text": "7 9", "right": True},
        {"system": "weak", "text": NASTY[0], "right": False},
    ]

    def view(name: str, split_name: str, kind: str, tokens: list, **more: Any) -> dict[str, Any]:
        return {**head, "id": name, "split": split_name, "kind": kind, "question": f"question {name}", "answer": "7 9",
                "text": "7 9", "tokens": tokens, **more}  # fmt: skip

    return {
        "schema": 1, "rule": "mean",
        "experts": [
            {"alpha": 3.0, "weight": 0.75, "error": 0.1, "tokens": 4, "effective_sample_size": 4.0},
            {"alpha": 1.0, "weight": 0.25, "error": 0.2, "tokens": 4, "effective_sample_size": 2.5},
        ],
        "views": [
            view("first", "test_ood", "answer", [sure, split, end], answers=answers),
            view("nasty", "test_id", "answer", nasty, question=" ".join(NASTY), answer=NASTY[0], right=False),
            view("long", "test_id", "answer", long, question="q" * 300, left_out=7),
            view("label", "weak_train", "label", [missed, {**end, "weights": [1.0, 0.8]}], right=False),
        ],
    }  # fmt: skip


def load_sample() -> Any:
    spec = importlib.util.spec_from_file_location("viewer_report_sample", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nasty() -> list[str]:
    return NASTY


@pytest.fixture(scope="session")
def views() -> dict[str, Any]:
    return sample_views()


@pytest.fixture(scope="session")
def write_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run's report without plots; without views as runs had none once."""
    from ensemw2s.report.html import render_html
    from ensemw2s.report.results import Results
    from ensemw2s.report.views import read_views

    def write(views: dict[str, Any] | None) -> Path:
        folder = tmp_path_factory.mktemp("viewed")
        if views is not None:
            (folder / "views.json").write_text(json.dumps(views))
        page = render_html(Results(load_sample().sample_results(40)), {}, read_views(folder))  # plots take long
        (folder / "report.html").write_text(page, encoding="utf-8")
        return folder / "report.html"

    return write


@pytest.fixture(scope="session")
def report(write_run: Callable[..., Path], views: dict[str, Any]) -> str:
    return write_run(views).as_uri()


# ---- a server

NAME = "toy & <b>co</b>"
KEY = "sesame-123"


class Listening:
    """A server in a thread."""

    def __init__(self, ensemble: Any, **options: Any) -> None:
        from ensemw2s.server.app import create_app
        from ensemw2s.server.running import Server

        self.app = create_app(ensemble, NAME, **options)
        self.server = Server(self.app, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Listening:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = True
        self.thread.join()

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """The API's own answer, not streamed."""
        import httpx

        found = httpx.post(f"{self.url}/v1/{path}", json={"model": NAME, "experts": True, **body}, timeout=30)
        assert found.status_code == 200, found.text
        (choice,) = found.json()["choices"]
        return dict(choice)


@pytest.fixture(scope="session")
def ensemble() -> Any:
    """Three shaken built-in experts, with rounds as an ensemble's folder records them."""
    pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'ensemw2s[serve]'")
    pytest.importorskip("httpx", reason="httpx is not installed")
    import torch

    from ensemw2s.ensemble.model import Ensemble
    from ensemw2s.models.loading import load_model, load_tokenizer

    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = load_model("w2s-weak")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        models.append(model)
    alphas = [1.2, 0.9, 0.9]
    rounds = [
        {"round": n, "alpha": a, "error": 0.1 * n, "effective_sample_size": 900.0 / n} for n, a in enumerate(alphas, 1)
    ]
    meta = {"base": "w2s-weak", "rounds": rounds}
    return Ensemble.of(models, alphas, "mean", load_tokenizer("w2s-weak"), meta=meta, engine="stacked")


@pytest.fixture(scope="module")
def served(ensemble: Any) -> Iterator[Listening]:
    from ensemw2s.server.limits import Limits

    with Listening(ensemble, limits=Limits(logprobs=3)) as found:
        yield found


@pytest.fixture(scope="session")
def listen() -> type[Listening]:
    return Listening
