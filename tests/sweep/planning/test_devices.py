"""The device and the precision of a plan, by doubles of drivers, and workers that check them."""

from __future__ import annotations

import ctypes
import importlib.metadata
from pathlib import Path

import pytest
import torch

from fit.data.records import RECORD_NAME, read_record
from sweep.launch.jobs import pin_plan, run
from sweep.launch.launcher import train_here
from sweep.plan import main as print_plan
from sweep.planning import devices
from sweep.planning.compose import compose_multirun, hydra_initialised
from sweep.planning.grid import compose_config, grid
from sweep.planning.trajectory import plan
from sweep.training.outcome import recipe
from tests.sweep.training.test_loop import TINY, trajectory

SLURM = "hydra/launcher=slurm"
AMPERE, VOLTA = (8, 0), (7, 0)


class Nvml:
    """A double of the driver's library; GPUs without a capability belong to another container."""

    def __init__(self, *capabilities, driver=True):
        self.capabilities, self.driver = capabilities, driver

    def nvmlInit_v2(self):  # noqa: N802
        return 0 if self.driver else 9

    def nvmlShutdown(self):  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = len(self.capabilities)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device):  # noqa: N802
        device._obj.value = index + 1
        return 4 if self.capabilities[index] is None else 0

    def nvmlDeviceGetCudaComputeCapability(self, device, major, minor):  # noqa: N802
        major._obj.value, minor._obj.value = self.capabilities[device.value - 1]
        return 0


@pytest.fixture
def machine(monkeypatch):
    """A function that sets what a machine of doubles has."""
    devices.nvml_capabilities.cache_clear()
    library, glob = ctypes.CDLL, Path.glob

    def has(nvml=None, *, torch_version="2.9.1", visible=None, files=()):
        def load(name):
            if name != "libnvidia-ml.so.1":
                return library(name)
            if nvml is None:
                raise OSError(name)
            return nvml

        monkeypatch.setattr(ctypes, "CDLL", load)
        version = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name: torch_version if name == "torch" else version(name),
        )
        monkeypatch.setattr(
            Path, "glob", lambda p, name: iter(files) if "nvidia" in name else glob(p, name)
        )
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        devices.nvml_capabilities.cache_clear()

    yield has
    devices.nvml_capabilities.cache_clear()


@pytest.mark.parametrize(
    ("having", "found"),
    [
        ({}, "cpu"),
        ({"nvml": Nvml(AMPERE)}, "cuda"),
        ({"nvml": Nvml(None, AMPERE)}, "cuda"),
        ({"nvml": Nvml(None)}, "cpu"),
        ({"nvml": Nvml()}, "cpu"),
        ({"nvml": Nvml(AMPERE, driver=False)}, "cpu"),
        ({"nvml": Nvml(AMPERE), "torch_version": "2.9.1+cpu"}, "cpu"),
        ({"nvml": Nvml(AMPERE), "torch_version": "2.9.1+cu128"}, "cuda"),
        ({"nvml": Nvml(AMPERE), "visible": ""}, "cpu"),
        ({"nvml": Nvml(AMPERE), "visible": "-1"}, "cpu"),
        ({"nvml": Nvml(AMPERE), "visible": "NoDevFiles"}, "cpu"),
        ({"nvml": Nvml(AMPERE), "visible": "GPU-1f2e,3"}, "cuda"),
        ({"files": ["/dev/nvidia3"]}, "cuda"),  # a container that was given the fourth GPU
    ],
)
def test_a_gpu_is_found_as_torch_would_find_it(machine, having, found):
    machine(**having)
    assert devices.found_device() == found


