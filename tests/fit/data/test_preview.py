"""How a table would be read: its columns, what each may be, its first rows."""

import pytest

from fit.data.columns import likely_columns, unit_of_name
from fit.data.detection import preview
from fit.errors import RecordError


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("params tokens loss flops", dict.fromkeys(["params", "tokens", "loss", "flops"])),
        ("Params TOKENS loss", {"params": "Params", "tokens": "TOKENS", "loss": None}),
        ("n_params tokens_seen train_loss val_loss", {"params": "n_params", "loss": "val_loss"}),
        ("params_body params_total tokens loss", {"tokens": None, "loss": None}),
        ("tokens_per_second loss_std flops_per_token", {}),
        ("N D L C", {"params": "N", "tokens": "D", "loss": "L", "flops": "C"}),
        ("step batch_size eval_time", {}),
        ("perplexity", {"loss": "perplexity"}),
    ],
)
def test_a_column_is_suggested_where_one_name_alone_says_so(names, found):
    result = likely_columns(names.split())
    wanted = {ours: theirs or ours for ours, theirs in found.items()}
    assert result == wanted | {k: v for k, v in result.items() if v == "tokens_seen"}


@pytest.mark.parametrize(
    ("ours", "name", "unit"),
    [
        ("params", "size (M)", "M"), ("tokens", "tokens_billions", "B"), ("params", "params", None),
        ("loss", "val_ppl", "ppl"), ("loss", "loss [bpb]", "bpb"), ("loss", "val_loss", None),
        ("flops", "PFLOPs", "1e15"), ("flops", "flops", None),
    ],
)  # fmt: skip
def test_a_name_states_the_unit_that_the_option_takes(ours, name, unit):
    assert unit_of_name(ours, name) == unit


def test_the_first_rows_are_shown_short_and_text_is_no_number(tmp_path):
    path = tmp_path / "runs.csv"
    cells = "\n".join(f"{'x' * 500},7B,{i}e9,3.{i}" for i in range(1, 9))
    path.write_text(f"run,params,tokens,loss\n{cells}\n")
    result = preview(path)
    assert (result["rows"], result["wide"]) == (8, None)
    run, params, *_ = result["columns"]
    assert not run["numbers"] and len(run["first"]) == 6 and len(run["first"][0]) == 60
    assert params["numbers"], "a size may be written as 7B"
    assert result["mapping"] == {n: n for n in ("params", "tokens", "loss")}


def test_a_column_for_each_size_is_seen(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("tokens,70M,160M,410M\n1e9,3.1,3,2.9\n2e9,3,2.9,2.8\n")
    assert preview(path)["wide"] == "params"


def test_what_is_no_table_of_runs_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n")
    with pytest.raises(RecordError, match="no rows"):
        preview(path)
    path.write_text(",".join(f"c{i}" for i in range(300)) + "\n" + ",".join(["1"] * 300) + "\n")
    with pytest.raises(RecordError, match="300 columns; 200 can be shown"):
        preview(path)
