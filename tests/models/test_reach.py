"""A hub that is away is said in seconds; one that is slow, a mirror, gated, or not needed works or has its own sentence."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from small import ARCHITECTURES
from transformers import AutoConfig, AutoModel

from edgenetllm.errors import UserError
from edgenetllm.models import reach
from edgenetllm.models.hub import HubBackbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A small server that answers as the hub does, and the settings of a client that asks it alone."""
    settings = dict(ARCHITECTURES["llama"])
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=9)).save_pretrained(
        tmp_path / "stored"
    )

    class Handler(BaseHTTPRequestHandler):
        wait = 0.0
        refusal: tuple[int, str] | None = None

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            time.sleep(self.wait)
            path = tmp_path / "stored" / Path(self.path).name
            data = path.read_bytes() if "/resolve/" in self.path and path.is_file() else b""
            code, error = self.refusal or ((200, "") if data else (404, "EntryNotFound"))
            self.send_response(code)
            if code == 200:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            else:
                self.send_header("X-Error-Code", error)
                data = b""
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "hub")
    yield Handler
    server.shutdown()
    server.server_close()


def use(monkeypatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for module in ("transformers.utils.hub.constants", "huggingface_hub.file_download.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache))
    reach._options.cache_clear()


def test_without_a_network_it_is_said_at_once(monkeypatch, tmp_path):
    use(monkeypatch, "http://127.0.0.1:9", tmp_path)
    began = time.perf_counter()
    with pytest.raises(
        UserError, match=r"(?s)model=llama2: .*127\.0\.0\.1:9 cannot be reached.*model\.path=/folder/of/llama2"
    ):
        HubBackbone("llama2", "meta-llama/Llama-2-7b-hf", COMMIT).architecture()
    assert time.perf_counter() - began < 3


def test_a_hub_that_never_answers_is_given_up_in_time(hub, monkeypatch):
    hub.wait = 30
    monkeypatch.setattr(reach, "PATIENCE", 1.0)
    began = time.perf_counter()
    with pytest.raises(
        UserError, match=r"cannot be reached: no answer within 1 s; HF_HUB_ETAG_TIMEOUT=60 waits longer|timed out"
    ):
        HubBackbone("mine", "me/model", COMMIT).architecture()
    assert time.perf_counter() - began < 4
    assert reach.PATIENCE < 10


def test_a_mirror_that_is_slow_gives_the_model_and_its_copy_needs_none(hub, monkeypatch, tmp_path):
    hub.wait = 0.5
    source = HubBackbone("mine", "me/model", COMMIT)
    loaded = source.load()
    assert loaded.identity == {"name": "model", "hash": COMMIT, "layers": 3}
    assert source.fingerprint() == COMMIT
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")  # the network is gone
    again = source.load()
    for (_, a), (_, b) in zip(loaded.decoder.named_parameters(), again.decoder.named_parameters(), strict=True):
        assert torch.equal(a, b)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert source.fingerprint() == COMMIT


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (403, "GatedRepo", "gated: accept its terms"),
        (404, "RepoNotFound", "no such repository, or it is private"),
        (404, "RevisionNotFound", "has no revision 0123"),
        (503, "", "answers: .*503"),
    ],
)
def test_what_the_hub_refuses_has_a_sentence(hub, code, error, sentence):
    hub.refusal = (code, error)
    began = time.perf_counter()
    with pytest.raises(UserError, match=rf"model=mine: no weights at 'me/model' \(.*{sentence}"):
        HubBackbone("mine", "me/model", COMMIT).architecture()
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("path", ["/no/such/folder", "./tinyllama", "a/b/c", "~/nothing/here"])
def test_a_folder_that_is_not_there_asks_no_hub(path):
    with pytest.raises(UserError, match="no such folder, and not the name of a hub repository"):
        HubBackbone("mine", path).architecture()
