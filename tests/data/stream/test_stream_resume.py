"""A stream resumes at the same example, from the state of its iterator or by reading examples again."""

import itertools
import json

import grain
import grain.python
import jax
import numpy as np
import pytest

from jaxcnn.data import from_batches, open_pipeline
from jaxcnn.errors import UsageError

EXAMPLES, LENGTH = 40, 7


class Examples:
    """A data source for grain."""

    def __init__(self, streams):
        self._streams = streams

    def __len__(self):
        return EXAMPLES

    def __repr__(self):
        return "Examples"  # grain stores it with its state, and compares it

    def __getitem__(self, index):
        return {name: array[0] for name, array in self._streams.batch([index]).items()}


class StatefulLoader:
    """A loader whose state is that of its next iterator, as in torchdata; each epoch has an order of its own."""

    def __init__(self, streams, *, refuses=False):
        self._streams, self._epoch, self._read, self._loaded, self._refuses = streams, -1, 0, None, refuses

    def __iter__(self):
        start = 0
        if self._loaded is None:
            self._epoch += 1
        else:
            (self._epoch, start), self._loaded = self._loaded, None
        self._read = start
        return self._batches(start)

    def _batches(self, start):
        order = np.random.default_rng(self._epoch).permutation(EXAMPLES)
        for numbers in itertools.islice(np.split(order, range(LENGTH, EXAMPLES, LENGTH)), start, None):
            self._read += 1  # as torchdata does, before the batch is used
            yield [self._streams.images(numbers), numbers % 3]

    def state_dict(self):
        return {"place": (self._epoch, self._read), "pad": b"\x00\xff"}

    def load_state_dict(self, state):
        if self._refuses:
            raise KeyError("num_workers")
        assert state["pad"] == b"\x00\xff"
        self._loaded = state["place"]


def ended_or_endless(streams, repeats):
    data = grain.MapDataset.source(Examples(streams)).seed(3).shuffle().repeat(repeats).batch(LENGTH)
    return lambda: iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def grain_loader(streams):
    sampler = grain.python.IndexSampler(EXAMPLES, grain.python.NoSharding(), shuffle=True, num_epochs=None, seed=1)
    return grain.python.DataLoader(
        data_source=Examples(streams), sampler=sampler, operations=[grain.python.Batch(LENGTH)], worker_count=0
    )


def endless(streams):
    return lambda: map(streams.batch, (np.arange(start, start + LENGTH) % 100 for start in itertools.count(0, LENGTH)))


KINDS = {
    # Function that makes training batches, and whether the iterator has a state.
    "generator of an epoch": (lambda streams: streams.shuffling(EXAMPLES, LENGTH), False),
    "list": (lambda streams: streams.cut(np.arange(EXAMPLES), LENGTH), False),
    "endless": (endless, False),
    "grain dataset": (lambda streams: ended_or_endless(streams, 1), True),
    "grain dataset of two epochs": (lambda streams: ended_or_endless(streams, 2), True),
    "endless grain dataset": (lambda streams: ended_or_endless(streams, None), True),
    "grain loader": (grain_loader, True),
    "torchdata": (StatefulLoader, True),
    "torchdata in a function": (lambda streams: lambda: StatefulLoader(streams), True),
}


def open_stream(streams, train, batch_size=16, **options):
    test = streams.cut(np.arange(10), LENGTH)
    data = from_batches(train, test, examples=EXAMPLES, class_names=("a", "b", "c"), **options)
    return open_pipeline(data, batch_size)


def take(pipeline, first_step, calls, steps_per_call, place=None):
    """Return the items of some calls, and the state after each."""
    counts = itertools.repeat(steps_per_call)
    items, states = [], []
    for item in itertools.islice(pipeline.batches(first_step, place, counts), calls):
        items.append(item)
        first_step += steps_per_call
        states.append(json.dumps(pipeline.state_after(first_step)))
    return items, states


