"""The test's own AWS in memory, for a process of its own: HTTP on loopback in front of moto's mocks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto.core.botocore_stubber import BotocoreStubber

_ONE_AT_A_TIME = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...
        region, service = self.headers["Authorization"].split("Credential=")[1].split("/")[2:4]
        host = "s3.amazonaws.com" if service == "s3" else f"{service}.{region}.amazonaws.com"
        headers = HTTPHeaders()
        for name, value in self.headers.items():
            headers[name] = host if name.lower() == "host" else value
        url = f"https://{host}{self.path}"
        request = AWSPreparedRequest(self.command, url, headers, body, stream_output=False)
        with _ONE_AT_A_TIME:
            answer = BotocoreStubber().process_request(request)
        if answer is None:
            raise AssertionError(f"moto does not know {url}")
        status, answered, content = answer
        content = content.encode() if isinstance(content, str) else bytes(content)
        self.send_response(int(status))
        for name, value in answered.items():
            if name.lower() not in {"content-length", "connection", "server", "date"}:
                self.send_header(name, str(value))
        length = answered.get("content-length", len(content)) if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - the names http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error; anything else the client sees as a broken connection."""


@contextmanager
def aws_over_http() -> Iterator[str]:
    """Serve what `moto.mock_aws` holds in this process; gives the endpoint's URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
