"""Bad input to `fit`: an error of its own each, before any training, and nothing written."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rightbatch import InputError, RunFolderError, fit
from rightbatch.data import Source, as_source, blobs
from rightbatch.fitting import Run

N = 150


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))


def train_data() -> Source:
    return blobs(260).subset(torch.arange(N))


def quiet(model: nn.Module, train: Any = None, **settings: Any) -> Run:
    settings = {"batch_size": 30, "lr": 0.1, "progress": False, **settings}
    return fit(model, train_data() if train is None else train, **settings)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x), x


def with_nan() -> tuple[Tensor, Tensor]:
    x = torch.ones(20, 2)
    x[7, 1] = math.nan
    return x, torch.zeros(20, dtype=torch.int64)


def objects() -> tuple[Any, Any]:
    return np.array([[1.0, None]] * 9, dtype=object), np.zeros(9, dtype=np.int64)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"train": (torch.zeros(0, 2), torch.zeros(0).long())}, "the data are empty"),
    "one sample": ({"train": (torch.ones(1, 2), torch.tensor([0])), "batch_size": 1}, "a single sample.*at least 2"),
    "lengths": ({"train": (torch.ones(9, 2), torch.zeros(8).long())}, "x has 9 samples and y has 8"),
    "NaN": ({"train": with_nan()}, "x has 1 NaN or infinite value, the first in row 7"),
    "targets out of range": (
        {"train": (torch.ones(9, 2), torch.full((9,), 3))},
        "targets run from 3 to 3, but the model has 3 outputs",
    ),
    "negative targets": ({"train": (torch.ones(9, 2), torch.full((9,), -1))}, "run from -1 to -1"),
    "float targets": (
        {"train": (torch.ones(9, 2), torch.zeros(9)), "loss": F.cross_entropy},
        "needs integer class targets",
    ),
    "objects": ({"train": objects()}, r"x is an object array.*x\.astype"),
    "batch larger than data": ({"batch_size": N + 1}, f"{N + 1}.*only {N} samples"),
    "batch 0": ({"batch_size": 0}, "batch size is 0: give a whole number of at least 1"),
    "batch negative": ({"batch_size": -4}, "batch size is -4"),
    "batch name": ({"batch_size": "biggest"}, "biggest"),
    "lr negative": ({"lr": -0.1}, "learning rate is -0.1"),
    "micro_batch 0": ({"micro_batch": 0}, "micro_batch is 0"),
    "no trainable parameters": ({"model": network().requires_grad_(False)}, "no trainable parameters"),
    "no trainable parameters, with an optimizer": (
        {"model": network().requires_grad_(False), "optimizer": torch.optim.Adam},
        "no trainable parameters",
    ),
    "no parameters": ({"model": nn.Identity(), "optimizer": torch.optim.Adam}, "no trainable parameters"),
    "tuple": ({"model": Pair()}, "The model returns a tuple, of which the loss needs one tensor"),
    "no module": ({"model": lambda x: x}, "model must be a torch.nn.Module, got function"),
    "input shape": ({"model": nn.Linear(5, 3)}, r"cannot take inputs of shape \(2, 2\)"),
    "loss not scalar": ({"loss": nn.CrossEntropyLoss(reduction="none")}, "must return one number"),
    "path": ({"train": "no/such/data.npz"}, "no/such/data.npz does not exist"),
    "valid path": ({"valid": "no/such/data.npz"}, "does not exist"),
    "valid fraction": ({"valid": 1.5}, "between 0 and 1, got 1.5"),
    "valid of other classes": ({"valid": (torch.ones(9, 2), torch.full((9,), 3))}, "The valid targets run from 3"),
    "test of other shape": ({"test": (torch.ones(9, 4), torch.zeros(9).long())}, r"inputs of shape \(2, 4\)"),
    "epochs 0": ({"epochs": 0}, "epochs must be a positive number"),
    "epochs as text": ({"epochs": "5"}, "epochs must be a positive number, got '5'"),
    "seconds as text": ({"seconds": "5"}, "seconds must be a positive number, got '5'"),
    "eval_every as text": ({"eval_every": "1"}, "eval_every is '1'"),
    "seed": ({"seed": "a"}, "seed is 'a'"),
    "device": ({"device": "gpu"}, "device='gpu' cannot be used here"),
    "optimizer": ({"optimizer": "adam"}, "write optimizer=torch.optim.Adam"),
    "run_dir": ({"run_dir": 5}, "run_dir must be the path of a folder, got 5"),
    "seconds": ({"seconds": -1.0}, "seconds must be a positive number"),
    "eval_every": ({"eval_every": 0.0}, "eval_every is 0.0"),
    "stop_at without valid": ({"stop_at": {"valid_loss": 0.1}}, "give valid="),
    "stop_at unknown": ({"valid": 0.2, "stop_at": {"loss": 0.1}}, "stop_at knows valid_loss and valid_accuracy"),
    "accuracy of numbers": (
        {
            "model": nn.Linear(2, 1),
            "train": (torch.randn(40, 2), torch.randn(40)),
            "valid": 0.2,
            "stop_at": {"valid_accuracy": 0.9},
        },
        r"valid_accuracy cannot be a target: the targets are torch.float32.*Use valid_loss",
    ),
    "patience without valid": ({"patience": 2}, "give valid="),
    "seed below 0": ({"seed": -1}, "seed is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    changes, message = BAD[name]
    settings = {"epochs": 1, "run_dir": tmp_path / "run", **changes}
    model = settings.pop("model", None) or network()
    before = deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    random = torch.get_rng_state()
    with pytest.raises(InputError, match=message):
        quiet(model, settings.pop("train", None), **settings)
    assert not (tmp_path / "run").exists()
    assert torch.equal(torch.get_rng_state(), random)
    if before:
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_resume_without_a_folder() -> None:
    with pytest.raises(InputError, match="resume=True needs run_dir="):
        quiet(network(), epochs=1, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written(resume: bool, tmp_path: Path) -> None:
    """A path below a regular file: no user may make a folder there."""
    (tmp_path / "file").write_text("in the way")
    model = network()
    before = weights(model)
    with pytest.raises(RunFolderError, match=r"cannot (write|be written).*file.run"):
        quiet(model, epochs=1, run_dir=tmp_path / "file" / "run", resume=resume)
    with pytest.raises(RunFolderError, match="is a file"):
        quiet(model, epochs=1, run_dir=tmp_path / "file", resume=resume)
    assert torch.equal(weights(model), before)
    assert (tmp_path / "file").read_text() == "in the way"


def test_data_as_lists_and_a_path(no_report: None, tmp_path: Path) -> None:
    x, y = train_data().fetch(torch.arange(N))

    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    results = []
    for train in ((x, y), (x.tolist(), y.tolist()), tmp_path / "data.npz", as_source((x, y))):
        model = network()
        quiet(model, train, epochs=1)
        results.append(weights(model))
    assert all(torch.equal(result, results[0]) for result in results)
