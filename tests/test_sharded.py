"""A model whose layers are sharded among processes is edited as a whole one is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import aeplus
from aeplus.errors import InputError
from aeplus.models.decoder import Decoder
from aeplus.models.loading import load_model, whole_state
from aeplus.models.sharding import shard_layers
from aeplus.module import EditModule
from aeplus.targets.optimizer import TargetOptions
from aeplus.utils.fingerprint import weights_fingerprint
from aeplus.utils.ranks import Ranks
from aeplus.utils.shards import is_sharded
from processes import CALLBACKS, FOUR, assert_equal_runs, assert_near, run_alone, run_of, start, updates, witness
from small import SMALL, records
from tiny import tiny_model, tiny_tokenizer

SAVING = (
    '--trainer.callbacks+={"class_path": "aeplus.callbacks.JournalWriter", '
    '"init_args": {"save_model": true, "table": false}}'
)
SHARDED = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]


@pytest.fixture(scope="module")
def alone(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return run_alone(workplace, tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
def test_two_processes_with_half_of_every_layer_make_the_run_of_one(
    workplace: Path, alone: Path, tmp_path: Path
) -> None:
    given = [f"--config={workplace}/tiny.yaml", *FOUR, *SHARDED, *CALLBACKS, SAVING, witness(tmp_path)]
    done = start(tmp_path, "fit", *given)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(alone, tmp_path)
    seen = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]
    for name, parameter in tiny_model(num_hidden_layers=3).named_parameters():
        edited = name in ("model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")
        shards = 2 if ".layers." in name and not edited else 1
        assert seen[0]["held"][name] * shards == parameter.numel(), name
    files = [
        {p.relative_to(run).as_posix() for p in run.rglob("*") if "tfevents" not in p.name and p.parent.name != "model"}
        for run in map(run_of, (alone, tmp_path))
    ]
    assert files[0] == files[1] - {"model"}
    expected = load_model(str(workplace / "model"))[0].state_dict()
    for name, update in updates(alone).items():
        expected[f"model.layers.{name.removeprefix('layer_')}.mlp.down_proj.weight"] += update
    saved = load_model(str(run_of(tmp_path) / "model"))[0].state_dict()
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_its_own_text(workplace: Path, tmp_path: Path) -> None:
    failing = witness(tmp_path, failing=1)
    done = start(tmp_path, "fit", f"--config={workplace}/tiny.yaml", *FOUR, *SHARDED, failing)
    assert done.returncode != 0
    assert done.stderr.count("aeplus: error: expected process 1 to succeed, got a test; leave it out.\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("rank_*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kde", "rect", "blue_plus"])
def test_every_kind_of_update(workplace: Path, tmp_path: Path, method: str) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    given = ["fit", f"--config={workplace}/tiny.yaml", f"--config=method/{method}", *FOUR]
    for folder, more in ((alone, []), (pair, SHARDED)):
        folder.mkdir()
        done = start(folder, *given, *more)
        assert done.returncode == 0, done.stderr
    assert_equal_runs(alone, pair)


@pytest.mark.slow
def test_a_sharded_run_goes_on_from_a_whole_one_and_the_other_way_round(
    workplace: Path, alone: Path, tmp_path: Path
) -> None:
    given = ["fit", f"--config={workplace}/tiny.yaml", *CALLBACKS]
    for name, first, second in (("a", SHARDED, []), ("b", [], SHARDED)):
        (folder := tmp_path / name).mkdir()
        done = start(folder, *given, "--data.limit=3", *first)
        assert done.returncode == 0, done.stderr
        checkpoint = next(folder.glob("lightning_logs/edits/version_0/checkpoints/*.ckpt"))
        done = start(folder, *given, *FOUR, *second, f"--ckpt_path={checkpoint}")
        assert done.returncode == 0, done.stderr
        assert run_of(folder).name == "version_1"
        assert_near(updates(folder), updates(alone))


def test_shards_by_another_hand_are_refused_and_ours_are_gathered(tmp_path: Path) -> None:
    model, whole = tiny_model("llama"), tiny_model("llama")
    assert whole_state(whole, keep=True) is None
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        decoder = Decoder(model)
        shard_layers(decoder, decoder.select([1]), init_device_mesh("cpu", (1,)))
        assert is_sharded(model)
        assert not is_sharded(decoder.sites[1].module)
        assert is_sharded(decoder.sites[2].module)
        assert weights_fingerprint(model) == weights_fingerprint(whole)
        torch.testing.assert_close(whole_state(model, keep=True), whole.state_dict(), rtol=0, atol=0)
        assert whole_state(model, keep=False) == {}
        with pytest.raises(InputError) as error:
            aeplus.edit(model, tiny_tokenizer(), records(), **SMALL)
    finally:
        distributed.destroy_process_group()
    assert str(error.value) == (
        "expected whole weights, got shards of them; load the model whole, and set trainer.strategy fsdp2."
    )


def test_layers_are_not_copied(monkeypatch: Any) -> None:
    module = EditModule("tiny", [1], targets=TargetOptions(precision="bfloat16"))
    module.attach(tiny_model("llama"), tiny_tokenizer())
    monkeypatch.setattr("aeplus.module.ranks_of", lambda trainer: Ranks(0, 2, sharded=True))
    with pytest.raises(InputError) as error:
        module.configure_model()
    assert str(error.value) == (
        "expected targets.precision full with trainer.strategy fsdp2, got bfloat16, which copies layers; leave it out."
    )
