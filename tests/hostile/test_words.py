"""Numbers, names, lengths and paths as people write them, at every door that reads them."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

import isoflop
from fit.cli.main import main as isoflop_command
from sweep.plan import main as plan_command
from sweep.planning.grid import Cell, grid
from sweep.planning.quoting import read_overrides
from tests.fit.service.client import ask, service
from tests.hostile.outcomes import Case, Reply, check_outcome

LAW = "besiroglu2024"
COUNTS = {
    "8e3": 8e3, "0.5M": 5e5, "1B": 1e9, "10,000": 1e4, "1,234,567": 1234567, "10_000": 1e4,
    "2.5k": 2500, "1E6": 1e6, ".5G": 5e8, "7b": 7e9, "1.4T": 1.4e12, "1,500M": 1.5e9,
}  # fmt: skip
"""Words of numbers and what they mean."""
NO_COUNTS = (
    "1,00",
    "1,0000",
    "0.5 MM",
    "1..5",
    "5%",
    "ten",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    "0x10",
)
UNUSUAL_FOLDERS = ("a=b", "a(b)", "a,b", "a~b", "café", "a b(c)", "{a}", "[x]", "a'b", 'a"b', "a#b")


def cells_of(*overrides: str) -> tuple[Cell, ...]:
    """The cells of overrides as they are typed; a refused one is raised."""
    cells = grid(read_overrides(overrides), multirun=True)
    for cell in cells:
        if cell.refusal is not None:
            raise isoflop.ScalingError(cell.refusal)
    return cells


def cell_case(name: str, overrides: list[str], check) -> Case:
    """A case whose cells are compared with what was meant."""
    return Case(name=name, run=lambda folder: cells_of(*overrides), taken=check)


def setting_is(path: str, value: object):
    """Asserts that the only cell has a value at a setting."""

    def check(reply: Reply) -> None:
        (cell,) = reply.value
        found: object = cell.config
        for key in path.split("."):
            found = getattr(found, key)
        assert found == value, found

    return check


def lengths_are(*tokens: float):
    """Asserts the planned lengths, to a batch."""

    def check(reply: Reply) -> None:
        found = sorted(run.tokens for cell in reply.value for _, run in cell.runs())
        assert found == pytest.approx(sorted(tokens), rel=5e-3, abs=256), found

    return check


def refused(name: str, overrides: list[str], *words: str) -> Case:
    """A case of overrides that are refused."""
    return Case(name=name, run=lambda folder: cells_of(*overrides), refused=words)


def run_plan(*words: str) -> Reply:
    """What the plan says, run in this process."""
    plan_command(["measure=off", *words])
    raise AssertionError("it exits")


def run_query(*words: str) -> Reply:
    """What the command line says."""
    said = CliRunner().invoke(isoflop_command, [str(w) for w in words])
    trace = said.exception if not isinstance(said.exception, SystemExit) else None
    return Reply(code=said.exit_code if trace is None else 70, out=said.stdout, err=said.stderr)


def predict_http(folder: Path, params: str) -> Reply:
    """Ask for the loss of a size, whatever the verdict."""
    return run_http(folder, "predict", params=params, tokens="1T", law=LAW, force="true")


def run_http(folder: Path, route: str, **fields: str) -> Reply:
    """What the service says."""
    (folder / "reports").mkdir()
    reply = ask(service(folder / "reports"), f"/v1/{route}?{urlencode(fields)}")
    code = 0 if reply.status_code == 200 else reply.status_code
    value = reply.json() if code == 0 else None
    return Reply(code=code, out=reply.text, err=reply.text if code else "", value=value)


def says(*words: str):
    """Asserts that the output holds some words."""
    return lambda reply: [w for w in words if w not in reply.out] and pytest.fail(reply.out)


def number_cases():
    """Every word at every door that reads a count."""
    for word, value in COUNTS.items():
        exact = value % 128 == 0
        if value < 1e12 and "," not in word.replace(",000", ""):
            yield cell_case(f"tokens={word}", [f"train.tokens={word}"], lengths_are(value))
        if 1e3 < value < 1e8:
            yield cell_case(
                f"unique={word}", [f"data.unique_tokens={word}"],
                setting_is("data.unique_tokens", value),
            ) if word != "1,234,567" else refused(
                "unique=1,234,567", ["data.unique_tokens=1,234,567"], "may be one number"
            )  # fmt: skip
        if not exact and word in ("8e3", "0.5M", "1E6"):
            yield cell_case(
                f"batch={word}", [f"train.batch_tokens={word}", "train.batch_doublings=[]"],
                setting_is("train.batch_tokens", round(value / 128) * 128),
            )  # fmt: skip
        yield Case(
            name=f"query --max-params {word}",
            run=lambda f, w=word: run_query("query", "1e21", "--law", LAW, "--max-params", w),
            taken=lambda reply: None,
        )
        yield Case(
            name=f"api max_params={word}",
            run=lambda f, w=word: isoflop.query(LAW, "1e21", params=w),
            taken=lambda reply, v=value: (
                reply.value.params.value == pytest.approx(v) or pytest.fail(str(reply.value.params))
            ),
        )
        yield Case(
            name=f"http params={word}",
            run=lambda f, w=word: run_http(
                f, "predict", params=w, tokens="1T", law=LAW, force="true"
            ),
            taken=lambda reply, v=value: (
                reply.value["params"] == pytest.approx(v) or pytest.fail(str(reply.value))
            ),
        )
    for word in NO_COUNTS:
        yield Case(
            name=f"query --params {word}",
            run=lambda f, w=word: run_query("query", "1e21", "--law", LAW, "--max-params", w),
            refused=("max_params", "needed"),
        )
        yield Case(
            name=f"api params={word}",
            run=lambda f, w=word: isoflop.query(LAW, "1e21", params=w),
            refused=("params", "needed"),
        )
        yield Case(
            name=f"http params={word}",
            run=lambda f, w=word: run_http(
                f, "predict", params=w, tokens="1T", law=LAW, force="true"
            ),
            refused=("params", "needed"),
        )
    for word in ("0.5MM", "1..5", "ten", "0", "-1", "nan", "inf", "true", "0x10", "5%", "-20x"):
        yield refused(f"tokens={word}", [f"train.tokens={word}"], "train.tokens", "needed")
        yield refused(f"batch={word}", [f"train.batch_tokens={word}"], "train.batch_tokens")
    yield refused("half a token", ["data.heldout_tokens=0.5"], "whole number")
    yield refused("a budget with a unit", ["sweep.flops=7B"], "number of FLOP")
    yield refused("an exact batch", ["train.batch_tokens=10,000"], "multiple of model.seq_len")


def sweep_cases():
    """Commas: numbers, sweeps, and what may be either."""
    yield refused("100,200", ["train.tokens=100,200"], "may be one number or a sweep", "choice")
    yield refused("two", ["train.tokens=100,000,200,000"], "may be one number", "100000200000")
    yield refused("mixed", ["train.tokens=10,000,20,000"], "without commas")
    yield refused("vocab", ["data.vocab=32,768"], "32768")
    yield cell_case("choice", ["train.tokens=choice(1000,2000)"], lengths_are(1024, 2048))
    yield cell_case("exponents", ["train.tokens=1e4,2e4"], lengths_are(10240, 19968))
    yield cell_case(
        "widths stay a sweep",
        ["model.width=128,256", "train.tokens=1e4"],
        lengths_are(10240, 10240),
    )


def size_cases():
    """Lengths relative to size, and sizes in parameters."""
    n = 130112  # of w64-d2 with the vocabulary of the default language
    yield cell_case("20x", ["train.tokens=20x"], lengths_are(20 * n))
    yield cell_case("a list", ["train.tokens=[5x,10X,2e6]"], lengths_are(5 * n, 10 * n, 2e6))
    yield cell_case("a sweep", ["train.tokens=5x,10x"], lengths_are(5 * n, 10 * n))
    yield cell_case("half", ["train.tokens=.5x"], lengths_are(n / 2))
    yield refused("0x", ["train.tokens=0x"], "train.tokens")
    yield refused("x of a batch", ["train.batch_tokens=20x"], "train.batch_tokens", "0.5M")
    for word, value in {"1M": 1e6, "10M": 1e7, "125M": 1.25e8, "1.3e9": 1.3e9, "7B": 7e9}.items():
        yield cell_case(
            f"params={word}", [f"model.params={word}", "train.accelerator=cuda"],
            lambda reply, v=value: reply.value[0].trajectories[0].params.matmul
            == pytest.approx(v, rel=0.1) or pytest.fail(str(reply.value[0].trajectories[0].shape)),
        )  # fmt: skip
    for shape in ("model.width=64", "model=w64", "model.depth=3", "model.heads=4", "model=w128"):
        yield refused(
            f"params and {shape}", ["model.params=10M", shape], "model.params=10M", "leave"
        )
    yield refused("too small", ["model.params=1000"], "beyond the ladder", "model.width")
    yield refused("no size", ["model.params=big"], "model.params='big'")
    yield Case(
        name="the plan says which shape",
        run=lambda folder: run_plan(f"runs_dir={folder}", "model.params=10M", "train.tokens=20x"),
        taken=says("model.params=10M is width 320, depth 8: 9.99M matmul parameters", "t200M"),
    )
    yield refused(
        "a doubling late in a run",
        ["model=w64", "train.tokens=0.5M", "train.batch_doublings=[4e5]"],
        "batch would double", "last 40%",
    )  # fmt: skip


def text_cases():
    """Names that look like values, and paths that the grammar has a meaning for."""
    for name in (
        "2024_11_28",
        "1e5",
        "007",
        "true",
        "null",
        "1_000",
        "nan",
        "inf",
        "0.10",
        "FALSE",
    ):
        yield cell_case(f"name={name}", [f"name={name}"], setting_is("name", name))
    yield cell_case("no path", ["data.path=null"], setting_is("data.path", None))
    yield cell_case("backslash", ["name=a", "runs_dir=C:\\x"], setting_is("runs_dir", "C:\\x"))
    yield refused("globs", ["data.pattern=*.txt,*.md"], 'data.pattern="*.txt,*.md"')
    yield refused("two run folders", ["runs_dir=a,b"], 'runs_dir="a,b"')
    for odd in UNUSUAL_FOLDERS:
        yield Case(
            name=f"path {odd}", run=lambda f, odd=odd: hint_then_use(f, odd), taken=check_used
        )


def hint_then_use(folder: Path, odd: str) -> tuple[str, object]:
    """Offer a path as it is; the override that the refusal shows, and what that one is read as."""
    path = folder / odd
    path.mkdir()
    (path / "a.txt").write_text("so it was and so it is " * 400)
    try:
        read_overrides([f"data.path={path}"])
    except isoflop.ScalingError as error:
        message = str(error)
    else:
        raise AssertionError("it was taken, and would be something else")
    assert "\n" not in message
    shown = shlex.split(message[message.index("'data.path=") :])[0]
    small = ["data.tokenizer=bytes", "data.heldout_tokens=64", "model.seq_len=16"]
    cache = f"data.cache={folder / 'cache'}"
    (cell,) = grid(read_overrides(["data=text", shown, *small, cache]), multirun=True)
    return str(path), cell.config.data.path


def check_used(reply: Reply) -> None:
    """Asserts that the override that was shown is read as the path."""
    wanted, found = reply.value
    assert found == wanted


def price_cases():
    """Prices of the device that is named, and of no other."""
    big = [
        "model=w768",
        "train.tokens=3.4B",
        "train.batch_doublings=[]",
        "train.batch_tokens=65536",
    ]
    gpu = ["train.accelerator=cuda", "train.devices=8", *big]

    def plan_case(name: str, words: list[str], *, wrong=(), shows=()) -> Case:
        def run(folder: Path) -> Reply:
            return run_plan(f"runs_dir={folder}", *words)

        if wrong:
            return Case(name=name, run=run, refused=wrong)
        return Case(name=name, run=run, taken=says(*shows))

    yield plan_case("price of an unknown GPU", [*gpu, "price=2.5"], wrong=("name the device",))
    yield plan_case("hours of an unknown GPU", [*gpu, "spend.hours=2"], wrong=("name the device",))
    yield plan_case("no time of an unknown GPU", gpu, shows=("device=h100 mfu=0.4", "  ?"))
    yield plan_case(
        "an H100", [*gpu, "device=h100", "mfu=0.4", "price=2.5"],
        shows=("for h100, 9.89e14 FLOP/s at an MFU of 0.4", "2.47 device-hours", "$6.18"),
    )  # fmt: skip
    yield plan_case("40%", [*gpu, "device=h100", "mfu=40%"], shows=("at an MFU of 0.4",))
    yield plan_case("a peak", [*big, "device=9.89e14"], shows=("assumed",))
    yield plan_case("an MFU of 40", [*big, "device=h100", "mfu=40"], wrong=("share up to 1",))
    yield plan_case("an MFU alone", [*big, "mfu=0.4"], wrong=("device=h100",))
    yield plan_case("a wrong device", [*big, "device=h1000"], wrong=("h100, h200",))
    yield plan_case(
        "a GPU's price of CPU runs", ["model=w64", "device=h100", "train.accelerator=cpu"],
        wrong=("leave one out",),
    )  # fmt: skip
    for options, words in (
        (["--price", "2.5"], ("--device",)),
        (["--device", "h100", "--mfu", "40"], ("share up to 1",)),
        (["--device", "gpu"], ("unknown device",)),
        (["--device", "989"], ("unknown device",)),
    ):
        for command in (["query", "1e21"], ["suggest", "--flops", "1e21", "--spend", "1e19"]):
            yield Case(
                name=f"{command[0]} {' '.join(options)}",
                run=lambda f, c=command, o=options: run_query(*c, "--law", LAW, *o),
                refused=words,
            )
    yield Case(
        name="http device=gpu",
        run=lambda f: run_http(f, "query", flops="1e21", law=LAW, device="gpu"),
        refused=("unknown device",),
    )


CASES = [
    *number_cases(), *sweep_cases(), *size_cases(), *text_cases(), *price_cases(),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c.name}" for i, c in enumerate(CASES)])
def test_words_mean_what_people_mean_or_are_refused(case, tmp_path):
    check_outcome(case, tmp_path)
