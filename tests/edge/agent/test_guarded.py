"""A guarded policy always answers, and its model goes on from what was really done."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from agents import bundle_of, play_with

import edgenetllm.edge as edge
from edgenetllm.edge.agent.faults import Faults, InjectedFault, odd
from edgenetllm.edge.agent.guarded import GuardedSession, Safety, guarded
from edgenetllm.edge.policy import Session
from edgenetllm.errors import NotFinite, UserError
from edgenetllm.experience.rollout import play

DEFAULT = {"abr": "bba", "cjs": "fair"}
LATE = 400.0  # milliseconds that a slow engine takes longer, on a machine that may be busy
DEADLINE = 150.0


@pytest.fixture(scope="module", params=["abr", "cjs"])
def small(request, tmp_path_factory):
    return bundle_of(request.param, tmp_path_factory.mktemp(request.param))


def one_episode(task, session, steps: int) -> list[tuple[Any, Any, Any]]:
    """Observation, action and outcome of the first decisions of a test episode."""
    environment, happened = task.environment("test"), []
    observation, done = environment.reset(task.seeds("test")[:1]), np.array([False])
    while not done.all() and len(happened) < steps:
        action = session.decide(observation)
        happened.append((observation, action, session.outcome))
        observation, reward, done = environment.step(np.asarray(action)[None])
        session.observe(float(reward[0]))
    return happened


def model_alone(task, folder, happened, unseen: tuple[str, ...] = ()) -> list[Any]:
    """The model's decisions where it sees the same, and is led to the actions that were taken.

    Steps whose reason is in `unseen` it does not see at all.
    """
    session, actions = edge.load(folder).start(), []
    context, head, encoder = session.context, session.networks.head, session.networks.encoder
    environment = task.environment("test")
    environment.reset(task.seeds("test")[:1])
    for observation, action, outcome in happened:
        embedded = encoder.embed(session.read(observation))
        taken = np.asarray(action)[None]
        if outcome.reason in unseen:
            actions.append(None)
        else:
            hidden = context.extend(context.tokens(embedded, session.step, session.left))
            actions.append(session.plain(head.decide(hidden, embedded)))
            context.took(taken, embedded, session.step)
        session.step += 1
        _, reward, _ = environment.step(taken)
        session.observe(float(reward[0]))
    return actions


def assert_the_model_goes_on(task, folder, happened, unseen: tuple[str, ...] = ()) -> None:
    alone = model_alone(task, folder, happened, unseen)
    own = [(np.asarray(action), np.asarray(other)) for (_, action, outcome), other in zip(happened, alone, strict=True)
           if outcome.reason is None]  # fmt: skip
    assert 5 <= len(own) < len(happened)
    assert all((action == other).all() for action, other in own)


def test_without_a_fault_every_decision_is_the_models_and_the_same(small):
    plain, _ = play_with(*small, None)
    wrapped, player = play_with(*small, Safety())
    np.testing.assert_array_equal(wrapped.action, plain.action)
    np.testing.assert_array_equal(wrapped.return_to_go, plain.return_to_go)
    assert not player.session.events
    assert {one.by for one in player.session.outcome} == {"model"}


@pytest.mark.parametrize("kind", ["raised", "not_finite"])
def test_where_the_model_always_fails_episodes_are_those_of_the_fallback(small, kind):
    task, folder = small
    played, player = play_with(task, folder, Safety(faults=Faults(kind, 1.0)))
    alone = play(task.environment("test"), task.seeds("test")[:4], task.baselines()[DEFAULT[task.name]])
    np.testing.assert_array_equal(played.action, alone.action)
    assert set(np.ravel(player.outcomes)) == {kind}
    assert player.session.events == {kind: played.action.shape[0] * played.action.shape[1]}


@pytest.mark.parametrize(("kind", "unseen"), [("raised", ()), ("not_finite", ("not_finite",))])
def test_after_a_fault_the_model_goes_on_from_the_action_really_taken(small, kind, unseen):
    task, folder = small
    session = guarded(edge.load(folder), Safety(faults=Faults(kind, 0.25, seed=1))).start()
    happened = one_episode(task, session, 45)
    reasons = [outcome.reason for *_, outcome in happened]
    if kind == "raised":  # of two in a row, the model never sees the first
        never = [k for k in range(len(reasons) - 1) if reasons[k] and reasons[k + 1]]
        happened = [
            (observation, action, outcome._replace(reason="never") if k in never else outcome)
            for k, (observation, action, outcome) in enumerate(happened)
        ]
        unseen = ("never",)
    assert reasons.count(kind) >= 4
    if kind == "not_finite":  # twice in a row it starts again
        first = next((k for k in range(1, len(reasons)) if reasons[k - 1 : k + 1] == [kind, kind]), len(reasons))
        happened = happened[:first]
    assert_the_model_goes_on(task, folder, happened, unseen)


def test_an_engine_that_is_late_is_answered_for_and_then_goes_on(small):
    task, folder = small
    slow = Faults("slow", 0.2, seed=4, slow_ms=LATE)
    policy = guarded(edge.load(folder), Safety(deadline_ms=DEADLINE, faults=slow))
    one_episode(task, policy.start(), 3)  # what is compiled, or read for the first time, is not measured
    happened = one_episode(task, policy.start(), 30)
    late = [outcome for *_, outcome in happened if outcome.reason == "deadline"]
    assert len(late) >= 3
    assert min(outcome.ms for outcome in late) >= 0.9 * DEADLINE
    assert np.median([outcome.ms for outcome in late]) < LATE  # long before the engine answers
    assert_the_model_goes_on(task, folder, happened)


def test_an_engine_that_is_always_late_leaves_the_fallback_in_charge(small):
    task, folder = small
    slow = Faults("slow", 1.0, slow_ms=2000)
    session = guarded(edge.load(folder), Safety(deadline_ms=2, faults=slow)).start(2)
    fallback = task.baselines()[DEFAULT[task.name]]
    environment, seeds = task.environment("test"), task.seeds("test")[:2]
    observation = environment.reset(seeds)
    for _ in range(12):
        action = session.decide(observation)
        np.testing.assert_array_equal(action, fallback.act(observation))
        observation, reward, _ = environment.step(action)
        session.observe(reward)
    assert session.events == {"deadline": 24}


class FailsAt:
    """The decoder of one session, which raises or gives NaN at some of its calls."""

    def __init__(self, decoder: Any, calls: set[int], kind: str) -> None:
        self.decoder, self.calls, self.kind, self.count = decoder, calls, kind, 0
        self.width, self.start, self.rewind = decoder.width, decoder.start, decoder.rewind

    def extend(self, state: Any, tokens: Any) -> Any:
        hidden = self.decoder.extend(state, tokens)
        self.count += 1
        if self.count - 1 not in self.calls:
            return hidden
        if self.kind == "raised":
            raise InjectedFault
        return np.full_like(hidden, np.nan)


@pytest.mark.parametrize("kind", ["raised", "not_finite"])
def test_a_fault_of_one_episode_changes_no_decision_of_another(small, kind):
    task, folder = small
    plain, _ = play_with(task, folder, None, episodes=3)

    class Failing:
        name = "failing"

        def start(self, episodes: int) -> None:
            self.session: GuardedSession = guarded(edge.load(folder)).start(episodes)
            context = self.session.episodes[1].model.context
            context.decoder = FailsAt(context.decoder, {2, 3, 7, 11}, kind)

        def act(self, observation):
            return self.session.decide(observation)

        def targets(self, observation):
            return None

        def observe(self, reward):
            self.session.observe(reward)

    policy = Failing()
    played = play(task.environment("test"), task.seeds("test")[:3], policy)  # type: ignore[arg-type]
    for episode in (0, 2):
        steps = plain.valid[episode].sum()
        np.testing.assert_array_equal(played.action[episode, :steps], plain.action[episode, :steps])
    assert [sum(one.events.values()) for one in policy.session.episodes] == [0, 4, 0]


def test_weights_that_are_no_numbers_are_noticed_and_forgotten_when_they_are_back(small):
    task, folder = small
    policy = edge.load(folder)
    session, environment = guarded(policy).start(), task.environment("test")
    observation = environment.reset(task.seeds("test")[:1])
    head: Any = policy.networks.head
    place = head.weights["linear.bias"] if task.name == "abr" else head.hidden[1]
    good = place.copy()
    for step in range(12):
        place[:] = np.nan if 3 <= step < 6 else good
        action = session.decide(observation)
        assert (session.outcome.reason == "not_finite") == (3 <= step < 6)
        observation, reward, _ = environment.step(np.asarray(action)[None])
        session.observe(float(reward[0]))
    place[:] = np.nan
    with pytest.raises(NotFinite):  # without a net below it there is no decision, and never a wrong one
        policy.start(1).decide(observation)
    place[:] = good


def test_a_context_without_numbers_starts_again(small):
    task, folder = small
    session = guarded(edge.load(folder)).start()
    one_episode(task, session, 4)
    cache = session.episodes[0].model.context.cache
    cache.keys[:] = np.nan
    environment = task.environment("test")
    observation = environment.reset(task.seeds("test")[:1])
    reasons = []
    for _ in range(5):
        action = session.decide(observation)
        reasons.append(session.outcome.reason)
        observation, reward, _ = environment.step(np.asarray(action)[None])
        session.observe(float(reward[0]))
    assert reasons == ["not_finite", "not_finite", None, None, None]


def test_tokens_that_overflow_are_a_fault_and_not_the_end(small):
    task, folder = small
    if task.name != "abr":
        pytest.skip("logarithms: nothing overflows")
    session = guarded(edge.load(folder)).start()
    environment = task.environment("test")
    observation = environment.reset(task.seeds("test")[:1])
    session.decide(observation)
    session.decide({**observation, "next_sizes_mb": np.full((1, 6), 3e38)})
    assert session.outcome.reason == "not_finite"
    session.decide(observation)
    assert session.outcome.reason is None


def test_what_is_not_understood_is_refused_and_changes_nothing(small):
    task, folder = small
    session = guarded(edge.load(folder), Safety(faults=Faults("raised", 0.3))).start(2)
    observation = task.environment("test").reset(task.seeds("test")[:2])
    name = "chunks_left" if task.name == "abr" else "executors"
    for wrong in (
        {key: value for key, value in observation.items() if key != name},
        {**observation, name: observation[name][:1]},
        {**observation, name: np.array([observation[name][0], np.nan])},
        [1, 2],
    ):
        with pytest.raises(UserError, match="observation"):
            session.decide(wrong)  # type: ignore[arg-type]
    for reward in (np.zeros(3), np.array([1.0, np.nan]), "much"):
        before = session.return_to_go
        with pytest.raises(UserError, match="reward"):
            session.observe(reward)
        np.testing.assert_array_equal(session.return_to_go, before)
    assert (session.step, sum(session.events.values())) == (0, 0)
    assert session.episodes[0].model.context.cache.position == 0


@pytest.mark.parametrize("chosen", [None, 1])
def test_on_an_odd_observation_the_default_decides_whichever_is_chosen(small, chosen):
    task, folder = small
    name = None if chosen is None else list(task.fallbacks())[chosen]
    played, player = play_with(task, folder, Safety(guard=True, fallback=name, faults=Faults("observation", 1.0)))
    alone = play(task.environment("test"), task.seeds("test")[:4], task.baselines()[DEFAULT[task.name]])
    outside = np.array(player.outcomes).T[played.valid] == "outside"
    assert outside.mean() > 0.98
    if outside.all():
        np.testing.assert_array_equal(played.action, alone.action)


def test_what_the_fallback_reads_of_an_odd_observation_is_as_it_was(small):
    task, _ = small
    observation = task.environment("test").reset(task.seeds("test")[:2])
    changed, fallback = odd(observation), task.baselines()[DEFAULT[task.name]]
    np.testing.assert_array_equal(fallback.act(changed), fallback.act(observation))
    assert any(not np.array_equal(getattr(changed[name], "values", changed[name]), getattr(value, "values", value))
               for name, value in observation.items())  # fmt: skip


def test_sampled_decisions_differ_by_seed_and_repeat(small):
    task, folder = small
    observation = task.environment("test").reset(task.seeds("test"))
    policy = guarded(edge.load(folder))
    first, again, other = (policy.start(len(task.seeds("test")), seed).decide(observation) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert task.name == "cjs" or (first != other).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deadline_ms": 0.0}, "deadline_ms"),
        ({"deadline_ms": float("nan")}, "deadline_ms"),
        ({"fallback": "bola"}, "robustmpc|tuned"),
    ],
)
def test_options_that_mean_nothing_are_refused(small, options, words):
    with pytest.raises(UserError, match=words):
        guarded(edge.load(small[1]), Safety(**options))


@pytest.mark.parametrize("options", [("sometimes", 0.5), ("slow", 1.5), ("slow", 0.5, 0, -1.0)])
def test_faults_that_mean_nothing_are_refused(options):
    with pytest.raises(UserError, match="faults"):
        Faults(*options)


def test_a_bundle_without_a_fallback_says_what_to_do(tmp_path):
    _, folder = bundle_of("abr", tmp_path, fallbacks={}, guards={})
    with pytest.raises(UserError, match="no fall-back policy for task abr: export it again"):
        guarded(edge.load(folder))


def test_without_a_deadline_there_is_no_thread_and_hardly_a_cost(small, capsys):
    task, folder = small
    policy = edge.load(folder)
    wrapped = guarded(policy)
    assert wrapped.workers is None

    def median_us(session: Session | GuardedSession) -> float:
        environment, times = task.environment("test"), []
        observation = environment.reset(task.seeds("test")[:1])
        for _ in range(40):
            began = time.perf_counter()
            action = session.decide(observation)
            times.append(time.perf_counter() - began)
            observation, reward, done = environment.step(np.asarray(action)[None])
            session.observe(float(reward[0]))
            if done.all():
                break
        return 1e6 * float(np.median(times))

    median_us(policy.start())
    rounds = [(median_us(policy.start()), median_us(wrapped.start())) for _ in range(5)]
    costs = [after - before for before, after in rounds]
    with capsys.disabled():
        print(
            f"\n{task.name}: {np.median([before for before, _ in rounds]):.0f} us, guarded {np.median(costs):+.0f} us"
        )
    assert np.median(costs) < 500  # a few microseconds where nothing else runs
