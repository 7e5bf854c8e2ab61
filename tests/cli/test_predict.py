"""Predictions by the command: the model's own outputs for data that are prepared as those for training were."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rightbatch
from rightbatch import cli
from rightbatch.data import Source, as_source
from rightbatch.errors import InputError
from rightbatch.fitting.predicting import load_model
from rightbatch.models import build_model
from rightbatch.record import RunFolder

pd = pytest.importorskip("pandas")

N = 120
RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "id": [f"n{row}" for row in range(N)],
        "age": RANDOM.integers(18, 80, N),
        "city": RANDOM.choice(["Bern", "Oslo", "Rome"], N),
        "income": RANDOM.normal(3e4, 1e4, N),
        "kind": np.where(RANDOM.random(N) < 0.5, "bad", "good, yes"),
        "price": RANDOM.normal(size=N),
    }
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(data: object, *arguments: str) -> None:
    flags = ("--quiet", "--run-dir", "run", "--model", "linear", "--epochs", "2", "--valid", "0", "--batch-size", "40")
    assert cli.main(["train", "--data", str(data), *flags, *arguments]) == 0


def table(frame: Any, name: str = "table.csv") -> str:
    frame.to_csv(name, index=False)
    return name


def predict(data: object, *arguments: str) -> list[dict[str, str]]:
    assert cli.main(["predict", "run", "--data", str(data), "--out", "out.csv", *arguments]) == 0
    with open("out.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(capsys: pytest.CaptureFixture[str], data: object, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["predict", "run", "--data", str(data), "--out", "none.csv", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and not Path("none.csv").exists()
    return printed.err


def outputs(source: Source) -> torch.Tensor:
    model, _ = load_model(RunFolder.open("run"))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(source.fetch(torch.arange(len(source)))[0])
    return found


def numbers(rows: list[dict[str, str]], *names: str) -> Any:
    return np.array([[row[name] for name in names] for row in rows], np.float32)


def test_a_quantity_for_the_training_file_and_for_its_columns_in_another_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = table(FRAME.drop(columns="kind"))
    train(path, "--target-column", "price", "--text", "id=drop")
    rows = predict(path)
    own = outputs(as_source(path, target="price", text={"id": "drop"})).numpy()
    assert list(rows[0]) == ["row", "prediction"] and [row["row"] for row in rows] == [str(row) for row in range(N)]
    assert np.array_equal(numbers(rows, "prediction"), own)
    x = [(FRAME[name] - FRAME[name].mean()) / FRAME[name].std(ddof=0) for name in ("age", "income")]
    cities = [FRAME.city == city for city in ("Bern", "Oslo", "Rome")]
    model, _ = load_model(RunFolder.open("run"))
    by_hand = model(torch.tensor(np.stack([x[0], *cities, x[1]], 1), dtype=torch.float32))
    np.testing.assert_allclose(own, by_hand.detach().numpy(), atol=1e-5)
    capsys.readouterr()
    other = predict(table(FRAME[["income", "kind", "age", "city"]], "other.csv"))
    assert np.array_equal(numbers(other, "prediction"), own)
    assert "columns that the model does not use: kind\n" in capsys.readouterr().err
    frame = FRAME[["income", "age", "city"]].map(lambda value: str(value).replace(".", ","))
    frame.to_csv("third.csv", index=False, sep=";", encoding="utf-16")
    third = predict("third.csv", "--separator", ";", "--decimal", ",", "--encoding", "utf-16")
    np.testing.assert_allclose(numbers(third, "prediction"), own, rtol=1e-5)


def test_classes_have_their_names_and_probabilities() -> None:
    path = table(FRAME[["age", "city", "income", "kind"]])
    train(path, "--target-column", "kind", "--valid", "0.25")
    stored = json.loads(Path("run/preprocessing.json").read_text())["statistics"]
    age = (FRAME.age - stored["mean"][0]) / stored["scale"][0]
    assert abs(age.mean()) > 1e-4  # of the training part, not of the file
    cities = [FRAME.city == city for city in ("Bern", "Oslo", "Rome")]
    income = (FRAME.income - stored["mean"][4]) / stored["scale"][4]
    model, _ = load_model(RunFolder.open("run"))
    own = model(torch.tensor(np.stack([age, *cities, income], 1), dtype=torch.float32)).softmax(1).detach().numpy()
    rows = predict(path)
    np.testing.assert_allclose(numbers(rows, "p(bad)", "p(good, yes)"), own, atol=1e-5)
    assert [row["class"] for row in rows] == [("bad", "good, yes")[number] for number in own.argmax(1)]


def test_an_unseen_category_is_none_of_them_or_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    path = table(FRAME[["age", "city", "price"]])
    new = FRAME[["age", "city"]].iloc[:3].assign(city=["Bern", "Paris", "Rome"])
    train(path, "--target-column", "price")
    layout = json.loads(Path("run/preprocessing.json").read_text())["statistics"]
    capsys.readouterr()
    rows = predict(table(new, "new.csv"))
    assert "1 value of the column city" in (printed := capsys.readouterr().err) and "'Paris' in row 1" in printed
    model, _ = load_model(RunFolder.open("run"))
    x = torch.tensor([[(new.age[1] - layout["mean"][0]) / layout["scale"][0], 0, 0, 0]], dtype=torch.float32)
    np.testing.assert_allclose(numbers(rows, "prediction")[1], model(x).detach().numpy()[0], rtol=1e-4)
    Path("run").rename("before")
    train(path, "--target-column", "price", "--text", "codes")
    assert "'Paris' in row 1: correct them" in refused(capsys, "new.csv")


def test_numbers_as_categories_where_some_are_missing() -> None:
    frame = FRAME[["income", "price"]].assign(floor=np.arange(N) % 3)
    train(table(frame), "--target-column", "price", "--text", "floor=one-hot", "--missing", "mean")
    new = frame.iloc[:4]
    whole = predict(table(new, "new.csv"))
    gap = predict(table(new.assign(floor=new.floor.where(new.floor != 2)), "gap.csv"))  # 0.0, 1.0, empty, 0.0
    same = [row["prediction"] == other["prediction"] for row, other in zip(whole, gap, strict=True)]
    assert same == [True, True, False, True]


def test_missing_values_as_stored_or_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    path = table(FRAME[["age", "income", "price"]])
    train(path, "--target-column", "price")
    new = FRAME[["age", "income"]].iloc[:3].astype(float)
    new.loc[1, "age"] = np.nan
    assert "age (1), the first in row 1" in refused(capsys, table(new, "new.csv"))
    dropped = predict("new.csv", "--missing", "drop")
    assert [row["prediction"] == "" for row in dropped] == [False, True, False]
    filled = predict("new.csv", "--missing", "mean")
    new.loc[1, "age"] = FRAME.age.mean()
    by_hand = predict(table(new, "filled.csv"))
    np.testing.assert_allclose(numbers(filled, "prediction"), numbers(by_hand, "prediction"), rtol=1e-4)
    Path("run").rename("before")
    train(path, "--target-column", "price", "--missing", "mean", "--no-standardize")
    filled = predict("new.csv")
    np.testing.assert_allclose(numbers(filled, "prediction"), numbers(predict("filled.csv"), "prediction"), rtol=1e-4)


def test_tables_that_do_not_suit(capsys: pytest.CaptureFixture[str]) -> None:
    train(table(FRAME[["age", "income", "city", "price"]]), "--target-column", "price")
    frame = FRAME[["age", "income", "city"]]
    assert "no column 'age', 'city'" in refused(capsys, table(frame[["income"]], "new.csv"))
    assert "age must have numbers" in refused(capsys, table(frame.assign(age="old"), "new.csv"))
    assert "is empty" in refused(capsys, table(frame.iloc[:0], "new.csv"))
    assert "does not exist: provide one table" in refused(capsys, "nowhere.csv")
    np.save("x.npy", np.zeros((3, 5), np.float32))
    assert "provide one table" in refused(capsys, "x.npy")
    assert "provide one table" in refused(capsys, ".")
    table(frame, "new.csv")
    assert "not those of the model mlp" in refused(capsys, "new.csv", "--model", "mlp")
    assert "cannot write" in refused(capsys, "new.csv", "--out", "no/folder.csv")
    Path("run/model.safetensors").write_bytes(b"damaged")
    assert "cannot be read" in refused(capsys, "new.csv")
    Path("run/model.safetensors").unlink()
    assert "has not ended" in refused(capsys, "new.csv")


def test_images(capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(8):
        path = Path("set", ("cat", "dog")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(RANDOM.integers(0, 256, (6 + number % 3, 9), np.uint8)).save(path)
    train("set", "--size", "crop:5", "--batch-size", "4")
    own = outputs(as_source("set", size="crop:5")).softmax(1).numpy()
    rows = predict("set")
    assert [row["image"] for row in rows] == [f"{('cat', 'dog')[n % 2]}/{n}.png" for n in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert np.array_equal(numbers(rows, "p(cat)", "p(dog)"), own)
    assert [row["class"] for row in rows] == [("cat", "dog")[number] for number in own.argmax(1)]
    one = predict("set/dog/3.png")
    assert one[0]["image"] == "3.png" and np.allclose(numbers(one, "p(cat)", "p(dog)"), own[5], atol=1e-6)
    x = as_source("set", size="crop:5").fetch(torch.arange(8))[0]
    np.save("x.npy", x.numpy())
    assert np.array_equal(numbers(predict("x.npy"), "p(cat)", "p(dog)"), own)
    Path("empty").mkdir()
    assert "has no images" in refused(capsys, "empty")
    assert "provide an image" in refused(capsys, table(FRAME))
    image.fromarray(RANDOM.integers(0, 256, (6, 6, 3), np.uint8)).save("colour.png")
    assert "the training images are grey" in refused(capsys, "colour.png")


def test_images_without_a_size_must_have_that_of_the_training_images(capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(4):
        path = Path("set", ("cat", "dog")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(RANDOM.integers(0, 256, (5, 5, 3), np.uint8)).save(path)
    train("set", "--batch-size", "2")
    image.fromarray(RANDOM.integers(0, 256, (6, 6, 3), np.uint8)).save("large.png")
    assert "6 x 6 pixels, the training images have 5 x 5" in refused(capsys, "large.png")


def test_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = RANDOM.normal(size=(N, 3)), np.arange(N) % 4
    np.savez("set.npz", x=x, y=y)
    train("set.npz")
    own = outputs(as_source("set.npz")).softmax(1).numpy()
    assert np.array_equal(numbers(predict("set.npz"), *(f"p({number})" for number in range(4))), own)
    np.save("x.npy", x)
    rows = predict("x.npy")
    assert np.array_equal(numbers(rows, *(f"p({number})" for number in range(4))), own)
    assert [int(row["class"]) for row in rows] == own.argmax(1).tolist()
    np.save("wide.npy", np.zeros((2, 5)))
    assert "have the shape [5]; the model was trained on [3]" in refused(capsys, "wide.npy")
    np.save("gap.npy", np.full((2, 3), np.nan))
    assert "gap.npy: x has 6 NaN" in refused(capsys, "gap.npy")


def test_several_numbers_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = RANDOM.normal(size=(N, 3)), RANDOM.normal(size=(N, 2))
    np.savez("set.npz", x=x, y=y)
    train("set.npz")
    assert np.array_equal(numbers(predict("set.npz"), "prediction_0", "prediction_1"), outputs(as_source("set.npz")))
    capsys.readouterr()
    assert cli.main(["predict", "run", "--data", "set.npz"]) == 0
    assert capsys.readouterr().out == Path("out.csv").read_text()


def test_a_run_of_python_needs_the_name_of_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    path = table(FRAME[["age", "income", "city", "kind"]])
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    data = as_source(path, target="kind")
    rightbatch.fit(net, data, batch_size=40, lr=0.1, epochs=1, run_dir="run", progress=False)
    assert "add --model module:factory" in refused(capsys, path)
    Path("my_network.py").write_text(
        "from torch import nn\n"
        "def network(x_shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(*x_shape, 4), nn.ReLU(), nn.Linear(4, outputs))\n"
    )
    rows = predict(path, "--model", "my_network:network")
    x = data.fetch(torch.arange(N))[0]
    np.testing.assert_allclose(numbers(rows, "p(bad)", "p(good, yes)"), net(x).softmax(1).detach().numpy(), atol=1e-6)


def test_a_run_resumes_with_the_data_that_it_began_with() -> None:
    frame = FRAME[["age", "city", "price"]]
    first, other = table(frame), table(frame.assign(age=frame.age + 1), "other.csv")
    settings: dict[str, Any] = {"batch_size": 40, "lr": 0.1, "run_dir": "run", "progress": False}
    model = build_model("linear", (4,), 1)
    rightbatch.fit(model, as_source(first, target="price"), epochs=1, **settings)
    with pytest.raises(InputError, match="the data differ from those that the run in run began with"):
        rightbatch.fit(model, as_source(other, target="price"), epochs=2, resume=True, **settings)
    run = rightbatch.fit(model, as_source(first, target="price"), epochs=2, resume=True, **settings)
    assert run.history[-1]["epoch"] == 2
