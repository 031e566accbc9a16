"""`--download`, from a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch

from simsiam_eval.encoders.backbones.timm_backbone import build_timm, timm_config
from simsiam_eval.encoders.backbones.timm_weights import cached_weights

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_timm("test_resnet").state_dict()


@pytest.fixture
def hub(weights):
    """Serves model.safetensors of every repository; `requests` are the paths that were asked for."""
    content, requests = safetensors.torch.save(weights), []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(self.path)
            found = self.path.endswith("model.safetensors")
            self.send_response(200 if found else 404)
            for name, value in {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": "a" * 40,
                "Content-Length": str(len(content) if found else 0),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = requests
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_weights_are_downloaded_once_and_only_when_asked(hub, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }

    def inspect(*options):
        command = [sys.executable, "cli.py", "inspect", "timm:test_resnet", "--json", *options]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    without = inspect()
    assert (without.returncode, hub.requests) == (1, [])
    assert "not in the local cache; give timm:test_resnet@FILE, or --download" in without.stderr
    first = inspect("--download")
    assert first.returncode == 0, first.stderr
    assert any(path.endswith("resolve/main/model.safetensors") for path in hub.requests)
    hub.requests.clear()
    second = inspect()
    assert hub.requests == []
    sha256 = [json.loads(result.stdout)["metrics"]["weights_sha256"] for result in (first, second)]
    assert sha256[0] == sha256[1]


def test_weights_with_an_address_go_to_the_cache_of_torch(weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "served.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = timm_config("test_resnet")
    monkeypatch.setattr(config, "hf_hub_id", None)
    monkeypatch.setattr(config, "url", (tmp_path / "served.pth").as_uri())
    path = cached_weights("test_resnet", config, download=True)
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / "served.pth"
    assert path.read_bytes() == (tmp_path / "served.pth").read_bytes()
    assert cached_weights("test_resnet", config, download=False) == path
