"""Trained networks from Python: what goes in, what comes out, and that it is predict.py's."""

import resource

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from scipy.optimize import minimize_scalar
from test_predict import p, predict, trained  # noqa: F401

import mpoxcv
from mpoxcv.errors import UserError
from mpoxcv.use.predictor import Prediction, Predictor, table_of


@pytest.fixture
def model(trained):  # noqa: F811
    """As they are: the temperature of networks that have learned nothing is high."""
    return mpoxcv.load(trained[0], temperature=1)


@pytest.fixture
def picture(trained):  # noqa: F811
    return next(trained[1].glob("FOLDS/fold1/Test/Cowpox/COW_20_01.jpg"))


def test_three_lines_say_what_predict_writes(model, trained, predict):  # noqa: F811
    folder = trained[1] / "FOLDS/fold1/Test"
    _, written = predict(trained[0], folder)
    table = model(folder)
    assert list(table["prediction"]) == list(written["prediction"])
    np.testing.assert_allclose(p(table), p(written), atol=1e-6)
    assert list(table["set"]) == list(written["set"]) and all(table["set"])
    one = model(table["image"][0])
    assert isinstance(one, Prediction) and one.label == table["prediction"][0]
    np.testing.assert_allclose(one.probabilities, p(table)[0], atol=1e-6)
    assert one.label in one.prediction_set and set(one.prediction_set) <= set(model.classes)


def test_paths_pictures_arrays_and_lists_are_the_same_picture(model, picture):
    with Image.open(picture) as opened:
        pil = opened.convert("RGB")
    pixels = np.asarray(pil)
    one = model(picture).probabilities
    for given in (str(picture), pil, pixels):
        np.testing.assert_allclose(model(given).probabilities, one, atol=1e-6)
    many = model([picture, str(picture.parent), pil, pixels, np.stack([pixels, pixels])])
    assert isinstance(many, pd.DataFrame) and len(many) == 1 + 3 + 1 + 1 + 2
    np.testing.assert_allclose(p(many)[[0, 4, 5, 6, 7]], np.stack([one] * 5), atol=1e-6)


def test_a_picture_from_a_telephone_is_turned_upright(model, picture):
    with Image.open(picture) as opened:
        lying = opened.convert("RGB").rotate(90, expand=True)
    lying.getexif()[0x0112] = 6
    upright = ImageOps.exif_transpose(lying)
    assert np.abs(model(lying.copy()).probabilities - model(picture).probabilities).max() >= 0
    np.testing.assert_allclose(model(lying).probabilities, model(upright).probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"is uint8 \(4, 4, 4\), and should be uint8 of"),
        (np.zeros((4, 4, 3)), r"is float64 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"is uint8 \(0, 4, 3\)"),
        ([], "There is no picture to classify"),
        ("nowhere.jpg", "names no picture"),
    ],
)
def test_what_is_no_picture_is_said_so(model, given, says):
    with pytest.raises(UserError, match=says):
        model(given)


def test_a_level_that_is_none_is_refused(model, picture):
    with pytest.raises(UserError, match=r"level=1 should be above 0 and below 1"):
        model(picture, level=1)


def test_a_higher_level_has_larger_sets(model, trained):  # noqa: F811
    folder = trained[1] / "FOLDS/fold1/Test"
    sizes = [model(folder, level)["set"].str.count(";").sum() for level in (0.3, 0.6, 0.95)]
    assert sizes[0] <= sizes[1] <= sizes[2] and sizes[0] < sizes[2]


def test_a_network_of_all_folds_promises_no_sets(model, picture):
    model.runs[0].data.fold = "leaking"
    leaking = Predictor(model.runs)
    assert leaking(picture).prediction_set is None and "With a" not in str(leaking(picture))
    assert set(leaking([picture])["set"]) == {""}


def test_it_prints_and_shows_itself(model, picture):
    one = model(picture)
    text, page = str(one), one._repr_html_()
    assert text.startswith(f"{picture}: {one.label} ") and text.endswith("not for diagnosis.")
    assert "With a probability of 90% it is " in text and page.startswith("<b>")
    hostile = Prediction("<img src=x>\x1b[2J", ("<b>",), np.ones(1), None, 0.9, 2.0, 1)
    assert "<img" not in hostile._repr_html_() and "\x1b" not in str(hostile)


def test_a_picture_unlike_all_others_is_said_so(model, picture, trained):  # noqa: F811
    # Valid's own: at most a twentieth is called unlike, and each by its own network's distance
    far = []
    for number, run in enumerate(model.runs, 1):
        files = sorted((trained[1] / f"FOLDS/fold{number}/Valid").rglob("*.jpg"))
        alone = mpoxcv.load(run.folder)
        far.append(alone([*map(str, files)])["distance"].to_numpy() * alone.limit)
        np.testing.assert_allclose(np.sort(far[-1]), np.sort(run.reference["val"]), atol=2e-3)
    far = np.concatenate(far)
    assert (far > model.limit + 2e-3).mean() <= 0.05 and (far >= model.limit - 2e-3).any()
    model.limit = 1e-6
    assert "It is unlike the pictures" in "".join(model(picture).warnings)
    # what is promised of sets is so of others
    assert "With a probability" not in str(model(picture))


def test_the_temperature_is_that_of_all_networks_valid_pictures(model, trained, picture):  # noqa: F811
    plain, model = model, mpoxcv.load(trained[0])
    rows = pd.concat(
        [pd.read_csv(f"{run.folder}/predictions.csv").query("split == 'val'") for run in model.runs]
    )
    log_p = np.log(p(rows))
    truth = rows["label"].map(model.classes.index).to_numpy()

    def loss(t):
        z = log_p / t
        return -(z[np.arange(len(z)), truth] - np.log(np.exp(z).sum(1))).mean()

    best = minimize_scalar(loss, bounds=(0.05, 60), method="bounded").x
    assert loss(model.temperature) <= loss(best) + 1e-5
    assert np.abs(plain(picture).probabilities - model(picture).probabilities).max() > 1e-4


def test_memory_stays_flat(model, picture):
    """Ten times the pictures take no more memory: only the table grows."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    peaks = []
    for n in (300, 3000):
        predictions = [*model.predict([pixels] * n)]
        assert len(table_of(predictions)) == n
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 60
