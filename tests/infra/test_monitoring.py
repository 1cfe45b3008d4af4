"""infra/prometheus.yml and infra/grafana.json, by Prometheus' own checker and by what the code exports."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from luss_ray.train.figures import GAUGES

ROOT = Path(__file__).parents[2]


def test_prometheus_takes_its_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian's package prometheus)")
    done = subprocess.run(
        ["promtool", "check", "config", ROOT / "infra" / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_dashboard_shows_every_figure_that_workers_export_and_no_other() -> None:
    dashboard = json.loads((ROOT / "infra" / "grafana.json").read_text())
    shown = re.findall(r"\w*luss_ray_\w+", json.dumps([panel["targets"] for panel in dashboard["panels"]]))
    assert set(shown) == {f"ray_{name}" for name in GAUGES.values()}, "Ray puts ray_ before every name"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in dashboard["panels"])
