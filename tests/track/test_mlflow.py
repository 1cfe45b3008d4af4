import base64
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import mlflow
import pytest
from fixtures_track import SECRET, rows

from luss_ray.core.errors import UserError
from luss_ray.track import feed as module
from luss_ray.track.feed import Feed
from luss_ray.track.mlflow import Mlflow


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """Return the folder in which MLflow keeps its runs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tmp_path / "mlruns"


def series(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in mlflow.MlflowClient().get_metric_history(run_id, name)]


def test_rows_settings_and_scores_can_be_read_back(store, tracked):
    tracker = Mlflow(tracked)
    run_id = tracker.begin(None)
    tracker.log("random-backbone/attention", rows(1, 2, 5), at_s=1234.5)
    tracker.log("pretrain", [{"step": 1, "alarm/loss at ln K": 1.0}], at_s=1234.5)
    run = mlflow.MlflowClient().get_run(run_id)
    assert run.info.run_name == "tiny" and run.info.status == "RUNNING"
    assert mlflow.MlflowClient().get_experiment(run.info.experiment_id).name == "luss_ray"
    assert run.data.params == {name: str(value) for name, value in tracked.settings.items()}
    assert series(run_id, "random-backbone/attention/loss") == [(1, 1.0), (2, 0.5), (5, 0.2)]
    assert series(run_id, "pretrain/alarm/loss at ln K") == [(1, 1.0)]
    tracker.finish({"finetuned/miou": 12.5})
    assert series(run_id, "finetuned/miou") == [(0, 12.5)]
    assert mlflow.MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_a_run_that_goes_on_is_the_same_run(store, tracked):
    first = Mlflow(tracked)
    run_id = first.begin(None)
    first.finish(None)
    assert mlflow.MlflowClient().get_run(run_id).info.status == "FAILED"
    second = Mlflow(tracked)
    assert second.begin(run_id) == run_id
    assert mlflow.MlflowClient().get_run(run_id).info.status == "RUNNING"
    assert Mlflow(tracked).begin("0" * 32) not in (run_id, "0" * 32)


def test_many_rows_take_several_requests(store, tracked):
    tracker = Mlflow(tracked)
    run_id = tracker.begin(None)
    tracker.log("pretrain", rows(*range(1, 401)), at_s=1.0)
    assert [step for step, _ in series(run_id, "pretrain/loss")] == list(range(1, 401))


def test_the_experiment_is_the_users(store, tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    run = mlflow.MlflowClient().get_run(Mlflow(tracked).begin(None))
    assert mlflow.MlflowClient().get_experiment(run.info.experiment_id).name == "mine"


def test_a_server_that_is_not_there_is_named_without_its_password(tracked, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # takes the port and doesn't listen
        host = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{host}")
        with pytest.raises(UserError, match=f"--track mlflow: http://{host}: .*MLFLOW_TRACKING_URI") as refusal:
            Feed("mlflow", Mlflow(tracked), tracked.folder / "mlflow.json").begin()
    assert SECRET not in str(refusal.value) and "me:" not in str(refusal.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to a server that answers"):
        Feed("mlflow", Mlflow(tracked), tracked.folder / "mlflow.json").begin()


class Server(BaseHTTPRequestHandler):
    """Answers what a run of MLflow's client asks, over HTTP, to whoever brings the password."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = self.headers.get("Authorization") == f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
        info = {"run_id": "r" * 32, "experiment_id": "1", "run_name": "tiny", "status": "RUNNING"}
        experiment = {"experiment_id": "1", "name": "luss_ray"}
        body = json.dumps({"experiment": experiment, "run": {"info": info}, "run_info": info}).encode()
        self.asked.append(self.path.partition("?")[0].removeprefix("/api/2.0/mlflow/"))
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format, *args):
        pass


def test_over_http_the_password_opens_the_door_and_is_not_printed(tracked, monkeypatch, capfd):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{host}")
    tracker = Mlflow(tracked)
    tracker.begin(None)
    tracker.log("pretrain", rows(1, 2), at_s=1.0)
    tracker.finish({})
    server.shutdown()
    said = capfd.readouterr()
    assert tracker.where == f"http://{host}, run {'r' * 32}" and SECRET not in said.out + said.err
    assert {"runs/create", "runs/log-batch", "runs/update"} <= set(Server.asked)


def test_a_store_that_goes_away_and_comes_back_has_everything(store, tracked, monkeypatch, caplog):
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    feed = Feed("mlflow", Mlflow(tracked), tracked.folder / "mlflow.json")
    feed.begin()
    store.rename(store.parent / "away")
    feed.rows("pretrain", rows(1, 2))
    deadline = time.monotonic() + 60
    while "tries again" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(store, ignore_errors=True)
    (store.parent / "away").rename(store)
    feed.rows("pretrain", rows(1, 2, 3))
    feed.finish({})
    feed.wait(time.monotonic() + 60)
    run_id = (tracked.folder / "mlflow.json").read_json()["id"]
    assert [step for step, _ in series(run_id, "pretrain/loss")] == [1, 2, 3]
    assert "is there again" in caplog.text
