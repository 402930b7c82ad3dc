"""Decisions of a bundle without torch: `load` gives a Policy, `Policy.start` a Session, which decides and observes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from edgenetllm.edge.networks import FLOAT32, Factory, Networks, build_networks, task_of
from edgenetllm.edge.observation import Reader, as_array
from edgenetllm.edge.tokens import finish
from edgenetllm.errors import NotFinite, UserError
from edgenetllm.tasks.common.edge import Columns, Input
from edgenetllm.tasks.common.layers import Floats
from edgenetllm.tasks.observation import Array

if TYPE_CHECKING:
    from edgenetllm.edge.bundle import Bundle

ENGINES = ("auto", "compiled")
NOTHING = np.empty(0, np.float32)


class Decoder(Protocol):
    """The backbone: `edge.compiled.decoder.CompiledDecoder`, or anything that does the same."""

    @property
    def width(self) -> int: ...

    def start(self, episodes: int, *, capacity: int, band: int | None) -> Any:
        """An empty cache for `capacity` tokens of each episode; with a `band` one that keeps band - 1 and has no end."""
        ...

    def extend(self, state: Any, tokens: Floats) -> Floats:
        """Append tokens (episodes, n, width); hidden state of the last one, (episodes, width)."""
        ...

    def rewind(self, state: Any, position: int) -> bool:
        """Forget the tokens of the last `extend` from `position` on, whether it returned or raised.

        `state.position` says how many there were before. False where that is not possible.
        """
        ...


def load(
    folder: str | Path,
    task: str | None = None,
    engine: str = "auto",
    *,
    networks: Mapping[str, tuple[Factory, Factory]] | None = None,
    threads: int = 1,
    instructions: str = "auto",
    form: Literal["int8", "bf16"] = "int8",
) -> Policy:
    """The policy of a task of a bundle; `task` is needed only where the bundle has several.

    It has decided twice when it is returned, on an observation of zeros: weights can be finite, and their products not.
    `engine`: auto and compiled are the same here. `networks`: task -> classes of its encoder and head, for a task of another
    package. `instructions`: auto, avx512 or portable. `form`: how the backbone's matrices are kept. Raises UserError for a
    bundle that is damaged, or that cannot be decided with here.
    """
    from edgenetllm.edge.bundle import read_bundle

    if engine not in ENGINES:
        raise UserError(f"engine={engine!r}: the edge has {', '.join(ENGINES)}; others need the whole template")
    where = str(folder)
    bundle = read_bundle(folder, lazily=True)
    name = task_of(bundle, task, where)
    return _policies(bundle, [name], where, networks or {}, threads, instructions, form)[name]


def load_tasks(folder: str | Path, *, threads: int = 1, instructions: str = "auto") -> dict[str, Policy]:
    """The policies of all tasks of a bundle, around one backbone. Raises UserError as `load` does."""
    from edgenetllm.edge.bundle import read_bundle

    bundle = read_bundle(folder, lazily=True)
    return _policies(bundle, bundle.manifest.task.split("+"), str(folder), {}, threads, instructions, "int8")


def _policies(
    bundle: Bundle,
    tasks: Sequence[str],
    where: str,
    networks: Mapping[str, tuple[Factory, Factory]],
    threads: int,
    instructions: str,
    form: Literal["int8", "bf16"],
) -> dict[str, Policy]:
    from edgenetllm.edge.compiled.decoder import CompiledDecoder

    width = width_of(bundle, where)
    built = {name: build_networks(bundle, name, width, where, networks.get(name)) for name in tasks}
    weights = bundle.under("decoder.")
    decoder = CompiledDecoder(bundle.manifest.model, weights, form=form, instructions=instructions, threads=threads)
    policies = {name: Policy(name, decoder, built[name], bundle.manifest.extra) for name in tasks}
    for name, policy in policies.items():
        if name not in networks:  # those of another package may take no observation of zeros
            probe(policy, where)
    return policies


def probe(policy: Policy, where: str) -> None:
    """Raises UserError for a policy whose decisions on an observation of zeros are not finite."""
    session, observation = policy.start(), blank(policy.networks.encoder.inputs)
    try:
        for _ in range(min(2, policy.networks.max_steps)):
            session.decide(observation)
            session.observe(0.0)
    except NotFinite as error:
        raise UserError(f"{where}: task {policy.task} cannot decide even on zeros ({error})") from None


def blank(inputs: Mapping[str, Input]) -> Mapping[str, Array]:
    """An observation of the least numbers and of no rows, that any of our encoders takes."""
    return {
        name: np.full((0, *one.shape) if one.ragged else one.shape, one.low if one.integer else 0.0)
        for name, one in inputs.items()
    }


def width_of(bundle: Bundle, where: str) -> int:
    """The width of the backbone's tokens. Raises UserError for a bundle without, or with an adapter that was not merged."""
    if bundle.manifest.extra.get("adapter") is not None:
        raise UserError(f"{where}: its adapter was not merged, which needs the whole template (evaluate.py)")
    config = bundle.manifest.model
    width = config.get("word_embed_proj_dim") or config.get("hidden_size") or config.get("n_embd")
    if type(width) is not int or width < 1:
        raise UserError(f"{where}: its manifest's model has no hidden_size")
    return width