@pytest.mark.parametrize(
    ("gpu", "words", "device", "precision"),
    [
        (None, [], "cpu", "32-true"),
        (None, ["train.accelerator=cuda"], "cuda", "bf16-mixed"),  # planned on a login node
        (None, ["train.accelerator=gpu"], "cuda", "bf16-mixed"),
        (Nvml(AMPERE), [], "cuda", "bf16-mixed"),
        (Nvml(VOLTA), [], "cuda", "32-true"),
        (Nvml(VOLTA, AMPERE), [], "cuda", "bf16-mixed"),
        (Nvml(AMPERE), ["train.accelerator=cpu"], "cpu", "32-true"),
        (Nvml(AMPERE), ["train.precision=32-true"], "cuda", "32-true"),
        (Nvml(AMPERE), ["planned_device=cpu"], "cpu", "32-true"),
        (None, ["train.accelerator=mps"], "mps", "32-true"),
        (None, ["train.precision=bf16-mixed"], "cpu", "bf16-mixed"),
    ],
)
def test_the_plan_decides_the_precision_by_the_device(machine, gpu, words, device, precision):
    machine(gpu)
    planned = trajectory("train.tokens=3e3", *words)
    assert planned.config.planned_device == device
    assert planned.config.train.precision == recipe(planned)["train.precision"] == precision
    # The name is that of a run whose precision was given, wherever that was planned.
    machine(None)
    given = trajectory("train.tokens=3e3", f"train.precision={precision}")
    assert [r.run for r in given.runs] == [r.run for r in planned.runs]


def test_runs_on_a_cpu_keep_their_names_and_bf16_has_others(machine):
    machine(None)
    names = {
        words: trajectory("train.tokens=3e3", *words).runs[0].run
        for words in [(), ("train.precision=32-true",), ("train.accelerator=cuda",)]
    }
    assert names[()] == names[("train.precision=32-true",)] == "w8-d1-t2.94k-s0-1eca4b01"
    assert names[("train.accelerator=cuda",)] != names[()]


def test_a_job_planned_without_a_gpu_has_the_same_name_on_a_worker_with_one(machine):
    machine(None)
    words = [*TINY, "train.tokens=3e3", "train.accelerator=auto", "++train.precision=auto"]
    for more in ([], ["train.accelerator=cuda"]):
        (cell,) = grid([w for w in words if not more or "accel" not in w] + more, multirun=True)
        job = pin_plan(cell)
        machine(Nvml(VOLTA if more else AMPERE))
        again = plan(compose_config(list(job.overrides)))
        assert [r.run for t in again for r in t.runs] == [r.run for _, r in cell.runs()]
        assert sum("train.precision" in o for o in job.overrides) == 1
        machine(None)


def planned_job(tmp_path, *words):
    (cell,) = grid([*TINY, "train.tokens=3e3", f"runs_dir={tmp_path}", *words], multirun=False)
    return cell


def trained(tmp_path, cell):
    """The only record that a job leaves."""
    train_here(cell)
    (path,) = tmp_path.rglob(RECORD_NAME)
    return read_record(path)


@pytest.mark.parametrize(
    ("gpu", "words", "available", "said"),
    [
        (None, [], True, "planned for cpu in 32-true, and torch finds cuda"),
        (Nvml(AMPERE), [], False, "planned for cuda in bf16-mixed, and torch finds cpu"),
        (None, ["train.accelerator=cuda"], False, "planned for cuda in bf16-mixed, and torch"),
    ],
)
def test_a_worker_with_another_device_fails_in_one_line(
    machine, monkeypatch, tmp_path, capsys, gpu, words, available, said
):
    machine(gpu)
    cell = planned_job(tmp_path, *words)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    record = trained(tmp_path, cell)
    assert (record.status, record.loss) == ("failed", None)
    assert said in record.reason and "\n" not in record.reason
    assert record.reason.rstrip(".").endswith(f"train.accelerator={'cuda' if available else 'cpu'}")
    assert capsys.readouterr().err.count("error: ") == 1


