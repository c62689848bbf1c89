"""Hugging Face folders: written, read back, and read by transformers, minicons and lm-eval."""

import json
import math
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import jaxlm
from jaxlm import convert
from jaxlm.data.huggingface_tokenizer import describe, read_tokenizer, tokenizer_file
from jaxlm.data.tokenizers import TOKENIZERS, Characters, VocabularyConfig, Words, to_json
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.interop.formats import write_run
from jaxlm.interop.vocabulary_files import make_tokenizer as tokenizer_of_list
from jaxlm.models.neural import param_shapes
from jaxlm.models.registry import describe_model
from jaxlm.runs.run import Run

PAIRS = Path(__file__).parent / "fixtures" / "invented_pairs.jsonl"
LINES = [
    "The cats sleep on the mat.\n",
    "A dog runs home ; it is tall , and it 's <unk> .\n",
    "\n",
    "却说孙悟空在桌子上读书。\n",
    " = These trees = \n",
] * 3
SENTENCES = ["The dog runs home.", "These trees are tall.", "猫在桌子上睡觉。", "it is a mat"]
# Every kind of white space, special words, long runs of digits, and letters of byte-level BPE.
ODD = (
    "the  mat\u3000x\x1cy\x85z <eos> <eos>, x<eos> <unk> <unk>, it's\r\n\r\n "
    "1234567890123456789012345 "
    "\n \n\n\t\t\n  \u2028q \ufeff\u200b\x00 😀 ĠĊ Ċ a\u0301 \r\r\n<eos>"
)


def make_tokenizer(tokens, **settings):
    config = VocabularyConfig(vocab_size=300 if tokens == "bpe" else None, **settings)
    return TOKENIZERS[tokens].fit(LINES, config, add_unk=True)


def make_run(model="lstm", tokens="words", warm=True, **settings):
    """Return a run of random parameters. With `warm` it keeps a stretch of training text."""
    tokenizer = make_tokenizer(tokens)
    vocabulary = tokenizer.vocabulary
    kind = {"rnn": jaxlm.RNN, "gru": jaxlm.GRU, "lstm": jaxlm.LSTM, "nplm": jaxlm.NPLM}[model]
    made = kind(len(vocabulary), vocabulary.start_id, **settings)
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda item: jnp.asarray(0.5 * draw.standard_normal(item.shape, np.float32)),
        param_shapes(made),
    )
    kept = {"warm_start": tokenizer.encode(LINES[:3]).tolist()} if warm else {}
    return Run(made, params, tokenizer, settings=kept | {"text": {"corpus": "some/novel"}})


MODELS = {
    "lstm": {"embedding_size": 4, "hidden_size": 6},
    "lstm tied projected": {"embedding_size": 4, "hidden_size": 6, "num_layers": 2, "tied": True},
    "gru deep": {
        "embedding_size": 5,
        "hidden_size": 5,
        "num_layers": 3,
        "layer_norm": True,
        "residual": True,
    },
    "rnn sizes": {"embedding_size": 4, "layer_sizes": (6, 3), "tied": True, "layer_norm": True},
    "nplm": {"embedding_size": 4, "hidden_size": 6, "n_step": 3, "tied": True},
    "nplm one word": {"embedding_size": 4, "hidden_size": 6, "n_step": 1},
    "nplm direct": {
        "embedding_size": 3,
        "hidden_size": 5,
        "n_step": 4,
        "num_layers": 3,
        "residual": True,
        "layer_norm": True,
        "direct": True,
    },
    "nplm linear": {"embedding_size": 3, "hidden_size": 0, "n_step": 2, "direct": True},
}
KINDS = [
    pytest.param(name, marks=[] if name == "lstm" else pytest.mark.full, id=name.replace(" ", "-"))
    for name in MODELS
]


def of_kind(name, **settings):
    return make_run(name.split()[0], **MODELS[name], **settings)


def written(run, folder):
    write_run(run, folder, "huggingface")
    return folder


# The folder, without torch.