class Policy:
    """A backbone with the networks of one task around it; `start` begins episodes. `extra` is that of the manifest."""

    def __init__(
        self, task: str, decoder: Decoder, networks: Networks, extra: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.task, self.decoder, self.networks, self.extra = task, decoder, networks, extra

    def start(self, episodes: int | None = None, sample_seed: int | None = None) -> Session:
        """A session of `episodes` side by side, or of one that needs no dimension for them (None).

        Greedy, unless a `sample_seed` is given.
        """
        if episodes is not None and (isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1):
            raise UserError(f"start({episodes!r}): give a number of episodes of at least 1, or none for a single one")
        return Session(self, episodes, sample_seed)


class Context:
    """The decoder's state of episodes side by side: its cache, and the action that it is to see next."""

    def __init__(self, networks: Networks, decoder: Decoder, episodes: int) -> None:
        self.networks, self.decoder, self.episodes = networks, decoder, episodes
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        networks = self.networks
        self.taken, self.taken_step = np.empty((0, self.decoder.width), np.float32), 0  # the token of the last action
        self.cache = self.decoder.start(self.episodes, capacity=networks.capacity, band=networks.band)

    def tokens(self, embedded: Columns, step: int, left: Array) -> Floats:
        """The tokens of a decision, (episodes, n, width): those of the last action, the return-to-go, the state."""
        networks = self.networks
        state = networks.encoder.state(embedded)
        returns = left.astype(np.float32) / np.float32(networks.return_scale) if networks.conditioned else NOTHING
        count = state.shape[1] + networks.conditioned + (len(self.taken) > 0)
        tokens = np.empty((self.episodes, count, state.shape[2]), np.float32)
        finish(
            self.taken, self.taken_step, returns, networks.return_weight, networks.return_bias, state, networks.time, step,
            networks.norm_weight, networks.norm_bias, np.float32(networks.embedding_rms), tokens,
        )  # fmt: skip
        return tokens

    def extend(self, tokens: Floats) -> Floats:
        """Append tokens; hidden state of the last one, (episodes, width). Raises NotFinite where that is no number.

        Tokens of an independent decision begin a sequence.
        """
        if self.networks.independent and self.cache.position:
            self.restart()
        hidden = self.decoder.extend(self.cache, tokens)
        if not np.isfinite(hidden).all():
            raise NotFinite(
                "the hidden state of a decision is not finite: the bundle cannot decide on this observation"
            )
        return hidden

    def took(self, action: Array, embedded: Columns, step: int) -> None:
        """Note the action (episodes, ...) of this step, which the next tokens begin with, unless these are independent."""
        if self.networks.independent:
            return
        self.taken, self.taken_step = self.networks.encoder.action(action, embedded), step


class Session:
    """Episodes of a policy: `decide` and `observe` in turn.

    A session of one episode (`policy.start()`) takes plain numbers and arrays without a dimension of episodes, and gives back
    a Python int, or an array (2,) for instance; one of n (`policy.start(n)`) takes and gives arrays (n, ...). What is refused
    leaves the session as it was.
    """

    def __init__(self, policy: Policy, episodes: int | None, sample_seed: int | None = None) -> None:
        self.policy, self.networks = policy, policy.networks
        self.single, self.episodes = episodes is None, 1 if episodes is None else episodes
        self.rng = None if sample_seed is None else np.random.default_rng(sample_seed)
        self.step = 0
        self.left = np.full(self.episodes, self.networks.target_return, np.float64)  # return-to-go
        self.context = Context(self.networks, policy.decoder, self.episodes)
        self._reader = Reader(self.networks.encoder, self.episodes, self.single)

    @property
    def return_to_go(self) -> float | Array | None:
        """The return-to-go that is left, a number or (episodes,); None in a task that is not conditioned."""
        if not self.networks.conditioned:
            return None
        return float(self.left[0]) if self.single else self.left.copy()

    @property
    def nbytes(self) -> int:
        """Memory of the cache of this session."""
        return int(self.context.cache.nbytes)

    def decide(self, observation: Mapping[str, Any]) -> Any:
        """The action for this observation. Raises UserError, changing nothing, where it is not understood or too late.

        NotFinite ends the session: its context holds what could not be decided on (see `edge.agent.guarded`).
        """
        encoder, head = self.networks.encoder, self.networks.head
        embedded = encoder.embed(self.read(observation))
        hidden = self.context.extend(self.context.tokens(embedded, self.step, self.left))
        action = head.decide(hidden, embedded, self.rng)
        self.context.took(action, embedded, self.step)
        self.step += 1
        return self.plain(action)

    def read(self, observation: Mapping[str, Any]) -> Columns:
        """The columns of an observation, which are valid until the next call.

        Raises UserError where it is not understood, and for a decision after the last.
        """
        if self.networks.window is None and not self.networks.independent and self.step >= self.networks.max_steps:
            raise UserError(
                f"this session has taken the {self.networks.max_steps} decisions that an episode has: start another one"
            )
        return self._reader.read(observation)

    def plain(self, action: Array) -> Any:
        """Actions (episodes, ...) as the session gives them back."""
        if not self.single:
            return action
        return action[0] if action.ndim > 1 else action[0].item()

    def observe(self, reward: Any) -> None:
        """Subtract the reward, a number or (episodes,), from the return-to-go, unless that is relative to a reference's."""
        value = read_reward(reward, self.episodes, self.single)
        if self.networks.conditioned and not self.networks.relative_return:
            self.left = self.left - value


def read_reward(reward: Any, episodes: int, single: bool) -> Array:
    """Rewards as an array (episodes,), or () of a single one. Raises UserError where they are not understood."""
    value = as_array(reward, "reward")
    if value.shape not in ((episodes,), *([()] if single else [])):
        raise UserError(f"reward is {reward!r:.60} of shape {value.shape}, not {'a number' if single else (episodes,)}")
    if not (np.abs(value) < FLOAT32).all():
        raise UserError(f"reward is {reward!r:.60}, not finite or beyond float32")
    return value
