"""The comparison of recipes: its runs, its table and figure, what it refuses."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from raw_trees import assert_one_line_error, call

from benchmarks import recipes
from common import runs
from common.arguments import parse_arguments, training_recipe
from common.recipe import RECIPES


def test_every_recipe_is_one_that_trains_and_differs():
    found = []
    for flags in recipes.RECIPES.values():
        recipe = training_recipe(parse_arguments(flags.split()), None, None)
        assert recipe not in found
        found.append(recipe)
    assert RECIPES["published"] in found and RECIPES["default"] in found


@pytest.fixture
def compare_recipes(tmp_path, monkeypatch):
    """Run the script; each training's log and report depend on its flags alone."""
    calls = []

    def pretend(self, command, output):
        calls.append(command)
        value = dict(pairwise(command))
        folder = Path(value["-c"])
        level = 50 if folder.parent.name == "published" else 40
        level += int(folder.name.removeprefix("seed_"))
        if "--evaluate" in command:
            averages = {"mpjpe_mm": level, "p_mpjpe_mm": level - 10, "mpjve_mm": level / 10}
            report = {"average_over_actions": averages, "by_sequence": {}}
            Path(value["--report"]).write_text(json.dumps(report))
        else:
            lines = [
                {"epoch": e, "lr": 1, "valid_mpjpe_mm": level + 2 - e, "seconds": 30.0 * e}
                for e in (1, 2)
            ]
            (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
            (folder / "last_epoch.bin").write_bytes(b"")
        return 0

    monkeypatch.setattr(runs.Processes, "call", pretend)

    def run(*arguments):
        fixed = ("--study", tmp_path / "study", "--gpus", "cpu")
        return call(recipes.main, *fixed, *arguments), calls, tmp_path / "study"

    return run


def test_the_table_and_the_figure_are_of_the_runs(compare_recipes):
    flags = ("--recipes", "published", "default", "--epochs", "2", "-ste", "S8")
    result, calls, folder = compare_recipes(*flags, "--seeds", "0", "2")
    assert result.status == 0, result.stderr
    assert len(calls) == 8
    training = next(c for c in calls if "--evaluate" not in c)
    assert training[training.index("--recipe") + 1] == "published"
    assert training[training.index("--epochs") + 1] == "2"
    evaluation = next(c for c in calls if "--evaluate" in c)
    assert evaluation[evaluation.index("--subjects-test") + 1] == "S8"
    assert "--epochs" not in evaluation
    assert (folder / "recipes.md").read_text().splitlines()[2:] == [
        "| published | 51.0 ± 1.4 | 41.0 ± 1.4 | 5.1 ± 0.1 | 90 |",
        "| default | 41.0 ± 1.4 | 31.0 ± 1.4 | 4.1 ± 0.1 | 90 |",
    ]
    assert (folder / "recipes.png").read_bytes().startswith(b"\x89PNG")

    result, calls, _ = compare_recipes(*flags, "--seeds", "0", "2")  # all is there
    assert result.status == 0 and len(calls) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--epochs N: all recipes are to see as many samples"),
        (("--epochs", "2", "--recipe", "published"), "--recipe: each run gets its own"),
        (("--epochs", "2", "--no-eval"), "--no-eval: each run gets its own"),
        (("--epochs", "2", "--recipes", "best"), "invalid choice"),
        (("--epochs", "two"), "--epochs"),
    ],
)
def test_bad_usage_is_one_line(compare_recipes, arguments, says):
    result, calls, folder = compare_recipes(*arguments)
    assert_one_line_error(result, says)
    assert not calls and not folder.exists()


def test_another_study_is_refused(compare_recipes):
    compare_recipes("--epochs", "2", "--recipes", "default")
    result, *_ = compare_recipes("--epochs", "3", "--recipes", "default")
    assert_one_line_error(result, "study.json: this study has epochs 2, not 3")
