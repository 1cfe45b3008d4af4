"""MLflow: a run of an experiment on the server that MLFLOW_TRACKING_URI names."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from luss_ray.track.secrets import harmless
from luss_ray.track.tracker import Row, Tracked

if TYPE_CHECKING:
    from mlflow.entities import Metric

EXPERIMENT = "luss_ray"
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_METRICS_A_REQUEST, _PARAMS_A_REQUEST = 1000, 100
_Item = TypeVar("_Item")


class Mlflow:
    """Sends figures as metrics and settings as parameters.

    Requests fail soon, unless the user's variables say otherwise: whoever calls tries again.

    Args:
        run: what is tracked.
    """

    advice = (
        "set MLFLOW_TRACKING_URI to a server that answers, with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
        "or MLFLOW_TRACKING_TOKEN where it asks for them"
    )
    where = "MLflow"

    def __init__(self, run: Tracked) -> None:
        self._run = run

    def begin(self, run_id: str | None) -> str:
        """Create a run with the settings, or go on with the one that there is; return its id."""
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the address with its password
        import mlflow  # noqa: PLC0415 (it takes seconds, and is an extra)
        from mlflow.entities import Param  # noqa: PLC0415

        self.where = harmless(mlflow.get_tracking_uri())
        self._client = mlflow.MlflowClient()
        self._id = self._go_on(run_id) or self._create()
        params = [Param(name, str(value)) for name, value in self._run.settings.items()]
        for part in _parts(params, _PARAMS_A_REQUEST):
            self._client.log_batch(self._id, params=part)
        self.where = f"{self.where}, run {self._id}"
        return self._id

    def log(self, stage: str, rows: Sequence[Row], at_s: float) -> None:
        """Send the rows; what a server gets twice, times included, it keeps once."""
        figures = [
            _metric(f"{stage}/{name}", value, int(row["step"]), at_s)
            for row in rows
            for name, value in row.items()
            if name != "step"
        ]
        self._send(figures)

    def keep(self) -> bool:
        """Return True: the server has it."""
        return True

    def finish(self, scores: Mapping[str, float] | None) -> None:
        """Send the scores as metrics and end the run."""
        self._send([_metric(name, value, 0, time.time()) for name, value in (scores or {}).items()])
        self._client.set_terminated(self._id, "FAILED" if scores is None else "FINISHED")

    def _go_on(self, run_id: str | None) -> str | None:
        """Take up a run again; return None where there is none, on this server."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run_id

    def _create(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        return self._client.create_run(experiment, run_name=self._run.name).info.run_id

    def _send(self, metrics: Sequence["Metric"]) -> None:
        for part in _parts(metrics, _METRICS_A_REQUEST):
            self._client.log_batch(self._id, metrics=part)


def _metric(name: str, value: float, step: int, at_s: float) -> "Metric":
    from mlflow.entities import Metric  # noqa: PLC0415

    return Metric(name, value, int(1000 * at_s), step)


def _parts(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
