"""What a checkpoint refuses to be resumed with."""

import warnings
from typing import Any

import pytest
import torch

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.run.journal import Entry, Journal
from aeplus.run.resume import Resume

REQUESTS = [EditRequest("{} is in", "Paris", "Italy"), EditRequest("{} is in", "Rome", "France")]
SETTINGS = {"model": {"method": {"ridge": 1.0}}}


def checkpoint() -> dict[str, Any]:
    update = LowRankUpdate(torch.ones(2, 1), torch.ones(1, 3))
    edit = {"prompt": "{} is in", "subject": "Paris", "target_new": "Italy"}
    journal = Journal([Entry([edit], {4: update, 5: update}, {4: torch.ones(3, 1), 5: torch.ones(3, 1)}, {})])
    notes = {"fingerprint": "abc", "settings": SETTINGS, "batches": journal.notes()}
    return {"aeplus": notes, "state_dict": journal.tensors()}


def test_the_same_run_and_a_longer_stream_go_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume = Resume(checkpoint(), SETTINGS)
    resume.check("gpt2", "abc", [4, 5], REQUESTS)
    assert list(resume.journal.entries[0].updates) == [4, 5]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"fingerprint": "abd"},
            "expected a checkpoint of the weights of gpt2, got edits of other weights; resume with the model",
        ),
        (
            {"layers": [4, 6]},
            r"expected model.layers \[4, 5\], which the checkpoint edited, got \[4, 6\]; resume with those",
        ),
        ({"requests": REQUESTS[::-1]}, "expected the checkpoint's 1 edits as the first ones of the data, got others"),
        ({"requests": []}, "expected the checkpoint's 1 edits as the first ones of the data, got others"),
    ],
)
def test_another_run_is_refused(change: dict[str, Any], text: str) -> None:
    same = {"model": "gpt2", "fingerprint": "abc", "layers": [4, 5], "requests": REQUESTS}
    with pytest.raises(InputError, match=text):
        Resume(checkpoint(), SETTINGS).check(**{**same, **change})


def test_other_settings_are_told() -> None:
    with pytest.warns(UserWarning, match=r"was made with model.method.ridge = 1.0 and now it is 2.0"):
        Resume(checkpoint(), {"model": {"method": {"ridge": 2.0}}})


def test_a_checkpoint_of_something_else() -> None:
    with pytest.raises(InputError, match="expected an aeplus checkpoint, got one without edits"):
        Resume({"state_dict": {}}, SETTINGS)
