"""Where loaders run: on CPU nodes as far as these have room, else beside the trainers, which keep what is theirs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_ray import ENVIRONMENT
from fixtures_run import job_environment

pytestmark = [pytest.mark.long]
_PROGRAM = """
import json
import sys
import numpy as np
import ray
from luss_ray.data.stream import StreamSpec, stream
from luss_ray.storage.uri import Location
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

class Where:
    num_uniforms = 1
    def __call__(self, image, label, draws):
        node = ray.get_runtime_context().get_node_id()
        return {"node": np.frombuffer(bytes.fromhex(node), np.uint8)}

@ray.remote(num_gpus=1, num_cpus=1)
def train(rank, data):
    spec = StreamSpec(data=Location.parse(data), split="train", labels=None, seed=0, global_batch=16, epochs=2,
                      transform=Where())
    batches = stream(spec, rank=rank, world=2, start_step=0, num_steps=15, num_loaders=1, num_threads=1)
    nodes = [bytes(node).hex() for batch in batches for node in batch["node"]]
    return len(nodes), set(nodes), ray.get_runtime_context().get_node_id()

ray.init(log_to_driver=False)
group = placement_group([{"CPU": 1, "GPU": 1}] * 2)  # as Ray Train has it
place = PlacementGroupSchedulingStrategy(group)
trained = ray.get([train.options(scheduling_strategy=place).remote(rank, sys.argv[1]) for rank in range(2)])
gpus = {node["NodeID"]: node["Resources"].get("GPU", 0) > 0 for node in ray.nodes()}
loaders = ["beside trainers" if gpus[node] else "on CPU nodes" for _, nodes, _ in trained for node in nodes]
print(json.dumps({"images": [num for num, _, _ in trained], "loaders": sorted(loaders)}))
"""


@pytest.mark.parametrize(
    "cpus, loaders",
    [
        ([2], ["on CPU nodes"] * 2),
        ([1], ["beside trainers", "on CPU nodes"]),
        ([], ["beside trainers"] * 2),
    ],
    ids=["CPU nodes with room", "CPU nodes that are full", "no CPU nodes"],
)
def test_loaders_leave_gpu_nodes_to_the_trainers_where_they_can(
    cpus: list[int], loaders: list[str], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    size = {"object_store_memory": 150_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size}, connect=False)
    try:
        cluster.add_node(num_cpus=4, num_gpus=2, **size)
        for num in cpus:
            cluster.add_node(num_cpus=num, **size)
        environment = job_environment({**ENVIRONMENT, "RAY_ADDRESS": cluster.address, "CUDA_VISIBLE_DEVICES": ""})
        path = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(shards)],
            env={**environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == {"images": [15 * 8, 15 * 8], "loaders": loaders}
    finally:
        cluster.shutdown()
