"""The table as a reader sees it: the order of policies, every number with its interval, and which size is the smallest."""

import io
from pathlib import Path

from rich.console import Console

from edgenetllm.plotting import policy_order
from edgenetllm.report.bootstrap import Estimate
from edgenetllm.report.results import Guarded, Results, latency
from edgenetllm.report.table import (
    gains,
    print_report,
    recovery_line,
    shipping_lines,
    sizes_line,
    summary_lines,
    to_markdown,
)


def test_our_models_come_first() -> None:
    assert policy_order(["bba", "sparse", "mpc", "dense"]) == ["dense", "sparse", "bba", "mpc"]
    assert policy_order(["bba"]) == ["bba"]


def test_markdown_has_every_mean_and_interval(results: Results) -> None:
    text = to_markdown(results)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| policy | QoE ↑ | bitrate [Mbps] ↑ | stalls [s] ↓ |"
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["**dense**", "**sparse**", "bba"]
    qoe = results.policies["bba"]["test/qoe"]
    assert f"| {qoe.mean:.3f} [{qoe.ci95[0]:.3f}, {qoe.ci95[1]:.3f}] |" in rows[3]
    assert "retention, sparse against dense: QoE" in text


def test_the_smallest_size_is_named_even_when_it_is_not_ours(results: Results) -> None:
    assert results.bundle is not None
    line = sizes_line(results.bundle)
    assert "fp32 113.0 MB · dense fp16 56.6 MB · dense int8 28.5 MB · sparse fp16 38.1 MB" in line
    assert line.endswith("smallest: dense int8")
    assert sizes_line({**results.bundle, "bytes": 20_000_000}).endswith("smallest: sparse fp16")


def test_the_last_lines_say_what_the_zeros_buy_against_dense_int8(results: Results) -> None:
    assert results.bundle is not None

    def lines(megabytes: float, ms: float) -> list[str]:
        times = {"compiled sparse": latency([ms]), "compiled dense": latency([2.0]), "torch sparse": latency([9.0])}
        bundle = {**results.bundle, "bytes": megabytes * 1e6, "forms": {"dense int8": 10e6}}  # type: ignore[dict-item]
        changed = results.model_copy(update={"engine": "compiled", "decision_ms": times, "bundle": bundle})
        assert "compiled dense int8 2 ms" in "\n".join(summary_lines(changed))
        return gains(changed)

    assert "0.30 x the bytes, 0.50 x the time of a decision: 40% of zeros buy bytes and time" in lines(3, 1)[0]
    assert lines(7, 1.99)[0].endswith("buy bytes")
    assert lines(11, 2.2)[0].endswith("buy neither")
    assert gains(results) == []


def test_an_undefined_retention_is_shown_as_such(results: Results) -> None:
    changed = results.model_copy(update={"retention": {**results.retention, "test/rebuffer_s": None}})
    assert "stalls undefined" in to_markdown(changed)


def test_one_episode_shows_no_interval(results: Results) -> None:
    one = {name: {key: {"mean": e.mean, "ci95": (e.mean, e.mean), "n": 1} for key, e in m.items()}
           for name, m in results.policies.items()}  # fmt: skip
    figures = {name: {key: Estimate(**e) for key, e in m.items()} for name, m in one.items()}
    text = to_markdown(results.model_copy(update={"policies": figures, "retention": {}}))
    assert f"| {figures['bba']['test/qoe'].mean:.3f} |" in text


def test_nothing_is_cut_off_on_a_narrow_terminal(results: Results) -> None:
    for width in (72, 200):
        output = io.StringIO()
        paths = {"bundle": Path("/a/very/long/" + "path/" * 30)}
        print_report(results, paths=paths, console=Console(file=output, width=width))
        text = output.getvalue()
        assert "…" not in text
        for figures in results.policies.values():
            for estimate in figures.values():
                assert f"[{estimate.ci95[0]:.3f}, {estimate.ci95[1]:.3f}]" in text
        assert str(paths["bundle"]) in text  # in one piece, so that it can be copied


def test_the_guarded_row_says_how_many_decisions_were_not_the_models(results: Results) -> None:
    guarded = Guarded(fallback="bba", decisions=2000, events={"deadline": 30, "outside": 10}, deadline_ms=20.0)
    rows = {**results.policies, "guarded": results.policies["sparse"]}
    text = to_markdown(results.model_copy(update={"guarded": guarded, "policies": rows}))
    assert "| guarded (2.0% bba) |" in text
    assert "- guarded, within 20 ms: bba took 40 of 2,000 decisions (2.00%): deadline 30, outside 10\n" in text
    assert "guarded" not in to_markdown(results)


def test_recovery_is_one_line(results: Results) -> None:
    cost = {"method": "specialise", "trained_parameters": 40_000, "seconds": 75.2, "peak_memory_mb": 1234}
    changed = results.model_copy(update={"recovery": cost})
    assert "- recovery: specialise trained 40,000 parameters in 75 s, peak memory 1.2 GB\n" in to_markdown(changed)
    assert "recovery" not in to_markdown(results)
    assert "recovery" not in to_markdown(results.model_copy(update={"recovery": {"method": "none"}}))
    assert recovery_line({"method": "bias", "peak_memory_mb": 310.4}) == "recovery: bias, peak memory 310 MB"


def test_the_error_of_the_layers_is_one_line(results: Results) -> None:
    line = "- layers: mean output error 0.2917, worst 0.5 in layers.1.self_attn.q_proj\n"
    assert line in to_markdown(results)
    assert results.pruning is not None
    unknown = {"method": "magnitude", "layers": {"layers.0.q": {"zeros": 1, "weights": 2}}}
    assert "- layers:" not in to_markdown(results.model_copy(update={"pruning": unknown}))


def test_downloads_are_said_for_the_links_that_have_traces():
    seconds = {"bundle": 2.0, "dense fp16": None, "dense int8": 5.25, "dense int4": 3.0, "delta int4": 1.5}
    links = {"3G": {"folder": "a", "traces": 3, "seconds": seconds}, "4G": {"folder": "b", "traces": 0, "seconds": {}}}
    [line] = shipping_lines({"smallest": "delta int4", "shipping": links})
    assert line.endswith(
        "3G bundle 2 s, dense fp16 never, dense int8 5.25 s, dense int4 3 s, delta int4 1.5 s · 4G no traces here; "
        "smallest form: delta int4"
    )
    assert shipping_lines({"smallest": "delta int4"}) == []
