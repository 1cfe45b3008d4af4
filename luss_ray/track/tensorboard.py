"""TensorBoard: event files in the run's own folder."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luss_ray.track.tracker import Row, Tracked

FOLDER = "tensorboard"
_UPLOAD_EVERY_S = 30.0
_VERSION = "brain.Event:2"


class TensorBoard:
    """Writes an event file each time a run is started.

    tensorboardX's `SummaryWriter` hands events to a thread of its own and can't tell when they are on disk, hence its
    writer of records. In an object store nothing can be appended: the whole file is written anew now and then.

    Args:
        run: what is tracked.
    """

    advice = "look at the storage"

    def __init__(self, run: Tracked) -> None:
        self._folder, self._settings = run.folder / FOLDER, run.settings
        self.where = self._folder.uri
        self._name = f"events.out.tfevents.{int(time.time())}.{uuid.uuid4().hex[:12]}"
        self._temporary = None if self._folder.is_local else Path(tempfile.mkdtemp(prefix="luss_ray-tensorboard-"))
        self._uploaded, self._unsaved = 0.0, True

    def begin(self, run_id: str | None) -> str:
        """Begin an event file with the settings as a text; return "", as its folder says which run it is of."""
        from tensorboardX import RecordWriter  # noqa: PLC0415 (it takes a second)
        from tensorboardX.summary import text  # noqa: PLC0415

        folder = self._temporary or self._folder.local_path
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / self._name
        self._writer = RecordWriter(str(self._file))
        self._write(file_version=_VERSION)
        lines = [f"| {name} | {value} |" for name, value in self._settings.items()]
        self._write(summary=text("settings", "\n".join(["| setting | value |", "|---|---|", *lines])))
        return ""

    def log(self, stage: str, rows: Sequence[Row], at_s: float) -> None:
        """Write the rows, an event each."""
        for row in rows:
            figures = {f"{stage}/{name}": value for name, value in row.items() if name != "step"}
            self._write(step=int(row["step"]), wall_time=at_s, summary=_scalars(figures))

    def keep(self) -> bool:
        """Flush the file, and upload it where it is time to; return whether it is up to date where it stays."""
        return self._save(upload=time.monotonic() - self._uploaded > _UPLOAD_EVERY_S)

    def finish(self, scores: Mapping[str, float] | None) -> None:
        """Write the scores, and beside them the settings for the tab of hyperparameters."""
        from tensorboardX.summary import hparams  # noqa: PLC0415

        if scores is not None:
            plain = {name: str(value) if isinstance(value, list) else value for name, value in self._settings.items()}
            for summary in (_scalars(scores), *hparams(plain, dict(scores))):
                self._write(summary=summary)
        self._save(upload=True)
        self._writer.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _write(self, **content: Any) -> None:
        from tensorboardX.proto import event_pb2  # noqa: PLC0415

        proto: Any = event_pb2  # its names are made when it is imported
        self._unsaved = True
        self._writer.write(proto.Event(**{"wall_time": time.time(), **content}).SerializeToString())

    def _save(self, *, upload: bool) -> bool:
        if not self._unsaved:
            return True
        self._writer.flush()
        if self._temporary is not None:
            if not upload:
                return False
            self._uploaded = time.monotonic()
            self._folder.write(self._name, self._file.read_bytes())
        self._unsaved = False
        return True


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboardX.proto import summary_pb2  # noqa: PLC0415

    proto: Any = summary_pb2
    return proto.Summary(value=[proto.Summary.Value(tag=name, simple_value=v) for name, v in values.items()])
