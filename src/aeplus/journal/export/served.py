"""Asking a running server of the OpenAI kind (vLLM, SGLang, llama.cpp) whether it serves the edits."""

import json
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from aeplus.errors import InputError
from aeplus.journal.export.card import ServedProbe

_SECONDS = 60


def check_served(url: str, probe: ServedProbe, model: str | None = None) -> str:
    """Asks a server for the greedy continuation of the probe, and compares it with both answers.

    Args:
        url: Its address, such as ``http://localhost:8000`` (``/v1`` may be at its end).
        probe: The probe.
        model: What the server calls the model or adapter; by default the last that it lists.

    Returns:
        What the server answers, which begins as the edited model's answer does.

    Raises:
        InputError: If there is no such server, or it answers as the base model does, or neither way.
    """
    base = url.rstrip("/").removesuffix("/v1")
    if urlsplit(base).scheme not in ("http", "https"):
        msg = f"expected the address of a server such as http://localhost:8000, got {url!r}; correct it."
        raise InputError(msg)
    if model is None:
        model = _ask(f"{base}/v1/models", ("data", -1, "id"))
    asked = {"model": model, "prompt": probe.prompt, "max_tokens": 12, "temperature": 0}
    answer = _ask(f"{base}/v1/completions", ("choices", 0, "text"), asked)
    if _same(answer, probe.after):
        return answer
    what = "the answer of the base model" if _same(answer, probe.before) else "another answer"
    msg = (
        f"expected {model!r} at {url} to continue {probe.prompt!r} with {probe.after!r}, got {answer!r}, {what}; check "
        "that the adapter is loaded under its names (--prefix)."
    )
    raise InputError(msg)


def _ask(url: str, place: tuple[str, int, str], content: dict[str, Any] | None = None) -> str:
    """What a server's reply has at a place."""
    data = None if content is None else json.dumps(content).encode()
    try:
        with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=_SECONDS) as reply:
            listed, number, name = place
            return str(json.loads(reply.read(1 << 24))[listed][number][name])
    except (KeyError, IndexError, TypeError) as error:
        msg = (
            f"expected a server of the OpenAI kind at {url}, got a reply without {place[0]} with {place[2]!r}; load a "
            "model in it, or correct the address."
        )
        raise InputError(msg) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        msg = (
            f"expected a server of the OpenAI kind at {url}, got an error ({error}); start it, or correct the address."
        )
        raise InputError(msg) from error


def _same(answer: str, expected: str) -> bool:
    """Whether one begins as the other does: tokens are cut at different places."""
    a, b = " ".join(answer.split()), " ".join(expected.split())
    return bool(a) and bool(b) and (a.startswith(b) or b.startswith(a))
