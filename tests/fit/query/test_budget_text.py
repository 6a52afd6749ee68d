"""Budgets as people write them: FLOP, money, devices and a time."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

import isoflop
from fit.allocation.costs import machine
from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.accounting import DEVICES, RENTALS, device_peak, find_device
from fit.errors import FieldError, QueryError
from fit.laws.published import preset
from fit.query.answer import answer
from fit.query.budget import budget_flops, priced_machine
from fit.query.question import budget_fields, question
from fit.results import write_fit
from fit.service.routes import COMPARE, QUERY
from tests.fit.builders import make_fit

SOURCE = ScalingLaw.from_preset(preset("besiroglu2024"))
H100_HOUR = 3600 * 989e12 * 0.4
"""FLOP of an hour at the utilisation that is assumed."""


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1e21", 1e21),
        ("1e21 FLOPs", 1e21),
        ("1 ZFLOP", 1e21),
        ("1 zettaflop", 1e21),
        ("1,000 EFLOP", 1e21),
        ("10 PFLOP-days", 10e15 * 86400),
        ("10 petaflop/s-days", 10e15 * 86400),
        ("10 PF-days", 10e15 * 86400),
        ("24 PFLOP-hours", 24e15 * 3600),
        ("1,000,000", 1e6),
        ("3 trillion FLOP", 3e12),
        ("8 h100 for 3 days", 8 * 72 * H100_HOUR),
        ("8 H100s for 72h", 8 * 72 * H100_HOUR),
        ("8xH100 3d", 8 * 72 * H100_HOUR),
        ("8 \N{MULTIPLICATION SIGN} h100 for 0.5 weeks", 8 * 84 * H100_HOUR),
        ("h100 for 90 min", 1.5 * H100_HOUR),
        ("3 days on 8 H100", 8 * 72 * H100_HOUR),
        ("3d of 8xh100", 8 * 72 * H100_HOUR),
        ("90 min on an h100", 1.5 * H100_HOUR),
        ("1,000 GPU-hours on h100", 1000 * H100_HOUR),
        ("1,000 h100-hours", 1000 * H100_HOUR),
        ("2.79k H100 hours", 2790 * H100_HOUR),
        ("10 H100-days", 240 * H100_HOUR),
        ("$3,490 on h100", 1000 * H100_HOUR),
        ("3.49k$ on NVIDIA H100", 1000 * H100_HOUR),
        ("2 RTX 4090 for 1h", 2 * 3600 * 165.2e12 * 0.4),
        ("2 4090 for 1h", 2 * 3600 * 165.2e12 * 0.4),
    ],
)
def test_a_budget_in_any_words_is_one_number_of_flop(text, flops):
    assert budget_flops(text)[0] == pytest.approx(flops)
    asked = question(SOURCE, {"flops": text, "force": True})
    assert answer(asked).flops.value == pytest.approx(flops)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1M", "counts parameters or tokens"),
        ("1M", "dollars are written $1M"),
        ("70B", "counts parameters or tokens"),
        ("5 days", "the devices are needed too, as in '8 h100 for 5 days'"),
        ("3d", "a time"),
        ("1,5e21", "a comma separates thousands, a point decimals"),
        ("1,5 ZFLOP", "a comma separates thousands, a point decimals"),
        ("10 PFLOP/s", "a rate"),
        ("5k\N{EURO SIGN}", "dollars are needed"),
        ("5000 euros", "dollars are needed"),
        ("8 h100 for 3 months", "months have no one length; give days or weeks"),
        ("8.5 h100 for 3 days", "'8.5 h100' is no whole number of devices"),
        ("10 PFLOP-days on h100", "compute takes no device; give '10 PFLOP-days'"),
        ("8 abacus for 3 days", "'8 abacus' is no known device"),
        ("$5 on the moon", "'the moon' is no known device"),
        ("3 days on the moon", "'the moon' is no known device"),
        ("3h on cpu", "'cpu' is no known device"),
        ("100 gpu-hours on 8 h100", "8 h100"),
        ("8 h100 for 5m", "8 h100 for 5m"),
        ("8 h100 for -3 days", "8 h100 for -3 days"),
        ("0 h100-hours", "a positive finite number is needed"),
        ("h100", "budget is 'h100'"),
        ("", "budget is ''"),
    ],
)
def test_what_is_ambiguous_is_refused_in_one_line(text, words):
    with pytest.raises(FieldError) as caught:
        budget_fields(text, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    for make in (lambda: budget_flops(text), lambda: isoflop.query(SOURCE, text)):
        with pytest.raises(QueryError):
            make()


def test_devices_without_a_name_take_the_one_that_is_given():
    whole = question(SOURCE, {"flops": "8 h100 for 3 days"})
    apart = question(SOURCE, {"flops": "8 gpus for 3 days", "device": "H100"})
    timed = question(SOURCE, {"flops": "3d", "device": "h100", "devices": 8})
    for asked in (apart, timed):
        assert answer(asked).document() == answer(whole).document()
    with pytest.raises(FieldError, match="device is given twice"):
        question(SOURCE, {"flops": "8 h100 for 3 days", "device": "a100"})
    with pytest.raises(FieldError, match="--deadline was given without --device"):
        question(SOURCE, {"flops": "8 gpus for 3 days"})


def test_dollars_without_a_price_are_spent_at_the_stored_one_and_said_to_be():
    assumed = answer(question(SOURCE, {"dollars": "5k", "device": "H100"}))
    price, source = RENTALS["h100"]
    named = {"dollars": "$5,000", "device": "h100", "price": f"${price}/h"}
    given = answer(question(SOURCE, named))
    assert assumed.flops == given.flops and assumed.cost == given.cost
    (note,) = [n for n in assumed.warnings if n not in given.warnings]
    assert note.code == "price_assumed" and source in note.message
    with pytest.raises(QueryError, match="needs the price of an hour"):
        answer(question(SOURCE, {"dollars": 5, "device": "rtx-5090"}))


def test_prices_are_of_known_devices_and_dated():
    for name, (price, source) in RENTALS.items():
        assert name in DEVICES and price > 0
        assert source[-10:-6].isdigit(), source


def test_every_device_is_found_in_every_spelling():
    for name in DEVICES:
        bare = name.replace("-", "")
        for text in (name, name.upper(), name.replace("-", " "), bare, f" {name} "):
            assert machine(text).name == name, text
        assert budget_fields(f"16 {name} for 2d", {}) == {
            "deadline": 48,
            "devices": 16,
            "device": name,
        }
    assert machine("h100s").name == "h100" and machine("L40s").name == "l40s"
    assert machine("NVIDIA H100 SXM5 80GB").name == "h100"
    assert machine("GeForce RTX 3090").name == machine("3090").name == "rtx-3090"


@pytest.mark.parametrize("text", ["h100 mig 1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_part_of_a_gpu_has_its_share_of_the_peak_and_its_own_memory(text):
    part = find_device(text)
    assert part.name == "h100 mig 1g.10gb" and find_device(part.name) == part
    assert (part.flops_per_second, part.memory_bytes) == (989e12 / 7, 10e9)
    assert machine(text).flops_per_second == device_peak(text) == 989e12 / 7


def test_writing_a_number_in_another_way_does_not_change_it():
    """Random amounts, each written with every unit in several ways, are read back the same."""
    rng = np.random.default_rng(1)
    prefixes = {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24, "": 0}
    for prefix, power in prefixes.items():
        for value in np.round(10 ** rng.uniform(0, 4, 5), 3):
            number = float(value)
            for shown, blank, name in itertools.product(
                (f"{number}", f"{number:,}", f"{number:e}"), ("", " "), ("FLOP", "flops", "FLOPs")
            ):
                text = f"{shown}{blank}{prefix}{name}"
                assert budget_flops(text)[0] == pytest.approx(number * 10.0**power), text
                timed = f"{shown} {prefix}FLOP-days"
                assert budget_flops(timed)[0] == pytest.approx(number * 10.0**power * 86400), timed
            for money in (f"${number:,}", f"{number}$", f"{number} USD", f"US${number}"):
                assert budget_fields(money, {}) == {"dollars": pytest.approx(number)}


def test_millions_of_device_hours_are_counted():
    assert budget_fields("2.79M H100-hours", {}) == {"hours": 2.79e6, "device": "h100"}


def test_no_text_of_these_parts_is_anything_but_a_budget_or_one_line():
    parts = ["1e21", "5", "$", "k", "M", "h100", " for ", "3 days", "FLOP", "P", "-days", ",", "x "]
    read = 0
    for several in itertools.product(parts, repeat=3):
        text = "".join(several)
        try:
            read += budget_flops(text)[0] > 0
        except QueryError as error:
            assert "\n" not in str(error)
    assert read == 14


def test_every_door_reads_the_same_budget():
    text, flops = "8 H100 for 3 days", 8 * 72 * H100_HOUR
    args = ["query", text, "--law", "besiroglu2024", "--json"]
    shown = json.loads(CliRunner().invoke(main, args).stdout)
    (law,) = [type("Served", (), {"source": SOURCE})()]
    assert QUERY.document((law,), {"flops": (text,)}) == shown
    assert isoflop.query(SOURCE, text).document() == shown
    assert shown["flops"]["value"] == pytest.approx(flops)
    other = ScalingLaw.from_preset(preset("hoffmann2022"))
    served = COMPARE.document((law, type("Served", (), {"source": other})()), {"flops": (text,)})
    args = ["compare", "besiroglu2024", "hoffmann2022", "--flops", text, "--json"]
    assert json.loads(CliRunner().invoke(main, args).stdout) == served
    assert served["rows"][0]["flops"] == pytest.approx(flops)
    assert "mfu_assumed" in {note["code"] for note in served["warnings"]}


def test_the_command_that_launches_an_answer_repeats_the_budget_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fit(tmp_path / "reports" / "pilot", make_fit(name="pilot"))
    shown = CliRunner().invoke(main, ["query", "4090 for 1 s"]).stdout
    assert "isoflop query '4090 for 1 s' --fit" in " ".join(shown.split())


def test_the_runs_to_suggest_are_paid_for_in_money_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [
        "suggest",
        "--law",
        "besiroglu2024",
        "--flops",
        "10 PFLOP-days",
        "--runs",
        "6",
        "--json",
    ]
    shown = CliRunner().invoke(main, [*args, "--spend", "$20 on h100"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document["spend"] == pytest.approx(20 / RENTALS["h100"][0] * H100_HOUR)
    assert {"price_assumed", "mfu_assumed"} <= {note["code"] for note in document["notes"]}
    unnamed = CliRunner().invoke(main, [*args, "--spend", "$20"])
    assert unnamed.exit_code == 1 and "--spend is '$20', without a device" in unnamed.stderr


def test_money_without_a_device_is_said_in_the_words_of_the_user():
    source = ScalingLaw.from_preset(preset("besiroglu2024"))
    text = "budget is '5k$', without a device; name it, as in '5k$ on h100', or give FLOP: 1e21."
    with pytest.raises(FieldError) as asked:
        question(source, {"flops": "5k$"})
    with pytest.raises(QueryError) as other:
        budget_flops("5k$")
    assert str(asked.value) == str(other.value) == text and asked.value.field == "device"


def test_a_spend_that_names_a_device_is_priced_on_it():
    five = priced_machine(None, device=None, mfu=None, price=None, spend="$5 on 4090")
    assert five is not None
    assert (five.name, five.price) == ("rtx-4090", DEVICES["rtx-4090"].rental[0])
    assert priced_machine(None, device=None, mfu=None, price=None, spend="1e17") is None
    assert priced_machine(None, device=None, mfu=None, price=None, spend="8 apples") is None
