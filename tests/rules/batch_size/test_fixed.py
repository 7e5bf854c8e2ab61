import pytest

from rightbatch.decision import Plan, StepContext
from rightbatch.errors import InputError
from rightbatch.rules.batch_size import Fixed


def test_decides_its_size_once_and_then_keeps_it() -> None:
    rule = Fixed(64)
    decision, state = rule.start(Plan(train_samples=1000))
    assert decision.batch_size == 64
    now = StepContext(0, 0, 64, 1000, loss=1.0, gradient_norm2=1.0, lr=0.1)
    assert rule.decide(now, state)[0].batch_size is None


@pytest.mark.parametrize("samples", [0, -1, True, 2.5, "64", None])
def test_refuses_what_is_no_batch_size(samples: object) -> None:
    with pytest.raises(InputError, match="batch size"):
        Fixed(samples)  # type: ignore[arg-type]


def test_refuses_a_batch_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="512 but the training set has only 300"):
        Fixed(512).start(Plan(train_samples=300))
