"""Which requests reach the web page's server, and the messages for those that are refused."""

import asyncio
import json
import os
import random
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("starlette")

from transpose.errors import UserError
from transpose.predictor import web_guard
from transpose.predictor.web_guard import Guard

EVENT = {"data": [None, "opening", "dependency", 0], "event_data": {"number": 3}, "fn_index": 1, "trigger_id": 7}
JOIN, UPLOAD = web_guard.JOIN, web_guard.UPLOAD


class Server:
    """A guard before an application that remembers what reaches it, and a clock that tests turn."""

    def __init__(self, **options: Any):
        self.time, self.reached, self.status = 0.0, list[tuple[str, bytes]](), 200
        how = {"host": "127.0.0.1", "names": [], "max_bytes": 1000, "sessions": 3, "of_address": 2, "idle": 100}
        self.guard = Guard(**how | options, clock=lambda: self.time)
        self.guard.events = {1: 4}

    async def _app(self, scope, receive, send) -> None:
        body = (await receive())["body"] if scope["method"] == "POST" else b""
        self.reached.append((scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        address: str = "10.0.0.1",
        host: str = "localhost:7860",
        **headers: str,
    ) -> tuple[int, str]:
        """The status and the text of the answer."""
        chunks = [body] if isinstance(body, bytes) else list(body)
        sent: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: dict) -> None:
            sent.append(message)

        named = {"host": host} | headers
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
            "client": (address, 1),
        }
        asyncio.run(self.guard.around(self._app)(scope, receive, send))
        return sent[0]["status"], sent[1]["body"].decode()

    def join(self, session: str = "a", address: str = "10.0.0.1", **changed: Any) -> tuple[int, str]:
        return self.ask("POST", JOIN, json.dumps(EVENT | {"session_hash": session} | changed).encode(), address)


ODD = (
    None,
    True,
    -1,
    1e308,
    float("nan"),
    10**400,
    "",
    "..",
    "a" * 70_000,
    [],
    {},
    [[[]]],
    "http://127.0.0.1:1/x",
    "\ud800",
)

PLACES = (*[JOIN] * 6, UPLOAD, "/gradio_api/file=http://127.0.0.1:1/x", f"{JOIN}/..", "/assets/../x")
HOSTS = (*["localhost:7860"] * 5, "127.0.0.1", "[::1]:7860", "evil.example", "", "localhost@evil", "[x")


@pytest.mark.slow
def test_random_requests_are_answered_and_only_text_and_numbers_reach_gradio():
    """SEED=… asks others."""
    answers: Counter[int] = Counter()
    for number in range(5_000):
        draw = random.Random(f"{os.environ.get('SEED', 0)} {number}")
        server = Server()
        event = EVENT | {"session_hash": draw.choice(("a", "b", *ODD))}
        for _ in range(draw.choice((0, 0, 1, 2))):
            key, value = draw.choice(list(event)), draw.choice((FILE, [FILE], {"a": FILE}, *ODD))
            if key == "data" and draw.random() < 0.5:
                event[key] = [*event[key][:-1], value] if isinstance(event[key], list) else value
            else:
                event[key] = value
        body = json.dumps(event).encode()
        if draw.random() < 0.2:
            place = draw.randrange(len(body))
            body = body[:place] + bytes([draw.randrange(256)]) + body[place + draw.choice((0, 1, 30)) :]
        path, host, method = (
            draw.choice(PLACES),
            draw.choice(HOSTS),
            draw.choice(("POST", "POST", "POST", "GET", "PUT")),
        )
        status, text = server.ask(method, path, body, host=host)
        answers[status] += 1
        assert status == 200 or json.loads(text)["detail"], (number, status, text)
        for place, passed in server.reached:
            assert ".." not in place and b"path" not in passed and len(passed) < web_guard.MAX_EVENT, (number, place)
    assert set(answers) <= {200, 400, 403, 404, 413, 421} and answers[200] > 50 and answers[400] > 500, answers


