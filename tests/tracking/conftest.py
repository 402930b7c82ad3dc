"""The small run of the tests of reports."""

from report.conftest import per_episode, results, rows  # noqa: F401  fixtures
