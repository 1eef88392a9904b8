"""Load test of ``ensemw2s serve`` over loopback: speed against one request at a time, and what long use leaves behind.

    python benchmarks/serving.py --out benchmarks/results/serving.json
    python benchmarks/serving.py --requests 10000 --hangups 0.1 --out benchmarks/results/serving.json

A server process with T built-in experts (shaken, so that they differ) is asked by this process:

    alone       one request after the other
    together    16 clients, each one request after the other; taken in turn with ``alone``. ``ratio`` is the median over
                the rounds, with an interval of at least 95 % for it. On a machine that does other things, too,
                ``cpu_ratio`` is steadier than ``ratio``. The same client asks on both sides; ``client_cpu_ms`` is what
                a request costs it
    streams     the same, streamed: milliseconds to the first token and between tokens
    long        so many requests, half of them streamed, a part of whose clients hang up somewhere; none may be lost, no
                row may stay, memory must not grow
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from _hardware import describe

from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.world.buckets import draw_rows

MODEL = "loaded"


def make_ensemble(folder: Path, experts: int, base: str, by: float = 0.05) -> None:
    models = []
    for seed in range(experts):
        torch.manual_seed(seed)
        model = load_model(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + by * torch.randn_like(parameter))
        models.append(model)
    Ensemble.of(models, [1.0] * experts, "mean", load_tokenizer(base), meta={"base": base}).save_pretrained(folder)


@contextlib.contextmanager
def server(folder: Path, rows: int, queue: int) -> Iterator[tuple[int, psutil.Process]]:
    """A server process: its port, and the process."""
    command = [sys.executable, "-m", "ensemw2s.cli.main", "serve", str(folder), "--port", "0", "--name", MODEL,
               "--rows", str(rows), "--queue", str(queue)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving at http://[^:]+:(\d+)/", line):
                yield int(found[1]), psutil.Process(process.pid)
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


@dataclasses.dataclass
class Reply:
    """Of one request: HTTP status, the body's text, and when its pieces came (seconds from the start)."""

    status: int
    body: str
    arrivals: list[float]


class Client:
    """One connection that is kept, with no more of HTTP than a load test needs; little work beside the server's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, body: Any = None) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        assert self.reader is not None
        began, arrivals = time.perf_counter(), []
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        if length:
            return Reply(
                status, (await self.reader.readexactly(int(length[1]))).decode(), [time.perf_counter() - began]
            )
        pieces = []
        while size := int((await self.reader.readline()).strip() or b"0", 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
            arrivals.append(time.perf_counter() - began)
        await self.reader.readline()
        return Reply(status, b"".join(pieces).decode(), arrivals)

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        await self.send(method, path, body)
        return await self.reply()

    def close(self, *, rudely: bool = False) -> None:
        if self.writer is not None:
            if rudely:
                self.writer.transport.abort()
            self.writer.close()
        self.reader = self.writer = None


def bodies(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Requests of one kind, sampled at temperature 1.

    ``questions`` of the built-in world: about 20 tokens, answered in about 5. ``texts``: the first 8 tokens of the same,
    which go on for about 15.
    """
    drawn = draw_rows(
        min(count, 2000), families=["largest", "count", "words"], levels=[3, 4, 5], bucket="question", seed=seed,
        purpose="load",
    )  # fmt: skip
    prompts: list[Any] = [f"Question: {row.question}\nAnswer:" for row in drawn]
    if kind == "texts":
        prompts = [ids[:8] for ids in load_tokenizer("w2s-weak")(prompts)["input_ids"]]
    return [
        {"model": MODEL, "prompt": prompts[number % len(prompts)], "max_tokens": 24, "temperature": 1.0, "seed": number}
        for number in range(count)
    ]


async def run_clients(port: int, asked: list[dict[str, Any]], clients: int) -> tuple[float, int, list[Reply]]:
    """Seconds, tokens generated, and all replies."""
    waiting, replies = iter(asked), []

    async def one() -> None:
        client = Client(port)
        for body in waiting:
            replies.append(await client.ask("POST", "/v1/completions", body))
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    seconds = time.perf_counter() - began
    assert all(reply.status == 200 for reply in replies), next(r for r in replies if r.status != 200)
    tokens = 0
    if not asked[0].get("stream"):
        tokens = sum(json.loads(reply.body)["usage"]["completion_tokens"] for reply in replies)
    return seconds, tokens, replies


