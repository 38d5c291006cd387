"""Whose pictures are: by names, by the class beside them, by a table; through the commands."""

import json
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from conftest import QUICK, write_picture

SHORT = ("trainer=cpu", "trainer.max_epochs=1", "data.batch_size=8", "data.train_images=original",
         "logger=none", *QUICK)  # fmt: skip
AB = "data.classes=[A,B]"
# the class's folder and the name
BY_CLASS = r"""data.name_pattern='(?P<original>(?P<patient>[^/]+/img\d+)_\d+)(?P<copy>_aug\d+)?'"""


def write_flat(folder: Path, *paths: str) -> Path:
    for seed, path in enumerate(paths):
        write_picture(folder / path, seed, 16)
    return folder


def write_csv(file: Path, **columns: list[str]) -> str:
    pd.DataFrame(columns).to_csv(file, index=False)
    return f"data.patients={file}"


@pytest.fixture
def command(run_script: Callable) -> Callable:
    """Run a command on pictures/ or out/: its exit code and what was printed, in one line each."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        given = {
            "make_folds": ("source=pictures", "output=out", "copies=1", "size=16"),
            "get_data": ("data=custom", AB, "data.root=out"),
            "train": ("data=custom", AB, "data.root=out", "fold=1", "hydra.run.dir=run", *SHORT),
        }[name]
        done = run_script(name, *given, *arguments)
        assert "Traceback" not in done.out + done.err
        return done.code, " ".join(done.out.split()), " ".join(done.err.split())

    return run


def test_equal_names_in_two_classes_are_told_and_can_be_told_apart(tmp_path, command, run_script):
    write_flat(tmp_path / "pictures", *(f"{c}/img{i}_{k}.jpg" for c in "AB" for i in range(7) for k in (1, 2)))  # fmt: skip
    joined = "7 of 7 patients have pictures in several classes, for example"
    code, out, _ = command("make_folds")
    assert code == 0
    assert "Patients: 7, told from 28 file names" in out
    assert f"{joined} A/img0_1.jpg and B/img0_1.jpg" in out
    code, out, _ = command("get_data")
    assert code == 0
    assert "patients 7 7 7" in out  # counted once in the total, as make_folds does
    assert "7 of 7 patients have pictures in several classes" in out
    code, _, err = command("train")
    assert code == 0
    assert joined in err
    doubts = json.loads((tmp_path / "run/provenance.json").read_text())["data"]["doubts"]
    assert any(joined in doubt for doubt in doubts)

    # what the message advises, as printed
    advice = re.search(r"'(data\.name_pattern=\S+)'", err)[1]
    for pattern in (advice, BY_CLASS):
        shutil.rmtree(tmp_path / "out")
        code, out, _ = command("make_folds", pattern)
        assert code == 0
        assert "Patients: 14, told" in out
        assert "several classes" not in out
        code, out, _ = command("get_data", pattern)
        assert code == 0
        assert "patients 7 7 14" in out
        assert "several classes" not in out
        assert "leak" not in out

    # a new picture lies in no class's folder: nothing tells whose it is
    assert command("train", BY_CLASS, "hydra.run.dir=by_class")[0] == 0
    new = write_flat(tmp_path / "new", "img0_1.jpg")
    done = run_script("predict", "run=by_class", f"images={new}", "held_out=true")
    assert done.code == 1
    assert "nothing tells whose it is" in done.err


def test_persons_with_two_lesions_are_counted_at_any_share(tmp_path, command):
    names = [f"{c}/PAT_{i}_{i + 10}_1.jpg" for c in "AB" for i in range(40)]
    more = ("A/PAT_3_99_1.jpg", "A/PAT_3_99_2.jpg")
    write_flat(tmp_path / "pictures", *names, *more)
    told = "2 of 41 patients have names as if of 1 persons"
    for name in ("make_folds", "get_data"):
        code, out, _ = command(name)
        assert code == 0
        assert told in out, name
        assert "PAT_3_13 and PAT_3_99 count as two patients" in out


def test_a_pattern_without_a_slash_never_sees_the_class(tmp_path, command):
    write_flat(tmp_path / "pictures", *(f"{c}_1/p{i}.jpg" for c in "AB" for i in range(6)))
    anything = "data.name_pattern='(?P<original>(?P<patient>.+)_.+?)(?P<copy>_aug\\d+)?'"
    code, _, err = command("make_folds", anything)
    assert code == 1
    assert "12 file name(s) do not tell their patient" in err
    assert "data.patients=FILE.csv" in err


HAM = [f"{c}/ISIC_{i:04d}.jpg" for c, start in (("A", 0), ("B", 50)) for i in range(start, start + 14)]  # fmt: skip


@pytest.fixture
def ham(tmp_path: Path) -> Path:
    """Pictures as of HAM10000, two a lesion, and its metadata."""
    write_flat(tmp_path / "pictures", *HAM)
    stems = [Path(path).stem for path in HAM]
    lesions = [f"HAM_{int(stem[5:]) // 2:04d}" for stem in stems]
    write_csv(tmp_path / "ham.csv", lesion_id=lesions, image_id=stems, dx=[p[0] for p in HAM], age=["80"] * 28)  # fmt: skip
    return tmp_path / "ham.csv"


@pytest.mark.slow
def test_a_table_of_patients_in_every_command(ham, tmp_path, command, run_script):
    code, _, err = command("make_folds")
    assert code == 1
    assert "data.patients=FILE.csv" in err
    given = "data.patients=ham.csv"
    code, out, _ = command("make_folds", given)
    assert code == 0, _
    assert (
        "Patients: 14, told from 28 file names by the column lesion_id of data.patients=ham.csv"
        in out
    )
    assert given in out.partition("Next: ")[2]
    assert "have no picture" not in out

    folds = pd.read_csv(tmp_path / "out/folds.csv")
    assert folds.groupby(["fold", "patient"])["split"].nunique().max() == 1
    assert dict(zip(folds["image"], folds["patient"], strict=True))["B/ISIC_0051.jpg"] == "HAM_0025"
    code, out, _ = command("get_data", given)
    assert code == 0
    assert "patients 7 7 14" in out
    # what make_folds leaves is such a table, too
    for option in (given, "data.patients=out/folds.csv", f"data.patients={tmp_path}/ham.csv"):
        code, _, err = command("train", option, f"hydra.run.dir=run{len(option)}")
        assert code == 0, err
        run = tmp_path / f"run{len(option)}"
        scored = pd.read_csv(run / "predictions.csv")
        assert set(scored["patient"]) <= set(folds["patient"])
    code, _, err = command("train", given, "protocol=grouped", "hydra.run.dir=grouped")
    assert code == 0, err

    new = write_flat(tmp_path / "new", "other.jpg")
    for image in ("A/ISIC_0000.jpg", "A/ISIC_0002.jpg", "B/ISIC_0060.jpg"):
        shutil.copy(tmp_path / "pictures" / image, new)
    done = run_script("predict", f"run={run}", "images=new", "held_out=true", "trust=[]")
    table = folds[folds["fold"] == 1].set_index("image")["split"]
    images = ("A/ISIC_0000.jpg", "A/ISIC_0002.jpg", "B/ISIC_0060.jpg")
    of_test = sum(table[image] == "test" for image in images)
    assert f"{4 - of_test} of 4 picture(s)" in done.err
    assert "other.jpg: every network has seen its patient, or nothing tells whose" in done.err


def test_rows_and_pictures_that_do_not_fit_are_counted_and_named(ham, tmp_path, command):
    rows = pd.read_csv(ham)
    rows.iloc[2:].to_csv(ham, index=False)
    given = "data.patients=ham.csv"
    code, _, err = command("make_folds", given)
    assert code == 1
    assert "2 file name(s) do not tell their patient by the column lesion_id" in err
    assert "A/ISIC_0000.jpg A/ISIC_0001.jpg" in err
    more = pd.DataFrame({"lesion_id": ["HAM_9", "HAM_9"], "image_id": ["ISIC_9", "ISIC_8"], "dx": "A"})  # fmt: skip
    rows.loc[0, "dx"] = "B"
    pd.concat([rows, more]).to_csv(ham, index=False)
    gone = "2 of 30 rows in ham.csv have no picture here, for example ISIC_8 and ISIC_9"
    wrong = "1 pictures lie in another class's folder than ham.csv says"
    code, out, _ = command("make_folds", given)
    assert code == 0
    assert gone in out and f"{wrong}, for example A/ISIC_0000.jpg" in out
    code, out, _ = command("get_data", given)
    assert code == 0
    assert "2 of 30 rows in ham.csv" in out and "1 pictures lie in another class's folder" in out
    code, _, err = command("train", given)
    assert code == 0
    assert gone in err and wrong in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "data.patients=t.csv is no file"),
        ("a,b\n1,2\n", "has no column path, image, image_id"),
        ("image\nA/ISIC_0000.jpg\n", "has no column patient, patient_id, lesion_id; it has image"),
        ("image,patient\nISIC_0000,\n", "1 row(s) name no picture or no patient"),
        ("image,patient\nx,1\nx,2\n", "several patients of one picture: x"),
        ("image,patient\nx,1\ny,2,3,4\n", "is no table"),
        ("", "is no table"),
        ("image,patient\nm\xfcller,1\n".encode("latin-1"), "is no table in UTF-8"),
        (b"PK\x03\x04\0\0\xff", "is no table in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, command, content, says):
    write_flat(tmp_path / "pictures", *HAM[:2])
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "t.csv").write_bytes(data)
    code, _, err = command("make_folds", "data.patients=t.csv")
    assert code == 1
    assert says in err


# how a row may call the picture A/x.jpg
CALLED = [
    lambda path: path,
    lambda path: path.removeprefix("A/").removeprefix("B/"),
    lambda path: path.removesuffix(".jpg"),
    lambda path: f"./{path}",
    lambda path: path.replace("/", "\\"),
    lambda path: f"C:\\pictures\\{path}",
    lambda path: f"/elsewhere/pictures/{path}",
    lambda path: unicodedata.normalize("NFD", path),
]


@pytest.mark.parametrize(
    ("name", "style"),
    [*((name, ",") for name in CALLED), *((CALLED[0], style) for style in (";", "\t", "excel"))],
)
def test_how_rows_may_call_a_picture(tmp_path, command, name, style):
    images = [f"{c}/größe{c}{i}.v2.jpg" for c in "AB" for i in range(6)]
    write_flat(tmp_path / "pictures", *images)
    rows = pd.DataFrame({"Patient ": [i // 2 for i in range(12)], "image": map(name, images)})
    excel = style == "excel"
    options = {"sep": ";", "encoding": "utf-8-sig"} if excel else {"sep": style}
    rows.to_csv(tmp_path / "t.csv", index=False, **options)
    given = ("data.patients=t.csv", "n_folds=3")
    code, out, err = command("make_folds", *given)
    assert code == 0, err
    assert "Patients: 6, told" in out
    code, _, err = command("get_data", "data.patients=t.csv", "folds=3")
    assert code == 0, err


def test_patients_of_one_group_are_split_as_one(tmp_path, command):
    images = [f"{c}/{c}{i}.jpg" for c in "AB" for i in range(12)]
    write_flat(tmp_path / "pictures", *images)
    groups = ["family", "family", *[""] * 22]
    given = write_csv(tmp_path / "t.csv", image=images, patient=[i[2:] for i in images], group=groups)  # fmt: skip
    code, out, err = command("make_folds", given)
    assert code == 0, err
    assert "Patients: 23, told" in out
    folds = pd.read_csv(tmp_path / "out/folds.csv")
    pair = folds[folds["image"].isin(["A/A0.jpg", "A/A1.jpg"])]
    assert pair.groupby("fold")["split"].nunique().eq(1).all()


def test_a_picture_that_is_called_as_anothers_copy(tmp_path, command):
    """A listed original may be called a_aug01: the copies of a would be taken for it."""
    images = [*(f"{c}/{c}{i}.png" for c in "AB" for i in range(6)), "A/A0_aug01.png"]
    write_flat(tmp_path / "pictures", *images)
    given = write_csv(tmp_path / "t.csv", image=images, patient=[str(i) for i in range(13)])
    code, _, err = command("make_folds", given)
    assert code == 1
    assert "no copy of A0 of patient 0" in err
    (tmp_path / "pictures/A/A0_aug01.png").rename(tmp_path / "pictures/A/A0-b.png")
    given = write_csv(tmp_path / "t.csv", image=[*images[:-1], "A/A0-b.png"], patient=[str(i) for i in range(13)])  # fmt: skip
    code, _, err = command("make_folds", given)
    assert code == 0, err
    code, out, _ = command("get_data", given)  # copies are .jpg, their originals .png
    assert code == 0 and "patients 7 6 13" in out


def test_every_picture_another_patient_by_the_pattern_that_a_message_recommends(tmp_path, command):
    write_flat(tmp_path / "pictures", *(f"{c}/{c}x{i}.jpg" for c in "AB" for i in range(6)))
    code, _, err = command("make_folds")
    assert code == 1
    pattern = re.findall(r"'(data\.name_pattern=\S+)'", err)[-1]
    code, out, err = command("make_folds", pattern)
    assert code == 0, err
    assert "Patients: 12, told" in out
    assert "Each picture counts as another patient's" in out


def test_leaving_a_class_out(tmp_path, command, run_script):
    write_flat(tmp_path / "pictures", *(f"{c}/{c}{i}_1.jpg" for c in "ABC" for i in range(6)))
    code, _, err = command("make_folds", AB)
    assert code == 1
    assert """'data.ignore_classes=["C"]'""" in err
    code, out, _ = command("make_folds", "data.ignore_classes=[C]")
    assert code == 0
    assert 'data.classes=["A","B"]' in out.partition("Next: ")[2]
    assert "ignore_classes" not in out
    shutil.rmtree(tmp_path / "out")
    assert command("make_folds")[0] == 0
    for name in ("get_data", "train"):
        code, _, err = command(name)
        assert code == 1
        assert """'data.ignore_classes=["C"]'""" in err
        code, _, err = command(name, "data.ignore_classes=[C]", "hydra.run.dir=run2")
        assert code == 0, err
    assert "p_C" not in pd.read_csv(tmp_path / "run2/predictions.csv")
    assert run_script("summarize", "runs=run2", "replicates=100").code == 0
    pages = [page.read_text() for page in (tmp_path / "run2").rglob("report.md")]
    assert pages and all("Left out by option: C." in page for page in pages)
    code, _, err = command("get_data", "data.ignore_classes=[B,C]")
    assert code == 1
    assert "Class B has no folder in out/FOLDS/fold1/Train, or it is left out" in err
    # as is leaving out all that lies in it
    assert command("get_data", "data.exclude=['*/C/*']")[0] == 0


@pytest.mark.parametrize(
    ("split", "folder"), [("Test", "empty"), ("Test", "absent"), ("Valid", "absent")]
)
def test_a_split_that_lacks_a_class_stops_nothing(tmp_path, command, run_script, split, folder):
    write_flat(tmp_path / "pictures", *(f"{c}/{c}{i}_{k}.jpg" for c in "AB" for i in range(6) for k in (1, 2)))  # fmt: skip
    assert command("make_folds")[0] == 0
    lacking = tmp_path / "out/FOLDS/fold1" / split / "B"
    shutil.rmtree(lacking)
    if folder == "empty":
        lacking.mkdir()
    name = {"Test": "test", "Valid": "val"}[split]
    told = f"1 class(es) lack in a split: fold 1's {name} has no B"
    code, out, _ = command("get_data")
    assert code == 0
    assert told in out
    code, out, err = command("train", "logger=tensorboard")
    assert code == 0, err
    assert told in err
    scored = pd.read_csv(tmp_path / "run/predictions.csv")
    assert set(scored.loc[scored["split"] == name, "label"]) == {"A"}
    done = run_script("summarize", "runs=run", "replicates=100")
    assert done.code == 0, done.err
