"""All https hosts in one: a proxy of this machine that answers each host's requests itself, over TLS."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme


class Handler(BaseHTTPRequestHandler):
    server: "Hosts"

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.authority.issue_cert(self.host).configure_cert(context)
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def do_GET(self) -> None:
        body = self.server.files.get(f"https://{self.host}{self.path}")
        self.send_response(404 if body is None else 200)
        content = b"" if body is None else body.read_bytes()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


class Hosts(ThreadingHTTPServer):
    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Path] = {}  # by their address
        self.authority = trustme.CA()
        trusted = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(trusted))
        proxy = f"http://127.0.0.1:{self.server_port}"
        self.environment = {"SSL_CERT_FILE": str(trusted), "https_proxy": proxy, "HTTPS_PROXY": proxy}


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    server = Hosts(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
