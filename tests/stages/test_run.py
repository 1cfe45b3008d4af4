from dataclasses import replace

import pytest
from fixtures_track import events

from luss_ray.config.recipe import Optimisation, Prediction
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError
from luss_ray.stages.run import Run
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.track.tracker import TrackerName
from luss_ray.train.cluster import Resources
from luss_ray.train.limits import Limits

RESOURCES = Resources(
    num_workers=(1, 1), use_gpu=False, num_loaders=1, loader_cpus=1, num_threads=1, preemptible=False, num_actors=1
)
LIMITS = Limits(max_bad_samples=0, max_failures=0, checkpoint_every_s=60)


@pytest.fixture
def run(shards, tmp_path) -> Run:
    data = ShardedDataset.open(Location.parse(shards))
    recipe = RECIPES["imagenet-s-50"]()
    return Run(
        folder=Location.parse(tmp_path / "run"), recipe=recipe, data=data, connect=lambda: RESOURCES, limits=LIMITS
    )


def test_a_name_belongs_to_one_set_of_settings(run):
    for _ in range(2):
        with run.claimed():
            pass
    pretrain = replace(run.recipe.pretrain, optimisation=Optimisation(epochs=3))
    other = replace(run, recipe=replace(run.recipe, pretrain=pretrain))
    with (
        pytest.raises(UserError, match=r"pretrain.optimisation.epochs = 200 there, 3 here.*--name") as refusal,
        other.claimed(),
    ):
        pass
    assert "\n" not in str(refusal.value)


def test_settings_that_came_later_do_not_part_a_run_from_its_name(run):
    with run.claimed():
        pass
    about = run.folder.read_json("run.json")
    del about["settings"]["prediction"]
    run.folder.write_json("run.json", about)
    run.check_signature()
    guided = replace(run.recipe, prediction=Prediction(guided_radius=1))
    with pytest.raises(UserError, match=r"prediction.guided_radius = 0.0 there, 1"):
        replace(run, recipe=guided).check_signature()


def test_trackers_are_told_what_the_run_follows_from_and_change_nothing_of_it(run):
    with replace(run, track=(TrackerName.TENSORBOARD,)).claimed() as claimed:
        assert claimed.trackers
    (board,) = (run.folder / "tensorboard").list()
    text = events((run.folder / "tensorboard").read(board))[1].summary.value[0].tensor.string_val[0].decode()
    assert "| pretrain.optimisation.epochs | 200 |" in text and f"| data_digest | {run.data.digest} |" in text
    with run.claimed() as without:
        assert not without.trackers
    assert len((run.folder / "tensorboard").list()) == 1


def test_a_finished_stage_is_skipped_and_an_unfinished_one_goes_on(run):
    calls = []

    def work(folder, inputs):
        calls.append(folder.list())
        folder.write("part", b"1")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"images": 10}

    with pytest.raises(KeyboardInterrupt):
        run.stage("features", {"a": 1}, work)
    first = run.stage("features", {"a": 1}, work)
    again = run.stage("features", {"a": 1}, work)
    assert calls == [["begun.json"], ["begun.json", "part"]]
    assert first.inputs == again.inputs and again.about["images"] == 10 and again.about["images_per_s"] > 0


def test_results_of_other_inputs_are_thrown_away(run):
    seen = []

    def work(folder, inputs):
        seen.append("old" in folder.list())
        folder.write("old", b"1")
        return {}

    one = run.stage("clusters", {"features": "x"}, work)
    two = run.stage("clusters", {"features": "y"}, work)
    assert seen == [False, False] and one.inputs != two.inputs


def test_clusters_without_categories_must_be_asked_for(run, scenes, tmp_path):
    assert run.num_clusters == 4 and run.labelled and run.shown_split == "validation"
    assert replace(run, recipe=replace(run.recipe, num_categories=7)).num_clusters == 7


def test_a_stage_that_lost_its_run_is_not_finished(run, monkeypatch):
    """Another job, for which this one looked dead, has taken the run over while the stage worked."""
    monkeypatch.setattr("luss_ray.storage.lease.BEAT_S", 0.05)

    def work(folder, inputs):
        theirs = run.folder.read_json("holder.json") | {"token": "other", "who": "somebody else"}
        run.folder.write_json("holder.json", theirs)
        claimed.lease._thread.join(30)
        return {}

    with run.claimed() as claimed, pytest.raises(UserError, match="was taken over by somebody else"):
        claimed.stage("features", {}, work)
    assert run.finished("features") is None


def test_a_finished_stage_of_another_run_is_copied_where_its_inputs_are_the_same(run, tmp_path):
    def write(content):
        def work(folder, inputs):
            folder.write("shard/part", content)
            folder.write("weights", content)
            return {"images": 10}

        return work

    with run.claimed() as first:
        first.stage("pretrain", {"a": 1}, write(b"first"))
        first.stage("features", {"a": 1}, write(b"first"))
    second = replace(run, folder=Location.parse(tmp_path / "second"), reuse=run.folder)
    with second.claimed() as other:
        copied = other.stage("pretrain", {"a": 1}, write(b"second"))
        done_again = other.stage("features", {"a": 2}, write(b"second"))
        done_here = other.stage("clusters", {"a": 1}, write(b"second"))
    contents = [
        [part.folder.read(name) for name in ("shard/part", "weights")] for part in (copied, done_again, done_here)
    ]
    assert contents == [[b"first"] * 2, [b"second"] * 2, [b"second"] * 2]
    assert copied.folder == second.folder / "pretrain" and copied.about["copied_from"] == run.folder.uri
    assert "copied_from" not in done_again.about and "copied_from" not in done_here.about


def test_a_run_to_be_reused_must_be_one(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    wrong = replace(run, reuse=Location.parse(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"elsewhere is no run"), wrong.claimed():
        pass
    assert not run.folder.exists("run.json")


def test_a_single_folder_of_images_is_no_category_to_tell_apart(run):
    train = {"train": run.data.manifest.splits["train"]}
    one = ShardedDataset(run.data.location, replace(run.data.manifest, categories=("photos",), splits=train))
    own = replace(run, recipe=RECIPES["own-images"](), data=one)
    assert own.estimates
    with pytest.raises(UserError, match="--num-categories N"):
        _ = replace(own, recipe=run.recipe).num_clusters
    assert not replace(run, recipe=own.recipe).estimates
