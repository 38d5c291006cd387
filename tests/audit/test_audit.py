"""The audit finds what was planted, and train.py does with it what was chosen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import QUICK, write_picture
from mpoxcv.audit.audit import Finding, audit
from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.leaks import leaks_of, settle_leaks
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED, alike, templates, vectors
from mpoxcv.pictures.cache import digest_files
from mpoxcv.pictures.tree import index_folds

CLASSES = ["Chickenpox", "Cowpox", "Measles"]
PATTERN = r"(?P<original>(?P<patient>[A-Z]+_\d+)_\d+)(?P<copy>_\w+)?"
SMALL = (
    "data.classes=[Chickenpox,Cowpox,Measles]",
    "data.root=set",
    "trainer=cpu",
    "trainer.max_epochs=1",
    *QUICK,
)
TEST = "FOLDS/fold1/Test/Cowpox/COW_20_01.jpg"


def found(tree: Path) -> dict[str, Finding]:
    table = index_folds(tree, CLASSES, PATTERN, [1, 2])
    return {finding.kind: finding for finding in audit(table, tree, tree.parent / "cache")}


def test_clean_tree(tree: Path) -> None:
    kinds = found(tree)
    assert not [f for f in kinds.values() if f.severity != "note"]
    # the two folds of the small tree hold pictures of their own under the same names
    assert kinds["pictures never in a test set"].count == 18


def test_leaks_of_every_kind(tree: Path) -> None:
    train, copies = tree / "FOLDS/fold1/Train/Cowpox", tree / "FOLDS_AUG/fold1_AUG/Train/Cowpox"
    coarse = np.random.default_rng(0).integers(
        0, 256, (8, 8, 3), dtype=np.uint8
    )  # noise is not what JPEG keeps
    picture = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
    picture.save(tree / TEST, quality=95)
    shutil.copy(tree / TEST, train / "COW_90_01.jpg")
    ImageOps.mirror(picture).save(train / "COW_91_01.jpg", quality=60)
    shutil.copy(train / "COW_0_01.jpg", train / "COW_21_02.jpg")
    shutil.copy(copies / "COW_0_01_0_1.jpg", copies / "COW_22_01_9_1.jpg")
    picture.rotate(90).save(copies / "COW_1_01_9_1.jpg", quality=90)
    shutil.copy(tree / TEST, tree / "FOLDS/fold1/Train/Measles/MEA_92_01.jpg")
    kinds = found(tree)
    leaks = {kind: f for kind, f in kinds.items() if f.severity == "leak"}
    assert {kind: f.count for kind, f in leaks.items()} == {
        "a patient has pictures in Train and in Valid or Test": 2,
        "a picture of Valid or Test is also in Train, pixel by pixel": 2,
        "a picture of Train looks like one of Valid or Test, changed": 1,
        "an augmented picture's original is in Valid or Test, by its name": 1,
        "an augmented picture looks like one of Valid or Test, whatever its name says": 1,
    }
    assert all(f.by_fold == {1: f.count} for f in leaks.values())
    assert kinds["the same picture under two labels"].severity == "warning"
    assert kinds["the same picture under two patients"].count >= 1
    likeness = leaks["an augmented picture looks like one of Valid or Test, whatever its name says"]
    assert likeness.examples == [("FOLDS_AUG/fold1_AUG/Train/Cowpox/COW_1_01_9_1.jpg", TEST)]


def test_a_mirrored_picture_is_nearly_the_same_however_likeness_rounds(tree: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        picture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        picture.save(tree / f"FOLDS/fold1/Train/Cowpox/COW_{50 + i}_01.png")
        ImageOps.mirror(picture).save(tree / f"FOLDS/fold1/Train/Measles/MEA_{50 + i}_01.png")
    kinds = found(tree)
    assert kinds["nearly the same picture under two labels"].count == 12
    assert "the same picture under two labels" not in kinds


def test_a_patient_in_two_classes_is_one_person(tree: Path) -> None:
    patient = Path(TEST).name.rpartition("_")[0]
    write_picture(tree / f"FOLDS/fold1/Train/Measles/{patient}_02.jpg", 77)
    assert found(tree)["a patient has pictures in Train and in Valid or Test"].by_fold == {1: 1}


def test_shortcut_is_found_only_where_there_is_one(tmp_path: Path) -> None:
    def write(brightness: dict[str, int]) -> dict[str, Finding]:
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        rng = np.random.default_rng(0)
        for name in CLASSES:
            for i in range(36):
                split = ("Train", "Valid", "Test")[i % 3]
                file = tmp_path / f"set/FOLDS/fold1/{split}/{name}/{name[:3].upper()}_{i}_01.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 150, (24, 24, 3)) + brightness.get(name, 0)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
        table = index_folds(tmp_path / "set", CLASSES, PATTERN, [1])
        return {f.kind: f for f in audit(table, tmp_path / "set", tmp_path / "cache")}

    assert "the class can be told from overall colour" not in write({})
    assert write({"Cowpox": 60})["the class can be told from overall colour"].severity == "warning"


def test_a_shortcut_must_hold_for_other_patients(tmp_path: Path) -> None:
    """Each patient has a colour of their own: among a patient's pictures it tells the class."""
    rng = np.random.default_rng(3)
    for name in CLASSES:
        for patient in range(5):
            colour, spread = rng.integers(80, 175, 3), rng.integers(3, 80, 3)
            for i in range(12):
                split = ("Train", "Valid", "Test")[i % 3]
                file = (
                    tmp_path
                    / f"set/FOLDS/fold1/{split}/{name}/{name[:3].upper()}_{patient}_{i:02}.png"
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = colour + spread * rng.uniform(-1, 1, (24, 24, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    table = index_folds(tmp_path / "set", CLASSES, PATTERN, [1])
    kinds = {f.kind for f in audit(table, tmp_path / "set", tmp_path / "cache")}
    assert "the class can be told from overall colour" not in kinds


def test_train_stops_drops_or_allows(tree: Path, tmp_path: Path, run_script: Callable) -> None:
    shutil.copy(tree / TEST, tree / "FOLDS/fold1/Train/Cowpox/COW_90_01.jpg")
    done = run_script("train", "fold=1", *SMALL, "hydra.run.dir=stopped")
    assert done.code == 1 and "Traceback" not in done.err
    assert (
        "COW_90_01.jpg" in done.err
        and "data.leaks=drop" in done.err
        and "data.leaks=allow" in done.err
    )
    for choice, dropped in (("drop", 1), ("allow", 0)):
        done = run_script(
            "train", "fold=1", *SMALL, f"hydra.run.dir={choice}", f"data.leaks={choice}"
        )
        assert done.code == 0, done.err
        data = json.loads((tmp_path / choice / "provenance.json").read_text())["data"]
        assert data["audit"] == {
            "choice": choice, "leaks_from": CERTAIN, "leaks": {"same picture": 1}, "suspected": {},
            "in_valid_and_test": 0, "dropped": dropped,
        }  # fmt: skip
        said = "1 training picture(s) leak and are left out (data.leaks=drop): same picture 1."
        assert (said in done.err) == (choice == "drop")
        assert data["counts"]["train"]["Cowpox"]["pictures"] == 4 - dropped
        marked = "LEAKS ALLOWED" in (tmp_path / choice / "predictions.csv").read_text()
        assert marked == (choice == "allow") == ("LEAKS ALLOWED" in done.out)
    done = run_script("train", "fold=1", *SMALL, "data.leaks=maybe")
    assert done.code == 1 and "data.leaks=maybe is not one of stop, drop, allow" in done.err
    done = run_script("summarize", "runs=drop", "output=dropped", "replicates=100")
    page = (tmp_path / "dropped/report.html").read_text()
    assert (
        "Left out since they leak: 1 training pictures" in page
        and "were not looked for" not in page
    )
    done = run_script("summarize", "runs=allow", "output=allowed", "replicates=100")
    assert "THEY WERE TRAINED ON" in (tmp_path / "allowed/report.html").read_text()


def test_page(tree: Path, tmp_path: Path, run_script: Callable) -> None:
    shutil.copy(tree / TEST, tree / "FOLDS/fold1/Train/Cowpox/COW_90_01_<b>&.jpg")
    options = (
        r"data.name_pattern='(?P<original>(?P<patient>[A-Z]+_\d+)_\d+)(?P<copy>_.+)?'",
        "folds=2",
        "data.root=set",
    )
    done = run_script("get_data", SMALL[0], *options, "report=audit.html")
    assert done.code == 0, done.err
    assert "leak" in done.out and "data.leaks=drop" in done.out
    page = (tmp_path / "audit.html").read_text()
    assert "COW_90_01_&lt;b&gt;&amp;.jpg" in page and "<b>" not in page
    assert page.count("data:image/jpeg") >= 2 and "http" not in page


def test_every_case_is_in_a_table_beside_the_page(
    tree: Path, tmp_path: Path, run_script: Callable
) -> None:
    """The page shows the first of them, and names the table."""
    for i in range(40):
        shutil.copy(tree / TEST, tree / f"FOLDS/fold1/Train/Cowpox/COW_{100 + i}_01.jpg")
    done = run_script("get_data", SMALL[0], "folds=2", "data.root=set", "report=my audit.html")
    assert done.code == 0, done.err
    assert "my audit_findings.csv" in done.out
    page = (tmp_path / "my audit.html").read_text()
    assert "The first 24 are shown; all are in" in page and 'href="my%20audit_findings.csv"' in page
    cases = pd.read_csv(tmp_path / "my audit_findings.csv")
    leaks = cases[cases["finding"] == "a picture of Valid or Test is also in Train, pixel by pixel"]
    assert len(leaks) == 40 and set(leaks["fold"]) == {1} and set(leaks["other"]) == {TEST}
    assert cases["picture"].notna().all()
    assert leaks["picture"].is_unique and "pictures never in a test set" in set(cases["finding"])


def planted(picture: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    side = int(picture.width * 0.9)
    x, y = rng.integers(0, picture.width - side + 1, 2)
    return {
        "flipped": lambda: ImageOps.mirror(picture),
        "quarter turn": lambda: picture.rotate(90),
        "turned": lambda: picture.rotate(rng.uniform(-30, 30)),
        "cropped": lambda: picture.crop((x, y, x + side, y + side)).resize(picture.size),
        "jittered": lambda: ImageEnhance.Brightness(
            ImageEnhance.Contrast(picture).enhance(0.85)
        ).enhance(1.15),
    }.get(kind, lambda: picture)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "certain", "suspected"),
    [
        ("identical", 1, 1), ("re-encoded", 0.95, 0.98), ("copy under another name", 0.95, 0.98), ("patient", 1, 1),
        ("flipped", 0.95, 0.98), ("quarter turn", 0.95, 0.98), ("jittered", 0.95, 0.98), ("cropped", 0.04, 0.5),
        ("turned", 0.1, 0.6),
    ],
)  # fmt: skip
def test_planted_set(
    kind: str, certain: float, suspected: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Plant 100 pictures of fold 1's Test and Valid in its Train: recall and precision."""
    from mpoxcv.datasets.synthetic import write_synthetic

    base = tmp_path_factory.getbasetemp() / "planted"
    write_synthetic(base / "clean", copies=1, folds=[1])
    root = base / kind.replace(" ", "_")
    shutil.copytree(base / "clean", root)
    (root / "synthetic.json").unlink()
    names = ["Chickenpox", "Cowpox", "Healthy", "HFMD", "Measles", "Monkeypox"]
    pattern = r"(?P<original>(?P<patient>[A-Za-z]+_\d+)_\d+)(?P<copy>_.+)?"
    rng = np.random.default_rng(0)
    clean = index_folds(root, names, pattern, [1])
    held = clean[clean["split"] != "train"]
    for i, row in enumerate(held.iloc[rng.permutation(len(held))[:100]].itertuples()):
        code = Path(row.path).name.partition("_")[0]
        if kind == "patient":
            file = next((root / f"FOLDS/fold1/Train/{row[3]}").glob("*_01.jpg"))
            file.rename(file.with_name(f"{row.patient}_{900 + i}.jpg"))
            continue
        folder, name = f"FOLDS/fold1/Train/{row[3]}", f"{code}_{900 + i}_01.jpg"
        if kind == "copy under another name":
            folder, name = f"FOLDS_AUG/fold1_AUG/Train/{row[3]}", f"{code}_{900 + i}_01_aug77.jpg"
        target = root / folder / name
        if kind == "identical":
            shutil.copy(root / row.path, target)
        else:
            planted(Image.open(root / row.path), kind, rng).save(target, quality=70)
    table = index_folds(root, names, pattern, [1])
    table = table.assign(digest=digest_files(root, table["path"].tolist()))
    records = describe(root, table["path"].tolist(), table["digest"].to_numpy(), base / "cache")
    out = (table["split"] != "train").to_numpy()
    nobody = [""] * out.sum(), [""] * (~out).sum()
    pairs = likenesses(records[out], records[~out], SUSPECTED, base / "cache", nobody)
    for threshold, least in ((CERTAIN, certain), (SUSPECTED, suspected)):
        leaks = set(leaks_of(table, records, pairs, threshold)["picture"])
        hits = {path for path in leaks if "_9" in path}
        print(
            f"{kind} from {threshold}: recall {len(hits) / 100:.2f}, precision {len(hits) / max(1, len(leaks)):.3f}"
        )
        assert len(hits) >= 100 * least
        assert threshold == SUSPECTED or len(hits) >= 0.95 * len(leaks)
    kept, outcome = settle_leaks(table, root, "drop", base / "cache")
    assert len(table) - len(kept) == outcome["dropped"] >= 100 * certain


def spot(rng: np.random.Generator, side: int = 64) -> Image.Image:
    """Draw a lesion as dermoscopy shows it: dark, centred, on pale skin."""
    y, x = np.mgrid[:side, :side] / side - 0.5 + rng.normal(0, 0.03, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    radius = np.hypot(u, v / rng.uniform(0.65, 1)) / rng.uniform(0.12, 0.3)
    dark = 1 / (1 + np.exp((radius - 1) / rng.uniform(0.03, 0.12)))
    light = sum(slope * axis for slope, axis in zip(rng.normal(0, 12, 2), (x, y), strict=True))
    grey = 200 - rng.uniform(50, 130) * dark + light
    grey += rng.normal(0, 4, (side, side))
    return Image.fromarray(
        np.stack([grey * c for c in (1, 0.8, 0.7)], -1).clip(0, 255).astype("u1")
    )


def test_pictures_that_resemble_many_say_nothing(tmp_path: Path) -> None:
    """Of lesions centred on pale skin most are alike; copies among them are found all the same."""
    rng = np.random.default_rng(0)
    folders = [tmp_path / f"set/FOLDS/fold1/{split}" for split in ("Train", "Valid", "Test")]
    for i in range(90):
        file = (
            folders[i % 3] / CLASSES[i // 3 % 3] / f"{CLASSES[i // 3 % 3][:3].upper()}_{i}_01.jpg"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = spot(rng)
        picture.save(file, quality=90)
        if i < 15 and i % 3 == 2:
            copy = ImageOps.mirror(picture) if i % 2 else picture.rotate(90)
            copy.save(folders[0] / CLASSES[0] / f"CHI_{900 + i}_01.jpg", quality=60)

    table = index_folds(tmp_path / "set", CLASSES, PATTERN, [1])
    found = {f.kind: f for f in audit(table, tmp_path / "set", tmp_path / "cache")}
    leaks = found["a picture of Train looks like one of Valid or Test, changed"]
    assert leaks.count == 5 and all("CHI_9" in train for train, _ in leaks.examples)
    doubts = [f.count for kind, f in found.items() if kind.startswith(("suspected", "perhaps"))]
    assert sum(doubts) <= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "least"), [("flipped", 1), ("quarter turn", 1), ("jittered", 1), ("cropped", 0.95)]
)
def test_copies_of_photographs_are_found(
    kind: str, least: float, real_data: Path, tmp_path: Path
) -> None:
    """The rule against featureless pictures costs no copy of a photograph."""
    rng = np.random.default_rng(0)
    paths, patients = [], []
    for i, file in enumerate(sorted(real_data.glob("*/*.jpg"))):
        picture = Image.open(file).convert("RGB")
        for name, image in ((f"{i}.png", picture), (f"copy{i}.png", planted(picture, kind, rng))):
            image.save(tmp_path / name)
            paths.append(name)
            patients.append(name)
    records = describe(tmp_path, paths, digest_files(tmp_path, paths), tmp_path / "cache")
    pairs = likenesses(records, records, SUSPECTED, tmp_path / "cache", (patients, patients))
    alike = set(zip(pairs["left"], pairs["right"], strict=True))
    pixels = records["pixels"].reshape(-1, 2)
    hits = sum((a, b) in alike or (b, a) in alike for a, b in pixels.tolist())
    assert hits >= least * len(pixels)


@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_alike_leaves_no_pair_out(threshold: float) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    thumbs = np.stack(
        [np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse]
    )
    thumbs[7], thumbs[8] = thumbs[3].T, 128
    best = np.einsum("ntd,md->ntm", templates(thumbs), vectors(thumbs)).max(1)
    rows, columns = np.nonzero(best >= threshold)
    nobody = np.zeros(60, int), np.zeros(60, int)
    found = [
        np.concatenate(part)
        for part in zip(*alike(thumbs, thumbs, threshold, nobody, block=7), strict=True)
    ]
    assert (
        60 < len(rows) < 3600
        and np.array_equal(found[0], rows)
        and np.array_equal(found[1], columns)
    )
    np.testing.assert_allclose(found[2], best[rows, columns], atol=1e-5)
