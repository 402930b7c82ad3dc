"""A small run: three policies on twelve streaming sessions that never happened."""

from pathlib import Path

import numpy as np
import pytest

from edgenetllm.report.episodes import Columns, write_metrics, write_replay
from edgenetllm.report.results import PerEpisode, Results, describe_metrics, estimates, latency, retention
from edgenetllm.tasks.task import Metric

METRICS = (
    Metric("qoe", "QoE", "", True),
    Metric("bitrate_mbps", "bitrate", "Mbps", True),
    Metric("rebuffer_s", "stalls", "s", False),
)
EPISODES = [f"trace {number}" for number in range(12)]
STEPS = 6
BUNDLE = {
    "bytes": 38_100_000,
    "bits_per_weight": 10.6,
    "dense_fp32_bytes": 113_000_000,
    "dense_fp16_bytes": 56_600_000,
    "dense_int8_bytes": 28_500_000,
    "values": "fp16",
}
LAYERS = {
    "layers.0.self_attn.q_proj": {"zeros": 40, "weights": 100, "error": 0.25, "cosine": 0.75},
    "layers.0.mlp.down_proj": {"zeros": 50, "weights": 200, "error": 0.125, "cosine": 0.5},
    "layers.1.self_attn.q_proj": {"zeros": 20, "weights": 100, "error": 0.5, "cosine": 0.25},
    "layers.1.mlp.down_proj": {"zeros": 150, "weights": 200, "error": None, "cosine": None},
}


@pytest.fixture
def rows() -> dict[str, Columns]:
    rng = np.random.default_rng(0)
    shape = (len(EPISODES), STEPS)
    result: dict[str, Columns] = {}
    for policy in ("bba", "sparse", "dense"):
        delay = rng.uniform(1, 5, shape)
        record = {
            "bitrate_mbps": rng.choice([0.3, 0.75, 1.2], shape),
            "rebuffer_s": np.maximum(delay - 4, 0),
            "smoothness_mbps": rng.uniform(0, 1, shape),
            "buffer_s": rng.uniform(4, 20, shape),
            "delay_s": delay,
            "throughput_mbps": rng.uniform(0.5, 3, shape),
            "chunk_index": np.tile(np.arange(STEPS), (len(EPISODES), 1)),
            "clock_s": delay.cumsum(1),
            "bandwidth_mbps": rng.uniform(0.5, 3, shape),
        }
        result[policy] = {"action": rng.integers(0, 3, shape), "reward": rng.uniform(1, 2, shape), **record}
    return result


@pytest.fixture
def per_episode(rows: dict[str, Columns]) -> dict[str, PerEpisode]:
    return {
        policy: {m.name: columns.get(m.name, columns["reward"]).astype(float).mean(1) for m in METRICS}
        for policy, columns in rows.items()
    }


@pytest.fixture
def results(per_episode: dict[str, PerEpisode]) -> Results:
    return Results(
        stage="evaluate",
        task="abr",
        model="tiny",
        data="synthetic",
        run="logs/x",
        seed=1,
        sparsity=0.4,
        pruning={"method": "wanda", "label": "wanda owl", "layers": LAYERS},
        metrics=describe_metrics(METRICS),
        policies=estimates(per_episode, METRICS),
        retention=retention(per_episode["sparse"], per_episode["dense"], METRICS),
        bundle=BUNDLE,
        timings_s={"replay": 1.5},
        decision_ms={"torch": latency(np.arange(101.0))},
        config_hash="c",
        data_hash="d",
    )


@pytest.fixture
def run_folder(tmp_path: Path, rows: dict[str, Columns], per_episode: dict[str, PerEpisode], results: Results) -> Path:
    write_replay(
        tmp_path / "replay.parquet", rows, EPISODES, dict.fromkeys(rows, np.ones((len(EPISODES), STEPS), bool))
    )
    write_metrics(tmp_path / "metrics.parquet", per_episode, {}, METRICS, EPISODES, np.arange(len(EPISODES)))
    results.save(tmp_path / "results.json")
    return tmp_path