@pytest.mark.parametrize("name", KINDS)
def test_load_brings_back_the_run(name, tmp_path):
    run = of_kind(name)
    back = jaxlm.load(written(run, tmp_path / "out"))
    assert to_json(back.tokenizer) == to_json(run.tokenizer)
    assert describe_model(back.model) == describe_model(run.model)
    assert back.protocol == run.protocol
    assert back.settings["warm_start"] == run.settings["warm_start"]
    for one, other in zip(*map(jax.tree.leaves, (run.params, back.params)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("tokens", TOKENIZERS)
@pytest.mark.parametrize("eos", [True, False])
def test_tokenizer_json_cuts_as_the_run_does(tokens, eos):
    tokenizer = make_tokenizer(tokens, eos=eos)
    content = json.dumps(tokenizer_file(tokenizer))
    file = tokenizers.Tokenizer.from_str(content)
    for text in (*LINES, "".join(LINES), ODD, ODD + ODD, "", "\n", " "):
        ids = tokenizer.encode_context(text).tolist()
        assert file.encode(text).ids == ids
        assert file.decode(ids) == tokenizer.decode(ids)
    back = read_tokenizer(json.loads(content), json.loads(json.dumps(describe(tokenizer))))
    assert to_json(back) == to_json(tokenizer)


def test_words_between_ascii_blanks_are_cut_so():
    words = Words(Vocabulary(("a", "<eos>", "b\u3000c"), start="<eos>"), ascii_blanks=True)
    file = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_file(words)))
    assert file.encode("a\n\tb\u3000c").ids == words.encode_context("a\n\tb\u3000c").tolist()


def test_characters_without_a_line_break_are_cut_so():
    characters = Characters(Vocabulary(("a", "b", "<unk>"), unk="<unk>"))
    file = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_file(characters)))
    for text in ("ab\nbac", "a\r\nb\n"):
        assert file.encode(text).ids == characters.encode_context(text).tolist()


def test_a_token_after_the_vocabulary_cannot_be_in_it():
    with pytest.raises(UserError, match=r"lists '<.pad.>'"):
        tokenizer_file(Words(Vocabulary(("<|pad|>", "<eos>"), start="<eos>")))


