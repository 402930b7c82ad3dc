"""A small recurrent network that learns the training questions when it is first asked: the learnt baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgenetllm.stored_arrays import arrays_once
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.observation import Array, Observation
from edgenetllm.tasks.supervised.networks.encoder import SeriesEncoder
from edgenetllm.tasks.supervised.networks.features import Statistics, features_per_row
from edgenetllm.tasks.supervised.networks.head import RowsHead
from edgenetllm.tasks.supervised.simulator.forecast import Forecast, Form


@dataclass(frozen=True)
class LstmOptions:
    """How the network is made and learnt; the best epoch on validation counts."""

    hidden: int = 64
    lr: float = 2e-3
    batch_size: int = 256
    epochs: int = 30
    patience: int = 6  # epochs without a better validation
    seed: int = 0


class Lstm(nn.Module):
    """One recurrent layer over the rows of a history; its last state gives all rows of the answer at once."""

    def __init__(self, form: Form, statistics: Statistics, unit: tuple[float, ...], hidden: int) -> None:
        super().__init__()
        self.encoder = SeriesEncoder(1, form, form.history, statistics)  # its features; its own network is not used
        self.layer = nn.LSTM(features_per_row(form), hidden, batch_first=True)
        self.head = RowsHead(hidden, form, statistics, unit)

    def forward(self, history: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """History (episodes, rows, inputs) -> state (episodes, 1, hidden), and what the head needs."""
        embedded = dict(self.encoder.embed({"history": history[:, None]}))
        _, (state, _) = self.layer(embedded["features"][:, 0])
        return state[-1][:, None], embedded

    def parameters_learnt(self) -> list[nn.Parameter]:
        return [*self.layer.parameters(), *self.head.linear.parameters()]


class LearntForecast(Heuristic):
    """The answers of an Lstm that is trained once and kept in `folder` under `learnt_from`, the hash of its data.

    `environment(split)` gives the questions of training and validation, and is called for a training alone.
    """

    def __init__(
        self,
        name: str,
        learnt_from: str,
        environment: Callable[[Any], Forecast],
        statistics: Callable[[], Statistics],
        form: Form,
        unit: tuple[float, ...],
        folder: Path,
        options: LstmOptions | None = None,
    ) -> None:
        self.name, self.learnt_from = name, learnt_from
        self.environment, self.statistics = environment, statistics
        self.form, self.unit, self.folder, self.options = form, unit, folder, options or LstmOptions()
        self.network: Lstm | None = None

    def identity(self) -> str:
        """The data that it learns from, its form and its options."""
        return (
            f"lstm{json.dumps([self.learnt_from, asdict(self.form), self.unit, asdict(self.options)], sort_keys=True)}"
        )

    def start(self, episodes: int) -> None:
        if self.network is None:
            self.network = self._load()

    @torch.inference_mode()
    def act(self, observation: Observation) -> Array:
        assert self.network is not None
        history = torch.from_numpy(np.asarray(observation["history"], np.float32))
        state, embedded = self.network(history)
        return self.network.head.decide(state, embedded)[:, 0].double().numpy()

    def _load(self) -> Lstm:
        """The trained network, from its file or trained now."""
        key = hashlib.sha256(self.identity().encode()).hexdigest()[:16]
        path = self.folder / f"lstm-{key}.npz"
        weights = arrays_once(path, self._train, "training of the small network")
        network = Lstm(self.form, self.statistics(), self.unit, self.options.hidden)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        return network.eval()

    def _train(self) -> dict[str, Array]:
        network = train(self.environment, self.statistics(), self.form, self.unit, self.options)
        return {name: value.numpy() for name, value in network.state_dict().items()}


def train(
    environment: Callable[[Any], Forecast],
    statistics: Statistics,
    form: Form,
    unit: tuple[float, ...],
    options: LstmOptions,
) -> Lstm:
    """Learn the first answers of the training questions, until validation gets no better."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = Lstm(form, statistics, unit, options.hidden)
        train_set, val_set = (_questions(environment(split)) for split in ("train", "val"))
        optimizer = torch.optim.Adam(network.parameters_learnt(), options.lr)
        best, best_state, waited = np.inf, network.state_dict(), 0
        for _ in range(options.epochs):
            for chosen in torch.randperm(len(train_set[0])).split(options.batch_size):
                optimizer.zero_grad()
                _loss(network, *(part[chosen] for part in train_set)).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters_learnt(), 1.0)
                optimizer.step()
            with torch.inference_mode():
                score = float(_loss(network, *val_set))
            waited += 1
            if score < best:
                best, waited = score, 0
                best_state = {name: value.clone() for name, value in network.state_dict().items()}
            if waited >= options.patience:
                break
    network.load_state_dict(best_state)
    return network


def _questions(environment: Forecast) -> tuple[Tensor, Tensor]:
    """Histories (questions, rows, inputs) and their first answers (questions, rows, answers)."""
    history = environment.history[:, -environment.form.history :]
    right = environment.right[:, : environment.form.answer_rows]
    return torch.from_numpy(history).float(), torch.from_numpy(right).float()


def _loss(network: Lstm, history: Tensor, right: Tensor) -> Tensor:
    state, embedded = network(history)
    mask = torch.ones(len(history), 1, dtype=torch.bool)
    return network.head.loss(state, embedded, right[:, None], None, mask)
