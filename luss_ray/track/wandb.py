"""Weights & Biases: a run of a project, on its server or in a folder (WANDB_MODE=offline)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.track.secrets import harmless
from luss_ray.track.tracker import Row, Tracked

PROJECT = "luss_ray"
_NOT_ONLINE = ("offline", "dryrun", "disabled")
_SETTINGS: dict[str, Any] = {
    "silent": True,
    "reinit": "create_new",  # leaves a run of somebody else in this process alone
    "init_timeout": 20.0,
    "finish_timeout": 25.0,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 0.2,
    "symlink": False,
    # Figures, settings and scores; nothing else of this machine.
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class WandB:
    """Sends figures with the step of their own stage, and settings as the config.

    Its library sends in a process of its own, which tries again by itself for as long as the run goes on.

    Args:
        run: what is tracked.
    """

    advice = (
        "set WANDB_API_KEY (or run `wandb login`), and WANDB_BASE_URL for a server of your own; "
        "WANDB_MODE=offline needs neither"
    )
    where = "Weights & Biases"

    def __init__(self, run: Tracked) -> None:
        self._tracked = run
        self._stages: set[str] = set()

    def begin(self, run_id: str | None) -> str:
        """Create a run with the settings, or go on with the one that there is; return its id."""
        import wandb  # noqa: PLC0415 (it takes seconds, and is an extra)

        given = wandb.setup(wandb.Settings(silent=True)).settings
        self.where = harmless(given.base_url)
        if given.mode not in _NOT_ONLINE and not wandb.login(prompt=False, verify=False):
            raise UserError("no API key")
        folder = self._tracked.folder
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or self._tracked.name,
            id=run_id,
            resume="allow",
            config=dict(self._tracked.settings),
            dir=os.environ.get("WANDB_DIR") or (folder.local_path if folder.is_local else None),
            settings=wandb.Settings(**_SETTINGS),
        )
        self.where = harmless(self._run.url or Path(self._run.dir).parent)
        return self._run.id

    def log(self, stage: str, rows: Sequence[Row], at_s: float) -> None:
        """Hand the rows on; the x-axis of a stage's figures is `STAGE/step`."""
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        for row in rows:
            self._run.log({f"{stage}/{name}": value for name, value in row.items()})

    def keep(self) -> bool:
        """Return True: the library's process has it, and writes it down at once; a power cut may cost the last rows."""
        return True

    def finish(self, scores: Mapping[str, float] | None) -> None:
        """Leave the scores in the summary and wait, not for ever, until everything is sent."""
        self._run.summary.update(dict(scores or {}))
        self._run.finish(exit_code=1 if scores is None else 0)
