"""Several GPUs: every local worker uses its own. There is no GPU here, so torch is told of some."""

from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest
import torch

from sparsem.errors import ResourceError, SettingsError
from sparsem.models.device import choose_device, gpus_of, resolve_precision, settle_device
from sparsem.segment.settings import PredictSettings
from sparsem.workflow.execution import Execution, Needs


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("worker", "name", "index"),
    [(0, "auto", 0), (2, "auto", 2), (5, "cuda", 1), (2, "cuda:3", 3), ("of a job-1", "auto", 0)],
)
def test_every_worker_has_its_own_gpu(
    worker: int | str, name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name=worker))
    assert choose_device(name) == torch.device("cuda", index)


@pytest.mark.usefixtures("four_gpus")
def test_every_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device("auto") == torch.device("cuda", 2)
    assert choose_device("cuda") == torch.device("cuda", 2)


def test_the_device_of_a_cluster_is_that_of_its_jobs(tmp_path: Path) -> None:
    """It is not looked for on the machine from which jobs are submitted."""
    text = 'system = "slurm"\njobs = 1\nmemory_gb = 4\nwall_time_h = 1\n'
    (tmp_path / "cpu.toml").write_text(text, encoding="utf-8")
    (tmp_path / "gpu.toml").write_text(f"{text}gpus = 1\n", encoding="utf-8")
    on_cpus, on_gpus = (Execution(cluster=tmp_path / f"{kind}.toml") for kind in ("cpu", "gpu"))
    requested = PredictSettings()
    settings, device = settle_device(requested, on_cpus)
    assert (settings.device, device) == ("cpu", torch.device("cpu"))
    settings, device = settle_device(requested, on_gpus)
    assert (settings.device, device) == ("cuda", torch.device("cuda"))
    settings, _ = settle_device(requested, Execution())
    assert settings is requested  # every worker chooses its own
    assert resolve_precision(torch.device("cuda"), "auto") == "float32"
    with pytest.raises(SettingsError, match=r"--device cuda does not fit .* no GPU \(gpus = 1\)"):
        settle_device(PredictSettings(device="cuda"), on_cpus)


@pytest.mark.usefixtures("four_gpus")
def test_one_process_uses_the_first_gpu_and_a_processor_stays_one() -> None:
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("cpu") == torch.device("cpu")
    assert (gpus_of("auto"), gpus_of("cuda:1"), gpus_of("cpu")) == (4, 1, 1)


def test_workers_share_the_memory_of_their_gpu(tmp_path: Path) -> None:
    needs = Needs(gpu=10**9, gpu_free=2 * 10**9, n_gpus=4)
    needs.check(tmp_path, processes=8)
    with pytest.raises(ResourceError, match=r"needs 3\.0 GB of GPU memory"):
        needs.check(tmp_path, processes=9)