HALVES = {"session_hash": "\ud800", "data": ["\udfff", 1, 2, 3], "event_data": {"\ud800": 1}}  # of characters
FILE = {"path": "http://127.0.0.1:1/secret", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "changed",
    [
        {"data": [FILE, *"abc"]},
        {"data": [[FILE], *"abc"]},
        {"data": [{"a": {"b": FILE}}, *"abc"]},
        {"data": ["x", {"path": "/etc/passwd"}, 1, 2]},
        {"data": [1, 2, 3]},
        {"fn_index": 2},
        {"fn_index": True},
        {"trigger_id": FILE},
        {"event_data": {"file": FILE}},
        {"event_data": {"files": [FILE]}},
        {"event_data": [FILE]},
        {"event_data": "text"},
        {"fn_index": "1"},
        {"fn_index": {"path": "http://a"}},
        {"session_hash": FILE},
        {"session_hash": "a" * 65},
        {"session_hash": ""},
        {"data": [10**400, *"abc"]},
        {"event_data": {"number": -(10**30)}},
        {"trigger_id": 10**400},
        {"data": None},
        {"data": "abcd"},
    ],
    ids=lambda changed: json.dumps(changed)[:40],
)
def test_an_event_contains_only_text_and_numbers(changed):
    server = Server()
    assert server.join()[0] == 200
    (_, body), server.reached = server.reached[0], []
    assert json.loads(body) == EVENT | {"session_hash": "a"}
    status, said = server.join(**changed)
    assert status == 400 and "event of the page" in said and not server.reached


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"null", b'{"data": [NaN], "session_hash": "a"}', b"[" * 60_000, b"\xff"]
    + [json.dumps(EVENT | {"session_hash": "a"} | {key: value}).encode() for key, value in HALVES.items()],
)
def test_malformed_events_are_refused(body):
    status, said = Server().ask("POST", JOIN, body)
    assert (status, json.loads(said)) == (400, {"detail": "this is not an event of the page"})


def test_only_the_needed_fields_of_an_event_are_passed_on():
    server = Server()
    server.join(simple_format=True, oauth_token="x", batched=True, event_id="y", url="http://a")
    assert set(json.loads(server.reached[0][1])) == {*EVENT, "session_hash"}


def test_only_the_requests_of_the_page_pass():
    server = Server()
    for path in ("/", "/config", "/theme.css", "/assets/a.js", "/gradio_api/queue/data", "/gradio_api/heartbeat/abc"):
        assert server.ask("GET", path) == (200, "served")
    count = len(server.reached)
    for method, path in (
        *(
            ("POST", f"/gradio_api/{name}")
            for name in ("upload", "run/predict", "api/x", "call/x", "call/v2/x", "cancel")
        ),
        *(
            ("POST", f"/gradio_api/{name}")
            for name in ("component_server", "process_recording", "vibe-edit", "queue/join/")
        ),
        *(
            ("GET", f"/gradio_api/{name}")
            for name in ("file=/etc/passwd", "file/x", "proxy=http://a", "info", "call/x/y")
        ),
        *(("GET", path) for path in ("/monitoring", "/login", "/assets/../../x", "/docs", "/openapi.json", UPLOAD)),
        *(("PUT", "/"), ("DELETE", "/config"), ("OPTIONS", JOIN)),
    ):
        assert server.ask(method, path) == (404, '{"detail":"there is no such page"}'), path
    assert len(server.reached) == count


