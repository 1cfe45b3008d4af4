import copy

import numpy as np
import pytest
import torch

from luss_ray.optim.larc import Larc, filled


def test_equals_the_published_trajectory(golden):
    arrays = np.load(golden / "method" / "larc.npz")
    names = [name.removeprefix("p0_") for name in arrays.files if name.startswith("p0_")]
    parameters = {name: torch.nn.Parameter(torch.from_numpy(arrays[f"p0_{name}"])) for name in names}
    optimiser = Larc(
        parameters.values(),
        1.0,
        momentum=float(arrays["momentum"]),
        weight_decay=float(arrays["wd"]),
        trust_coefficient=float(arrays["trust"]),
    )
    for step, rate in enumerate(arrays["lrs"], start=1):
        for name, parameter in parameters.items():
            known = f"g{step}_{name}" in arrays
            parameter.grad = torch.from_numpy(arrays[f"g{step}_{name}"]) if known else None
        optimiser.param_groups[0]["lr"] = float(rate)
        optimiser.step()
        for name, parameter in parameters.items():
            expected = arrays[f"p{step}_{name}"]
            np.testing.assert_allclose(
                parameter.detach(), expected, atol=1e-6 * max(1e-3, np.abs(expected).max()), err_msg=name
            )


def parameter(values, gradient):
    made = torch.nn.Parameter(torch.tensor(values))
    made.grad = None if gradient is None else torch.tensor(gradient)
    return made


def test_first_step_is_a_share_of_the_weights_norm():
    weight = parameter([3.0, 4.0], [0.0, 1000.0])
    Larc([weight], 0.5, weight_decay=0.0, trust_coefficient=0.01).step()
    moved = torch.tensor([3.0, 4.0]) - weight.detach()
    assert moved.norm().item() == pytest.approx(0.5 * 0.01 * 5.0, rel=1e-4)


def test_zero_norms_take_the_raw_gradient_without_decay():
    zero_weight, zero_gradient = parameter([0.0, 0.0], [1.0, 2.0]), parameter([1.0, 1.0], [0.0, 0.0])
    Larc([zero_weight, zero_gradient], 0.1, weight_decay=0.5).step()
    torch.testing.assert_close(zero_weight.detach(), torch.tensor([-0.1, -0.2]))
    torch.testing.assert_close(zero_gradient.detach(), torch.ones(2))


def test_without_gradient_value_and_momentum_stay():
    frozen, other = parameter([1.0, 2.0], [1.0, 1.0]), parameter([1.0], [1.0])
    optimiser = Larc([frozen, other], 0.1)
    optimiser.step()
    before = frozen.detach().clone(), optimiser.state[frozen]["momentum_buffer"].clone()
    frozen.grad = None
    optimiser.step()
    torch.testing.assert_close((frozen.detach(), optimiser.state[frozen]["momentum_buffer"]), before, rtol=0, atol=0)


def test_state_round_trip_continues_bit_for_bit():
    torch.manual_seed(0)
    first = torch.nn.Linear(5, 3)
    optimiser = Larc(first.parameters(), 0.3)
    data = torch.randn(3, 7, 5)

    def step(model, by, batch):
        by.zero_grad()
        model(batch).square().sum().backward()
        by.step()

    step(first, optimiser, data[0])
    second = copy.deepcopy(first)
    resumed = Larc(second.parameters(), 0.1)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for batch in data[1:]:
        step(first, optimiser, batch)
        step(second, resumed, batch)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_closure_gives_the_loss():
    weight = parameter([1.0], [1.0])
    assert Larc([weight], 0.1).step(lambda: 4.5) == 4.5


def test_filled_has_sizes_and_memory_orders_of_others():
    like = [torch.empty(4, 3, 2, 5).to(memory_format=torch.channels_last), torch.empty(7), torch.empty(())]
    for number, tensor in enumerate(filled(torch.tensor([1.0, 2.0, 3.0]), like)):
        assert tensor.shape == like[number].shape and tensor.stride() == like[number].stride()
        assert (tensor == number + 1.0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_steps_on_a_gpu_equal_those_on_a_cpu():
    generator, starts = torch.Generator().manual_seed(0), [(4, 3, 3, 3), (4,), (5, 4), (6,)]
    values = [torch.randn(shape, generator=generator) for shape in starts]
    values[3].zero_()
    gradients = [[torch.randn(shape, generator=generator) for shape in starts] for _ in range(4)]
    ends = []
    for device in ("cpu", "cuda"):
        parameters = [torch.nn.Parameter(value.to(device, copy=True)) for value in values]
        optimiser = Larc(parameters, 0.6, weight_decay=0.1)
        for step in gradients:
            for place, (parameter, gradient) in enumerate(zip(parameters, step, strict=True)):
                parameter.grad = gradient.to(device) * (place != 1)
            optimiser.step()
        ends.append([parameter.detach().cpu() for parameter in parameters])
    for ours, expected in zip(*ends, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
