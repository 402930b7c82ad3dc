"""Where Hydra looks for plugins, and nowhere else: the sweeper of `sweep=search`."""

from edgenetllm.sweeps.search import Search


class OptunaSearch(Search):
    """Found by Hydra as `hydra_plugins.edgenetllm_search.OptunaSearch`."""
