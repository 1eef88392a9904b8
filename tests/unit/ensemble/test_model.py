"""The ensemble's folder: what is written is what is read, and every way it can be broken says so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ensemw2s.artifacts import write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.folder import is_ensemble_folder, read_settings, write_ensemble
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import CacheError, ConfigError, ModelError
from ensemw2s.models.adapters import LoraSettings, add_lora, save_adapter
from ensemw2s.models.loading import save_model

ALPHAS = [1.25, 0.1 + 0.2]  # must survive to the last bit
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")


@pytest.fixture
def experts(make_expert):
    return [make_expert(1), make_expert(2)]


@pytest.fixture
def write(tmp_path, experts, tokenizer):
    """``write(name, **changes)``: an ensemble folder of two full experts."""

    def do(name="ensemble", **changes):
        folders = [tmp_path / f"{name}-source-{number}" for number in range(len(experts))]
        for model, folder in zip(experts, folders, strict=True):
            save_model(model, tokenizer, folder)
        options = {
            "tokenizer": tokenizer,
            "task_format": FORM,
            "base": "w2s-weak",
            "kind": "full",
            "meta": {"rounds": [1, 2]},
        }
        write_ensemble(tmp_path / name, folders, ALPHAS, changes.pop("rule", "product"), **options | changes)
        return tmp_path / name

    return do


def edit(folder, **changes):
    """Change ``ensemble.json`` and renew the checksums, as a person who knows them would."""
    file = folder / "ensemble.json"
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))
    write_checksums(folder)


def test_round_trip_keeps_every_bit(write, experts):
    folder = write()
    loaded = Ensemble.from_pretrained(folder, engine="turns")
    assert (loaded.alphas, loaded.rule, loaded.task_format) == (ALPHAS, "product", FORM)
    assert loaded.meta["base"] == "w2s-weak"
    assert loaded.meta["rounds"] == [1, 2]
    for stored, original in zip(loaded.models, experts, strict=True):
        for name, tensor in original.state_dict().items():
            assert torch.equal(stored.state_dict()[name], tensor), name
    assert is_ensemble_folder(folder)
    assert not is_ensemble_folder(folder / "expert-1")


def test_a_fitted_rule_lives_in_the_folder(write, experts, tokenizer):
    fitted = {"scores": [[1, -0.1 - 0.2], [0, -1e30]]}
    loaded = Ensemble.from_pretrained(write(rule="best", rule_state=fitted))
    assert loaded.rule_state == loaded.mixing.state == fitted
    texts = ["what is two ?", "one plus"]
    alone = Ensemble.of([experts[0]], [1.0], "mean", tokenizer, FORM)
    assert [a.token_ids for a in loaded.decode(texts)] == [a.token_ids for a in alone.decode(texts)]
    other = Ensemble.from_pretrained(write("other", rule="best", rule_state={"scores": [[0, -1.0], [1, -1.0]]}))
    assert [a.token_ids for a in other.decode(texts)] != [a.token_ids for a in alone.decode(texts)]


def test_a_folder_from_before_there_were_fitted_rules(write):
    folder = write()
    before = Ensemble.from_pretrained(folder)
    assert before.rule_state == {}
    edit(folder, rule_state=...)
    after = Ensemble.from_pretrained(folder)
    assert after.rule_state == {}
    texts = ["what is two ?"]
    assert [a.token_ids for a in after.decode(texts)] == [b.token_ids for b in before.decode(texts)]


def test_a_rule_that_is_not_fitted_makes_no_ensemble(write, experts, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="'calibrated' must be fitted"):
        Ensemble.of(experts, ALPHAS, "calibrated", tokenizer, FORM)
    with pytest.raises(ConfigError, match="'calibrated' must be fitted"):
        write(rule="calibrated")
    assert not (tmp_path / "ensemble").exists()


def test_only_safetensors_and_nothing_beside(write):
    folder = write()
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pkl"}
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_an_expert_folder_is_an_ordinary_model(write, experts):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write()
    assert AutoTokenizer.from_pretrained(folder / "expert-2")("one plus two").input_ids == [1, 5, 9, 6, 0]
    model = AutoModelForCausalLM.from_pretrained(folder / "expert-2").eval()
    ids = torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(model(ids).logits, experts[1](ids).logits)


def test_text_prompts_get_the_start_token_and_no_end_token(write, experts):
    loaded = Ensemble.from_pretrained(write(), engine="turns")
    assert loaded.prompts(["one plus two", "what"]) == [[1, 5, 9, 6], [1, 3]]
    direct = generate(
        experts, ALPHAS, "product", [[1, 5, 9, 6], [1, 3]], max_new_tokens=5, eos_token_ids=0, pad_token_id=0
    )
    assert list(loaded.decode(["one plus two", "what"])) == list(direct)
    assert all(len(a.token_ids) <= 2 for a in loaded.decode(["what"], max_new_tokens=2))
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        loaded.decode(["what"], max_new_tokens=0)


def test_adapters_load_onto_their_base(tmp_path, make_expert, tokenizer):
    base = tmp_path / "base"
    save_model(make_expert(1), tokenizer, base)
    folders, wanted, ids = [], [], torch.tensor([[1, 5, 9]])
    for number in (1, 2):
        model = add_lora(make_expert(1), LoraSettings(r=2), seed=number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(number))
        folders.append(tmp_path / f"adapter-{number}")
        save_adapter(model, folders[-1], base=str(base))
        wanted.append(model.eval()(ids).logits.detach())
    folder = tmp_path / "ensemble"
    write_ensemble(
        folder, folders, [1.0, 2.0], "mean", tokenizer=tokenizer, task_format=FORM, base=str(base), kind="lora", meta={}
    )
    loaded = Ensemble.from_pretrained(folder)
    for model, logits in zip(loaded.models, wanted, strict=True):
        torch.testing.assert_close(model(ids).logits, logits)
    assert not torch.allclose(wanted[0], wanted[1])
    assert len(list(loaded.decode(["one plus", "two"]))) == 2


def test_damaged_missing_or_half_written_experts_are_refused(write):
    folder = write()
    weights = folder / "expert-2" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"not whole.*expert-2/model.safetensors is damaged"):
        Ensemble.from_pretrained(folder)
    Ensemble.from_pretrained(folder, verify=False)  # one flipped bit in a weight goes unnoticed when told not to look
    weights.unlink()
    with pytest.raises(ModelError, match=r"expert-2/model.safetensors is missing"):
        Ensemble.from_pretrained(folder)
    with pytest.raises(ModelError, match="no weights"):
        Ensemble.from_pretrained(folder, verify=False)
    shutil.rmtree(folder / "expert-2")
    with pytest.raises(ModelError, match="expert-2 is missing"):
        Ensemble.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"alphas": [1.0, -0.5]}, ConfigError, r"ensemble.json.*negative"),
        ({"alphas": [1.0, float("nan")]}, ConfigError, "not all finite"),
        ({"alphas": [0.0, 0.0]}, ConfigError, "all zero"),
        ({"alphas": [1.0]}, ConfigError, "1 alphas for 2 experts"),
        ({"alphas": ["1", "2"]}, ConfigError, "no list of numbers"),
        ({"alphas": 3}, ConfigError, "no list of numbers"),
        ({"rule": "prodct"}, ConfigError, "did you mean 'product'"),
        ({"rule": ...}, ModelError, "lacks rule"),
        ({"rule": None}, ConfigError, r"ensemble.json: rule None"),
        ({"rule": "calibrated"}, ConfigError, r"ensemble.json: rule 'calibrated' must be fitted"),
        ({"rule": "gate", "rule_state": {"beta": 1}}, ConfigError, r"ensemble.json: rule 'gate' cannot use"),
        ({"rule": "prefix", "rule_state": [1]}, ConfigError, r"rule_state \[1\]"),
        ({"experts": ["expert-1", "../ensemble-source-0"]}, ModelError, "no list of folder names"),
        ({"experts": "expert-1"}, ModelError, "no list of folder names"),
        ({"format_version": 2}, ModelError, "format 2"),
    ],
)
def test_unusable_settings_are_refused(write, changes, error, words):
    folder = write()
    edit(folder, **changes)
    with pytest.raises(error, match=words):
        Ensemble.from_pretrained(folder)


def test_not_an_ensemble_folder(tmp_path, write):
    with pytest.raises(ModelError, match=r"holds no ensemble.*ensemw2s boost"):
        Ensemble.from_pretrained(tmp_path)
    folder = write()
    (folder / "ensemble.json").write_text("[1")
    with pytest.raises(ModelError, match="cannot read"):
        read_settings(folder)
    (folder / "ensemble.json").write_text("[1]")
    with pytest.raises(ModelError, match="lacks"):
        read_settings(folder)


def test_a_padded_output_layer_still_shares_the_vocabulary(write, make_expert, experts, tokenizer):
    """Same tokenizer means the same vocabulary map, not the same size: a matrix may be padded."""
    folder = write()
    wide = make_expert(3, vocab_size=20)
    shutil.rmtree(folder / "expert-2")
    save_model(wide, tokenizer, folder / "expert-2")
    write_checksums(folder)
    loaded = Ensemble.from_pretrained(folder)
    ids = torch.tensor([[1, 5, 9]])
    one, two = (model(ids).logits[0, -1].double().softmax(-1) for model in (experts[0], wide))
    shares = torch.tensor(ALPHAS, dtype=torch.float64) / sum(ALPHAS)
    logs = torch.nn.functional.pad(one, (0, 4)).log().clamp(min=-1e30) * shares[0] + two.log() * shares[1]  # product
    torch.testing.assert_close(loaded(ids).logits[0, -1].double(), logs.log_softmax(-1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match=r"different vocabularies \(sizes \[16, 20\]\)"):
        Ensemble.of([experts[0], wide], ALPHAS)  # without a tokenizer nothing says that they mean the same


def test_experts_of_different_vocabularies_are_refused(write, make_expert, tokenizer):
    from tokenizers import Tokenizer

    folder = write()
    other = json.loads(tokenizer.backend_tokenizer.to_str())
    other["model"]["vocab"] |= {"one": 6, "two": 5}  # equal size, other meaning
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(other))
    save_model(make_expert(3), tokenizer, folder / "expert-2")
    write_checksums(folder)
    with pytest.raises(ModelError, match="must share one vocabulary"):
        Ensemble.from_pretrained(folder)


def test_tokenizer_larger_than_the_experts_is_refused(make_expert, tokenizer):
    with pytest.raises(ModelError, match="tokenizer has 14 tokens, the experts know 8"):
        Ensemble.of([make_expert(1, vocab_size=8)], [1.0], "mean", tokenizer, FORM)


def test_an_existing_folder_is_replaced_only_when_told(write):
    folder = write()
    (folder / "left over").write_text("x")
    with pytest.raises(CacheError, match="exists already"):
        write()
    write(base="another", replace=True)
    assert Ensemble.from_pretrained(folder).meta["base"] == "another"
    assert not (folder / "left over").exists()
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path, write):
    (tmp_path / "ensemble").mkdir()
    (tmp_path / "ensemble" / "thesis.txt").write_text("mine")
    with pytest.raises(CacheError, match="exists already"):
        write(replace=True)
    assert (tmp_path / "ensemble" / "thesis.txt").read_text() == "mine"


def test_a_failed_rewrite_leaves_the_old_ensemble(write, tokenizer, monkeypatch):
    folder = write()
    before = read_settings(folder)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(CacheError, match="disk is full"):
        write_ensemble(
            folder, [folder / "expert-1"], [1.0], "mean", tokenizer=tokenizer, task_format=FORM, base="x", kind="full",
            meta={}, replace=True,
        )  # fmt: skip
    monkeypatch.undo()
    assert read_settings(folder) == before
    Ensemble.from_pretrained(folder)


def test_experts_of_the_replaced_ensemble_can_be_reused(write, tokenizer):
    folder = write()
    write_ensemble(
        folder, [folder / "expert-2"], [1.0], "mean", tokenizer=tokenizer, task_format=FORM, base="x", kind="full",
        meta={}, replace=True,
    )  # fmt: skip
    assert len(Ensemble.from_pretrained(folder).models) == 1


def test_nothing_is_written_for_unusable_alphas_or_rules(tmp_path, tokenizer):
    for alphas, rule in (([-1.0], "mean"), ([1.0], "nope")):
        with pytest.raises(ConfigError):
            write_ensemble(
                tmp_path / "new", [tmp_path], alphas, rule, tokenizer=tokenizer, task_format=FORM, base="x",
                kind="full", meta={},
            )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whole", ["new", "old"])
def test_a_kill_between_the_two_renames_loses_nothing(write, whole):
    """Only hidden folders are left then: the new ensemble if it is whole, and the old one."""
    folder = write()
    aside = folder.with_name(f".{folder.name}.{whole}")
    folder.rename(aside)
    if whole == "old":  # the new one was not finished
        folder.with_name(f".{folder.name}.new").mkdir()
    assert Ensemble.from_pretrained(folder).alphas == ALPHAS
    assert not aside.exists()