async def speed(port: int, process: psutil.Process, kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """Requests a second alone and together, taken in turn, and the server's CPU time for one request."""
    many, few = given.per_round, max(20, given.per_round // 4)
    asked = bodies(kind, many, 1)
    await run_clients(port, asked[:20], 4)  # warm
    found: dict[str, list[float]] = {name: [] for name in ("alone", "together", "cpu_alone", "cpu_together", "client")}
    tokens = 0
    for _ in range(given.rounds):
        for name, requests, clients in (("alone", few, 1), ("together", many, given.clients)):
            before, own = sum(process.cpu_times()[:2]), time.process_time()
            seconds, tokens, _ = await run_clients(port, asked[:requests], clients)
            found[name].append(requests / seconds)
            found[f"cpu_{name}"].append((sum(process.cpu_times()[:2]) - before) / requests * 1e3)
        found["client"].append((time.process_time() - own) / requests * 1e3)
    ratios = [b / a for a, b in zip(found["alone"], found["together"], strict=True)]
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "clients": given.clients, "requests": many, "rounds": given.rounds, "tokens_per_answer": tokens / many,
        "alone_requests_per_second": middle["alone"], "together_requests_per_second": middle["together"],
        "together_tokens_per_second": middle["together"] * tokens / many,
        "ratio": statistics.median(ratios), "ratio_interval": _of_median(ratios), "ratios": ratios,
        "server_cpu_ms_alone": middle["cpu_alone"], "server_cpu_ms_together": middle["cpu_together"],
        "cpu_ratio": middle["cpu_alone"] / middle["cpu_together"], "client_cpu_ms": middle["client"],
    }  # fmt: skip


def _of_median(values: list[float]) -> tuple[float, float] | None:
    """An interval for the median, of at least 95 % whatever the distribution: order statistics, by the binomial.

    None for fewer than six values, which have no such interval.
    """
    ordered, count, outside, cut = sorted(values), len(values), 0.0, 0
    while (outside := outside + 2 * math.comb(count, cut) / 2**count) <= 0.05:
        cut += 1
    return (ordered[cut - 1], ordered[-cut]) if cut else None


async def first_tokens(port: int, kind: str, given: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from a request to its first token, and between tokens; every client one stream after the other."""
    asked = [{**body, "stream": True} for body in bodies(kind, given.per_round, 2)]
    _, _, replies = await run_clients(port, asked, given.clients)
    first = sorted(reply.arrivals[0] * 1e3 for reply in replies)
    gaps = sorted((b - a) * 1e3 for reply in replies for a, b in itertools.pairwise(reply.arrivals))
    assert all(reply.body.endswith("data: [DONE]\n\n") for reply in replies)
    return {
        "first_token_ms_p50": _quantile(first, 0.5), "first_token_ms_p99": _quantile(first, 0.99),
        "between_tokens_ms_p50": _quantile(gaps, 0.5), "between_tokens_ms_p99": _quantile(gaps, 0.99),
    }  # fmt: skip


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def many(port: int, process: psutil.Process, requests: int, hangups: float, clients: int) -> dict[str, Any]:
    """Long use: half the requests streamed, a part of the clients hanging up after a random time."""
    asked = bodies("texts", requests, 3)
    rng = random.Random(0)
    plans = [(bool(rng.getrandbits(1)), rng.random() < hangups, rng.random() * 0.05) for _ in asked]
    waiting = iter(list(zip(asked, plans, strict=True)))
    found = {"whole": 0, "hung_up": 0, "lost": 0}
    memory: list[float] = []

    async def one() -> None:
        client = Client(port)
        for body, (stream, hang, after) in waiting:
            await client.send("POST", "/v1/completions", {**body, "stream": stream})
            if hang:
                await asyncio.sleep(after)
                client.close(rudely=True)
                found["hung_up"] += 1
                continue
            reply = await client.reply()
            ended = '"finish_reason":"stop"' in reply.body or '"finish_reason":"length"' in reply.body
            found["whole" if reply.status == 200 and ended else "lost"] += 1
            done = sum(found.values())
            if done % max(1, requests // 20) == 0:
                memory.append(process.memory_info().rss / 2**20)
        client.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    seconds = time.perf_counter() - began
    client = Client(port)
    for _ in range(100):
        health = json.loads((await client.ask("GET", "/health")).body)
        if health["running"] == health["waiting"] == 0:
            break
        await asyncio.sleep(0.05)
    metrics = (await client.ask("GET", "/metrics")).body
    rows = {how: int(float(n)) for how, n in re.findall(r'ensemw2s_rows_total{how="(\w+)"} (\S+)', metrics)}
    client.close()
    return {
        "requests": requests, "clients": clients, **found, "seconds": seconds,
        "rows_running_after": health["running"], "rows_waiting_after": health["waiting"], "rows_ended": rows,
        "memory_mib": memory, "memory_mib_after": process.memory_info().rss / 2**20,
        "threads_after": process.num_threads(), "open_files_after": process.num_fds(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--base", default="w2s-weak")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--per-round", type=int, default=320, help="requests of a round")
    parser.add_argument("--requests", type=int, default=0, help="of the long run; 0 leaves it out")
    parser.add_argument("--hangups", type=float, default=0.1, help="share of its clients that hang up")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"hardware": describe(), "experts": given.experts, "base": given.base}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "ensemble"
        make_ensemble(folder, given.experts, given.base)
        with server(folder, rows=64, queue=256) as (port, process):
            result["load_average"] = psutil.getloadavg()[0]
            for kind in ("texts", "questions"):
                result[kind] = asyncio.run(speed(port, process, kind, given))
                result[kind] |= asyncio.run(first_tokens(port, kind, given))
            if given.requests:
                result["long"] = asyncio.run(many(port, process, given.requests, given.hangups, 32))
    print(json.dumps(result, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
