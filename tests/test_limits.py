"""The checker of sizes finds what exceeds a limit, and only that."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "check_limits.py"
LONG = "".join(f"x{i} = {i}\n" for i in range(30))  # long enough for a file


@pytest.fixture(scope="module")
def limits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_limits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(limits: ModuleType, folder: Path, **sources: str) -> list[tuple[str, int, str]]:
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return [(violation.path.stem, violation.line, violation.what) for violation in limits.violations([folder])]


def test_files_within_the_limits_pass(limits: ModuleType, tmp_path: Path) -> None:
    assert found(limits, tmp_path, one=LONG, __init__="", __main__="", most="\n" * 500) == []


@pytest.mark.parametrize(("lines", "limit"), [(501, "500"), (24, "25")])
def test_the_length_of_files(limits: ModuleType, tmp_path: Path, lines: int, limit: str) -> None:
    ((name, line, what),) = found(limits, tmp_path, one="\n" * lines)
    assert (name, line) == ("one", 1) and str(lines) in what and limit in what


def test_the_length_of_functions_wherever_they_stand(limits: ModuleType, tmp_path: Path) -> None:
    body = "".join(f"        x = {i}\n" for i in range(80))
    text = f"class Some:\n    def whole(self):\n{body}\n    def short(self):\n{body[: -len(body) // 80]}"
    ((_, line, what),) = found(limits, tmp_path, one=text)
    assert line == 2 and "whole has 81 lines" in what


def test_the_length_of_classes(limits: ModuleType, tmp_path: Path) -> None:
    methods = "".join(f"    def f{i}(self):\n        return {i}\n\n" for i in range(100))
    ((_, line, what),) = found(limits, tmp_path, one=f"\nclass Some:\n    '''Some.'''\n{methods}    y = 1\n")
    assert line == 2 and "303 lines" in what


def test_attributes_are_fields_and_what_methods_assign_to_self(limits: ModuleType, tmp_path: Path) -> None:
    fields = "".join(f"    a{i}: int = {i}\n" for i in range(10))
    set_in = "".join(f"        self.b{i} = self.c = {i}\n" for i in range(9))
    text = (
        f"{LONG}class Some:\n{fields}\n    def f(self, other):\n{set_in}        other.d = self.e\n        self.c += 1\n"
    )
    assert found(limits, tmp_path, one=text) == []
    ((_, line, what),) = found(limits, tmp_path, one=f"{text}        self.d, self.a0 = 1, 2\n")
    assert line == 31 and "21 attributes" in what


def test_one_name_for_one_class(limits: ModuleType, tmp_path: Path) -> None:
    text = f"{LONG}class {{}}:\n    class Inner:\n        pass\n"
    assert found(limits, tmp_path, one=text.format("Some"), two=text.format("Other")) == []
    ((name, line, what),) = found(limits, tmp_path, one=text.format("Some"), two=text.format("Some"))
    assert (name, line) == ("two", 31) and "one.py:31" in what


def test_the_script_prints_places_and_fails(
    limits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.py").write_text(LONG, encoding="utf-8")
    assert limits.main([str(tmp_path)]) == 0 and capsys.readouterr().out == ""
    (tmp_path / "two.py").write_text("x = 1\n", encoding="utf-8")
    assert limits.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'two.py'}:1: ")
