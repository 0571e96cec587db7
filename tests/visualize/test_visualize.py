"""Pictures show what they say: right way up, the right places, numbers that are those of the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import visualize
from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, Flatten, GlobalAvgPool, MaxPool, ReLU, Sequential
from jaxcnn.train import Config, Trained, fit, load_run
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.visualize.mistakes import most_confident_mistakes

CLASSES = ("dark", "bright")


def detector():
    """A network of one 1x1 filter whose logit for "bright" is the mean brightness."""
    model = Sequential([Conv(1, 1), ReLU(), GlobalAvgPool(), Dense(2)])
    variables = {
        "params": {
            "layers_0": {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)},
            "layers_3": {"kernel": np.array([[-1.0, 1.0]], np.float32), "bias": np.zeros(2, np.float32)},
        }
    }
    return Trained(Config(), model, variables, 0, Preprocessing((8, 8, 1), (0.0,), (1.0,), CLASSES))


@pytest.fixture(scope="module")
def spot():
    """An image that is dark but for its top right corner."""
    image = np.zeros((8, 8, 1), np.uint8)
    image[:3, 6:] = 255
    return image


def test_layers_are_listed_in_order_and_their_output_is_what_they_compute(spot):
    trained = detector()
    assert visualize.layer_names(trained.model, trained.variables, (8, 8, 1)) == ["layers_0", "layers_1"]
    output = visualize.layer_output(trained.model, trained.variables, jnp.asarray(spot[None] / 255.0), "layers_0")
    np.testing.assert_allclose(output[0], spot / 255.0, rtol=1e-6)
    with pytest.raises(UsageError, match="did you mean 'layers_0'"):
        visualize.layer_output(trained.model, trained.variables, jnp.asarray(spot[None]), "layers_00")


def test_grad_cam_is_where_the_evidence_is(spot):
    trained = detector()
    # The gradient of the mean of 64 places is 1 / 64 at each, so alpha is 1 / 64, and L is the map over 64.
    heat = visualize.grad_cam(trained, spot, 1, "layers_1")
    np.testing.assert_allclose(heat, spot[..., 0] / 255.0 / 64, rtol=1e-5)
    assert visualize.grad_cam(trained, spot, 0, "layers_1").max() == 0  # what speaks against a class is left out
    with pytest.raises(UsageError, match="unknown class 2; use 0 to 1"):
        visualize.grad_cam(trained, spot, 2, "layers_1")


def shown(axes):
    return [np.asarray(picture.get_array()) for picture in axes.images]


def test_pictures_are_the_right_way_up(spot):
    figure = visualize.feature_map_figure(detector(), spot, "layers_0")
    image, maps = figure.axes[:2]
    np.testing.assert_array_equal(shown(image)[0], spot[..., 0])
    assert image.get_ylim()[0] > image.get_ylim()[1]  # the first row at the top
    assert shown(maps)[0][0, 7] == 1
    assert shown(maps)[0][7, 0] == 0
    figure = visualize.grad_cam_figure(detector(), spot)
    assert "bright" in figure.get_suptitle()
    assert shown(figure.axes[1])[1][0, 7] == shown(figure.axes[1])[1].max()


def test_filters_are_those_of_the_first_convolution():
    model = Sequential([Conv(5, 3), ReLU(), Conv(7, 3), Flatten(), Dense(2)])
    variables = model.init(jax.random.key(0), jnp.zeros((1, 9, 9, 1)))
    figure = visualize.filter_figure(model, variables, (9, 9, 1))
    assert figure.get_suptitle() == "layers_0: 5 filters of 3x3x1"
    kernel = variables["params"]["layers_0"]["kernel"]
    for index in range(5):
        np.testing.assert_array_equal(shown(figure.axes[index])[0], kernel[..., 0, index])
    flat = Sequential([Flatten(), Dense(2)])
    variables = flat.init(jax.random.key(0), jnp.zeros((1, 9, 9, 1)))
    with pytest.raises(UsageError, match="no convolution"):
        visualize.filter_figure(flat, variables, (9, 9, 1))


def test_the_confusion_matrix_has_a_row_for_each_true_class():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 0])
    matrix = visualize.confusion_matrix(labels, predicted, 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [2, 0, 0]]
    axes = visualize.confusion_figure(labels, predicted, ("a", "b", "c")).axes[0]
    assert axes.get_title() == "6 images, 50.00% correct"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert {text.get_position(): text.get_text() for text in axes.texts}[(1, 0)] == "1"


def test_mistakes_are_shown_from_the_surest():
    labels = np.array([0, 1, 0, 1])
    probabilities = np.array([[0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])
    assert most_confident_mistakes(labels, probabilities, 2).tolist() == [2, 0]
    images = np.zeros((4, 8, 8, 1), np.uint8)
    figure = visualize.mistake_figure(images, labels, probabilities, CLASSES)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["bright 90%", "bright 70%", "dark 60%"]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["is dark", "is dark", "is bright"]
    with pytest.raises(UsageError, match="no mistakes to show"):
        visualize.mistake_figure(images[:2], np.array([1, 1]), probabilities[:2], CLASSES)


def test_the_receptive_field_is_drawn_where_the_unit_looks():
    model = Sequential([Conv(4, 3, padding=1), MaxPool(2), Conv(4, 3)])
    image = np.zeros((16, 16, 3), np.uint8)
    axes = visualize.receptive_field_figure(model, image, "layers_2").axes[0]
    (box,) = axes.patches
    left, top = round(box.get_x() + 0.5), round(box.get_y() + 0.5)
    assert (box.get_width(), box.get_height()) == (8, 8)
    # The middle of 6x6 units is (2, 2): a change of any pixel in the box, and of no other, can reach it.
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    seen = np.zeros((16, 16), bool)
    for seed in range(20):
        x = jax.random.normal(jax.random.key(seed), (1, 16, 16, 3))
        seen |= np.asarray(jnp.abs(jax.grad(lambda x: model.apply(variables, x)[0, 2, 2].sum())(x)).sum((0, 3)) > 0)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (top, top + 7, left, left + 7)
    assert len(visualize.receptive_field_figure(model, image).axes[0].patches) == 3
    with pytest.raises(UsageError, match="did you mean"):
        visualize.receptive_field_figure(model, image, "layers_22")


def test_the_command_draws_all_pictures_of_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    fit(Config(steps=10, batch_size=64, progress=False, workdir=str(run)))
    assert main(["visualize", "--workdir", str(run)]) == 0
    names = ("filters", "features", "grad-cam", "confusion", "mistakes", "field")
    assert capsys.readouterr().out.split() == [str(run / "visualize" / f"{name}.png") for name in names]
    for name in names:
        with Image.open(run / "visualize" / f"{name}.png") as picture:
            assert picture.width > 400
    assert main(["visualize", "layers", "--workdir", str(run)]) == 0
    layers = capsys.readouterr().out.split()
    assert layers == visualize.layer_names(load_run(run).model, load_run(run).variables, (28, 28, 1))
    for args, says in (
        (["features", "--layer", "C11"], "did you mean 'C1'"),
        (["grad-cam", "--label", "Ankle boots"], "did you mean 'Ankle boot'"),
        (["grad-cam", "--image", str(tmp_path / "none.png")], "does not exist"),
        (["filters", "--out", "/dev/null/x"], "cannot be written"),
        (["everything"], "everything"),
    ):
        assert main(["visualize", *args, "--workdir", str(run)]) == 2, args
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1
