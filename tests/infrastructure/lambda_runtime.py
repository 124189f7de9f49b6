"""Lambda's runtime on this machine: a function's own process under AWS's runtime client, fed by a small runtime API.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
TIMEOUT = 60.0
# how long a test waits for an answer: the tables it asks are this machine's own, and other tests keep that busy
PATIENCE = 180.0


class FunctionError(AssertionError):
    """The function raised, could not be initialised, or ended; its text is what it said."""


class _RuntimeApi(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, function: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.function = function
        self.events: queue.Queue[tuple[Any, float] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def handle_error(self, request: object, client_address: object) -> None:
        """A function that was ended is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _RuntimeApi

    def do_GET(self) -> None:
        handed = self.server.events.get()
        if handed is None:
            self.close_connection = True
            return
        event, seconds = handed
        body = json.dumps(event).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("Lambda-Runtime-Aws-Request-Id", REQUEST_ID)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + seconds) * 1000)))
        arn = f"arn:aws:lambda:us-east-1:123456789012:function:{self.server.function}"
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", arn)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answers.put((self.path.endswith("/response"), answer))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Requests are not logged."""


@dataclass(frozen=True)
class RunningFunction:
    """A function in its own process."""

    process: subprocess.Popen[bytes]
    log: Path
    api: _RuntimeApi

    def start(self, event: Any, seconds: float = TIMEOUT) -> None:
        """Hand it an event, and `seconds` to live."""
        self.api.events.put((event, seconds))

    def result(self) -> Any:
        """What it answered.

        Raises:
            FunctionError: with what it said instead.
        """
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                succeeded, answer = self.api.answers.get(timeout=0.1)
            except queue.Empty:
                if self.is_alive():
                    continue
                break
            if succeeded:
                return answer
            raise FunctionError(f"{answer}\n{self.log.read_text()}")
        raise FunctionError(f"no answer; exit code {self.process.poll()}\n{self.log.read_text()}")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def invoke(self, event: Any) -> Any:
        self.start(event)
        return self.result()

    def peak_megabytes(self) -> float:
        """The most memory that was ever resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) / 1024


@contextmanager
def running(
    function: str, *, python: str, packages: Path, bundle: Path, environment: Mapping[str, str], log: Path
) -> Iterator[RunningFunction]:
    """Run the function of a bundle as Lambda does; `function` is its folder, such as `sensors.poll_readings`.

    Args:
        packages: what the runtime brings.
        environment: the function's own, and where AWS is.
        log: a file for what it writes.
    """
    api = _RuntimeApi(function)
    thread = threading.Thread(target=api.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    handler = f"lambdas.{function}.handler.handler"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", "awslambdaric", handler],
            cwd=bundle,
            env={
                "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
                "AWS_LAMBDA_FUNCTION_NAME": function.replace(".", "-"),
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_LAMBDA_LOG_GROUP_NAME": "log-group",
                "AWS_LAMBDA_LOG_STREAM_NAME": "log-stream",
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_address[1]}",
                "LAMBDA_TASK_ROOT": str(bundle),
                "LANG": "en_US.UTF-8",
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": str(packages),
                # a function's own folder cannot be written to
                "PYTHONDONTWRITEBYTECODE": "1",
                "TZ": ":UTC",
                "_HANDLER": handler,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RunningFunction(process, log, api)
    finally:
        process.kill()
        process.wait()
        api.events.put(None)
        api.shutdown()
        thread.join()
        api.server_close()