def test_a_gpu_without_bf16_is_refused_by_its_name(machine, monkeypatch, tmp_path):
    machine(None)
    cell = planned_job(tmp_path, "train.accelerator=cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    record = trained(tmp_path, cell)
    assert "Tesla V100 has no bf16 arithmetic" in record.reason
    assert "train.precision=32-true" in record.reason


def test_a_cpu_that_was_asked_for_is_used_beside_a_gpu(machine, monkeypatch, tmp_path):
    machine(Nvml(AMPERE))
    job = pin_plan(planned_job(tmp_path, "train.accelerator=cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run(job.config) is None
    (path,) = tmp_path.rglob(RECORD_NAME)
    record = read_record(path)
    assert (record.status, record.precision) == ("done", "32-true")
    assert record.device.startswith("cpu")


def test_bf16_on_a_cpu_trains_and_says_so(machine, tmp_path):
    machine(None)
    whole = trained(tmp_path / "a", planned_job(tmp_path / "a"))
    half = trained(tmp_path / "b", planned_job(tmp_path / "b", "train.precision=bf16-mixed"))
    assert (half.status, half.precision, whole.precision) == ("done", "bf16-mixed", "32-true")
    assert half.recipe["train.precision"] == "bf16-mixed"
    assert half.run != whole.run and half.loss != whole.loss
    assert half.loss == pytest.approx(whole.loss, rel=0.02)  # bf16 has 8 bits


@pytest.mark.parametrize(
    ("gpu", "words", "said"),
    [
        (None, [], "planned   for cpu in 32-true, found here"),
        (Nvml(AMPERE), [], "planned   for cuda in bf16-mixed, found here"),
        (None, ["train.accelerator=cuda"], "planned   for cuda in bf16-mixed"),
        (None, ["device=h100"], "planned   for cuda in bf16-mixed"),
        (None, ["device=h100 mig 1g.10gb"], "planned   for cuda in bf16-mixed"),
        (Nvml(AMPERE), ["device=v100"], "planned   for cuda in 32-true"),
        (None, ["device=t4", "train.precision=bf16-mixed"], "planned   for cuda in bf16-mixed"),
        pytest.param(
            None,
            [SLURM, "hydra.launcher.gpus_per_node=1"],
            "planned   for cuda in bf16-mixed, since the launcher asks for GPUs",
            marks=pytest.mark.slurm,  # needs the launcher's package
        ),
        pytest.param(
            None,
            [SLURM],
            "planned   for cpu in 32-true, found here",
            marks=pytest.mark.slurm,
        ),
    ],
)
def test_the_plan_says_the_device_and_the_precision(machine, capsys, gpu, words, said):
    machine(gpu)
    with pytest.raises(SystemExit):
        print_plan([*TINY, "train.tokens=3e3", "measure=off", *words])
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("launcher", "asked"),
    [
        ({"gpus_per_node": 1}, True),
        ({"gpus_per_node": "a100:2"}, True),
        ({"gpus_per_node": 0, "gpus_per_task": None, "gres": None}, False),
        ({"gpus_per_task": 2}, True),
        ({"gres": "nvme:1,gpu:a100"}, True),
        ({"gres": "gpu:0"}, False),
        ({"gres": "nvme:1"}, False),
        ({"additional_parameters": {"gpus": 4}}, True),
        ({"additional_parameters": None}, False),
        ({"ray": {"init": {}, "remote": {"num_gpus": 0.25}}}, True),
        ({"ray": {"init": {}, "remote": {}}}, False),
        ({"_target_": "submitit_launcher.LocalLauncher", "gpus_per_node": 1}, False),
        ({"n_jobs": 2}, False),
    ],
)
def test_a_launcher_asks_for_gpus_in_many_ways(launcher, asked):
    assert devices.asks_for_gpus(launcher) is asked


@pytest.mark.slurm
def test_jobs_with_gpus_are_planned_for_them_where_there_is_none(machine, monkeypatch):
    machine(None)
    monkeypatch.setattr("sweep.planning.timing.os.sysconf", lambda name: 1)  # two bytes of memory
    words = [*TINY, "train.tokens=3e3", "hydra/launcher=slurm"]
    (cell,) = grid([*words, "hydra.launcher.gpus_per_node=1"], multirun=True)
    assert cell.refusal is None
    pinned = pin_plan(cell).overrides
    assert {"planned_device=cuda", "train.precision=bf16-mixed"} <= set(pinned)
    (named,) = grid([*words, "train.accelerator=cuda"], multirun=True)
    assert [r.run for _, r in named.runs()] == [r.run for _, r in cell.runs()]
    told = [*words, "hydra.launcher.gpus_per_node=1", "train.accelerator=cpu"]
    (cell,) = grid(told, multirun=True)
    assert "this machine has" in cell.refusal


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        ([], 1),
        (["hydra.launcher.gpus_per_node=1"], 4),
        (["hydra.launcher.gres=gpu:1", "train.threads=6"], 6),
        (["hydra.launcher.gpus_per_node=2", "train.devices=2"], 8),
        (["hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=2"], 2),
    ],
)
def test_a_slurm_job_with_gpus_has_four_threads_for_each_unless_told(words, cpus):
    with hydra_initialised():
        launcher = compose_multirun(["hydra/launcher=slurm", *words]).hydra.launcher
        assert launcher.cpus_per_task == cpus