@pytest.mark.parametrize("batch_size", [16, LENGTH, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_stream_continues_with_the_same_batches(streams, kind, batch_size):
    make, has_state = KINDS[kind]
    calls, steps_per_call = 9, 2
    whole, states = take(open_stream(streams, make(streams), batch_size), 0, calls, steps_per_call)
    for done in (1, 4, 5, 8):
        resumed = open_stream(streams, make(streams), batch_size)
        resumed.restore(done * steps_per_call, json.loads(states[done - 1]))
        rest, later = take(resumed, done * steps_per_call, calls - done, steps_per_call)
        jax.tree.map(np.testing.assert_array_equal, rest, whole[done:])
        assert later == states[done:]
        assert (resumed.note is None) >= has_state


def test_states_belong_to_the_items_in_use_and_not_to_those_read_ahead(streams):
    make, _ = KINDS["grain dataset"]
    _, states = take(open_stream(streams, make(streams)), 0, 6, 2)
    _, placed = take(open_stream(streams, make(streams)), 0, 6, 2, place=lambda item: item)
    assert placed == states


def test_a_resumed_stream_without_state_says_how_many_examples_it_reads_again(streams):
    generator, _ = KINDS["generator of an epoch"]
    _, states = take(open_stream(streams, generator(streams)), 0, 2, 2)
    resumed = open_stream(streams, generator(streams))
    resumed.restore(4, json.loads(states[-1]))
    assert resumed.note.startswith("resuming by reading 24 examples again: the iterator has no get_state")
    resumed.restore(0, None)
    assert resumed.note is None


def test_a_stream_of_epochs_starts_at_any_step_without_a_saved_place(streams):
    generator, _ = KINDS["generator of an epoch"]
    whole, _ = take(open_stream(streams, generator(streams)), 0, 9, 1)
    later, _ = take(open_stream(streams, generator(streams)), 4, 5, 1)
    jax.tree.map(np.testing.assert_array_equal, later, whole[4:])


def test_a_saved_place_is_known_again_before_the_next_batch(streams):
    make, _ = KINDS["grain dataset"]
    _, states = take(open_stream(streams, make(streams)), 0, 3, 1)
    resumed = open_stream(streams, make(streams))
    resumed.restore(3, json.loads(states[-1]))
    assert json.dumps(resumed.state_after(3)) == states[-1]
    assert resumed.state_after(2) is None


def test_a_state_that_json_cannot_store_is_replaced_by_reading_again(streams):
    class Tensors(StatefulLoader):
        def state_dict(self):
            return {"generator": np.zeros(3)}

    whole, states = take(open_stream(streams, lambda: Tensors(streams)), 0, 5, 1)
    resumed = open_stream(streams, lambda: Tensors(streams))
    resumed.restore(2, json.loads(states[1]))
    assert "reading 32 examples again" in resumed.note
    rest, _ = take(resumed, 2, 3, 1)
    jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            lambda streams: StatefulLoader(streams, refuses=True),
            "the iterator does not accept its saved state ('num_workers')",
        ),
        (lambda streams: iter(StatefulLoader(streams)), "the iterator no longer has a method that restores its state"),
    ],
)
def test_an_iterator_that_does_not_take_the_saved_state_is_read_again(streams, other, said):
    whole, states = take(open_stream(streams, lambda: StatefulLoader(streams)), 0, 6, 1)
    resumed = open_stream(streams, lambda: other(streams))
    resumed.restore(2, json.loads(states[1]))
    assert resumed.note == f"resuming by reading 32 examples again: {said}"
    rest, _ = take(resumed, 2, 4, 1)
    jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])


def test_an_iterator_that_is_too_short_to_resume_is_refused(streams):
    generator, _ = KINDS["generator of an epoch"]
    _, states = take(open_stream(streams, generator(streams)), 0, 2, 1)
    resumed = open_stream(streams, lambda: streams.cut(np.arange(20), LENGTH))
    resumed.restore(2, json.loads(states[-1]))
    with pytest.raises(UsageError, match="ended after 20 examples, but the run has read 32"):
        next(resumed.batches(2))


def test_another_number_of_processes_reads_from_the_start_of_the_epoch(streams):
    make, _ = KINDS["grain dataset"]
    _, states = take(open_stream(streams, make(streams)), 0, 3, 1)
    data = from_batches(make(streams), streams.cut(np.arange(10), 7), examples=EXAMPLES, class_names=("a", "b", "c"))
    resumed = open_pipeline(data, 16, share=(0, 2))
    resumed.restore(3, json.loads(states[-1]))
    assert resumed.note == "resuming by reading 4 examples again: the number of processes has changed"
