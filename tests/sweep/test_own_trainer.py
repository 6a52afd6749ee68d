"""Records left by other training loops: plain PyTorch, and Lightning's Trainer."""

import re
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn

import isoflop
from fit.data.records import read_curve, read_runs

ROOT = Path(__file__).parents[2]
VOCAB, BATCH = 7, 20


class Tiny(nn.Module):
    """Next token by a table and a matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB, bias=False)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(self.embed(tokens[:-1])), tokens[1:])


def text(seed: int, length: int = BATCH + 1) -> torch.Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def test_the_example_of_the_docs_runs_in_a_plain_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/method.md").read_text().split("## Records of your own trainer")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    trained = []
    for seed in (0, 1):
        for _ in range(2):  # the second start finds the run
            torch.manual_seed(seed)
            model, steps = Tiny(4), 10
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

            def train_on_a_batch(model=model, optimizer=optimizer, seed=seed):
                loss = model.loss(text(seed))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                trained.append(seed)
                return loss.item()

            exec(  # noqa: S102
                code,
                {
                    "width": 4,
                    "seed": seed,
                    "params": 4 * VOCAB,
                    "tokens": steps * BATCH,
                    "lr": 0.1,
                    "steps": steps,
                    "batch_tokens": BATCH,
                    "train_on_a_batch": train_on_a_batch,
                    "heldout_loss": lambda model=model: model.loss(text(99)).item(),
                },
            )
    assert len(trained) == 20
    runs = read_runs(tmp_path / "runs" / "mine")
    assert {r.run for r in runs.records} == {"w4-s0", "w4-s1"}
    assert all(r.status == "done" and r.loss > 0 for r in runs.records)


class Module(lightning.LightningModule):
    """The same for Lightning, which logs to a recorder."""

    def __init__(self, width: int, run) -> None:
        super().__init__()
        self.model, self.run = Tiny(width), run

    def training_step(self, batch, index):
        loss = self.model.loss(batch[0])
        self.run.log(tokens=(index + 1) * BATCH, loss=loss.item(), lr=0.1)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_lightnings_trainer_leaves_a_record_with_its_curve(tmp_path):
    steps = 12
    data = torch.utils.data.DataLoader(torch.stack([text(i) for i in range(steps)]), batch_size=1)
    with isoflop.record(
        tmp_path / "mine", "w4", params=4 * VOCAB, tokens=steps * BATCH, lr=0.1, width=4
    ) as run:
        module = Module(4, run)
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, data)
        run.finish(module.model.loss(text(99)).item())
    (record,) = read_runs(tmp_path / "mine").records
    assert (record.status, record.tokens_seen, record.width) == ("done", steps * BATCH, 4)
    assert len(read_curve(str(tmp_path / "mine" / "w4"))) == steps
