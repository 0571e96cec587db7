"""The choice of blocks to recompute: pure, from bytes and multiply-adds, and from the shapes of a model."""

import itertools
import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dropout
from jaxcnn.layers.recomputation import Block, choose, format_size, parse_size, peak_bytes, plan, record

EQUAL = [Block(name, 1, 10, 5) for name in "abcd"]


def subsets(blocks):
    names = [block.name for block in blocks]
    return [set(chosen) for count in range(len(names) + 1) for chosen in itertools.combinations(names, count)]


def random_blocks(seed, count=6):
    draw = random.Random(seed)
    return [Block(str(n), draw.randint(1, 20), draw.randint(1, 100), draw.randint(0, 50)) for n in range(count)]


# The pure choice.


def test_the_peak_is_where_the_backward_pass_recomputes_a_block_or_at_its_start():
    blocks = [Block("a", 3, 100, 1), Block("b", 2, 10, 1)]
    assert peak_bytes(blocks, ()) == 115
    assert peak_bytes(blocks, ("b",)) == 115  # recomputed first, while "a" is still kept
    assert peak_bytes(blocks, ("a",)) == 103  # when "a" is recomputed, "b" has been freed
    assert peak_bytes(blocks, ("a", "b"), other_bytes=7) == 110
    assert peak_bytes([], (), other_bytes=7) == 7


def test_nothing_is_recomputed_if_all_fits():
    chosen = choose(EQUAL, budget=44)
    assert (chosen.recomputed, chosen.peak_bytes, chosen.macs) == (frozenset(), 44, 0)


def test_equal_blocks_are_recomputed_from_the_first_on():
    assert choose(EQUAL, budget=34).recomputed == {"a"}
    assert choose(EQUAL, budget=24).recomputed == {"a", "b"}


def test_cheap_blocks_with_many_bytes_are_recomputed_first():
    blocks = [Block("dear", 1, 10, 500), Block("cheap", 1, 10, 5), Block("last", 1, 10, 500)]
    assert choose(blocks, budget=23).recomputed == {"cheap"}


def test_what_is_chosen_in_vain_is_given_back():
    # "small" has the most bytes per multiply-add, but does not lower the peak enough; "large" alone does.
    blocks = [Block("small", 0, 10, 1), Block("large", 0, 90, 90), Block("last", 0, 50, 50)]
    assert choose(blocks, budget=100).recomputed == {"large"}


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_fits_every_possible_budget_and_no_single_block_of_it_is_needless(seed):
    blocks = random_blocks(seed)
    peaks = sorted({peak_bytes(blocks, names, 5) for names in subsets(blocks)})
    for budget in peaks:
        chosen = choose(blocks, budget, 5)
        assert chosen.peak_bytes == peak_bytes(blocks, chosen.recomputed, 5) <= budget
        assert chosen.macs == sum(block.macs for block in blocks if block.name in chosen.recomputed)
        for name in chosen.recomputed:
            assert peak_bytes(blocks, chosen.recomputed - {name}, 5) > budget


@pytest.mark.parametrize("seed", range(20))
def test_recomputing_everything_needs_the_least(seed):
    blocks = random_blocks(seed)
    least = peak_bytes(blocks, [block.name for block in blocks])
    assert least == min(peak_bytes(blocks, names) for names in subsets(blocks))
    choose(blocks, least)
    with pytest.raises(UsageError, match=r"^remat .* is too small: recomputing all 6 blocks needs .*\. Give at least"):
        choose(blocks, least - 1)


def test_the_least_that_is_named_is_enough():
    blocks = [Block("a", 123_456, 7_654_321, 1), Block("b", 5, 1_234_567, 1)]
    with pytest.raises(UsageError) as error:
        choose(blocks, 10_000)
    least = str(error.value).split("needs ")[1].split(" for activations")[0]
    assert choose(blocks, parse_size(least) or 0).recomputed


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("512MiB", 2**29), ("1.5 KB", 1500), ("8", None), ("8Gb", None), ("-1GB", None), ("GB", None)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("size", [1, 999, 12_345, 10**6, 123_456_789, 8 * 10**9, 2**40 + 1])
def test_a_size_that_is_rounded_up_is_not_smaller(size):
    assert size <= (parse_size(format_size(size, up=True)) or 0) <= 1.02 * size + 10


# The numbers of a model.


class Net(nn.Module):
    """Two convolutions of 8 channels, of which each is a block, and a dense layer."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        for number in (1, 2):
            block = SquaredConv(self.dropout_rate, name=f"block{number}")
            x = block(record(block, x), train)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class SquaredConv(nn.Module):
    dropout_rate: float

    @nn.compact
    def __call__(self, x, train):
        y = Conv(8, 3, padding=1)(x)
        return jnp.square(Dropout(self.dropout_rate)(y, train))


def planned(budget=10**9, **fields):
    model, x = Net(**fields), jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape), False))
    return plan(model, variables, x, budget)


def test_the_bytes_of_a_model_are_those_of_its_inputs_and_of_what_its_derivatives_need():
    maps = 2 * 4 * 4 * 8 * 4
    # The input and the convolution's output of each block. The input of the dense layer follows from the latter.
    assert planned().peak_bytes == 2 * maps + 2 * maps
    one = planned(budget=3 * maps)
    assert (one.recomputed, one.peak_bytes) == ({"block1"}, 3 * maps)
    assert one.macs == 2 * 4 * 4 * 8 * 9 * 8


def test_masks_of_dropout_count():
    values = 2 * 4 * 4 * 8
    assert planned(dropout_rate=0.5).peak_bytes == planned().peak_bytes + 2 * values


def test_a_model_records_its_blocks_only_while_it_is_planned():
    before = planned()
    Net().init(jax.random.key(0), jnp.zeros((2, 4, 4, 8)), False)
    assert planned() == before
