"""Every policy decides in the player as in the simulator, fed with the simulator's own states: no browser, no network."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small import make_policy, make_task

from edgenetllm.edge.engines.compiled import CompiledEngine
from edgenetllm.edge.export import export_policy
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.player.observation import View, read_report
from edgenetllm.tasks.abr.player.session import PlayerSession, Video

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
TASK = make_task()
EPISODE = 2


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> dict:
    network = make_policy(TASK, LLAMA)
    bundle = tmp_path_factory.mktemp("player") / "bundle"
    export_policy(
        network, bundle, matrices=[], adapter=None, target_returns={"abr": 40.0}, parent={}, values="fp32", mask="none"
    )
    engine = CompiledEngine(name="compiled")
    return {**TASK.baselines(), "dense": Session(network, 40.0, "dense"), "sparse": engine.load(bundle, TASK)}


def reports(observations: dict, sizes: np.ndarray, last: dict) -> list[dict]:
    """The reports that a player would have posted in an episode of the simulator: after each chunk, the last one included."""
    rows = [{name: value[0, step] for name, value in observations.items()} for step in range(sizes.shape[1] - 1)]
    posted = []
    for chunk, row in enumerate([*rows, last]):
        level = int(row["last_quality"])
        posted.append(
            {
                "chunk": chunk,
                "last_quality": level,
                "bytes": int(sizes[level, chunk]),
                "delay_s": float(row["delay_s"]),
                "buffer_s": float(row["buffer_s"]),
                "rebuffer_s": float(row["rebuffer_s"]),
            }
        )
    return posted


@pytest.mark.parametrize("name", [*TASK.baselines(), "dense", "sparse"])
def test_a_policy_decides_47_of_47_times_as_in_the_simulator(policies, name):
    environment = TASK.environment("test")
    played = play(environment, np.array([EPISODE]), policies[name], keep_observations=True)
    sizes, traces = environment.videos.tables[0], environment.traces
    posted = reports(played.observation, sizes, {key: value[0] for key, value in environment.observe().items()})
    begin, end = traces.offsets[EPISODE], traces.offsets[EPISODE + 1]
    link = Link(traces.time_s[begin:end], traces.mbps[begin:end], int(traces.starts[EPISODE]))

    async def all_decisions() -> list[int]:
        video = Video(sizes, environment.videos.ladder, environment.qoe)
        with ThreadPoolExecutor(1) as executor:
            session = PlayerSession(name, video, link, policies[name], executor, cloud_s=0.0, speed=1.0)
            chosen = [0]
            for chunk, report in enumerate(posted):
                session.begin(chunk, chosen[-1])
                if chunk < len(posted) - 1:
                    chosen.append(await session.decide(report))
            session.end(posted[-1])
            decided.extend(session.chunks)
        return chosen[1:]

    decided: list[dict] = []
    assert asyncio.run(all_decisions()) == played.action[0].tolist()
    assert len(decided) == 48
    assert [row["reward"] for row in decided[1:]] == pytest.approx(played.reward[0], abs=1e-9)
    if played.return_to_go is not None:
        assert [row["return_to_go"] for row in decided[1:]] == pytest.approx(played.return_to_go[0], abs=1e-9)


def test_the_observation_is_the_simulators_own():
    environment = TASK.environment("test")
    policy = TASK.baselines()["bba"]
    played = play(environment, np.array([EPISODE]), policy, keep_observations=True)
    sizes = environment.videos.tables[0]
    view = View(sizes, environment.qoe)
    posted = reports(played.observation, sizes, {key: value[0] for key, value in environment.observe().items()})
    for step, report in enumerate(posted[:-1]):
        observation, _ = view.see(read_report(report))
        assert observation.keys() == played.observation.keys()
        for name, value in observation.items():
            assert value[0] == pytest.approx(played.observation[name][0, step], rel=1e-12), name
            assert value.shape == played.observation[name][:, step].shape
            assert value.dtype == played.observation[name].dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 1}, "chunk 1 is reported, but 0 is the next"),
        ({"chunk": True}, "chunk must be a whole number"),
        ({"last_quality": 6}, "the video has 6 levels"),
        ({"bytes": 1}, "came with 1 bytes"),
        ({"delay_s": 0}, "delay_s must be seconds"),
        ({"buffer_s": float("nan")}, "buffer_s must be seconds"),
        ({"rebuffer_s": -0.1}, "rebuffer_s must be seconds"),
        ({"rebuffer_s": "0"}, "rebuffer_s must be seconds"),
        ({"delay_s": None}, "delay_s must be seconds"),
    ],
)
def test_a_report_that_is_wrong_is_refused_and_changes_nothing(change, message):
    environment = TASK.environment("test")
    sizes = environment.videos.tables[0]
    view = View(sizes, environment.qoe)
    good = {
        "chunk": 0, "last_quality": 0, "bytes": int(sizes[0, 0]), "delay_s": 1.0, "buffer_s": 4.0, "rebuffer_s": 1.0
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        view.see(read_report({**good, **change}))
    view.see(read_report(good))


def test_a_report_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="a report is an object"):
        read_report([1, 2])
