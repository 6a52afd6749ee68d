"""A fit, its report and its figures as artefacts of W&B, read back from its offline files."""

import json
import shutil
import time
from pathlib import Path

import pytest

from fit.errors import RecordError
from fit.results import read_fit
from sweep.fetch import records
from sweep.training.tracking import log_report

ROOT = Path(__file__).parents[3]
wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2  # noqa: E402


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A report folder; wandb keeps its files beside it."""
    folder = tmp_path / "my report"
    (folder / "figures").mkdir(parents=True)
    shutil.copy(ROOT / "reports" / "reference" / "fit.json", folder)
    (folder / "report.md").write_text("# Report\n")
    (folder / "figures" / "loss-compute.svg").write_text("<svg/>")
    for name in ("MODE", "ENTITY", "DIR", "RUN_GROUP", "DISABLED"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def logged(file):
    """Artefacts, by name their type and paths, and the summary in an offline file of wandb."""
    artefacts, summary = {}, {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        artefact = record.artifact
        if record.WhichOneof("record_type") == "request":
            artefact = record.request.log_artifact.artifact
        if artefact.name.startswith("my-report"):  # wandb keeps each table as an artefact too
            paths = {entry.path for entry in artefact.manifest.contents}
            artefacts[artefact.name] = (artefact.type, paths)
        for item in record.summary.update:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return artefacts, summary


@pytest.mark.slow
def test_offline_files_hold_the_artefacts_the_tables_and_the_summary(folder):
    place = Path(log_report(folder, "scaling"))
    (file,) = place.glob("run-*.wandb")
    until = time.time() + 60  # a process of wandb's writes what is left after the run has ended
    artefacts, summary = logged(file)
    while not ("verdict" in summary and artefacts) and time.time() < until:
        time.sleep(0.2)
        artefacts, summary = logged(file)
    assert artefacts == {
        "my-report-fit": ("fit", {"fit.json"}),
        "my-report-report": ("report", {"report.md"}),
        "my-report-figures": ("figures", {"loss-compute.svg"}),
    }
    fit = read_fit(folder)
    assert summary["verdict"] == fit.verdict.verdict
    assert summary["alpha"] == fit.theta["alpha"]
    tables = {p.name.split("_")[0]: json.loads(p.read_text())
              for p in place.glob("files/media/table/*.json")}  # fmt: skip
    rows = {row[0]: row[1:] for row in tables["law"]["data"]}
    assert rows["a"] == [fit.exponents["a"], *fit.interval.bounds["a"]]
    assert len(tables["runs"]["data"]) == fit.runs_used


def test_what_wandb_refuses_is_one_line_that_says_how_to_stay_offline(folder, monkeypatch):
    def refuse(**_):
        raise wandb.errors.CommError("no network\nand more")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RecordError, match="no network. Check .* WANDB_MODE=offline") as caught:
        log_report(folder, "me/scaling")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_fit_is_named_before_wandb_starts(tmp_path):
    with pytest.raises(RecordError, match="cannot read the fit"):
        log_report(tmp_path, "scaling")
