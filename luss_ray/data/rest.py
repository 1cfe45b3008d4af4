"""A callback for Ray Data's scheduling loop. Every task unpickles it, so it imports nothing heavy."""

import time
from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

_REST_S = 0.1


class Rest(ExecutionCallback):
    """Lets the loop rest between its steps; looks at its queue by the way.

    While the consumer is slower than the loaders every task has output ready, so the loop never waits: it would take
    half a core from the training thread, with which it shares the interpreter's lock.
    """

    num_ready = 0
    """Blocks that wait to be consumed; a process has one pipeline."""

    def on_execution_step(self, executor: "StreamingExecutor") -> None:
        """Count what is ready, and rest."""
        output = executor._output_node
        Rest.num_ready = output[1].total_enqueued_output_blocks() if output else 0
        time.sleep(_REST_S)
