"""A W&B server that takes whatever it is sent, and remembers it: for what W&B's own clients do when online.

It answers the few GraphQL operations that they wait for; every artifact is one that it has already, so that no file of it
is sent, and its id is its name.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = {"id": "b", "name": "run", "project": {"id": "p", "name": "edgenetllm", "entity": {"id": "e", "name": "me"}}}


@dataclass
class Server:
    url: str = ""
    refuses: str = ""  # an operation
    knows_the_key: bool = True
    answers: bool = True  # what is posted; else it takes that and never says a word
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # operation or path, variables or body

    def surroundings(self, home: object) -> dict[str, str]:
        """A shell where this is the W&B server."""
        ours = {name: value for name, value in os.environ.items() if name not in ("WANDB_SERVICE", "WANDB_MODE")}
        return {**ours, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40, "HOME": str(home)}

    def all(self, operation: str) -> list[dict[str, Any]]:
        return [sent for name, sent in self.received if name == operation]

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if "query" not in body:
            self.received.append((path.rpartition("/")[2], body))
            return {}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
        assert operation is not None
        sent = body.get("variables") or {}
        self.received.append((operation[1], sent))
        if operation[1] == self.refuses:
            return {"errors": [{"message": "permission denied"}]}
        name = sent.get("input", {}).get("artifactCollectionName")
        known = {"id": name, "state": "COMMITTED", "artifactSequence": {"id": name, "latestArtifact": None}}
        return {
            "data": {
                "viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
                "upsertBucket": {"bucket": BUCKET, "inserted": True},
                "upsertView": {"view": {"id": "v", "name": "nw-abc-v"}, "inserted": True},
                "createArtifact": {"artifact": known},
                "useArtifact": {"artifact": {"id": name, "digest": "", "state": "COMMITTED", "metadata": "{}"}},
                "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
                "notifyScriptableRunAlert": {"success": True},
                "model": {"bucket": None},
            }
        }


@contextmanager
def listening() -> Iterator[Server]:
    server, closed = Server(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not server.answers:
                closed.wait()
                return
            if not server.knows_the_key:
                self.send_response(401)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            sent = {} if "otel" in self.path else json.loads(body or b"{}")  # otel: the client's own telemetry
            answer = json.dumps(server.answer(self.path, sent)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        closed.set()
        http.shutdown()
        thread.join()
        http.server_close()
