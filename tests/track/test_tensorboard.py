from dataclasses import replace

from fixtures_track import as_scalars, events, rows, scalars

from luss_ray.storage.uri import Location
from luss_ray.track import tensorboard as module
from luss_ray.track.tensorboard import TensorBoard


def files(folder: Location) -> list[bytes]:
    return [folder.read(f"tensorboard/{name}") for name in (folder / "tensorboard").list()]


def test_rows_settings_and_scores_can_be_read_back(tracked):
    board = TensorBoard(tracked)
    assert board.begin(None) == ""
    board.log("random-backbone/attention", rows(1, 2, 5), at_s=1234.5)
    assert board.keep()
    (data,) = files(tracked.folder)
    assert scalars([data]) == as_scalars("random-backbone/attention", rows(1, 2, 5))
    first, text, *figures = events(data)
    assert first.file_version == "brain.Event:2" and {event.wall_time for event in figures} == {1234.5}
    assert b"| pretrain.optimisation.lr | 0.5 |" in text.summary.value[0].tensor.string_val[0]
    board.finish({"finetuned/miou": 12.5})
    (data,) = files(tracked.folder)
    assert scalars([data])["finetuned/miou"] == [(0, 12.5)]
    assert b"pretrain.optimisation.lr" in hyperparameters(data) and b"finetuned/miou" in hyperparameters(data)


def hyperparameters(data: bytes) -> bytes:
    plugins = [value.metadata.plugin_data for event in events(data) for value in event.summary.value]
    return b"".join(plugin.content for plugin in plugins if plugin.plugin_name == "hparams")


def test_a_run_that_goes_on_has_another_file_beside_the_first(tracked):
    for given in ((1, 2), (3,)):
        board = TensorBoard(tracked)
        board.begin("")
        board.log("pretrain", rows(*given), at_s=1.0)
        board.finish(None)
    written = files(tracked.folder)
    assert len(written) == 2
    assert sorted(scalars(written)["pretrain/loss"]) == as_scalars("pretrain", rows(1, 2, 3))["pretrain/loss"]


def test_in_an_object_store_the_file_is_written_anew_now_and_then(s3_environment, tracked, monkeypatch, tmp_path):
    folder = Location.parse(f"{s3_environment.bucket('tracked')}/tiny")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    board = TensorBoard(replace(tracked, folder=folder))
    board.begin(None)
    board.log("pretrain", rows(1), at_s=1.0)
    assert board.keep()
    board.log("pretrain", rows(2), at_s=1.0)
    assert not board.keep()
    assert scalars(files(folder)) == as_scalars("pretrain", rows(1))
    monkeypatch.setattr(module, "_UPLOAD_EVERY_S", 0.0)
    assert board.keep()
    assert scalars(files(folder)) == as_scalars("pretrain", rows(1, 2))
    monkeypatch.setattr(module, "_UPLOAD_EVERY_S", 1e9)
    board.log("pretrain", rows(3), at_s=1.0)
    board.finish(None)
    assert scalars(files(folder)) == as_scalars("pretrain", rows(1, 2, 3))
    assert list(tmp_path.iterdir()) == []
