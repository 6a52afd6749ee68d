"""The README says what is true: links resolve, commands exist, outputs are those printed."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.fitting import fit_runs
from fit.laws.published import preset
from fit.results import write_fit
from sweep.planning.bill import split_plan_options
from sweep.planning.grid import grid
from tests.doc_commands import SHOWN, filled

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


JARGON = {
    "matmul": "matmul-count",
    "kappa": "kappa",
    "trunk": "trunk",
    "hc3": "hc3",
    "isoFLOP": "isoflop",
    "\N{MULTIPLICATION SIGN}/": "factor-either-way",
}
"""Words of ours, and where the glossary explains them."""
READ = "start budget cluster own-runs slurm-and-ray report limits service tutorial method".split()


@pytest.mark.parametrize("name", READ)
def test_a_word_of_ours_links_to_the_glossary_where_it_first_stands(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    plain = re.sub(r"^```.*?^```|^#.*?$|`[^`\n]*`", "", text, flags=re.S | re.M)
    for word, anchor in JARGON.items():
        first = re.search(
            rf"(\[[^\]]*)?(?<![\w-]){re.escape(word)}s?(?!\w)",
            plain,
            0 if word == "isoFLOP" else re.I,
        )
        if first is not None:
            link = plain[first.start() :].split("]", 1)[1] if first[1] else ""
            assert link.startswith(f"(glossary.md#{anchor}"), (word, plain[first.start() :][:60])


def test_the_glossary_explains_the_words_that_pages_link_to():
    headings = re.findall(r"^### (.*)", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
    linked = {a for page in PAGES for a in re.findall(r"glossary\.md#([\w-]+)", page.read_text())}
    assert {"trunk", "kappa", "hc3", "matmul-count"} <= linked <= anchors


def test_the_readme_shows_what_its_commands_print():
    """`make readme` writes them there."""
    assert len(SHOWN.findall(README)) >= 2
    assert filled(README) == README


def demo_recipe():
    """The commands of `make demo`."""
    recipe = re.search(r"^demo: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    return [line.strip().replace("$(BIN)/", "") for line in recipe[1].strip().split("\n")]


def test_the_readme_lists_the_commands_that_make_demo_runs():
    listed = [" ".join(line.split("#")[0].split()) for line in README.splitlines()]
    assert set(demo_recipe()) <= set(listed)


def test_the_readme_says_how_many_runs_the_demo_trains_and_asks_a_budget_near_them():
    cells = grid(["+experiment=demo"], multirun=True)
    runs = [run for cell in cells for _, run in cell.runs()]
    assert f"trains {len(runs)} runs" in README
    comment = (ROOT / "conf" / "experiment" / "demo.yaml").read_text()
    assert f"`make demo`: {len(runs)} runs" in comment
    (budget,) = re.findall(r"query (\S+) --fit reports/demo", "\n".join(demo_recipe()))
    # An answer within ten times the runs or so is no leap, and one inside them shows no reach.
    assert 1 < float(budget) / max(run.flops for run in runs) < 30


def test_the_limits_say_of_the_reference_fit_what_its_notes_say():
    notes = json.loads((ROOT / "reports" / "reference" / "fit.json").read_text())["notes"]
    claimed = "The committed reference fit has such a note" in (ROOT / "docs/limits.md").read_text()
    assert claimed == any(note["code"] == "misfit" for note in notes)


def test_sweeps_of_the_readme_span_grids_that_can_be_trained():
    commands = re.findall(r"^python -m sweep(?:\.plan)? (?:-m )?([^\n#]+)", README, re.M)
    assert len(commands) >= 4
    for command in commands:
        _, overrides = split_plan_options(shlex.split(command))
        if {"data=text", "train.devices=8"} & set(overrides):
            continue
        assert all(c.refusal is None for c in grid(overrides, multirun=True)), command


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


COMMANDS = sorted(
    {
        match
        for page in PAGES
        for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(), re.S | re.M)
        for match in re.findall(r"^(?:\$ )?isoflop ([^\n#|>]+)", block, re.M)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_every_page_have_the_options_that_they_use(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *words = shlex.split(command)
    assert name in main.commands, name
    with main.commands[name].make_context(name, words) as context:
        assert context.params is not None


def test_sweeps_of_the_cluster_page_can_be_planned():
    text = (ROOT / "docs" / "slurm-and-ray.md").read_text()
    commands = re.findall(r"^python -m sweep(?:\.plan)? (?:-m )?([^\n#]+)", text, re.M)
    assert len(commands) >= 6
    for command in commands:
        given = [o for o in shlex.split(command) if not o.startswith("hydra")]
        refused = [c.refusal for c in grid(given, multirun=True) if c.refusal is not None]
        assert all("device" in r or "memory" in r for r in refused), (command, refused)


def test_the_containers_command_has_the_options_that_it_uses(tmp_path):
    text = (ROOT / "docs" / "service.md").read_text()
    (recipe,) = re.findall(r"^```dockerfile\n(.*?)^```", text, re.S | re.M)
    (command,) = re.findall(r"^CMD (.*)$", recipe, re.M)
    program, name, *words = json.loads(command)
    assert program == "isoflop"
    with main.commands[name].make_context(name, words) as context:
        assert context.params["host"] == "0.0.0.0"
    (check,) = re.findall(r"^HEALTHCHECK CMD (.*)$", recipe, re.M)
    compile(json.loads(check)[2], "check", "exec")


@pytest.mark.slurm
def test_launchers_of_the_cluster_page_have_the_settings_that_it_names():
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    text = (ROOT / "docs" / "slurm-and-ray.md").read_text()
    named = set(re.findall(r"hydra\.launcher\.(?!ray)(\w+)=", text))
    assert {"partition", "timeout_min", "array_parallelism"} <= named
    # n_jobs is joblib's
    assert named <= SlurmQueueConf.__dataclass_fields__.keys() | {"n_jobs"}


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder with what the README's commands name: sweeps, fits and a table."""
    (tmp_path / "runs").mkdir()
    for name, there in {"demo": "reference", "skills": "skills"}.items():
        (tmp_path / "runs" / name).symlink_to(ROOT / "runs" / there)
    for name in ("demo", "reference"):
        shutil.copytree(ROOT / "reports" / "reference", tmp_path / "reports" / name)
    rows = ["run,n_params,params,tokens,loss,loss_se,dataset,unique_tokens"]
    rng = np.random.default_rng(0)
    for n in np.geomspace(1e7, 1e9, 6):
        for unique in (1e8, 1e9, 1e12):
            law = ScalingLaw.from_preset(preset("muennighoff2023")).given(unique_tokens=unique)
            for d in np.geomspace(3e8, 3e10, 6):
                loss = float(law.law.loss(law.theta, n, d)) * math.exp(rng.normal(0, 0.003))
                rows.append(f"n{n:.0f},{n:.0f},{n:.0f},{d:.0f},{loss},0.01,c4,{unique:.0f}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    other = fit_runs(tmp_path / "runs.csv", name="other", column=["params=n_params"], resamples=50)
    write_fit(tmp_path / "reports" / "other", other)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_commands_of_the_readme_run(beside):
    """All but the scan of learning rates, whose runs are not committed."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)
    commands = [c for b in blocks for c in re.findall(r"^isoflop ([^\n#|>]+)", b, re.M)]
    assert len(commands) >= 8
    for command in commands:
        if command.startswith(("tuning", "serve", "gate")):
            continue
        found = CliRunner().invoke(main, shlex.split(command))
        assert found.exit_code == 0, (command, found.output)
        if "--json" in command:
            continue
        lines = [line for line in found.stdout.splitlines() if not line.startswith("ask ")]
        assert max(map(len, lines)) <= 80, command
