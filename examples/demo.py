"""Serve an engine in a process of its own and stream three answers: python -m … ENGINE.

Exit code 0 when the server came up, every answer came, the fact was right and the server stopped
in an orderly way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgellama.grpc_service.client import Client
from edgellama.runtime.chat import ChatMessage

QUESTIONS = ("What is the capital of France?", "What is 47 + 38?", "Tell me a story.")
FACT, RIGHT = QUESTIONS[0], "Paris"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Answer:
    """One streamed answer; times in seconds as the client saw them."""

    text: str
    tokens: int
    first_token: float
    total: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first over the time after the first."""
        return (self.tokens - 1) / max(self.total - self.first_token, 1e-9)


@contextmanager
def server(engine: str) -> Iterator[str]:
    """Run `edgellama serve` on a free port and give its HOST:PORT; ends it with SIGTERM."""
    command = [sys.executable, "-m", "edgellama.cli", "serve", engine, "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:  # the document ends with a line that is only its brace
            lines.append(line)
            if line.rstrip() == "}":
                break
        else:
            raise SystemExit(f"demo: the server ended with exit code {process.wait()}")
        yield json.loads("".join(lines))["target"]
    finally:
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if code != 0:
        raise SystemExit(f"demo: the server stopped with exit code {code}")


def ask(client: Client, question: str) -> Answer:
    """Stream one answer to the terminal."""
    print(f"\n> {question}", flush=True)
    begin = time.perf_counter()
    first = None
    chat = [ChatMessage("user", question)]
    with client.stream(chat, temperature=0.0, max_new_tokens=MAX_NEW_TOKENS) as stream:
        for delta in stream:
            first = first or time.perf_counter()
            print(delta.text, end="", flush=True)
        end = time.perf_counter()
    print()
    if first is None:
        raise SystemExit("demo: the answer has no token")
    return Answer(stream.text, len(stream.token_ids), first - begin, end - begin)


def main(engine: str) -> None:
    """Run the demonstration; SystemExit with a message when something is not as it should be."""
    with server(engine) as target, Client(target) as client:
        client.wait_ready(START_SECONDS)
        print(f"serving {engine} on {target}")
        answers = [ask(client, question) for question in QUESTIONS]
        print()
        for question, answer in zip(QUESTIONS, answers, strict=True):
            speed = f"{answer.tokens_per_second:.0f} tokens/s"
            first = f"{answer.first_token * 1e3:.1f} ms"
            print(f"{question:<32} {answer.tokens:>3} tokens, first after {first}, then {speed}")
    if RIGHT not in answers[0].text:
        raise SystemExit(f"demo: {FACT!r} was answered without {RIGHT!r}")
    print("\nThe server has stopped. All good.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m edgellama.examples.demo ENGINE")
    main(sys.argv[1])
