"""Checkpoints that are complete, damaged, half-written or old."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm import UserError
from jaxlm.commands.process import silence_libraries
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


class SavedCheckpoints:
    """Checkpoints in a folder, with their warnings."""

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
    """Folder with checkpoints of steps 10 and 20. The best checkpoint is of step 10."""
    with SavedCheckpoints(tmp_path_factory.mktemp("two")) as saved:
        saved.save(10, "best")
        saved.save(10)
        saved.save(20)
    return saved.folder


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


def test_a_saved_state_is_restored(two):
    with SavedCheckpoints(two) as saved:
        state, meta = saved.restored()
    tiny_runs.assert_same_arrays(state, state_of(20))
    assert (meta["step"], meta["progress"]) == (20, {"step": 20})
    assert not saved.warnings


def test_a_damaged_checkpoint_is_never_restored(two, tmp_path, caplog):
    """Damage each file in turn: the state is complete, or a warning names the damaged step.

    After a warning the state is that of the previous checkpoint.
    """
    # As a command does, whatever test of a command ran before in this process.
    silence_libraries()
    skipped = dict.fromkeys(DAMAGES, 0)
    for index, file in enumerate(files_in(two / "last" / "20")):
        for name, damage in DAMAGES.items():
            copy = shutil.copytree(two, tmp_path / f"{index} {name}")
            damage(copy / file.relative_to(two))
            with SavedCheckpoints(copy) as saved:
                state, meta = saved.restored()
            tiny_runs.assert_same_arrays(state, state_of(meta["step"]))
            assert len(saved.warnings) == (meta["step"] == 10), (file, name, saved.warnings)
            for warning in saved.warnings:
                assert "step 20 is damaged" in warning and "\n" not in warning
            skipped[name] += meta["step"] == 10
    assert min(skipped.values()) >= 3, skipped
    assert not caplog.records, "errors of orbax are not shown to users"


@pytest.mark.parametrize("part", ["params", "rest"])
def test_files_of_another_step_are_not_restored(part, copy):
    shutil.rmtree(copy / "last" / "20" / part)
    shutil.copytree(copy / "last" / "10" / part, copy / "last" / "20" / part)
    with SavedCheckpoints(copy) as saved:
        state, _ = saved.restored()
    tiny_runs.assert_same_arrays(state, state_of(10))
    assert f"its {part} are not what was written" in saved.warnings[0]


def test_an_empty_checkpoint_is_skipped(copy):
    for path in (copy / "last" / "20").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with SavedCheckpoints(copy) as saved:
        state, _ = saved.restored()
    tiny_runs.assert_same_arrays(state, state_of(10))
    assert len(saved.warnings) <= 1


def test_if_all_checkpoints_are_damaged_the_error_leaves_them_unchanged(copy):
    for file in files_in(copy):
        cut_short(file)
    files = {file: file.read_bytes() for file in files_in(copy)}
    with SavedCheckpoints(copy) as saved:
        with pytest.raises(UserError, match=r"no checkpoint in .* \(steps 20, 10\).*another `f"):
            saved.restored()
        assert {file: file.read_bytes() for file in files_in(copy)} == files
        assert saved.checkpoints.restore_params(state_of(0).params) is None
    assert len(saved.warnings) >= 3


def test_half_written_checkpoints_are_ignored(copy):
    shutil.copytree(copy / "last" / "20", copy / "last" / "30.orbax-checkpoint-tmp")
    (copy / "last" / "40.orbax-checkpoint-tmp-123").mkdir()
    with SavedCheckpoints(copy) as saved:
        assert saved.restored()[1]["step"] == 20
        saved.save(30)
    with SavedCheckpoints(copy) as saved:
        tiny_runs.assert_same_arrays(saved.restored()[0], state_of(30))
    assert not saved.warnings


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path):
    with SavedCheckpoints(tmp_path) as saved:
        for step in (5, 10, 15):
            saved.save(step)
            saved.save(step, "best")
    assert steps_in(tmp_path / "last") == ["10", "15"]
    assert steps_in(tmp_path / "best") == ["15"]


def test_the_folder_may_be_a_bucket(monkeypatch, tmp_path):
    """Only the path is tested, because a bucket needs a network."""
    monkeypatch.chdir(tmp_path)
    for folder, meant in {"gs://bucket/run": "gs://bucket/run", "run": f"{tmp_path}/run"}.items():
        assert str(Checkpoints(folder, print)._folder) == meant


def test_a_step_can_be_saved_again(copy):
    with SavedCheckpoints(copy) as saved:
        saved.save(20)
        assert saved.restored()[1]["step"] == 20
    assert steps_in(copy / "last") == ["10", "20"]


@pytest.mark.parametrize("kind", ["last", "best"])
def test_a_checkpoint_after_a_damaged_one_is_the_newest(kind, copy):
    """If step 20 is damaged, a later checkpoint of step 15 is the newest."""
    if kind == "best":
        shutil.rmtree(copy / "best")
        shutil.copytree(copy / "last" / "20", copy / "best" / "20")
    for file in files_in(copy / kind / "20"):
        cut_short(file)
    with SavedCheckpoints(copy) as saved:
        assert saved.restored()[1]["step"] == (10 if kind == "last" else 20)
        saved.save(15, kind)
    with SavedCheckpoints(copy) as saved:
        found = (
            saved.restored()[1]
            if kind == "last"
            else saved.checkpoints.restore_params(state_of(0).params)[1]
        )
    assert found["step"] == 15
    assert not saved.warnings


def test_the_last_parameters_replace_damaged_best_parameters(copy):
    params = state_of(0).params
    with SavedCheckpoints(copy) as saved:
        found, meta, kind = saved.checkpoints.restore_params(params)
    assert (kind, meta["step"], saved.warnings) == ("best", 10, [])
    tiny_runs.assert_same_arrays(found, state_of(10).params)
    for file in files_in(copy / "best"):
        cut_short(file)
    with SavedCheckpoints(copy) as saved:
        found, meta, kind = saved.checkpoints.restore_params(params)
    assert (kind, meta["step"], len(saved.warnings)) == ("last", 20, 1)
    tiny_runs.assert_same_arrays(found, state_of(20).params)


def test_the_digest_depends_on_names_shapes_dtypes_and_bytes():
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
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(run, text, tmp_path):
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


def test_load_does_not_change_files_of_a_writing_process(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    for kind in ("last", "best"):
        (folder / CHECKPOINTS / kind / "50.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    files = sorted(folder.rglob("*"))
    assert jaxlm.load(folder).step == 40
    for file in files_in(folder / CHECKPOINTS / "best" / "40"):
        cut_short(file)
    assert jaxlm.load(folder, lambda _: None).step == 40
    assert sorted(folder.rglob("*")) == files


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_called_damaged(
    run, tmp_path, monkeypatch
):
    """A run that trains on removes its best checkpoint when it has a better one."""
    folder = shutil.copytree(run[0], tmp_path / "run")
    best = folder / CHECKPOINTS / "best"
    (old,) = (path for path in best.iterdir() if path.name.isdigit())
    listed = Checkpoints._steps

    def replaced_after_listing(self, kind):
        steps = listed(self, kind)
        if kind == "best" and old.exists():
            old.rename(best / "990")
        return steps

    monkeypatch.setattr(Checkpoints, "_steps", replaced_after_listing)
    warnings = []
    checkpoints = Checkpoints(folder / CHECKPOINTS, warnings.append)
    _, meta, kind = checkpoints.restore_params(jaxlm.load(run[0]).params)
    checkpoints.close()
    assert (kind, meta["step"], warnings) == ("best", int(old.name), [])


@pytest.mark.full
def test_load_of_a_run_without_a_complete_checkpoint_is_an_error(run, tmp_path):
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
def test_load_of_a_damaged_config_or_tokenizer_is_an_error(name, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    cut_short(folder / name)
    with pytest.raises(UserError, match="damaged run"):
        jaxlm.load(folder)