def test_ngrams_and_other_models_are_refused(tmp_path):
    text = jaxlm.read_corpus("toy")
    ngram = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    with pytest.raises(UserError, match=r"is an n-gram.*ARPA"):
        write_run(ngram, tmp_path / "out", "huggingface")
    run = make_run(embedding_size=4, hidden_size=6, softmax="mixture")
    with pytest.raises(UserError, match="cannot be written"):
        write_run(run, tmp_path / "out", "huggingface")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    run = of_kind("lstm")
    (tmp_path / "empty").mkdir()
    written(run, tmp_path / "empty")
    with pytest.raises(UserError, match="is not empty"):
        written(run, tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        written(run, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_an_empty_folder_stays_and_gets_the_files(tmp_path, monkeypatch):
    """The current folder, and a link, cannot be replaced by another folder."""
    run = of_kind("lstm")
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path("."), tmp_path / "link"):
        written(run, folder)
        assert jaxlm.load(folder).settings["warm_start"] == run.settings["warm_start"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "there"]
    names = [path.name for path in Path(".").iterdir()]
    assert "config.json" in names and not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize(("tokens", "listed"), [("words", ["<unk>", "cat"]), ("chars", [" ", "c"])])
def test_a_run_without_a_start_token_has_an_example_with_a_token(tokens, listed, tmp_path):
    tokenizer, protocol, _ = tokenizer_of_list(listed, tokens)
    model = jaxlm.GRU(len(listed), embedding_size=2, hidden_size=2)
    params = model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    folder = written(Run(model, params, tokenizer, protocol), tmp_path / "out")
    (prompt,) = re.findall(
        r'ids = tokenizer\("(.*)", return_tensors', (folder / "README.md").read_text()
    )
    assert prompt == listed[-1]


def test_other_folders_and_damaged_folders_are_refused(tmp_path):
    foreign = tmp_path / "gpt2"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 50257}')
    with pytest.raises(UserError, match=r"folder of a 'gpt2' model: jaxlm reads only"):
        jaxlm.load(foreign)
    folder = written(of_kind("lstm"), tmp_path / "out")
    code = folder / "modeling_jaxlm.py"
    source = code.read_text()
    code.write_text(source + "\nimport os\n")
    with pytest.raises(UserError, match=r"modeling_jaxlm.py.*on purpose, remove .*jaxlm.json"):
        jaxlm.load(folder)
    code.write_text(source)
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text(whole.replace('"warm"', '"fresh"'))
    with pytest.raises(UserError, match=r"config.json.*on purpose, remove .*jaxlm.json"):
        jaxlm.load(folder)
    (folder / "jaxlm.json").unlink()
    jaxlm.load(folder)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for change, message in (
        ({"decoder.bias": np.full_like(tensors["decoder.bias"], np.nan)}, "not a number"),
        ({"decoder.bias": np.zeros(3, np.float32)}, "has the shape"),
        ({"unknown": np.zeros(3, np.float32)}, "unknown tensor"),
    ):
        save_file(tensors | change, folder / "model.safetensors")
        with pytest.raises(UserError, match=message):
            jaxlm.load(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(UserError, match=r"model.safetensors: is damaged"):
        jaxlm.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors: cannot be read"):
        jaxlm.load(folder)


@pytest.mark.full
def test_convert_writes_a_folder_and_reads_it(tmp_path, capsys):
    text = jaxlm.read_corpus(LINES, tokens="chars", fractions=(0.5, 0.5), unk="always")
    model = jaxlm.GRU(len(text.vocabulary), text.vocabulary.start_id, hidden_size=6)
    short = {"steps": 4, "eval_every": 2, "batch_size": 2, "bptt": 4, "quiet": True}
    run = jaxlm.fit(model, text, folder=tmp_path / "run", **short)
    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    assert convert.main([str(tmp_path / "run"), out, "--format", "huggingface"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Validation perplexity" in card and "library_name: transformers" in card
    assert convert.main([out, again]) == 0
    want = jaxlm.next_words(run, "The ", 3)
    for folder in (out, again):
        assert jaxlm.next_words(jaxlm.load(folder), "The ", 3) == want
    assert jaxlm.load(out).step == run.step
    with pytest.raises(UserError, match="keeps no state of training"):
        jaxlm.fit(model, text, folder=out, resume=True, **short)


# The folder as transformers and its tools read it.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """transformers; the code of models is kept in a folder of the test."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    return transformers


def opened(hub, folder, **options):
    """Return the tokenizer and the model of a folder."""
    options["trust_remote_code"] = True
    return (
        hub.AutoTokenizer.from_pretrained(folder, **options),
        hub.AutoModelForCausalLM.from_pretrained(folder, **options),
    )


def jax_logits(run, ids, start):
    """Return the log-probabilities after each token of `ids`, and after the start token."""
    begin = jaxlm.runs.starts.start_of(run, start)
    carry = run.model.initial_carry(1) if begin.carry is None else begin.carry
    tokens = jnp.asarray([[*begin.ids, *ids]], jnp.int32)
    hidden, _ = run.model.apply({"params": run.params}, tokens, carry)
    return np.asarray(run.model.apply({"params": run.params}, hidden, method="logits"))[0]


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.full
def test_a_folder_without_a_warm_state_loads_without_warnings(hub, tmp_path):
    folder = written(make_run(warm=False, **MODELS["lstm"]), tmp_path / "out")
    model, about = hub.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, start="warm"
    )
    assert not about["missing_keys"] and not about["unexpected_keys"]
    tokenizer = hub.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    ids = tokenizer(tokenizer.bos_token + "A dog", return_tensors="pt")
    with pytest.raises(ValueError, match="no state for start='warm'"):
        model(**ids)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("start", ["warm", "fresh"])
def test_logits_and_state_are_those_of_jaxlm(name, start, hub, tmp_path):
    import torch

    run = of_kind(name)
    tokenizer, model = opened(hub, written(run, tmp_path / "out"), start=start)
    text = "The cats sleep on the mat.\nA dog runs home 桌子"
    ids = tokenizer(tokenizer.bos_token + text, return_tensors="pt")
    want = jax_logits(run, run.tokenizer.encode_context(text).tolist(), start)
    with torch.no_grad():
        whole = model(**ids)
        assert whole.logits.shape[1:] == want.shape
        np.testing.assert_allclose(whole.logits[0].numpy(), want, rtol=0, atol=1e-5)
        # Three chunks, with the state carried.
        state, parts = None, []
        for chunk in ids.input_ids.split(4, 1):
            out = model(chunk, past_key_values=state, use_cache=True)
            state = out.past_key_values
            parts.append(out.logits)
        assert len(parts) >= 3
        np.testing.assert_allclose(torch.cat(parts, 1)[0].numpy(), want, rtol=0, atol=1e-5)
        # Padding does not change the state.
        longer = tokenizer.bos_token + text
        for side in ("left", "right"):
            tokenizer.padding_side = side
            batch = tokenizer(
                [longer, longer[:25], tokenizer.bos_token], return_tensors="pt", padding=True
            )
            out = model(**batch)
            for row, mask in enumerate(batch.attention_mask.bool()):
                size = int(mask.sum())
                np.testing.assert_allclose(
                    out.logits[row][mask].numpy()[: size - 1], want[: size - 1], rtol=0, atol=1e-5
                )
                alone = model(batch.input_ids[row][mask][None])
                padded = out.past_key_values.select(torch.tensor([row]))
                for one, other in zip(padded.arrays, alone.past_key_values.arrays, strict=True):
                    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-5)


@pytest.mark.full
def test_the_loss_is_the_mean_surprisal(hub, tmp_path):
    run = of_kind("gru deep", tokens="chars")
    tokenizer, model = opened(hub, written(run, tmp_path / "out"))
    text = "The cats"
    batch = tokenizer(
        [tokenizer.bos_token + text, tokenizer.bos_token + text[:3]],
        return_tensors="pt",
        padding=True,
    )
    loss = model(**batch, labels=batch.input_ids).loss
    bits = [*jaxlm.Session(run).push(text), *jaxlm.Session(run).push(text[:3])]
    assert loss.item() == pytest.approx(math.log(2) * np.mean(bits), abs=1e-5)
    model.train()
    model(**batch, labels=batch.input_ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.full
@pytest.mark.parametrize("tokens", TOKENIZERS)
def test_generation_is_that_of_jaxlm(tokens, hub, tmp_path):
    name = "nplm direct" if tokens == "bytes" else "lstm tied projected"
    run = of_kind(name, tokens=tokens)
    tokenizer, model = opened(hub, written(run, tmp_path / "out"))
    prompts = ["The cats sleep", "A dog", "却说"]
    start = tokenizer.bos_token
    batch = tokenizer([start + text for text in prompts], return_tensors="pt", padding=True)
    found = model.generate(**batch, max_new_tokens=12, do_sample=False)
    for row, text in zip(found, prompts, strict=True):
        want = jaxlm.sample(run, text, length=12, temperature=0)[0]
        assert tokenizer.decode(row, skip_special_tokens=True) == want
    beams = {"max_new_tokens": 8, "do_sample": False, "num_beams": 3}
    cached = model.generate(**batch, **beams)
    assert (cached == model.generate(**batch, **beams, use_cache=False)).all()
    drawn = model.generate(
        **batch,
        max_new_tokens=8,
        do_sample=True,
        top_p=0.9,
        repetition_penalty=1.2,
        eos_token_id=model.config.start_id,
    )
    assert drawn[:, -8:].max() <= model.config.pad_token_id
    assert model.generate(max_new_tokens=3, do_sample=False).shape == (1, 4)
    pipe = hub.pipeline("text-generation", model=model, tokenizer=tokenizer)
    made = pipe(start + "The cats", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert made.replace(start, "").startswith("The cats")


@pytest.mark.full
def test_a_folder_that_transformers_saved_is_a_run(hub, tmp_path):
    import torch

    run = of_kind("gru deep", tokens="bpe")
    tokenizer, model = opened(hub, written(run, tmp_path / "out"))
    with torch.no_grad():
        model.decoder.bias += 1.0
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    back = jaxlm.load(tmp_path / "tuned")
    np.testing.assert_array_equal(
        np.asarray(back.params["output"]["bias"]), np.asarray(run.params["output"]["bias"]) + 1
    )
    assert to_json(back.tokenizer) == to_json(run.tokenizer)
    again_tokenizer, again = opened(hub, tmp_path / "tuned")
    assert again_tokenizer("The cats\nA").input_ids == tokenizer("The cats\nA").input_ids
    assert torch.equal(again.decoder.bias, model.decoder.bias)


@pytest.mark.full
@pytest.mark.parametrize("tokens", ["words", "chars", "bpe"])
def test_minicons_scores_sentences_as_jaxlm_does(tokens, hub, tmp_path):
    minicons = pytest.importorskip("minicons.scorer")
    run = of_kind("lstm", tokens=tokens)
    folder = str(written(run, tmp_path / "out"))
    tokenizer, _ = opened(hub, folder)
    model = minicons.IncrementalLMScorer(folder, "cpu", tokenizer, trust_remote_code=True)
    want = jaxlm.score(run, SENTENCES, by="sentence")["surprisal"]
    found = model.sequence_score(
        [f"{text}\n" for text in SENTENCES],
        bos_token=True,
        base_two=True,
        reduction=lambda bits: -bits.sum(0).item(),
    )
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)


TASK = """
task: invented_pairs
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {path}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good ~ '\\n', sentence_bad ~ '\\n']}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.mark.full
@pytest.mark.parametrize("tokens", ["words", "chars", "bpe"])
def test_lm_eval_scores_pairs_as_jaxlm_does(tokens, hub, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    shutil.copy(PAIRS, tmp_path / "pairs.jsonl")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "pairs.yaml").write_text(TASK.format(path=tmp_path / "pairs.jsonl"))
    run = of_kind("lstm", tokens=tokens)
    folder = written(run, tmp_path / "out")
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "trust_remote_code": True},
        tasks=["invented_pairs"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=3,
        log_samples=True,
        bootstrap_iters=0,
    )
    want = jaxlm.pairs(run, PAIRS)
    samples = sorted(found["samples"]["invented_pairs"], key=lambda sample: sample["doc_id"])
    scores = np.array([[score for score, _ in sample["filtered_resps"]] for sample in samples])
    np.testing.assert_allclose(scores, np.stack([want.good[0], want.bad[0]], 1), rtol=0, atol=1e-4)
    # lm-eval counts a tie as right, because the good sentence is the first choice.
    right = np.ceil(want.points[0]).mean()
    assert found["results"]["invented_pairs"]["acc,none"] == pytest.approx(right)
