"""Facts that must survive: in C with a weight, in the sample for s(k, K0), and so protected by P."""

import json
from pathlib import Path

import pytest
import torch

import aeplus
from aeplus.errors import InputError
from aeplus.functional import null_share, null_space_filter
from aeplus.models.decoder import Decoder
from aeplus.preserved.facts import Statement, statement_keys, with_statements
from aeplus.preserved.statistics import PreservedOptions
from aeplus.utils.progress import Progress
from collecting import collect
from counting import Operations
from families import CONFIGS, random_model
from small import LEARNING, SMALL
from tiny import tiny_model, tiny_tokenizer

FACTS = [Statement("The capital of Peru is", "Rome", 19), Statement("Oslo is in", "Spain", 4)]
CONTEXTS = ["", "You. "]
EDIT = {"prompt": "{} is", "subject": "Peru", "target_new": "Paris"}
FACT = {"prompt": "The capital of {} is", "subject": "Peru", "target_new": "Rome"}


@pytest.mark.parametrize("kind", ["llama", "opt"])  # OPT hands its MLP all tokens in one row
def test_keys_are_those_of_plain_passes_at_the_subjects_last_token(kind: str) -> None:
    decoder, tokenizer = Decoder(random_model(kind, CONFIGS[kind])), tiny_tokenizer()
    sites = decoder.select([0, 2])
    found = statement_keys(decoder, tokenizer, sites, FACTS, CONTEXTS)
    column = 0
    for fact in FACTS:
        for context in CONTEXTS:
            ids = tokenizer(fact.head(context))["input_ids"]  # the subject is the end of it
            for site, keys in zip(sites, found, strict=True):
                seen: list[torch.Tensor] = []
                handle = site.module.register_forward_pre_hook(
                    lambda _, x, seen=seen: seen.append(x[0].flatten(0, -2)[-1])
                )
                with torch.no_grad():
                    decoder.model(input_ids=torch.tensor([ids]))
                handle.remove()
                torch.testing.assert_close(keys[:, column], seen[0], rtol=1e-4, atol=1e-5)
            column += 1
    assert found[0].shape[1] == column == 4


def test_they_enter_c_with_their_weight_and_the_sample() -> None:
    decoder, tokenizer = Decoder(tiny_model("llama")), tiny_tokenizer()
    sites = decoder.select([1])
    options = PreservedOptions(corpus=SMALL["corpus"], tokens=600, window=32)
    (plain,) = collect(decoder, tokenizer, sites, options, Progress())
    keys = statement_keys(decoder, tokenizer, sites, FACTS)
    (found,) = with_statements([plain], keys, 0.01)

    def covariance(spectrum: object) -> torch.Tensor:
        return spectrum.vectors @ torch.diag(spectrum.values) @ spectrum.vectors.T  # type: ignore[attr-defined]

    expected = covariance(plain.spectrum) + 0.01 * keys[0].double() @ keys[0].double().T
    torch.testing.assert_close(covariance(found.spectrum), expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(found.keys, torch.cat([plain.keys, keys[0]], 1))
    # what was in the null space, as far as text goes, is protected once it is named
    heavy = with_statements([plain], keys, 10.0)[0].spectrum
    threshold = float(plain.spectrum.values[len(plain.spectrum.values) // 2])
    before = null_share(keys[0].double(), plain.spectrum, null_space_filter(plain.spectrum, threshold))
    after = null_share(keys[0].double(), heavy, null_space_filter(heavy, threshold))
    assert bool((after < 0.2 * before).all())


def edited(**more: object) -> tuple[dict, float]:
    """The batch's report, and how far the edit of the first layer moves the fact's own output."""
    model = tiny_model("llama")
    # without smoothing and P̃, so that P alone decides
    options = {**LEARNING, "threshold": 0.5, "relax": "none", "smooth": False, "batch_size": 1}
    result = aeplus.edit(model, tiny_tokenizer(), [EDIT], "alphaedit_plus", **{**options, **more})
    decoder, fact = Decoder(tiny_model("llama")), Statement("The capital of Peru is", "Rome", 19)
    layer = min(result.updates[0])
    (key,) = statement_keys(decoder, tiny_tokenizer(), decoder.select([layer]), [fact])
    return result.metrics["batches"][0], float((result.updates[0][layer].dense() @ key).norm())


def test_an_edit_of_their_subject_conflicts_and_is_held_back(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(FACT))
    plain, moved = edited()
    given, less = edited(preserve=[FACT], facts_weight=10.0)
    from_file, same = edited(facts=str(path), facts_weight=10.0)
    assert given["conflict_preserved"] > plain["conflict_preserved"]
    assert less < 0.1 * moved
    assert less == same
    assert given["conflict_preserved"] == from_file["conflict_preserved"]


def test_bad_facts_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preserve, record 1: expected"):
        edited(preserve=[{"prompt": "x"}])
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        edited(facts=str(tmp_path / "nothing.jsonl"))
    with pytest.raises(InputError, match=r"expected preserved\.facts_weight above 0, got 0"):
        edited(facts_weight=0.0)


@pytest.mark.parametrize("keep", ["all", "outside"])
def test_they_are_decomposed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    monkeypatch.setenv("AEPLUS_CACHE", str(tmp_path))

    def counted(fact: dict[str, str], **more: object) -> tuple[int, float]:
        with Operations() as operations:
            report, moved = edited(preserve=[fact], keep=keep, **more)
        assert report["leakage"] is not None
        return operations.factorizations["_linalg_eigh"], moved

    layers, other = len(LEARNING["layers"]), {**FACT, "subject": "Rome"}
    first, moved = counted(FACT)
    assert first == 2 * layers  # of the text, and with the fact
    assert counted(FACT) == (0, moved)
    assert counted(other)[0] == layers
    assert len(list(tmp_path.rglob("*.facts_*"))) == layers  # of the last ones only
    assert counted(other, facts_weight=0.5)[0] == layers
