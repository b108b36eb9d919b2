"""What an ordinary user loads from a repository that others have pushed to, with the real client."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load, save

import hf_fer
from hf_fer import FerError, load_classifier

ASSETS = Path(hf_fer.embedded_model_path())
INDEX = "model.safetensors.index.json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.connect(monkeypatch, tmp_path / "home")
        yield server


def files(**others: bytes) -> dict[str, bytes]:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    return {name: (ASSETS / name).read_bytes() for name in names} | others


def with_bias(data: bytes, value: float) -> bytes:
    tensors = load(data)
    tensors["classifier.bias"] = torch.full_like(tensors["classifier.bias"], value)
    return save(tensors, {"format": "pt"})


def bias(source: str, **options: object) -> float:
    model, _ = load_classifier(source, "cpu", **options)
    assert model.config._commit_hash is not None or Path(source).is_dir()
    return model.classifier.bias[0].item()


def test_one_whole_file_wins_over_shards_of_an_earlier_push(hub: HubServer, tmp_path: Path) -> None:
    whole = with_bias(files()["model.safetensors"], 2)
    old = with_bias(whole, 1)
    index = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load(old), "model-00001-of-00001.safetensors")})
    shards = {INDEX: index.encode(), "model-00001-of-00001.safetensors": old}
    hub.commit("model", "me/shards", files(**shards) | {"model.safetensors": whole})
    hub.commit("model", "me/only-shards", {k: v for k, v in files(**shards).items() if k != "model.safetensors"})
    # The index was left behind, the shards were not.
    hub.commit("model", "me/index", files(**{INDEX: index.encode()}) | {"model.safetensors": whole})
    assert bias("me/shards") == bias("me/shards", trust_remote_code=True) == bias("me/index") == 2
    assert bias("me/only-shards") == 1


def test_weights_that_another_client_pushed_beside_our_list_load(hub: HubServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"what was released").hexdigest()
    listed = json.dumps({"hf_fer": "0", "files": {"model.safetensors": {"sha256": digest, "size": 1}}}).encode()
    hub.commit("model", "me/tuned", files(**{"release.json": listed}))
    assert torch.isfinite(torch.tensor(bias("me/tuned")))
    for name, data in files(**{"release.json": listed}).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(FerError, match=r"is not the file that release\.json lists"):
        load_classifier(str(tmp_path), "cpu")


def test_signed_addresses_stay_out_of_tracebacks(hub: HubServer) -> None:
    hub.commit("model", "me/signed", files())
    hub.fail(
        method="GET", path="resolve/.*/model.safetensors", status=302, headers={"Location": "/cdn/x?X-Signature=SECRET"}
    )
    hub.fail(method="GET", path="/cdn/x", status=403)
    with pytest.raises(FerError, match="the Hub gave no such model") as caught:
        load_classifier("me/signed", "cpu")
    assert any("X-Signature=SECRET" in call for call in hub.calls)  # it was followed, and refused
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
