"""What is said of refused cells: a line for each reason."""

from sweep.planning.grid import grid, refusals

BAD = ["model.width=8,16,24,32,48", "model.head_dim=8", "train.tokens=1e5", "model.seq_len=100"]


def test_cells_that_share_a_reason_share_a_line_with_what_sets_them_apart():
    cells = grid([*BAD, "train.batch_tokens=128"], multirun=True)
    (line,) = refusals(cells)
    assert line.startswith("5 cells (model.width=8, model.width=16, model.width=24 and 2 more): ")
    assert "train.batch_tokens=128 is not a multiple of model.seq_len=100" in line


def test_each_reason_has_a_line_and_a_cell_alone_its_overrides():
    cells = grid(["model.width=8,16", "model.head_dim=8", "train.tokens=1e5,10"], multirun=True)
    (line,) = refusals(cells)
    assert line.startswith("2 cells (model.width=8 train.tokens=10, model.width=16 train.tokens=10")
    alone = grid(["model.width=8", "model.head_dim=8", "train.tokens=1e5,10"], multirun=True)
    (line,) = refusals(alone)
    assert line.startswith("train.tokens=10: ")
    with_one = grid(["model.width=8", "model.head_dim=16", "train.tokens=1e5"], multirun=True)
    (line,) = refusals(with_one)
    assert line.startswith("model.width=8 model.head_dim=16 train.tokens=")
    assert refusals(grid(["model=w16", "train.tokens=1e5"], multirun=False)) == []


def test_reasons_that_differ_in_a_number_alone_are_one_line_with_the_numbers():
    widths = "model.width=8,16,24,40,56"
    (line,) = refusals(grid([widths, "model.head_dim=16", "train.tokens=1e5"], multirun=True))
    assert line.startswith("4 cells (model.width=8, model.width=24, model.width=40 and 1 more): ")
    assert "model.width=8/24/40 and 1 more is not a multiple of model.head_dim=16; " in line
