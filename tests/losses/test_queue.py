import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.losses.queue import EmbeddingQueue


@settings(max_examples=50)
@given(length=st.integers(1, 20), batches=st.lists(st.integers(0, 9), max_size=6))
def test_holds_the_newest_rows_newest_batch_first(length, batches):
    queue, newest_first, counter = EmbeddingQueue(length, 1), [], 1
    for size in batches:
        batch = list(range(counter, counter + size))
        counter += size
        queue.push(torch.tensor(batch, dtype=torch.float32).view(1, size, 1).repeat(2, 1, 1))
        newest_first = batch + newest_first
    expected = (newest_first + [0] * length)[:length]
    assert queue.embeddings[0, :, 0].tolist() == expected
    assert queue.embeddings[1].equal(queue.embeddings[0])
    assert queue.full == (len(newest_first) >= length)
    assert (queue.rows() is not None) == queue.full


def test_a_full_queue_with_zero_rows_is_full():
    queue = EmbeddingQueue(3, 4)
    queue.push(torch.zeros(2, 3, 4))
    assert queue.full


def test_state_round_trip():
    queue, other = EmbeddingQueue(5, 2), EmbeddingQueue(5, 2)
    queue.push(torch.randn(2, 3, 2))
    state = queue.state_dict()
    assert all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in state.values())
    other.load_state_dict(state)
    more = torch.randn(2, 3, 2)
    queue.push(more)
    other.push(more)
    assert torch.equal(queue.embeddings, other.embeddings)
    assert queue.full and other.full


def test_the_state_is_a_copy():
    queue = EmbeddingQueue(2, 2)
    state = queue.state_dict()
    queue.push(torch.ones(2, 2, 2))
    assert not state["embeddings"].any() and int(state["num_rows"]) == 0


def test_refuses_the_state_of_another_size():
    with pytest.raises(UserError, match=r"\(2, 5, 2\).*\(2, 6, 2\)"):
        EmbeddingQueue(6, 2).load_state_dict(EmbeddingQueue(5, 2).state_dict())


def test_keeps_no_graph_and_takes_half_precision():
    queue = EmbeddingQueue(2, 2)
    queue.push(torch.ones(2, 2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert queue.embeddings.dtype == torch.float32 and not queue.embeddings.requires_grad