@pytest.mark.parametrize("stated", [True, False])
def test_no_body_is_longer_than_its_limit(stated):
    server = Server()
    for path, most, sentence in (
        (UPLOAD, 1000, "this file is larger than 0.001 MB"),
        (JOIN, 65536, "a request is larger"),
    ):
        long = [b"x" * (most // 2)] * 3
        headers = {"content_length": str(sum(map(len, long)))} if stated else {}
        status, said = server.ask("POST", path, long, **headers)
        assert status == 413 and sentence in said
    assert server.ask("POST", UPLOAD, b"x", content_length="1e9")[0] == 413
    assert server.ask("POST", UPLOAD, b"x", content_length="9" * 5000)[0] == 413
    assert not server.reached and not server.guard._waiting


def test_an_image_waits_for_its_event_once_and_not_for_ever():
    server = Server()
    status, said = server.ask("POST", UPLOAD, [b"one", b"two"])
    assert status == 200 and server.guard.take(json.loads(said)["ticket"]) == b"onetwo"
    for ticket in (json.loads(said)["ticket"], "", "/etc/passwd"):
        with pytest.raises(UserError, match="did not arrive, or waited too long"):
            server.guard.take(ticket)

    tickets = [json.loads(server.ask("POST", UPLOAD, b"x")[1])["ticket"] for _ in range(web_guard.MINE)]
    status, said = server.ask("POST", UPLOAD, b"x")
    assert status == 429 and "too many images are waiting" in said
    assert server.ask("POST", UPLOAD, b"x", "10.0.0.2")[0] == 200  # another visitor's address
    server.guard.take(tickets[0])
    assert server.ask("POST", UPLOAD, b"x")[0] == 200
    server.time += 2 * web_guard.MAX_SECONDS + 1
    assert server.ask("POST", UPLOAD, b"x")[0] == 200 and len(server.guard._waiting) == 1


def test_all_addresses_together_store_a_limited_number_of_images():
    server = Server()
    answers = [server.ask("POST", UPLOAD, b"x", f"10.0.0.{i}")[0] for i in range(web_guard.MAX_WAITING + 1)]
    assert answers == [200] * web_guard.MAX_WAITING + [429]


def test_one_address_keeps_a_limited_number_of_requests_open():
    async def asked() -> list[list[dict]]:
        server, waits, answers = Server(), asyncio.Event(), []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/gradio_api/heartbeat/a",
            "headers": [(b"host", b"localhost")],
        }

        async def app(scope, receive, send) -> None:
            await waits.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def ask(address: str) -> None:
            answers.append([])

            async def send(message: dict, own: list = answers[-1]) -> None:
                own.append(message)

            await server.guard.around(app)({**scope, "client": (address, 1)}, None, send)

        tasks = [asyncio.create_task(ask(address)) for address in ["1.1.1.1"] * (web_guard.MAX_OPEN + 1) + ["2.2.2.2"]]
        await asyncio.sleep(0)
        await tasks[web_guard.MAX_OPEN]
        waits.set()
        await asyncio.gather(*tasks)
        assert not server.guard._open
        return answers

    statuses = [answer[0]["status"] for answer in asyncio.run(asked())]
    assert statuses == [200] * web_guard.MAX_OPEN + [429, 200]


def test_sessions_in_use_are_not_evicted_by_others():
    server = Server()
    forgotten: list[str] = []
    server.guard.forget = forgotten.append
    assert [server.join(*visit)[0] for visit in (("a", "x"), ("b", "x"), ("c", "y"))] == [200] * 3
    status, said = server.join("d", "z")
    assert status == 429 and "this server has too many visitors" in said and forgotten == []
    assert server.join("a", "x")[0] == 200
    assert server.join("e", "x")[0] == 200 and forgotten == ["b"]  # the address's own, the least recently used
    for number in range(50):  # one address cannot push out another
        server.join(f"more {number}", "x")
    assert server.join("d", "z")[0] == 429 and "c" not in forgotten
    server.time = 99
    assert server.join("c", "y")[0] == 200
    server.time = 101  # those of x were idle for 100 seconds
    assert server.join("d", "z")[0] == 200 and forgotten[-2:] == ["more 48", "more 49"]
    assert server.join("f", "w")[0] == 200 and server.join("g", "v")[0] == 429


@pytest.mark.parametrize(
    "started, names, reached, refused",
    [
        (
            "127.0.0.1",
            [],
            ["localhost", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:9"],
            ["evil.example", "10.1.2.3", "", "[::1"],
        ),
        (
            "0.0.0.0",
            [],
            ["10.1.2.3:7860", "[fe80::1]:7860", "localhost"],
            ["evil.example", "10.1.2.3.evil.example", "a b"],
        ),
        ("0.0.0.0", ["me.hf.space"], ["me.hf.space", "Me.hf.space"], ["you.hf.space", "me.hf.space.evil.example"]),
        ("box.lan", [], ["box.lan:7860"], ["10.1.2.3", "lan"]),
    ],
)
def test_the_server_answers_to_its_own_names(started, names, reached, refused):
    server = Server(host=started, names=names)
    assert [server.ask("GET", "/", host=name)[0] for name in reached] == [200] * len(reached)
    for name in refused:
        status, said = server.ask("GET", "/", host=name)
        assert status == 421 and "does not answer to that host name; start it with --name" in said


def test_requests_from_other_sites_are_refused():
    server = Server()
    assert server.ask("GET", "/", origin="http://localhost:7860")[0] == 200
    for origin in ("http://evil.example", "http://localhost:1", "null"):
        assert server.ask("POST", UPLOAD, b"x", origin=origin)[0] == 403


def test_a_full_queue_is_a_sentence():
    server = Server()
    server.status = 503  # what Gradio says then, and its page would not show
    status, said = server.join()
    assert status == 429 and json.loads(said)["detail"].startswith("too many requests are waiting")
