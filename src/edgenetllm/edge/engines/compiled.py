"""Engine `compiled`: our own decoder step in compiled code, on int8 weights with their zeros left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects
from edgenetllm.edge.bundle import Bundle, read_bundle
from edgenetllm.edge.compiled.architectures import check_supported, read_architecture
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.edge.compiled.instructions import chosen
from edgenetllm.edge.compiled.layouts import Layout
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.engine import Engine, Name
from edgenetllm.edge.engines.session import DecoderSession
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.task import Task


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class CompiledEngine(Engine):
    """Llama, Mistral, Qwen2, GPT-2 and OPT; the vector path needs AVX-512 with VBMI2 and VNNI, the portable one nothing."""

    name: Name = "compiled"
    threads: Annotated[PositiveInt, Affects("nothing")] = 1
    instructions: Literal["auto", "avx512", "portable"] = "auto"
    layout: Literal["auto", "dense", "bitmask", "tiles"] = "auto"
    form: Literal["int8", "bf16"] = "int8"

    def __post_init__(self) -> None:
        if self.form == "bf16" and self.layout != "auto":
            raise UserError(
                f"engine.layout={self.layout}: with engine.form=bf16 all matrices are dense: type engine.layout=auto"
            )

    def check(self, model: Mapping[str, Any], tasks: Mapping[str, Task], adapter: bool = False) -> None:
        chosen(self.instructions)
        if adapter:
            raise UserError(
                "engine=compiled runs no adapter apart from the matrices: type pruning.lora=merge_then_prune, or engine=torch"
            )
        check_supported(model)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            self._check_sight(build_policy(build_decoder(dict(model)), tasks, embedding_rms=1.0))

    def facts(self) -> dict[str, Any]:
        return {"instructions": chosen(self.instructions)}

    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> DecoderSession:
        policy, target_return = load_policy(bundle, task)
        self._check_sight(policy)
        label = f"{self.label} {chosen(self.instructions)} {self.layout} {self.form}"
        return DecoderSession(policy, target_return, self.decoder(read_bundle(bundle)), label, sample_seed)

    def _check_sight(self, policy: PolicyNetwork) -> None:
        """Raises UserError where some blocks see fewer tokens back than a task asks for."""
        window = read_architecture(policy.decoder.config.to_dict()).sliding_window  # type: ignore[union-attr,operator]
        for name in policy.tasks:
            if window is not None and (needed := policy.networks(name).sight) > window:
                raise UserError(
                    f"engine=compiled: task={name} looks back over {needed} tokens, the blocks of this model over {window} "
                    "(sliding_window): type engine=torch"
                )

    def decoder(self, bundle: Bundle) -> CompiledDecoder:
        """The decoder of a bundle."""
        weights = {
            name.removeprefix("decoder."): tensor
            for name, tensor in bundle.tensors.items()
            if name.startswith("decoder.")
        }
        return CompiledDecoder(
            bundle.manifest.model,
            weights,
            form=self.form,
            layout=None if self.layout == "auto" else Layout[self.layout.upper()],
            instructions=self.instructions,
            threads=self.threads,
        )
