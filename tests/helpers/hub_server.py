"""A Hugging Face Hub on this machine, as far as one repository is written and read through huggingface_hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


class Handler(BaseHTTPRequestHandler):
    server: "Hub"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            return self.answer_json(
                {"url": f"{self.server.url}/{json.loads(body)['organization']}/{json.loads(body)['name']}"}
            )
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer_json({"files": [{"path": name} | modes for name in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer_json({"commitUrl": f"{self.server.url}/me/it/commit/{COMMIT}", "commitOid": COMMIT})
        assert self.path == "/api/validate-yaml", self.path
        return self.answer_json({"errors": [], "warnings": []})

    def do_HEAD(self) -> None:
        self.answer(self.server.files.get(self.path.rsplit("/", 1)[-1]))

    do_GET = do_HEAD

    def answer_json(self, content: object) -> None:
        self.answer(json.dumps(content).encode())

    def answer(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        body = body or b""
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        pass


class Hub(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}  # of the last commit
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
