import pytest
import ray
import ray.data

from luss_ray.core.errors import UserError
from luss_ray.train.refusals import user_errors


class Refuses:
    """Refuses to be built, or to work."""

    def __init__(self, error: Exception, *, at_once: bool) -> None:
        self.error = error
        if at_once:
            raise error

    def __call__(self, batch: dict) -> dict:
        raise self.error

    def work(self) -> None:
        raise self.error


def in_a_task(error: Exception) -> None:
    ray.get(ray.remote(Refuses.work).remote(Refuses(error, at_once=False)))


def in_an_actor(error: Exception) -> None:
    ray.get(ray.remote(Refuses).remote(error, at_once=True).work.remote())


def in_ray_data(error: Exception, *, at_once: bool = False) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    arguments = {"error": error, "at_once": at_once}
    rows = ray.data.range(2).map_batches(Refuses, fn_constructor_kwargs=arguments, concurrency=1)
    for _ in rows.iter_rows():
        pass


def in_an_actor_of_ray_data(error: Exception) -> None:
    in_ray_data(error, at_once=True)


@pytest.mark.parametrize("fails", [in_a_task, in_an_actor, in_ray_data, in_an_actor_of_ray_data])
def test_a_users_error_comes_out_as_it_was_and_others_stay(ray_cluster: None, fails) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Refuses"]))
    line = "cannot write /x/y.tar: no space left on device; free some space and run again"
    with pytest.raises(UserError) as found, user_errors():
        fails(UserError(line))
    assert str(found.value) == line
    with pytest.raises(ray.exceptions.RayError, match="ZeroDivisionError"), user_errors():
        fails(ZeroDivisionError("a bug"))
