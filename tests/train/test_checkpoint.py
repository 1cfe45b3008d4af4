import pytest
import torch
from torch import nn

from luss_ray.core.errors import UserError
from luss_ray.optim.larc import Larc
from luss_ray.storage.uri import Location
from luss_ray.train.checkpoint import Checkpoint, CheckpointStore, load_optimiser, optimiser_tensors, section


def checkpoint(step: int, settings: str = "same") -> Checkpoint:
    return Checkpoint(
        step=step,
        settings=settings,
        consumption={"0": [step, 2**64 - 1 - step, 0]},
        history=[{"step": 1, "loss": 0.5}],
        quarantined={"s3://bucket/train/000000.tar#cat/1": "s3://bucket/train/000000.tar#cat/2"},
        tensors={"network/weight": torch.full((2, 3), float(step)), "trainee/num_rows": torch.tensor(step)},
    )


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    store = CheckpointStore(Location.parse(tmp_path))
    assert store.newest("same") is None
    for step in (3, 12, 100):
        store.save(checkpoint(step))
    store.wait()
    assert store.newest("same") == 100
    found = store.load(100)
    assert found.step == 100 and found.consumption == {"0": [100, 2**64 - 101, 0]}
    assert found.history == [{"step": 1, "loss": 0.5}] and found.quarantined == checkpoint(1).quarantined
    torch.testing.assert_close(section(found.tensors, "network"), {"weight": torch.full((2, 3), 100.0)})


def test_what_the_newest_says_is_known_without_its_tensors(tmp_path):
    store = CheckpointStore(Location.parse(tmp_path))
    assert store.newest_about() is None
    for step in (3, 100):
        store.save(checkpoint(step))
    store.wait()
    about = store.newest_about()
    assert about is not None and about["step"] == 100 and about["consumption"] == checkpoint(100).consumption


@pytest.mark.parametrize("keep_bytes", [0, 5, 100, -1])
def test_a_torn_checkpoint_is_passed_over(tmp_path, keep_bytes):
    store = CheckpointStore(Location.parse(tmp_path))
    for step in (3, 100):
        store.save(checkpoint(step))
    store.wait()
    torn = tmp_path / "000000100.safetensors"
    torn.write_bytes(torn.read_bytes()[:keep_bytes])
    assert store.newest("same") == 3
    about = store.newest_about()
    assert about is not None and about["step"] == 3


def test_old_checkpoints_go_and_those_of_other_settings_are_not_taken(tmp_path):
    store = CheckpointStore(Location.parse(tmp_path), keep=2)
    for step in (1, 2, 3):
        store.save(checkpoint(step))
    store.save(checkpoint(4, settings="others"))
    store.wait()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000003.safetensors", "000000004.safetensors"]
    assert store.newest("same") == 3


def test_saving_copies_the_weights_of_that_moment(tmp_path):
    store, weight = CheckpointStore(Location.parse(tmp_path)), torch.ones(1000)
    one = checkpoint(1)
    one.tensors = {"network/weight": weight}
    store.save(one)
    weight.zero_()
    store.wait()
    assert store.load(1).tensors["network/weight"].sum() == 1000


def test_a_refused_write_is_told_at_the_next_save(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    store = CheckpointStore(Location.parse(blocked))
    store.save(checkpoint(1))
    with pytest.raises(UserError, match="blocked"):
        store.wait()


@pytest.mark.parametrize("make", [lambda p: Larc(p, 0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(make):
    def trained(interrupted: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        optimiser = make(list(net.parameters()))
        for step in range(6):
            if interrupted and step == 3:
                tensors = {key: value.clone() for key, value in optimiser_tensors(optimiser).items()}
                optimiser = make(list(net.parameters()))
                load_optimiser(optimiser, tensors)
            optimiser.zero_grad()
            net(torch.ones(2, 4)).square().sum().backward()
            optimiser.step()
        return [p.detach().clone() for p in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(False), trained(True), strict=True))


@pytest.mark.parametrize("make", [lambda p: Larc(p, 0.1), torch.optim.AdamW])
def test_an_optimisers_state_stands_in_memory_as_its_parameters(make):
    net = nn.Conv2d(4, 3, 3).to(memory_format=torch.channels_last)
    optimiser = make(list(net.parameters()))
    net(torch.ones(1, 4, 5, 5)).square().sum().backward()
    optimiser.step()
    stored = {name: value.contiguous() for name, value in optimiser_tensors(optimiser).items()}
    load_optimiser(optimiser, stored)
    for parameter, state in optimiser.state.items():
        moments = [value for value in state.values() if value.shape == parameter.shape]
        assert moments and all(value.stride() == parameter.stride() for value in moments)
    assert all(torch.equal(value, stored[name]) for name, value in optimiser_tensors(optimiser).items())
