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
    assert line.startswith("model.width=8 model.head_dim=8 train.tokens=10: ")
    assert refusals(grid(["model=w16", "train.tokens=1e5"], multirun=False)) == []
