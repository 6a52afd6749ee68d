"""Losses on further texts and scores of tasks, against computations one by one."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fit.data.accounting import Shape
from fit.data.readers import load
from fit.data.records import RECORD_NAME, STORIES_NAME, DataInfo, read_record
from fit.errors import PlanError
from sweep.data.measured import Task
from sweep.data.rows import Heldout
from sweep.model import Transformer
from sweep.planning.grid import compose_config
from sweep.planning.trajectory import plan
from sweep.training.loop import train
from sweep.training.outcome import measure, recipe, score_tasks
from sweep.training.session import Session
from tests.sweep.training.test_loop import TINY, Quiet

FABRIC = SimpleNamespace(device=torch.device("cpu"), world_size=1, global_rank=0)


def model():
    shape = Shape(width=16, depth=2, heads=2, head_dim=8, d_ff=64, vocab=12, seq_len=16)
    out = Transformer(shape)
    out.init_weights(torch.Generator().manual_seed(0))
    for parameter in out.parameters():  # outputs begin at zero, which would make all tokens equal
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    return out


def next_log_probabilities(net, tokens):
    """Log-probabilities of the token after a sequence, from losses of each possible one."""
    inputs = torch.tensor([tokens])
    losses = []
    for candidate in range(12):
        target = torch.tensor([[*tokens[1:], candidate]])
        losses.append(float(net.token_losses(inputs, target)[0, -1]))
    return -np.array(losses)


def greedy_completion(net, prompt, length):
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(int(next_log_probabilities(net, tokens).argmax()))
    return tuple(tokens[len(prompt) :])


def log_probability(net, prompt, option):
    total, tokens = 0.0, list(prompt)
    for token in option:
        total += next_log_probabilities(net, tokens)[token]
        tokens.append(token)
    return total


def test_scores_are_those_of_greedy_completions_and_of_the_most_probable_choice():
    net, random = model(), np.random.default_rng(0)
    tasks = []
    with torch.no_grad():
        for number in range(24):
            prompt = tuple(random.integers(12, size=random.integers(1, 6)).tolist())
            size = int(random.integers(1, 4))
            right = greedy_completion(net, prompt, size)
            other = tuple(random.integers(12, size=size).tolist())
            if number % 3 == 0:
                tasks.append(Task(prompt=prompt, options=(right,), answer=0, skill="copy"))
            elif number % 3 == 1:
                tasks.append(Task(prompt=prompt, options=(other,), answer=0))
            else:
                tasks.append(Task(prompt=prompt, options=(other, (3,), right), answer=number % 2))
        scores = score_tasks(net, "quiz", tasks, FABRIC)
        found = scores["quiz"]
        solved, shares = [], []
        for task in tasks:
            logs = [log_probability(net, task.prompt, option) for option in task.options]
            shares.append(math.exp(logs[task.answer]))
            if len(logs) > 1:
                solved.append(int(np.argmax(logs)) == task.answer)
            else:
                whole = greedy_completion(net, task.prompt, len(task.options[0]))
                solved.append(whole == task.options[0])
    assert 0 < sum(solved) < len(tasks) and found["items"] == 24
    assert found["accuracy"] == np.mean(solved)
    assert set(scores) == {"quiz", "quiz.copy"} and scores["quiz.copy"]["items"] == 8
    assert scores["quiz.copy"]["accuracy"] == 1  # each is the greedy completion
    assert scores["quiz.copy"]["probability"] == pytest.approx(np.mean(shares[::3]), rel=1e-5)
    assert found["accuracy_se"] == pytest.approx(np.std(solved, ddof=1) / math.sqrt(24))
    assert found["probability"] == pytest.approx(np.mean(shares), rel=1e-5)
    assert found["probability_se"] == pytest.approx(
        np.std(shares, ddof=1) / math.sqrt(24), rel=1e-4
    )


def test_a_single_task_has_no_standard_error():
    task = Task(prompt=(1,), options=((2,),), answer=0)
    (found,) = score_tasks(model(), "quiz", [task], FABRIC).values()
    assert found["accuracy_se"] is None and found["accuracy"] in (0.0, 1.0)


def test_accuracies_are_those_of_the_likeliest_next_tokens_that_can_be_known():
    net, random = model(), np.random.default_rng(0)
    rows = random.integers(12, size=(5, 17)).astype(np.int32)
    skill = random.integers(3, size=(5, 16)).astype(np.uint8)
    ideal = random.choice([0.0, 0.7], size=(5, 16)).astype(np.float32)
    ideal[skill == 2] = 0.7  # of a skill of random tokens nothing can be known
    right = np.zeros((5, 16))
    with torch.no_grad():
        for r, t in np.ndindex(5, 16):
            best = greedy_completion(net, rows[r, : t + 1].tolist(), 1)[0]
            right[r, t] = best == rows[r, t + 1]
    sample = Heldout(rows=rows, ideal=ideal, skill=skill, skills=("a", "b", "c"))
    info = DataInfo(name="x", hash="x", entropy=0.5)
    graded = measure(net, sample, info, FABRIC, scores=["accuracy"])
    assert set(graded.scores) == {"a", "b"} and 0 < right.mean() < 0.5
    for number, name in enumerate("ab"):
        chosen = (skill == number) & (ideal == 0)
        accuracy = right[chosen].mean()
        assert graded.scores[name]["items"] == chosen.sum()
        assert graded.scores[name]["accuracy"] == pytest.approx(accuracy)
        off = ((right - accuracy) * chosen).sum(axis=1)
        error = math.sqrt((off**2).sum() * 5 / 4) / chosen.sum()
        assert graded.scores[name]["accuracy_se"] == pytest.approx(error)
    plain = measure(net, sample, info, FABRIC)
    assert plain == dataclasses.replace(graded, scores=None)
    one = measure(net, Heldout(rows=rows), info, FABRIC, scores=["accuracy"]).scores
    assert one["tokens"]["items"] == 80 and one["tokens"]["accuracy"] == right.mean()


def test_every_branch_of_a_trunk_is_graded_and_its_name_stays(tmp_path):
    settings = [*TINY, "train.tokens=[8000,16000]"]
    (plain,), (graded,) = (
        plan(compose_config([*settings, *more])) for more in ((), ["train.scores=accuracy"])
    )
    assert [r.run for r in plain.runs] == [r.run for r in graded.runs]
    assert recipe(plain) == recipe(graded)
    ungraded = train(plain, tmp_path / "a", Quiet())
    records = train(graded, tmp_path / "b", Quiet())
    for record, other in zip(records, ungraded, strict=True):
        assert "grammar" in record.scores and "novel" not in record.scores
        assert other.scores is None
        assert 0 < record.scores["grammar"]["accuracy"] <= 1
        assert dataclasses.replace(record, scores=None).result() == other.result()
    # a run that is done is not trained again for its grades
    assert train(graded, tmp_path / "a", Quiet()) == ungraded


def test_stories_that_the_model_writes_are_scores_beside_the_others(tmp_path):
    settings = [*TINY, "train.tokens=8000", "train.stories=6"]
    (plain,), (graded,) = (
        plan(compose_config([*settings, *more])) for more in ((), ["train.scores=[stories]"])
    )
    assert graded.runs == plain.runs and recipe(graded) == recipe(plain)
    (record,), (other,) = (
        train(graded, tmp_path / "a", Quiet()),
        train(plain, tmp_path / "b", Quiet()),
    )
    assert dataclasses.replace(record, scores=None).result() == other.result()
    assert "stories.grammar" in record.scores and "stories.novelty" not in record.scores
    for name, score in record.scores.items():
        assert name.startswith("stories.") and 0 < score["items"] <= 6
        assert (score["accuracy_se"] is None) == (score["items"] == 1)
    texts = (tmp_path / "a" / "tiny" / record.run / STORIES_NAME).read_text().splitlines()
    assert len(texts) == 6 and all(texts)
    table = load(tmp_path / "a")
    assert table.columns["score_stories.grammar"][0] == record.scores["stories.grammar"]["accuracy"]


def test_what_fails_after_training_is_repeated_without_training_again(tmp_path, monkeypatch):
    words = [*TINY, "train.tokens=[3e3,6e3]", "train.stories=6", "train.scores=stories"]
    (graded,) = plan(compose_config(words))
    whole = train(graded, tmp_path / "whole", Quiet())

    def broken(*arguments, **named):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("sweep.training.loop.story_scores", broken)
        failed = train(graded, tmp_path, Quiet())
    assert [r.status for r in failed] == ["failed"] * 2
    assert failed[0].reason.startswith("MemoryError: in broken (test_outcome.py:")
    trained, advance = [], Session.advance

    def counted(session, rate, until, on_row):
        trained.append((session.position, until))
        advance(session, rate, until, on_row)

    monkeypatch.setattr(Session, "advance", counted)
    again = train(graded, tmp_path, Quiet())
    short, long = graded.runs
    assert trained[0] == (short.tokens, short.tokens)
    assert trained[1:] == [
        (short.cooldown_start, long.cooldown_start),
        (long.cooldown_start, long.tokens),
    ]
    assert [r.result() for r in again] == [r.result() for r in whole]


def test_where_stories_cannot_be_graded_one_line_says_so(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 4000)
    text = ["data=text", f"data.path={tmp_path / 'a.txt'}", "data.heldout_tokens=2000"]
    for words, message in (
        (text, "data=text has none. Leave it out, or grade prompts: data.tasks"),
        (["train.devices=2", "train.strategy=fsdp"], "train.strategy=fsdp; no device has"),
        (["train.stories=0"], "train.stories=0; a positive number"),
        (["train.stories=1e12"], "train.stories=1000000000000; 100000 or fewer"),
    ):
        with pytest.raises(PlanError, match=message):
            plan(compose_config([*TINY, "train.scores=stories", *words]))


def test_tasks_called_like_a_skill_are_refused(tmp_path):
    (tmp_path / "facts.jsonl").write_text('{"prompt": "Lily", "answer": "Tom"}')
    with pytest.raises(PlanError, match="'facts' is the name of another score"):
        plan(compose_config([*TINY, f"data.tasks={tmp_path / 'facts.jsonl'}"]))


def test_an_unknown_grade_and_a_model_that_cannot_be_graded_are_refused():
    with pytest.raises(PlanError, match="train.scores=acuracy; known are accuracy"):
        plan(compose_config([*TINY, "train.scores=[acuracy]"]))
    with pytest.raises(PlanError, match="train.scores=accuracy is served by the built-in model"):
        plan(compose_config([*TINY, "train.scores=accuracy", "model._target_=some:Model"]))


def test_a_run_records_its_loss_on_further_texts_and_its_scores(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("to be or not to be, that is the question. " * 800)
    (tmp_path / "same.txt").write_text("to be or not to be, that is the question. " * 60)
    (tmp_path / "other.txt").write_text("quartz jackdaws vex my big sphinx of black " * 60)
    rows = [{"prompt": "to be or n", "answer": "o"}, {"prompt": "to be or n", "answer": "x"}]
    rows[1]["skill"] = "letters"
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = [
        *TINY,
        *("data=text", f"data.path={tmp_path / 'd'}", f"data.cache={tmp_path / 'cache'}"),
        *("data.tokenizer=bytes", "train.tokens=[8000,16000]"),
    ]
    besides = [
        f"data.also_heldout=[{tmp_path / 'same.txt'},{tmp_path / 'other.txt'}]",
        f"data.tasks={tmp_path / 'quiz.jsonl'}",
    ]
    (plain,), (trajectory,) = (plan(compose_config([*settings, *more])) for more in ((), besides))
    assert {r.run for r in plain.runs}.isdisjoint(r.run for r in trajectory.runs)
    assert "data.tasks" not in recipe(plain) and "data.also_heldout" not in recipe(plain)
    records = train(trajectory, tmp_path / "runs", Quiet())
    record = records[-1]
    assert read_record(tmp_path / "runs" / "tiny" / record.run / RECORD_NAME) == record
    assert record.status == "done" and set(record.heldout) == {"same", "other"}
    assert record.heldout["same"] < record.heldout["other"]
    assert record.heldout["same"] == pytest.approx(record.loss, rel=0.2)
    assert record.scores["quiz"]["items"] == 2 and record.scores["quiz"]["accuracy"] <= 0.5
    assert record.scores["quiz.letters"]["items"] == 1
    assert record.recipe["data.tasks"] == str(tmp_path / "quiz.jsonl")
    table = load(str(tmp_path / "runs"), heldout="other")
    assert sorted(table.loss) == sorted(r.heldout["other"] for r in records)
