"""Where loaders run: on CPU nodes where there are some, else beside the trainers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_ray import ENVIRONMENT
from fixtures_run import job_environment

pytestmark = [pytest.mark.long]
_PROGRAM = """
import sys
import numpy as np
import ray
from luss_ray.data.stream import StreamSpec, stream
from luss_ray.storage.uri import Location

class Where:
    num_uniforms = 1
    def __call__(self, image, label, draws):
        node = ray.get_runtime_context().get_node_id()
        return {"node": np.frombuffer(bytes.fromhex(node), np.uint8)}

ray.init(log_to_driver=False)
spec = StreamSpec(data=Location.parse(sys.argv[1]), split="train", labels=None, seed=0, global_batch=16, epochs=2,
                  transform=Where())

@ray.remote(num_gpus=1, num_cpus=1)
def train():
    batches = stream(spec, rank=0, world=1, start_step=0, num_steps=15, num_loaders=2, num_threads=1)
    return {bytes(node).hex() for batch in batches for node in batch["node"]}

gpus = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU")}
print("WITH GPU" if ray.get(train.remote()) <= gpus else "WITHOUT GPU")
"""


@pytest.mark.parametrize("cpu_nodes, expected", [(1, "WITHOUT GPU"), (0, "WITH GPU")])
def test_loaders_leave_gpu_nodes_to_the_trainers_where_they_can(
    cpu_nodes: int, expected: str, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    size = {"object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size}, connect=False)
    try:
        cluster.add_node(num_cpus=4, num_gpus=1, **size)
        for _ in range(cpu_nodes):
            cluster.add_node(num_cpus=4, **size)
        environment = job_environment({**ENVIRONMENT, "RAY_ADDRESS": cluster.address, "CUDA_VISIBLE_DEVICES": ""})
        path = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(shards)],
            env={**environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout.splitlines()[-1:] == [expected], done.stdout + done.stderr
    finally:
        cluster.shutdown()
