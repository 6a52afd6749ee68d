"""Options that say how a table is read: each does what it says, or is refused in words."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.data.readers import load
from fit.data.table import RunTable
from tests.hostile.outcomes import Case, Reply, check_outcome
from tests.hostile.tables import LOSS, PARAMS, TOKENS, csv_of, frame, meant, refused, taken

pytestmark = pytest.mark.slow
STATES = ["finished", "crashed", "failed", "killed", "running", "diverged", "done", "completed"]


def rows() -> list[Case]:
    """States of trackers, conditions, copies."""
    cases = []
    for column in ("status", "State", "state"):
        for state in STATES:
            done = state in ("finished", "done", "completed")
            table = frame(**{column: [*["finished"] * 19, state]})
            rows = slice(0, 20 if done else 19)
            cases.append(taken(f"{column} {state}", csv_of(table), meant(rows, drop=not done)))
    crashed = frame(status=[*["done"] * 18, "crashed", "crashed"])
    steps = crashed.assign(step=[*[99] * 19, 40], max_steps=100)
    states = frame(state=["Ohio", "Utah"] * 10)
    cases += [
        refused("an unknown status", csv_of(frame(status="banana")), "banana", "known are"),
        taken("states of America", csv_of(states)),
        taken("failed rows kept", csv_of(crashed), meant(drop=0), keep_failed=True),
        taken(
            "failed rows kept at their last step",
            csv_of(steps),
            meant(slice(0, 19), drop=1),
            keep_failed=True,
        ),
        refused("failed rows without states", csv_of(frame()), "--keep-failed", keep_failed=True),
        taken("copies", csv_of(pd.concat([frame(), frame()])), meant(drop=20)),
    ]
    extra = {
        "train.lr": 0.1,
        "val/acc": range(20),
        "router": ["dense", "hash"] * 10,
        "a b": 1,
        "lambda": 2,
        "flag": [True, False] * 10,
        "7B": 3.0,
        "gap": [1.0, None] * 10,
    }
    table = csv_of(frame(**extra))
    even, first, none = slice(0, 20, 2), slice(0, 5), slice(0, 0)
    good: list[tuple[str | list[str], slice]] = [
        ("params < 1e8 and tokens < 1e9 * 31", slice(0, 8)),
        ("params < 100M", slice(0, 8)),
        ("router == 'dense'", even),
        ("router = 'dense'", even),
        ('router=="dense"', even),
        ("router in ['dense', 'x']", even),
        ("'den' in router", even),
        ("router != 'hash'", even),
        ("~(router == 'hash')", even),
        ("!(router == 'hash')", even),
        ("not router == 'hash'", even),
        ("router == 'dense' & val/acc < 9", slice(0, 9, 2)),
        ("val/acc < 5", first),
        ("`val/acc` < 5", first),
        ("val/acc < 5 || val/acc > 99", first),
        ("flag", even),
        ("flag == True", even),
        ("not flag == true", slice(1, 20, 2)),
        ("train.lr < 1", slice(0, 20)),
        ("`a b` == 1 and `lambda` == 2", slice(0, 20)),
        ("`7B` == 3", slice(0, 20)),
        ("gap == gap", even),
        ("gap is not None", even),
        ("gap == 1", even),
        ("0 <= val/acc < 5", first),
        (["router == 'dense'", "val/acc < 9"], slice(0, 9, 2)),
        ("log10(params) < 7.9", slice(0, 8)),
        ("run in ['r0', 'r1', 'r2', 'r3', 'r4']", first),
        ("ROUTER == 'dense'", even),
        ("run != 'r~0' and router == 'dense'", even),
        ("params < '30M'", slice(0, 4)),
        ("flops < 6.1e16", slice(0, 1)),
        ("params > 1e30", none),
    ]
    cases += [taken(f"where {w}", table, meant(rows), where=w) for w, rows in good]
    bad = {
        "loss <": "no complete condition",
        "router << 1": "no meaning",
        "nothing > 1": "no column",
        "router == dense": "in quotes",
        "router > 1": "text",
        "loss + 1": "true or false",
        "depth(1)": "cannot be called",
        "__import__('os').system('x')": "cannot be called",
        "params.__class__": "no column",
        "@params": "no complete condition",
        "loss if 1 else 2": "no meaning",
        "lambda: 1": "condition",
        "[x for x in loss]": "no meaning",
        "1": "true or false",
        "router == 1": "text",
        "loss == 'low'": "text",
        "(" * 500 + "loss" + ")" * 500: "condition",
        "9**9**9**9 > loss and x": "no column",
        "loss < 5 ; params": "condition",
        "": "condition",
        "f'{loss}' == 1": "no meaning",
        "loss == [": "condition",
        "x" * 3000: "characters",
        "params in 5": "in",
        "params < None": "==",
        "'a' * 10**9 == run": "text",
    }
    cases += [
        refused(f"where {w[:40]}", table, "cannot use --where", words, where=w)
        for w, words in bad.items()
    ]
    zero = csv_of(frame(tokens=[0, *TOKENS[1:].astype(int)]))
    cases += [
        refused("a row at step 0", zero, "row 1: tokens is '0'", '--where "tokens > 0"'),
        taken("a row at step 0 left out", zero, meant(slice(1, 20), drop=1), where="tokens > 0"),
        taken(
            "text left out",
            csv_of(frame(params=["?", *PARAMS[1:].astype(int)])),
            meant(slice(1, 20), drop=1),
            where="params > 0",
        ),
        taken(
            "an unknown status left out",
            csv_of(frame(status=["odd", *["done"] * 19])),
            meant(slice(1, 20), drop=1),
            where="status == 'done'",
        ),
        taken(
            "by the old name",
            csv_of(frame().rename(columns={"tokens": "step"})),
            meant(slice(0, 20, 4)),
            rename={"tokens": "step"},
            where="step < 2e9",
        ),
        taken(
            "by the new name",
            csv_of(frame().rename(columns={"tokens": "step"})),
            meant(slice(0, 20, 4)),
            rename={"tokens": "step"},
            where="tokens < 2e9",
        ),
    ]
    return cases


PPL, BITS = np.exp(LOSS), LOSS / np.log(2)


def units() -> list[Case]:
    """Losses in other units, stated, unstated and contradictory."""
    cases = []
    for name in ("ppl", "eval/ppl/c4", "Perplexity", "val_bpb", "loss_bits", "bpc", "test bpt"):
        table = csv_of(frame().rename(columns={"loss": name}))
        cases.append(refused(f"a column {name}", table, "--unit loss="))
        cases.append(
            refused(f"a column {name} renamed", table, "--unit loss=", rename={"loss": name})
        )
    pairs: list[tuple[str, Any, Any]] = [
        ("ppl", PPL, LOSS),
        ("perplexity", PPL, LOSS),
        ("bits", BITS, LOSS),
        ("nats", LOSS, LOSS),
        ("bpb", LOSS / 3, LOSS / 3),
        ("0.5", 2 * LOSS, LOSS),
        ("PPL", PPL, LOSS),
    ]
    for unit, values, loss in pairs:
        for name in ("loss", "val_ppl"):
            table = csv_of(frame().rename(columns={"loss": name}).assign(**{name: values}))
            cases.append(
                taken(
                    f"{name} in {unit}",
                    table,
                    meant(loss=loss),
                    rename={"loss": name},
                    unit=[f"loss={unit}"],
                )
            )
    for scale in (1.0, 1.3, 2.0):
        table = csv_of(frame(loss=np.exp(LOSS * scale)))
        cases.append(
            refused(f"perplexities times {scale}", table, "perplexities", "--unit loss=ppl")
        )
    low = 0.5 + 400 / PARAMS**0.34 + 500 / TOKENS**0.38
    cases += [
        refused("perplexities below 14", csv_of(frame(loss=np.exp(low))), "--unit loss=ppl"),
        taken(
            "perplexities said to be nats",
            csv_of(frame(loss=PPL)),
            meant(loss=PPL),
            unit=["loss=nats"],
        ),
        refused(
            "a perplexity below 1",
            csv_of(frame(loss=[0.9, *PPL[1:]])),
            "above 1",
            unit=["loss=ppl"],
        ),
        taken("a column of the unit", csv_of(frame(loss=PPL, loss_unit="ppl")), meant()),
        taken(
            "the unit said twice",
            csv_of(frame(loss=PPL, loss_unit="ppl")),
            meant(),
            unit=["loss=ppl"],
        ),
        refused("two units", csv_of(frame(loss_unit=["nats", "ppl"] * 10)), "loss_unit"),
        refused("an unknown unit", csv_of(frame(loss_unit="dB")), "loss_unit"),
        refused(
            "units that contradict",
            csv_of(frame(loss_unit="nats")),
            "contradicts",
            unit=["loss=ppl"],
        ),
        refused("another unit", csv_of(frame()), "nats, bits, bpb, ppl", unit=["loss=dB"]),
        refused("a unit of another column", csv_of(frame()), "only params", unit=["width=M"]),
        refused("a unit twice", csv_of(frame()), "twice", unit=["loss=ppl", "loss=bits"]),
    ]
    for ours, theirs in (
        ("params", "params (M)"),
        ("params", "size_B"),
        ("tokens", "Tokens [B]"),
        ("tokens", "tokens (billions)"),
    ):
        table = csv_of(frame().rename(columns={ours: theirs}))
        cases.append(refused(f"a column {theirs}", table, f"--unit {ours}=", rename={ours: theirs}))
        cases.append(
            taken(f"{theirs} of raw counts", table, rename={ours: theirs}, unit=[f"{ours}=1"])
        )
    flops = csv_of(frame(PFLOPs=6 * PARAMS * TOKENS))
    cases.append(refused("PFLOPs", flops, "--unit flops=", rename={"flops": "PFLOPs"}))
    return cases


def columns() -> list[Case]:
    """Constants, file names, wide tables, names that are near."""
    bare = frame().drop(columns="run")
    wide = bare.pivot(index="tokens", columns="params", values="loss").reset_index()
    wide.columns = pd.Index(["tokens", "10M", "30M", "100M", "300M", "1B"])
    tall = bare.pivot(index="params", columns="tokens", values="loss").reset_index()
    tall.columns = pd.Index(["params", *(f"D={d}" for d in ("1e9", "3e9", "1e10", "3e10"))])
    named = csv_of(bare.rename(columns={"params": "n_params"}))

    def same_runs(reply: Reply) -> None:
        order = np.lexsort((reply.value.tokens, reply.value.params))
        table = reply.value.take(order)
        meant()(Reply(code=0, out="", err="", value=table))

    def constant(reply: Reply) -> None:
        meant()(reply)
        assert set(reply.value.columns["unique_tokens"]) == {4.68e9}

    many = {f"x{i}": 1.0 for i in range(40)} | {
        "n_params": PARAMS,
        "tokens_seen": TOKENS,
        "nll": LOSS,
    }
    cases = [
        taken("a column for each size", csv_of(wide), same_runs, wide="params"),
        taken("a column for each length", csv_of(tall), same_runs, wide="tokens"),
        refused("a wide table", csv_of(wide), "--wide params"),
        refused("another wide table", csv_of(tall), "--wide tokens"),
        refused("no wide table", csv_of(bare), "--wide", wide="params"),
        taken("a constant", csv_of(bare), constant, rename={"unique_tokens": "4.68e9"}),
        taken("a constant with a unit", csv_of(bare), constant, rename={"unique_tokens": "4.68B"}),
        refused(
            "a size as a constant and a column", csv_of(wide), "--wide", rename={"params": "10M"}
        ),
        refused(
            "a name that is not there", named, "no column n_parms", rename={"params": "n_parms"}
        ),
        refused("needed columns", csv_of(pd.DataFrame(many)), "it has n_params, tokens_seen, nll"),
        taken(
            "swapped names",
            csv_of(bare.rename(columns={"params": "tokens", "tokens": "params"})),
            rename={"params": "tokens", "tokens": "params"},
        ),
        refused(
            "a cluster with holes",
            csv_of(frame(group=[None, *"abc" * 6, "d"])),
            "--cluster",
            cluster="group",
        ),
        refused("no cluster", csv_of(frame()), "no column shape", cluster="shape"),
        refused(
            "a pattern that fails", csv_of(bare), "does not match", rename={"params": "x-{file}"}
        ),
        refused("one row", "params,tokens\n1e7,1e9\n", "no column loss"),
        taken(
            "one run", "params,tokens,loss\n1e7,1e9,3.7\n", meant(slice(0, 1), loss=np.array([3.7]))
        ),
    ]

    def files(pattern: str, **options: Any) -> Callable[[Path], RunTable]:
        def run(folder: Path) -> RunTable:
            for n, rows in bare.groupby("params"):
                home = folder / f"n{n / 1e6:g}M"
                home.mkdir()
                text = csv_of(rows.drop(columns="params"))
                (home / "runs.csv").write_text(text)
                (folder / f"llama-{n / 1e6:g}M-c4.csv.gz").write_bytes(gzip.compress(text.encode()))
            return load(str(folder / pattern), **options)

        return run

    def twice(folder: Path) -> RunTable:
        (folder / "a.csv").write_text(csv_of(bare))
        return load([folder / "a.csv", folder / "a.csv"])

    def mixed(folder: Path) -> RunTable:
        (folder / "a.csv").write_text(csv_of(bare))
        return load([folder / "a.csv", folder])

    by_file = {"params": "llama-{file}-*"}
    cases += [
        Case(name="sizes from files", run=files("llama-*.csv.gz", rename=by_file), taken=same_runs),
        Case(
            name="sizes from folders",
            run=files("n*/runs.csv", rename={"params": "n{folder}"}),
            taken=same_runs,
        ),
        Case(name="sizes from nowhere", run=files("n*/runs.csv"), refused=("no column params",)),
        Case(name="no file matches", run=files("x*.csv"), refused=("no file matches",)),
        Case(name="a file twice", run=twice, refused=("given twice",)),
        Case(name="a folder among tables", run=mixed, refused=("is a folder",)),
    ]
    return cases


CASES = [*rows(), *units(), *columns()]


@pytest.mark.parametrize("case", CASES, ids=[c.name[:60] for c in CASES])
def test_an_option_does_what_it_says_or_is_refused_in_words(case, tmp_path):
    check_outcome(case, tmp_path)


def single_options() -> list[tuple[str, str, str]]:
    """Every option of every command that takes one value: (command, option, value)."""
    found = []
    for name, command in sorted(main.commands.items()):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not (
                parameter.multiple or parameter.is_flag or parameter.count
            ):
                found.append((name, parameter.opts[0], "1"))
    return found


@pytest.mark.parametrize(("command", "option", "value"), single_options())
def test_an_option_of_one_value_is_refused_when_it_is_repeated(command, option, value):
    reply = CliRunner().invoke(main, [command, option, value, option, value])
    assert reply.exit_code == 2
    assert f"{option} is given 2 times" in reply.stderr
    assert reply.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "one", "other"),
    [
        ("--column", "loss=a", "loss=b"),
        ("--unit", "loss=ppl", "loss=bits"),
        ("--hold", "E=1", "E=2"),
    ],
)
def test_an_assignment_that_is_repeated_is_refused_by_its_name(option, one, other, tmp_path):
    (tmp_path / "runs.csv").write_text(csv_of(frame()))
    table = str(tmp_path / "runs.csv")
    reply = CliRunner().invoke(main, ["fit", table, "--no-report", option, one, option, other])
    assert reply.exit_code == 1
    assert "twice" in reply.stderr
