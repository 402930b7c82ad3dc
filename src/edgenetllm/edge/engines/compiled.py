"""Engine `compiled`: our own decoder step in compiled code, on int8 weights with their zeros left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects
from edgenetllm.edge import policy as edge_policy
from edgenetllm.edge.bundle import Bundle, read_bundle
from edgenetllm.edge.compiled.architectures import check_supported, read_architecture
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.edge.compiled.instructions import chosen
from edgenetllm.edge.compiled.layouts import Layout
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.engine import Engine, EngineSession, Name
from edgenetllm.edge.engines.session import DecoderSession
from edgenetllm.edge.networks import build_networks, task_of
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.option_types import Processes
from edgenetllm.tasks.task import Array, Observation, Task


class CompiledSession:
    """The torch-free policy of a bundle (`edgenetllm.edge.load`) as a policy that a replay plays."""

    name = "sparse"

    def __init__(self, policy: edge_policy.Policy, identity: str, sample_seed: int | None) -> None:
        self.edge, self._identity, self.sample_seed = policy, identity, sample_seed

    def identity(self) -> str:
        """The engine with its options, the bundle's digest, and the seed of sampled decisions."""
        return f"{self._identity} sample_seed={self.sample_seed}"

    def start(self, episodes: int) -> None:
        self.session = self.edge.start(episodes, self.sample_seed)

    def act(self, observation: Observation) -> Array:
        action: Array = self.session.decide(observation)
        return action

    decide = act

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def observe(self, reward: npt.NDArray[np.float64]) -> None:
        self.session.observe(reward)

    @property
    def return_to_go(self) -> npt.NDArray[np.float64] | None:
        """The return-to-go that is left, (episodes,); None in a task that is not conditioned."""
        left = self.session.return_to_go
        return None if left is None else np.asarray(left)


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class CompiledEngine(Engine):
    """Llama, Mistral, Qwen2, GPT-2 and OPT; the vector path needs AVX-512 with VBMI2 and VNNI, the portable one nothing.

    Encoder and head run without torch too; those of a task that has no such counterpart run in torch.
    """

    name: Name = "compiled"
    threads: Annotated[Processes, Affects("nothing")] = 1
    instructions: Literal["auto", "avx512", "portable"] = "auto"
    layout: Literal["auto", "dense", "bitmask", "tiles"] = "auto"
    form: Literal["int8", "bf16"] = "int8"

    def __post_init__(self) -> None:
        if self.form == "bf16" and self.layout != "auto":
            raise UserError(
                f"engine.layout={self.layout}: with engine.form=bf16 every matrix is dense: type engine.layout=auto"
            )

    def check(self, model: Mapping[str, Any], tasks: Mapping[str, Task], adapter: bool = False) -> None:
        chosen(self.instructions)
        if adapter:
            raise UserError(
                "engine=compiled runs no adapter apart from the matrices: type pruning.lora=merge_then_prune, or engine=torch"
            )
        check_supported(model)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            _check_sight(build_policy(build_decoder(dict(model)), tasks, embedding_rms=1.0))

    def facts(self) -> dict[str, Any]:
        return {"instructions": chosen(self.instructions)}

    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> EngineSession:
        # Everything is checked against the task as configured, as torch does it.
        policy, target_return = load_policy(bundle, task)
        stored = read_bundle(bundle)
        width = edge_policy.width_of(stored, str(bundle))
        _check_sight(policy)
        decoder = self.decoder(stored)
        label = f"{self.label} {decoder.instructions} {self.layout} {self.form}"
        if not runs_without_torch(stored, task.name):
            return DecoderSession(policy, target_return, decoder, label, sample_seed)
        networks = build_networks(stored, task_of(stored, task.name, str(bundle)), width, str(bundle))
        played = edge_policy.Policy(task.name, decoder, networks, stored.manifest.extra)
        return CompiledSession(played, f"{label} {stored.manifest.digest}", sample_seed)

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


def runs_without_torch(bundle: Bundle, task_name: str) -> bool:
    """True where the bundle describes encoder and head of this task so that they can be built without torch."""
    described = bundle.manifest.extra.get("networks")
    own = described.get(task_name) if isinstance(described, dict) else None
    return isinstance(own, dict) and own.get("encoder") is not None and own.get("head") is not None


def _check_sight(policy: PolicyNetwork) -> None:
    """Raises UserError where some blocks see fewer tokens back than a task asks for."""
    window = read_architecture(policy.decoder.config.to_dict()).sliding_window  # type: ignore[union-attr,operator]
    for name in policy.tasks:
        if window is not None and (needed := policy.networks(name).sight) > window:
            raise UserError(
                f"engine=compiled: task={name} looks back over {needed} tokens, the blocks of this model over {window} "
                "(sliding_window); engine=torch runs it"
            )
