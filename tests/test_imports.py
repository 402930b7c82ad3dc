"""Dependencies run one way: no module imports itself through others, and none imports from a layer above its own."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from small import ROOT

from edgenetllm.code_identity import imported_by

# Lowest first. A name stands for a module, and for all in a package that is not named itself; modules at the top of the
# package that are named nowhere are the lowest layer: errors, files, plotting, progress and the like.
LAYERS = [
    ["edgenetllm"],
    ["tasks"],
    ["experience"],
    ["models"],
    ["pruning"],
    ["edge"],
    ["placement"],
    [
        "compute",
        "config",
        "sections",
        "section_checks",
        "plain_checks",
        "typed_checks",
        "typed_groups",
        "instantiation",
        "run",
        "saved_config",
        "composition",
        "explain",
    ],
    ["report"],
    ["tracking"],
    ["stages", "specialisation"],
    ["compare", "sweeps"],
    ["cli", "tasks.check"],
    ["programs"],
]
LAYER = {
    "edgenetllm" if name == "edgenetllm" else f"edgenetllm.{name}": level
    for level, names in enumerate(LAYERS)
    for name in names
}


def imports() -> dict[str, set[str]]:
    """Module -> modules of this package that it imports, at its top or inside a function, but not only for type checkers."""
    files = {}
    for path in (ROOT / "src" / "edgenetllm").rglob("*.py"):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        files[".".join(parts[:-1] if path.name == "__init__.py" else parts)] = path
    found = {}
    for name, path in files.items():
        named = imported_by(ast.parse(path.read_bytes()), name, path.name == "__init__.py")
        found[name] = {other for other in named if other in files} - {name}
    return found


def layer_of(module: str) -> int:
    parts = module.split(".")
    return next(LAYER[name] for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in LAYER)


def upwards(graph: Mapping[str, set[str]]) -> list[str]:
    """The imports from a layer above, and between packages of one layer."""
    wrong = []
    for module, others in graph.items():
        for other in others:
            low, high = layer_of(module), layer_of(other)
            rooms = [name.split(".")[1:2] for name in (module, other)]
            apart = low == high == layer_of("edgenetllm.compare") and rooms[0] != rooms[1]
            if high > low or apart:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    found = imports()
    assert len(found) > 100
    assert "edgenetllm.report.results" in found["edgenetllm.report.draw"]
    return found


def test_no_module_imports_itself_through_others(graph):
    assert cycle(graph) == []


def test_no_module_imports_from_a_layer_above(graph):
    assert upwards(graph) == []


def test_a_task_is_independent_of_other_tasks(graph):
    for task, other in (("abr", "cjs"), ("cjs", "abr")):
        members = [name for name in graph if name.startswith(f"edgenetllm.tasks.{task}")]
        assert members
        assert not [o for name in members for o in graph[name] if o.startswith(f"edgenetllm.tasks.{other}")]


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("edgenetllm.tasks.abr.timeline", "edgenetllm.report.plots"),
        ("edgenetllm.report.results", "edgenetllm.compare.runs"),
        ("edgenetllm.compare.page", "edgenetllm.sweeps.plan"),
        ("edgenetllm.files", "edgenetllm.tasks.task"),
    ],
)
def test_imports_in_the_wrong_direction_are_found(graph, module, other):
    changed = graph | {module: graph[module] | {other}}
    assert upwards(changed) == [f"{module} imports {other}"]


def test_a_cycle_is_found(graph):
    changed = graph | {"edgenetllm.errors": {"edgenetllm.files"}}
    assert set(cycle(changed)) == {"edgenetllm.errors", "edgenetllm.files"}
