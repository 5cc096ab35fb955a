"""Checks every request to the web page's server before Gradio gets it.

Gradio fetches any address in a file's `path`, accepts bodies of any length, and forgets other visitors' sessions when
many come. Therefore only the page's own requests pass, with bodies of text and numbers; an image can be sent only to
`UPLOAD`, and waits here until its event asks for it.
"""

import asyncio
import ipaddress
import json
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError

UPLOAD, JOIN = "/upload", "/gradio_api/queue/join"
PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/startup-events")
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
READ = (*PAGES, "/gradio_api/queue/data")
MAX_EVENT = 64 * 1024  # bytes of a body that is not an image
MAX_SECONDS = 60  # seconds for a body to arrive, and for an image to wait
MAX_WAITING = 8  # images being uploaded or waiting, of all visitors
MINE = 2  # the same, per address
MAX_OPEN = 64  # open requests per address; a tab keeps two open, and loads some files at a time
MAX_NUMBER = 1e15  # in an event
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RefusedRequest(Exception):
    """A request that is answered by an error message."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Guard:
    """Passes only the page's own requests. Made once; `around` is the ASGI middleware.

    `host` is the server's --host, and `names` are other host names that visitors may use. At most `sessions` are kept
    at a time, `of_address` per address; those idle for `idle` seconds are forgotten, and `forget` is called with each.
    """

    def __init__(
        self,
        host: str,
        names: Sequence[str],
        max_bytes: int,
        *,
        sessions: int,
        of_address: int,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.host, self.names, self.max_bytes = host, {name.lower() for name in names}, max_bytes
        self.sessions, self.of_address, self.idle, self.clock = sessions, of_address, idle, clock
        self.events: dict[int, int] = {}  # the page's events: number -> how many values it has
        self.forget: Callable[[str], object] = str  # called with each session that is dropped
        self._seen: dict[str, tuple[str, float]] = {}  # session -> address and time of last use
        self._open = Counter[str]()  # address -> requests being answered
        self._waiting: dict[str, tuple[str, float, bytes]] = {}  # ticket -> address, time of arrival, content

    def around(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            elif scope["type"] == "http":
                request = Request(scope, receive)
                address = _address(request)
                self._open[address] += 1
                try:
                    await self._serve(app, request, scope, receive, send)
                finally:
                    self._open -= Counter([address])  # without those that have none

        return guarded

    async def _serve(self, app: ASGIApp, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to the `app`."""
        try:
            answer = await self._answer(request)
        except RefusedRequest as refused:
            # A refusal before the body is read closes the connection, so that the rest is not received.
            headers = {"Connection": "close"}
            answer = JSONResponse({"detail": str(refused)}, refused.status, headers)
        except ClientDisconnect:
            return
        if isinstance(answer, Response):
            await answer(scope, receive, send)
        else:
            await app(scope, _again(answer, receive), _in_words(send))

    async def _answer(self, request: Request) -> Response | bytes:
        """The guard's own answer, or the body to pass on to Gradio."""
        self._check_address(request)
        if self._open[_address(request)] > MAX_OPEN:
            raise RefusedRequest(429, "too many requests from your address are open; close some tabs of this page")
        path, reads = request.scope["path"], request.method in ("GET", "HEAD")
        if reads and (path in READ or (path.startswith(FOLDERS) and ".." not in path)):
            return b""
        if request.method == "POST" and path == UPLOAD:
            return JSONResponse({"ticket": await self._keep(request)})
        if request.method == "POST" and path == JOIN:
            body = checked_event(await _body(request, MAX_EVENT, "a request"), self.events)
            self._admit(body["session_hash"], _address(request))
            return json.dumps(body).encode()
        raise RefusedRequest(404, "there is no such page")

    def _check_address(self, request: Request) -> None:
        """Refuse other host names: another site could make its own name point to this server (DNS rebinding)."""
        try:
            name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            name = ""
        mine = name in {*LOOPBACK, self.host.lower(), *self.names}
        if self.host in ("0.0.0.0", "::"):
            mine = mine or name == socket.gethostname().lower() or _is_number(name)
        if not mine:
            raise RefusedRequest(421, "this server does not answer to that host name; start it with --name to allow it")
        origin = request.headers.get("origin")
        if origin and urlsplit(origin).netloc != request.headers["host"]:
            raise RefusedRequest(403, "requests from pages of other sites are refused")

    def _admit(self, session: str, address: str) -> None:
        """Accept a session. It may replace an older one of its own address, but no active one of another address."""
        now, is_new = self.clock(), session not in self._seen
        gone = [name for name, (_, used) in self._seen.items() if now - used >= self.idle and name != session]
        mine = [name for name, (whose, _) in self._seen.items() if whose == address and name not in gone]
        if is_new and len(mine) >= self.of_address:
            gone.append(mine[0])
        for name in gone:
            del self._seen[name]
            self.forget(name)
        if is_new and len(self._seen) >= self.sessions:
            raise RefusedRequest(429, "this server has too many visitors; come back in half an hour")
        self._seen.pop(session, None)  # moved to the end: the order is that of last use
        self._seen[session] = address, now

    async def _keep(self, request: Request) -> str:
        """Keep an image until `take`, and return its ticket. An image counts while it is being uploaded."""
        address = _address(request)
        self._forget()
        mine = sum(kept[0] == address for kept in self._waiting.values())
        if len(self._waiting) >= MAX_WAITING or mine >= MINE:
            raise RefusedRequest(429, "too many images are waiting; try again in a minute")
        ticket = secrets.token_urlsafe()
        self._waiting[ticket] = address, self.clock(), b""
        try:
            content = await _body(request, self.max_bytes, "this file")
        except BaseException:
            self._waiting.pop(ticket, None)
            raise
        self._waiting[ticket] = address, self.clock(), content
        return ticket

    def take(self, ticket: str) -> bytes:
        """The uploaded image of a ticket, which is then removed. Raises UserError if there is none."""
        self._forget()
        if ticket not in self._waiting:
            raise UserError("the image did not arrive, or waited too long; upload it again")
        return self._waiting.pop(ticket)[2]

    def _forget(self) -> None:
        """Drop images that were not taken in time. Uploads in progress have their own time limit."""
        now = self.clock()
        self._waiting = {name: kept for name, kept in self._waiting.items() if now - kept[1] < 2 * MAX_SECONDS}


