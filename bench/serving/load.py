"""Clients that send requests and check the answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx
import numpy as np

TIMEOUT = httpx.Timeout(300, connect=60)
REFUSALS = (429, 503, 504)  #: statuses that are clean if their body is a problem document


@dataclass(frozen=True)
class Task:
    """A request, its right answer, and the seconds of sound that it stands for."""

    name: str
    address: str
    body: bytes
    seconds: float
    expected: bytes = b""


@dataclass
class Tally:
    """What became of requests. `wrong` are answers with other bytes than expected, and refusals that are not clean."""

    latencies: list[float] = field(default_factory=list)  #: of right answers, in seconds
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    sound: float = 0.0  #: seconds of sound in right answers
    elapsed: float = 0.0

    def describe(self) -> dict[str, Any]:
        latencies = np.sort(self.latencies) if self.latencies else np.array([np.nan])
        p50, p95, p99 = (round(float(np.percentile(latencies, q)), 4) for q in (50, 95, 99))
        return {
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "wrong": self.wrong,
            "elapsed_s": round(self.elapsed, 2),
            "requests_per_s": round(len(self.latencies) / self.elapsed, 3),
            "sound_s_per_s": round(self.sound / self.elapsed, 3),
            "p50_s": p50,
            "p95_s": p95,
            "p99_s": p99,
        }


async def send(client: httpx.AsyncClient, task: Task, tally: Tally) -> None:
    started = time.perf_counter()
    try:
        answer = await client.post(task.address, content=task.body)
    except httpx.TransportError as error:
        tally.statuses[type(error).__name__] += 1
        tally.wrong += 1
        return
    tally.statuses[str(answer.status_code)] += 1
    if answer.status_code == 200 and answer.content == task.expected:
        tally.latencies.append(time.perf_counter() - started)
        tally.sound += task.seconds
    elif answer.status_code not in REFUSALS or answer.headers.get("content-type") != "application/problem+json":
        tally.wrong += 1


def find_expected(url: str, task: Task) -> Task:
    """`task` with the answer that the idle server gives. Tests compare that with the command line's."""
    answer = httpx.post(url + task.address, content=task.body, timeout=TIMEOUT)
    answer.raise_for_status()
    return Task(task.name, task.address, task.body, task.seconds, answer.content)


async def run_clients(url: str, tasks: list[Task], clients: int, seconds: float, least: int = 1) -> Tally:
    """`clients` that each send one request after the other for `seconds`, and at least `least` each."""
    tally, limits = Tally(), httpx.Limits(max_connections=None)
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:

        async def work(number: int) -> None:
            done = 0
            while done < least or time.perf_counter() - started < seconds:
                await send(client, tasks[(number + done) % len(tasks)], tally)
                done += 1

        await asyncio.gather(*(work(number) for number in range(clients)))
    tally.elapsed = time.perf_counter() - started
    return tally


async def run_arrivals(url: str, tasks: list[Task], rate: float, seconds: float, most: int = 500) -> Tally:
    """`rate` requests a second, whether or not earlier ones are answered; `most` at once."""
    tally, limits = Tally(), httpx.Limits(max_connections=None)
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
        running: set[asyncio.Task[None]] = set()
        number = 0
        while (now := time.perf_counter() - started) < seconds:
            while number < rate * now and len(running) < most:
                request = asyncio.create_task(send(client, tasks[number % len(tasks)], tally))
                running.add(request)
                request.add_done_callback(running.discard)
                number += 1
            await asyncio.sleep(0.01)
        if running:
            await asyncio.wait(running)
    tally.elapsed = time.perf_counter() - started
    return tally


async def measure_first_sound(url: str, task: Task, clients: int, repeats: int) -> dict[str, Any]:
    """Seconds from a request with `stream=true` to the first bytes of sound, and to the last."""
    first: list[float] = []
    whole: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:

        async def stream() -> None:
            for _ in range(repeats):
                started, is_first = time.perf_counter(), True
                async with client.stream("POST", task.address + "&stream=true", content=task.body) as answer:
                    answer.raise_for_status()
                    async for _ in answer.aiter_raw():
                        if is_first:
                            first.append(time.perf_counter() - started)
                            is_first = False
                whole.append(time.perf_counter() - started)

        await asyncio.gather(*(stream() for _ in range(clients)))
    return {
        "clients": clients,
        "first_sound_median_s": round(median(first), 4),
        "first_sound_max_s": round(max(first), 4),
        "whole_median_s": round(median(whole), 4),
    }
