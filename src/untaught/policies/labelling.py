"""A language model that checks labels, behind any endpoint that speaks OpenAI's /chat/completions. Off by default.

Asked one document (or term) a call, at temperature 0, for one word. Strictly `yes` or `no`, whatever the case and the
full stop behind it, is an answer. Anything else, and every call that fails, is *missing*: never a label, counted, and
above the share `missing` an error. Answers are kept by the digest of endpoint, model, prompt and document, so that the
same question is paid for once; neither documents nor keys are kept.

The documents' text leaves this process, so the address and what is sent are said on stderr before the first call.
Only https is spoken to other machines, redirects are not followed, and the key comes from an environment variable.

Paper: O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601: Llama-3.3-70B labelled about 75,000 documents that the
blocklist had flagged, in doubt as hazard, and was asked about every term of the blocklist by itself.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any

from ..attest import digest
from ..core import UserError
from ..core.files import home
from ..corpus.policy import Labeller
from ..corpus.writing import write_atomically

ANSWER = re.compile(r"(yes|no)\.?", re.IGNORECASE)
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""Answers of a server after which the same call may succeed."""
PAUSE = 1.0
"""Seconds before a failed call is first repeated."""


@dataclass
class Account:
    """What was asked, and what came of it."""

    asked: int = 0
    yes: int = 0
    no: int = 0
    missing: int = 0
    kept: int = 0
    """Of the answers, those that were known from before."""

    def plain(self) -> dict[str, int]:
        """As a record notes it."""
        return {"asked": self.asked, "yes": self.yes, "no": self.no, "missing": self.missing}


@dataclass
class Client:
    """Asks, and remembers the answers."""

    settings: Labeller
    where: str
    folder: Path = field(default_factory=lambda: home() / "labels")
    _said: bool = False

    def __post_init__(self) -> None:
        self._near = checked(self.settings.endpoint, f"{self.where}, labeller.endpoint")
        self._key = _key(self.settings, self.where)

    def prompt(self, template: str) -> str:
        """A prompt with the topic in it."""
        return template.replace("{topic}", self.settings.topic)

    def ask(self, template: str, questions: Sequence[str], what: str) -> tuple[list[bool | None], Account]:
        """Yes, no or missing for each question. An error as soon as more is missing than may be."""
        prompt, account = self.prompt(template), Account()
        answers = [self._remembered(prompt, question) for question in questions]
        account.kept = sum(answer is not None for answer in answers)
        open_ = [index for index, answer in enumerate(answers) if answer is None]
        if open_:
            self._announce(len(open_), what)
        most = self.settings.missing * len(questions)
        with closing(self._answered(prompt, [questions[i] for i in open_])) as found:
            for index, answer in zip(open_, found, strict=True):
                answers[index] = answer
                account.missing += answer is None
                if account.missing > most:
                    raise UserError(
                        f"{self.where}: the labeller left {account.missing} of {len(questions)} {what} without a usable"
                        f" answer, and 'labeller.missing' allows {self.settings.missing:.0%}. What it answered is kept:"
                        " see to the endpoint and the prompt (one word, yes or no), then run again."
                    )
        account.asked, account.yes, account.no = len(answers), answers.count(True), answers.count(False)
        return answers, account

    def _announce(self, count: int, what: str) -> None:
        place = urllib.parse.urlsplit(self.settings.endpoint).netloc
        place += ", on this machine" if self._near else ": IT LEAVES THIS MACHINE"
        print(f"untaught: sending the text of {count} {what} to {self.settings.model} at {place}.", file=sys.stderr)

    def _answered(self, prompt: str, questions: Sequence[str]) -> Generator[bool | None, None, None]:
        """Answers in order, several calls at once; what is not begun is dropped when the reader stops, or one fails."""
        pool, failed = ThreadPoolExecutor(self.settings.at_once), threading.Event()

        def one(question: str) -> bool | None:
            if failed.is_set():
                return None  # never read: questions are begun in order, and the one that failed is read first
            try:
                return self._called(prompt, question)
            except BaseException:
                failed.set()
                raise

        try:
            yield from pool.map(one, questions)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _called(self, prompt: str, question: str) -> bool | None:
        """One answer, tried again while that may help."""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                answer = parsed(self._post(prompt, question))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in AGAIN:
                    raise UserError(
                        f"{self.where}: the labeller's endpoint refused with HTTP {error.code}. See to"
                        " 'labeller.endpoint', 'labeller.model' and the key that 'labeller.key' names."
                    ) from None
            except (OSError, http.client.HTTPException, ValueError):
                pass
            else:
                if answer is not None:
                    self._remember(prompt, question, answer)
                return answer
        return None

    def _post(self, prompt: str, question: str) -> bytes:
        """The body of the endpoint's answer."""
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
        body = {"model": self.settings.model, "temperature": 0, "max_tokens": 8, "messages": messages}
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        address = self.settings.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        handlers = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if self._near else [])]
        with urllib.request.build_opener(*handlers).open(request, timeout=self.settings.timeout) as answer:
            return answer.read(2**20)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _place(self, prompt: str, question: str) -> Path:
        key = {"endpoint": self.settings.endpoint, "model": self.settings.model, "prompt": prompt, "text": question}
        name = digest.of_json(key)
        return self.folder / name[:2] / f"{name}.json"

    def _remembered(self, prompt: str, question: str) -> bool | None:
        try:
            answer = json.loads(self._place(prompt, question).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, bool) else None

    def _remember(self, prompt: str, question: str, answer: bool) -> None:
        place = self._place(prompt, question)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps({"answer": answer}) + "\n")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry text and key to a place that nobody named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def parsed(body: bytes) -> bool | None:
    """The answer in an endpoint's reply; None when it is neither yes nor no."""
    try:
        content: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    found = ANSWER.fullmatch(content.strip()) if isinstance(content, str) else None
    return None if found is None else found[1].lower() == "yes"


def checked(endpoint: str, where: str) -> bool:
    """Whether an endpoint is on this machine; a `UserError` for one that must not be used."""
    try:
        parts = urllib.parse.urlsplit(endpoint)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise UserError(f"{where} is no address. Give one such as https://HOST/v1.") from None
    near = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"{where} holds a name, a key or a query. Give the bare address, and the key by 'labeller.key'."
        )
    if not host or parts.scheme not in ("https", "http"):
        raise UserError(f"{where} is {endpoint!r}: give an address that starts with https://.")
    if parts.scheme == "http" and not near:
        raise UserError(
            f"{where} is {endpoint!r}: plain http would show the documents to everybody on the way. Use https."
        )
    return near


def _key(settings: Labeller, where: str) -> str | None:
    """The key, from the environment alone."""
    if settings.key is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.key):
        raise UserError(
            f"{where}, labeller.key should be the *name* of an environment variable. A key must not stand in a file:"
            " remove it, and withdraw it if others could read it."
        )
    key = os.environ.get(settings.key)
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"{where}: the environment variable {settings.key}, which 'labeller.key' names, holds no key.")
    return key


def selected(texts: Iterable[str], most: int, seed: int) -> list[int]:
    """Places of at most so many texts, told by their digests, in order."""
    names = [hashlib.sha256(f"{seed}/label/{text}".encode()).digest() for text in texts]
    return sorted(sorted(range(len(names)), key=lambda place: names[place])[:most])