def checked_event(body: bytes, events: dict[int, int]) -> dict[str, Any]:
    """One of the page's `events`, with only the fields that Gradio needs.

    Raises RefusedRequest unless all values are text or numbers: Gradio takes any object for a file, and fetches it.
    """
    try:
        event = json.loads(body, parse_constant=_refuse_constant)
        about = event.get("event_data") or {}
        values = [*event["data"], *about.values()] if isinstance(event["data"], list) else [[]]
        number, trigger, session = event["fn_index"], event.get("trigger_id"), event["session_hash"]
        json.dumps([event["data"], about, session], ensure_ascii=False).encode()  # half a character: a ValueError
        known = type(number) is int and type(trigger) in (int, type(None)) and len(event["data"]) == events[number]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise RefusedRequest(400, "this is not an event of the page") from None
    plain = all(
        value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < MAX_NUMBER)
        for value in (*values, trigger)
    )
    if not plain or not known or not isinstance(session, str) or not 0 < len(session) <= 64:
        raise RefusedRequest(400, "an event of the page contains only text and numbers")
    return {
        "data": event["data"],
        "event_data": about,
        "fn_index": number,
        "trigger_id": trigger,
        "session_hash": session,
    }


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


async def _body(request: Request, most: int, what: str) -> bytes:
    too_long = RefusedRequest(413, f"{what} is larger than {most / 1e6:.3g} MB, the limit of this page")
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated[:20]) > most:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise too_long
    except TimeoutError:
        raise RefusedRequest(408, f"{what} did not arrive within {MAX_SECONDS} seconds") from None
    return bytes(content)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_number(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, which was read already, once more."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


def _in_words(send: Send) -> Send:
    """Replace the text of Gradio's 503 (its queue is full), the one refusal that its page does not show; the length in
    the header stays true."""
    full = b""

    async def send_in_words(message: Message) -> None:
        nonlocal full
        if message["type"] == "http.response.start" and message["status"] == 503:
            full = json.dumps({"detail": "too many requests are waiting; try again in a minute"}).encode()
            length = [(b"content-type", b"application/json"), (b"content-length", str(len(full)).encode())]
            message = {**message, "status": 429, "headers": length}
        elif full and message["type"] == "http.response.body":
            message, full = {**message, "body": full, "more_body": False}, b""
        await send(message)

    return send_in_words
