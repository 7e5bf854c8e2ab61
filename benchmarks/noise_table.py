"""How far the per-example gradient norms of each layer agree with the slow float64 twin.

python benchmarks/noise_table.py            # print the table
python benchmarks/noise_table.py --write    # put it into docs/layers.md
"""

import argparse
import warnings
from pathlib import Path

import torch
from noise_cases import CASES, B, Case, Squared, built

from rightbatch.noise import PerExampleNorms, per_example_gradients, squared_norm

PAGE = Path(__file__).resolve().parents[1] / "docs" / "layers.md"


def agreement(case: Case) -> tuple[float, float]:
    """Relative error of V̂ against one float64 backward pass per example, computed in float64 and in float32."""
    model, x, y = built(case)
    g = per_example_gradients(model, Squared("mean"), x, y)
    exact = ((g - g.mean(0)).square().sum() / (B - 1)).item()
    single, _, _ = built(case, torch.float32)
    single.load_state_dict(model.state_dict())
    errors = []
    for each, dtype in ((model, torch.float64), (single, torch.float32)):
        norms = PerExampleNorms(each)
        norms.arm(B)
        Squared("mean")(each(x.to(dtype) if x.is_floating_point() else x), y.to(dtype)).backward()
        norms.disarm()
        found = norms.measurement(squared_norm(p.grad for p in each.parameters()), B)
        errors.append(abs(found.variance / exact - 1))
    return errors[0], errors[1]


def table() -> list[str]:
    """The rows of the page."""
    rows = ["| layer | setting | float64 | float32 |", "|---|---|---|---|"]
    for layer, settings in CASES.items():
        for setting, case in settings.items():
            double, single = agreement(case)
            rows.append(f"| {layer} | {setting} | {double:.0e} | {single:.0e} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/layers.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
    rows = table()
    if asked.write:
        from markdown import write_page

        write_page(PAGE, "", rows, "agreement")
    else:
        print("\n".join(rows))


if __name__ == "__main__":
    main()
