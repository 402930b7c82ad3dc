"""The sources of the public job profiles: repository, commit, folder, and the hash of what is expected there."""

from __future__ import annotations

from edgenetllm.tasks.cjs.data.tpch import QUERIES, SIZES
from edgenetllm.tasks.fetch import Source

# Folder under paths.data_dir -> source.
SOURCES = {
    "cjs/tpch": Source(
        "duowuyms/NetLLM",  # MIT
        "105bcf070f2bec808f7b14f8f5a953de6e4e6e54",
        "cluster_job_scheduling/data/tpch",
        308,
        "4912e411921527a25efbc589e160b2487130e9b8eb0ea4eedd4f60131fd9c1db",
        keep=("*/adj_mat_*.npy", "*/task_duration_*.npy"),  # not the stage_id_to_node_idx_map files next to them
        names=tuple(f"{s}/{kind}_{q}.npy" for s in SIZES for q in QUERIES for kind in ("adj_mat", "task_duration")),
        instead="data=synthetic_dags needs no download",
    ),
}
