"""The lines of a table that say what a specialisation trained, what it cost, and what it did to the domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgenetllm.report.bootstrap import Estimate, Retention
from edgenetllm.report.text import estimate_text, megabytes, retention_text


def specialisation_lines(facts: Mapping[str, Any]) -> list[str]:
    """The lines on a specialisation: trained parameters, bytes, and each domain. `facts` is that of `Results`."""
    parts, control = " and ".join(facts["train"]), facts["control"]
    start = "new ones" if facts["scratch"] else "those of the bundle"
    down, whole = facts["bytes_down"], facts["bundle_bytes"]
    lines = [
        f"specialisation: {parts} ({facts['trained_parameters']:,} parameters, begun with {start}) from "
        f"{facts['episodes']} episodes, {facts['decisions']:,} decisions; the best of {facts['steps']} steps is "
        f"{facts['best_step']}; {facts['seconds']:,.0f} s, peak memory {facts['peak_memory_mb']:,} MB"
        + (", hidden states of the backbone computed once" if facts["cached_activations"] else ""),
        f"bytes: up {facts['bytes_up']} (the episodes, {megabytes(facts['experience_bytes'])} MB, stay on site); down "
        f"{megabytes(down)} MB, {down / whole:.1%} of the bundle; only the tensors that differ "
        f"{megabytes(facts['bytes_down_tensors'])} MB, compressed {megabytes(facts['bytes_down_compressed'])} MB",
    ]
    lines += [domain_line(name, one) for name, one in facts["domains"].items() if one is not None]
    if control is not None:
        lines.append(
            f"control: the same on a zeroed backbone, {control['steps']} steps in {control['seconds']:,.0f} s, "
            f"best validation {control['validation'][1]:.4g} (with the backbone {facts['validation'][1]:.4g})"
        )
    if facts["cloud"] is not None:
        lines.append(cloud_line(facts["cloud"], facts["domains"]["new"]))
    return lines


def cloud_line(cloud: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The share of the adaptation in the cloud that is reached, at which fraction of its time and bytes."""
    stated = (figures.get(key) for key in ("of_cloud", "of_cloud_gain"))
    share, gain = (None if one is None else Retention(**one) for one in stated)
    return (
        f"cloud, the whole model adapted to this domain: {figures['metric']} {estimate_text(Estimate(**figures['cloud']))}; "
        f"reached {retention_text(share)} of it, {retention_text(gain)} of its gain, at {cloud['time_fraction']:.1%} of its "
        f"{cloud['seconds']:,.0f} s and {cloud['bytes_fraction']:.1%} of its {megabytes(cloud['bundle_bytes'])} MB"
    )


def domain_line(name: str, figures: Mapping[str, Any]) -> str:
    """`new domain norway: QoE 0.912 [...] before, 1.004 [...] after, difference 0.092 [...]`"""
    before, after, difference, control = (
        None if figures[key] is None else estimate_text(Estimate(**figures[key]))
        for key in ("before", "after", "difference", "control")
    )
    text = f"{name} domain {figures['data']}: {figures['metric']} "
    text += f"{after} after" if before is None else f"{before} before, {after} after, difference {difference}"
    return text + ("" if control is None else f"; {control} on a zeroed backbone")
