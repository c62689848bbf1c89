"""Checkpoint files that were damaged, half-written, or left over."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm import UserError
from jaxlm.runs.checkpoints import Checkpoints, digest
from jaxlm.runs.folder import CHECKPOINTS
from jaxlm.training.state import TrainState


def state_of(step: int, width: int = 3) -> TrainState:
    draw = np.random.default_rng(step)
    weights = jnp.asarray(draw.normal(size=(4, width)), jnp.float32)
    return TrainState(
        step=jnp.int32(step),
        params={"kernel": weights, "bias": weights[0]},
        opt_state=({"mu": weights * 2}, (), {"count": jnp.int32(step)}),
        carry=((weights + 1,),),
        lr_scale=jnp.float32(0.5),
    )


class Kept:
    """Checkpoints in a folder, with what they warned of."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.warnings = folder, []
        self.checkpoints = Checkpoints(folder, self.warnings.append)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.checkpoints.close()

    def save(self, step, kind="last"):
        self.checkpoints.save(kind, state_of(step), {"progress": {"step": step}})
        self.checkpoints.wait()

    def restored(self):
        return self.checkpoints.restore(state_of(0))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 10 and 20, the best of step 10."""
    with Kept(tmp_path_factory.mktemp("two")) as kept:
        kept.save(10, "best")
        kept.save(10)
        kept.save(20)
    return kept.folder


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "copy")


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 4, len(data), max(1, len(data) // 4)):
        data[position] ^= 0x55
    path.write_bytes(data)


DAMAGES = {"cut short": cut_short, "flipped": flip, "deleted": Path.unlink}


def test_what_is_saved_comes_back(two):
    with Kept(two) as kept:
        state, meta = kept.restored()
    tiny_runs.assert_same_arrays(state, state_of(20))
    assert (meta["step"], meta["progress"]) == (20, {"step": 20})
    assert not kept.warnings


def test_no_damaged_file_is_ever_believed(two, tmp_path, caplog):
    """Every file in turn: either nothing is lost, or a warning and the checkpoint before it."""
    skipped = dict.fromkeys(DAMAGES, 0)
    for index, file in enumerate(files_in(two / "last" / "20")):
        for name, damage in DAMAGES.items():
            copy = shutil.copytree(two, tmp_path / f"{index} {name}")
            damage(copy / file.relative_to(two))
            with Kept(copy) as kept:
                state, meta = kept.restored()
            tiny_runs.assert_same_arrays(state, state_of(meta["step"]))
            assert len(kept.warnings) == (meta["step"] == 10), (file, name, kept.warnings)
            for warning in kept.warnings:
                assert "step 20 is damaged" in warning and "\n" not in warning
            skipped[name] += meta["step"] == 10
    assert min(skipped.values()) >= 3, skipped
    assert not caplog.records, "orbax's own errors are no news to a user"


@pytest.mark.parametrize("part", ["params", "rest"])
def test_whole_files_of_another_step_are_not_believed(part, copy):
    shutil.rmtree(copy / "last" / "20" / part)
    shutil.copytree(copy / "last" / "10" / part, copy / "last" / "20" / part)
    with Kept(copy) as kept:
        state, _ = kept.restored()
    tiny_runs.assert_same_arrays(state, state_of(10))
    assert f"its {part} are not what was written" in kept.warnings[0]


def test_an_emptied_checkpoint_is_skipped(copy):
    for path in (copy / "last" / "20").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with Kept(copy) as kept:
        state, _ = kept.restored()
    tiny_runs.assert_same_arrays(state, state_of(10))
    assert len(kept.warnings) <= 1


def test_all_damaged_is_an_error_that_leaves_them_alone(copy):
    for file in files_in(copy):
        cut_short(file)
    files = {file: file.read_bytes() for file in files_in(copy)}
    with Kept(copy) as kept:
        with pytest.raises(UserError, match=r"no checkpoint in .* \(steps 20, 10\).*another `f"):
            kept.restored()
        assert {file: file.read_bytes() for file in files_in(copy)} == files
        assert kept.checkpoints.restore_params(state_of(0).params) is None
    assert len(kept.warnings) >= 3


def test_half_written_checkpoints_are_ignored(copy):
    shutil.copytree(copy / "last" / "20", copy / "last" / "30.orbax-checkpoint-tmp")
    (copy / "last" / "40.orbax-checkpoint-tmp-123").mkdir()
    with Kept(copy) as kept:
        assert kept.restored()[1]["step"] == 20
        kept.save(30)
    with Kept(copy) as kept:
        tiny_runs.assert_same_arrays(kept.restored()[0], state_of(30))
    assert not kept.warnings


def test_the_last_two_and_the_best_one_are_kept(tmp_path):
    with Kept(tmp_path) as kept:
        for step in (5, 10, 15):
            kept.save(step)
            kept.save(step, "best")
    assert steps_in(tmp_path / "last") == ["10", "15"]
    assert steps_in(tmp_path / "best") == ["15"]


def test_a_folder_may_be_on_another_file_system(monkeypatch, tmp_path):
    """Only its name is looked at here: a bucket needs a network."""
    monkeypatch.chdir(tmp_path)
    for folder, meant in {"gs://bucket/run": "gs://bucket/run", "run": f"{tmp_path}/run"}.items():
        assert str(Checkpoints(folder, print)._folder) == meant


def test_a_step_can_be_saved_again(copy):
    with Kept(copy) as kept:
        kept.save(20)
        assert kept.restored()[1]["step"] == 20
    assert steps_in(copy / "last") == ["10", "20"]


@pytest.mark.parametrize("kind", ["last", "best"])
def test_training_on_from_before_a_damaged_checkpoint_is_saved(kind, copy):
    """After step 20 was found damaged, step 15 is the newest, though its number is lower."""
    if kind == "best":
        shutil.rmtree(copy / "best")
        shutil.copytree(copy / "last" / "20", copy / "best" / "20")
    for file in files_in(copy / kind / "20"):
        cut_short(file)
    with Kept(copy) as kept:
        assert kept.restored()[1]["step"] == (10 if kind == "last" else 20)
        kept.save(15, kind)
    with Kept(copy) as kept:
        found = (
            kept.restored()[1]
            if kind == "last"
            else kept.checkpoints.restore_params(state_of(0).params)[1]
        )
    assert found["step"] == 15
    assert not kept.warnings


def test_best_parameters_before_the_last_and_the_last_where_the_best_is_damaged(copy):
    params = state_of(0).params
    with Kept(copy) as kept:
        found, meta, kind = kept.checkpoints.restore_params(params)
    assert (kind, meta["step"], kept.warnings) == ("best", 10, [])
    tiny_runs.assert_same_arrays(found, state_of(10).params)
    for file in files_in(copy / "best"):
        cut_short(file)
    with Kept(copy) as kept:
        found, meta, kind = kept.checkpoints.restore_params(params)
    assert (kind, meta["step"], len(kept.warnings)) == ("last", 20, 1)
    tiny_runs.assert_same_arrays(found, state_of(20).params)


def test_the_digest_knows_names_shapes_types_and_bytes():
    ones = np.ones(4, np.float32)
    different = [
        {"a": ones},
        {"b": ones},
        {"a": ones.reshape(2, 2)},
        {"a": ones.view(np.int32)},
        {"a": np.array([1, 1, 1, -1], np.float32)},
    ]
    assert len({digest(tree) for tree in different}) == len(different)
    assert digest({"a": jnp.ones(4)}) == digest({"a": ones})


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "gru"
    batching = jaxlm.BatchingConfig("streams", 6, 8)
    options = {"batching": batching, "lr": 0.02, "eval_every": 10, "log_every": 10, "seed": 1}
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, folder, steps=40, **options)
    return folder, model, options


@pytest.mark.full
def test_a_run_whose_last_checkpoint_was_damaged_trains_on_from_the_one_before(run, text, tmp_path):
    whole, model, options = run
    folder = shutil.copytree(whole, tmp_path / "run")
    assert steps_in(folder / CHECKPOINTS / "last") == ["30", "40"]
    for file in files_in(folder / CHECKPOINTS / "last" / "40"):
        flip(file)
    console = tiny_runs.quiet()
    tiny_runs.fit(model, text, folder, resume=True, steps=40, console=console, **options)
    output = console.file.getvalue()
    assert "warning: the last checkpoint of step 40 is damaged" in output
    assert "resumed at step 30 of 40" in output
    tiny_runs.assert_same_run(folder, whole)


def test_reading_a_run_leaves_alone_what_another_process_is_writing(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    for kind in ("last", "best"):
        (folder / CHECKPOINTS / kind / "50.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    files = sorted(folder.rglob("*"))
    assert jaxlm.load(folder).step == 40
    for file in files_in(folder / CHECKPOINTS / "best" / "40"):
        cut_short(file)
    assert jaxlm.load(folder, lambda _: None).step == 40
    assert sorted(folder.rglob("*")) == files


def test_load_of_a_run_without_a_whole_checkpoint(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    for file in files_in(folder / CHECKPOINTS):
        cut_short(file)
    warnings = []
    with pytest.raises(UserError, match="no whole checkpoint"):
        jaxlm.load(folder, warnings.append)
    assert len(warnings) == 3
    shutil.rmtree(folder / CHECKPOINTS)
    with pytest.raises(UserError, match="no whole checkpoint"):
        jaxlm.load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_load_of_a_damaged_description(name, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    cut_short(folder / name)
    with pytest.raises(UserError, match="damaged run"):
        jaxlm.load(folder)
