"""The stream of sequential batches, the validation set and the test prompts, as a LightningDataModule."""

import random
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from aeplus.data.adapting import (
    continued,
    edit_key,
    readable_tests,
    taken_out,
    usable_edits,
    warn_of_repeats,
    with_own_cases,
)
from aeplus.data.chat import ChatTemplate
from aeplus.data.formats.zsre import ask_plainly
from aeplus.data.manifest import read_validation
from aeplus.data.readability import ModelLimits, readable_validation
from aeplus.data.readers import fill_neighborhoods, read_requests, read_stream
from aeplus.data.scoring import ValidationPrompt, corpus_snippets, validation_items
from aeplus.data.settings import check_settings, record_range
from aeplus.data.validation import ValidationSet, build_validation, overlap
from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.utils.fingerprint import text_stamp


class _CurrentBatch(IterableDataset[list[EditRequest]]):
    """Yields only the batch at the cursor: an epoch is one smoothing iteration of one batch."""

    def __init__(self, data: "EditDataModule") -> None:
        self.data = data

    def __iter__(self) -> Iterator[list[EditRequest]]:
        yield self.data.current


class _Validation(IterableDataset[list[ValidationPrompt]]):
    """Yields what scores the batch at the cursor: paraphrases of the edits so far, and preserved facts."""

    def __init__(self, data: "EditDataModule") -> None:
        self.data = data

    def __iter__(self) -> Iterator[list[ValidationPrompt]]:
        yield self.data.validation_items()


class EditDataModule(LightningDataModule):
    """Edits in sequential batches.

    Args:
        path: A file of edits or a hub id, or several in a row; their format is detected by their content (see
            ``docs/data.md``).
        batch_size: Edits in a sequential batch.
        limit: Maximum number of records (of ``subset``, where there is one), from the first.
        subset: Take the records from ``start`` to before ``stop``, written ``start:stop`` (in quotes in a YAML file)
            and counted from 0 over all files; either may be left out.
        shuffle: Shuffle the records taken, by ``seed``. The edits of a record stay together.
        skip_unusable: Leave out records that cannot be used, with a warning, instead of refusing the file: those with a
            field that cannot be read, and those that this model cannot read, such as one too long for it.
        target: Which answer of a ZsRE record is the target; ``text`` takes AKEW's unstructured text.
        join: What stands between prompt and answer: ``auto`` (a space, but none behind whitespace, an opening quote,
            a slash or in a script without spaces), ``space`` or ``none``. A record's field ``join`` comes first.
        chat_template: Render prompts and tests by the tokenizer's chat template, so that a chat is edited.
        protocol: How ZsRE's and AlphaSet's prompts are asked: ``published``, as their loaders do, or ``plain``; see
            ``docs/metrics.md``.
        neighbors: Where a record has no neighborhood, take at most N prompts of the same form from the file's records
            that are not edited.
        validation: A validation set that ``aeplus build-validation`` has written for these edits. It replaces the one
            made from ``validation_share``, ``preserved``, ``preserved_count`` and ``snippet_corpus``.
        validation_share: Share of each batch whose paraphrases score it for Generalization, in its own batch and
            later; one paraphrase of every edit scores Efficacy. With smoothing the scores choose the candidate.
        validation_earlier: Maximum number of paraphrases of earlier batches among them: a sample for each batch, so
            that a batch after thousands of edits costs as much as an early one.
        preserved: A file of true facts (``target_true``, else ``target_new``, is the present answer) whose paraphrases
            score Specificity after every batch. Without one, sentence beginnings of ``snippet_corpus`` are used, with
            the unedited model's continuation.
        preserved_count: Number of preserved facts or sentence beginnings.
        snippet_corpus: Text for those beginnings; by default that of ``model.preserved.corpus``.
        seed: Seed of every choice made here.
    """

    def __init__(
        self,
        path: str | list[str] | None = None,
        batch_size: int = 10,
        limit: int | None = None,
        subset: str | None = None,
        shuffle: bool = False,
        skip_unusable: bool = False,
        target: Literal["answers", "alt", "text"] = "answers",
        join: Literal["auto", "space", "none"] = "auto",
        chat_template: bool = False,
        protocol: Literal["published", "plain"] = "published",
        neighbors: int = 0,
        validation: str | None = None,
        validation_share: float = 0.1,
        validation_earlier: int = 100,
        preserved: str | None = None,
        preserved_count: int = 20,
        snippet_corpus: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.join, self.chat_template = join, chat_template
        self.path, self.batch_size, self.limit, self.target = path, batch_size, limit, target
        self.subset, self.shuffle, self.skip_unusable = subset, shuffle, skip_unusable
        self.neighbors, self.validation_share, self.seed = neighbors, validation_share, seed
        self.validation_earlier = validation_earlier
        self.validation_file = validation
        self.preserved, self.preserved_count, self.snippet_corpus = preserved, preserved_count, snippet_corpus
        check_settings(self.settings)
        self._given: list[EditRequest] | None = None
        self._read: list[EditRequest] = []  # as they were before a model was known
        self._made: list[EditRequest] = []  # as they were left by setup or adapt
        self._earlier: list[EditRequest] = []  # made by an earlier run
        self._new: list[EditRequest] = []  # what comes after those, or repeats the last of them
        self._others: Collection[int] = ()  # the places in the stream of edits that are none of those
        self._snippets_due = False
        self.requests: list[EditRequest] = []
        self.validation = ValidationSet((), (), {})
        self.overlap: frozenset[str] = frozenset()
        self.cursor = 0  # edits committed
        self._items: tuple[tuple[Any, ...], list[ValidationPrompt]] | None = None  # of the batch at the cursor

    def attach(self, requests: Sequence[EditRequest], unknown: Collection[int] = ()) -> "EditDataModule":
        """Uses these edits, in their order, instead of reading files.

        Args:
            requests: The edits.
            unknown: The places of those that a validation file need not have been made for.
        """
        self._given, self._others = list(requests), unknown
        return self

    def follow(self, earlier: Sequence[EditRequest], undone: Sequence[tuple[int, EditRequest]] = ()) -> None:
        """Lets the stream go on after edits that are made already, where it does not begin with the last of them.

        Args:
            earlier: These edits, in order.
            undone: Edits that were taken out, each with the entry of the journal that took it out.
        """
        new = with_own_cases(earlier, self._given if self._given is not None else self.read())
        same = continued(earlier, new)
        warn_of_repeats(earlier[: len(earlier) - same], undone, new[same:])
        self._new, self._others = new, range(len(earlier) - same)
        self._begin_with(earlier, new[same:])

    def include(self, earlier: Sequence[EditRequest], undone: Sequence[tuple[int, EditRequest]] = ()) -> None:
        """Puts edits that are made already before the stream, for measuring: what is among them counts once.

        Args:
            earlier: These edits, in order.
            undone: Edits that were taken out, each with the entry of the journal that took it out.
        """
        new = with_own_cases(earlier, self._given if self._given is not None else self.read())
        made, asked = set(map(edit_key, earlier)), set(map(edit_key, new))
        self._new = [edit for edit in new if edit_key(edit) not in made]
        self._others = {place for place, edit in enumerate(earlier) if edit_key(edit) not in asked}
        if taken := taken_out(self._new, undone):
            warnings.warn(f"of the edits measured {taken}, and are not in the model", stacklevel=2)
        self._begin_with(earlier, self._new)

    def _begin_with(self, earlier: Sequence[EditRequest], rest: Sequence[EditRequest]) -> None:
        self._earlier, self._given, self.requests = list(earlier), [*earlier, *rest], []
        self.setup("fit")
        self.cursor = len(earlier)

    def setup(self, stage: str) -> None:
        """Reads the files, once.

        Raises:
            InputError: If a file is missing or of another kind, or the validation file does not match the edits or
                contains one of their test prompts.
        """
        if self.requests:
            return
        requests = self.read()
        self.validation = self._validation_set(requests, self.snippet_corpus)
        self.overlap = frozenset(overlap(self.validation, requests))
        self.requests = self._read = self._made = requests
        if not self._earlier:
            self._new = requests

    def adapt(self, limits: ModelLimits, corpus: str) -> None:
        """Makes the stream one for a model: checks that it can be read and renders chats; once the model is known.

        Args:
            limits: The model.
            corpus: The text of preserved knowledge, for sentence beginnings if ``snippet_corpus`` names none.

        Raises:
            InputError: If something cannot be read and may not be left out, or the tokenizer has no chat template.
        """
        template = ChatTemplate(limits.tokenizer) if self.chat_template else None
        if self.requests is not self._made:  # others were put in their place
            self._read = self._new = self.requests
            self._earlier, self._others = [], ()
        kept, requests = usable_edits(self._new, limits, template, self.join, self.skip_unusable)
        if self._earlier:  # as they were made
            same = continued(self._earlier, requests)
            if isinstance(self._others, range):
                self._others = range(len(self._earlier) - same)
            kept, requests = [*self._earlier, *kept[same:]], [*self._earlier, *requests[same:]]
        if len(kept) != len(self._read) or template is not None or self._snippets_due:
            asked = [replace(edit, prompt=edit.asked) if edit.asked else edit for edit in kept]
            validation = self._validation_set(asked, self.snippet_corpus or corpus)
            self.validation = validation if template is None else template.validation(validation, asked)
            self.overlap = frozenset(overlap(self.validation, requests))
        self.requests = self._made = requests
        usable = readable_validation(limits, self.validation, requests)
        if lost := len(self.validation.prompts) - len(usable.prompts):
            warnings.warn(f"{lost} validation prompts do not fit the model and are left out", stacklevel=2)
        self.validation = usable

    def check_tests(self, limits: ModelLimits) -> None:
        """Leaves out test prompts that the model cannot read, and counts them; part of measuring the unedited model.

        Raises:
            InputError: If there are some and they may not be left out.
        """
        left = readable_tests(self.requests, limits, self.skip_unusable)
        if left is not self.requests:
            self.requests = self._made = left

    def adapted(self, requests: Sequence[EditRequest], limits: ModelLimits) -> list[EditRequest]:
        """Edits as a model reads them: checked, and rendered if they are chats.

        Raises:
            InputError: As :meth:`adapt` does.
        """
        template = ChatTemplate(limits.tokenizer) if self.chat_template else None
        return usable_edits(requests, limits, template, self.join, self.skip_unusable)[1]

    def _validation_set(self, requests: list[EditRequest], corpus: str | None) -> ValidationSet:
        if self.validation_file is not None:
            return replace(read_validation(Path(self.validation_file), requests, self._others), join=self.join)
        facts = read_requests(Path(self.preserved), join=self.join) if self.preserved else []
        validation = build_validation(
            requests,
            facts,
            batch_size=self.batch_size,
            share=self.validation_share,
            preserved_count=self.preserved_count,
            seed=self.seed,
        )
        self._snippets_due = not facts and self.preserved_count > 0 and corpus is None
        if not facts and self.preserved_count and corpus is not None:
            snippets = corpus_snippets(corpus, text_stamp(corpus), self.preserved_count, self.seed)
            validation = replace(validation, preserved=snippets)
        return validation

    def read(self) -> list[EditRequest]:
        """The edits, in the stream's order.

        Raises:
            InputError: If there are none, or they cannot be read.
        """
        if self._given is not None:
            if not self._given:
                msg = "expected at least one edit, got an empty list; give prompt, subject and target_new of one."
                raise InputError(msg)
            return list(self._given)
        paths = [self.path] if isinstance(self.path, str) else list(self.path or ())
        if not paths:
            msg = "expected edits, got no data.path; pass a file: --data.path edits.jsonl."
            raise InputError(msg)
        options: dict[str, Any] = {"target": self.target, "skip_unusable": self.skip_unusable, "join": self.join}
        records = read_stream(paths, *record_range(self.subset, self.limit), **options)
        if not records:
            msg = f"expected records in data.subset {self.subset} of {', '.join(paths)}, got none; start earlier."
            raise InputError(msg)
        if self.shuffle:
            random.Random(self.seed).shuffle(records)
        stream = [edit for edits in records for edit in edits]
        if self.protocol == "plain":
            stream = ask_plainly(stream)
        if not self.neighbors:
            return stream
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fields of the records that nobody reads")  # said above
            pool = [edit for edits in read_stream(paths, **options) for edit in edits]
        return fill_neighborhoods(stream, pool, self.neighbors, self.seed)

    @property
    def batches(self) -> int:
        """Number of sequential batches still to be edited; the last may be smaller."""
        return -(-(len(self.requests) - self.cursor) // self.batch_size)

    @property
    def current(self) -> list[EditRequest]:
        """The batch at the cursor."""
        return self.requests[self.cursor : self.cursor + self.batch_size]

    @property
    def edited(self) -> list[EditRequest]:
        """All edits before the cursor's batch."""
        return self.requests[: self.cursor]

    @property
    def exhausted(self) -> bool:
        """Whether every batch has been committed."""
        return self.cursor >= len(self.requests)

    def validation_items(self) -> list[ValidationPrompt]:
        """What scores the current candidate; see :func:`~aeplus.data.scoring.validation_items`."""
        asked_of = self.cursor, self.validation, self.requests
        if self._items is None or self._items[0] != asked_of:  # every candidate of a batch is asked the same
            reached = self.requests[: self.cursor + self.batch_size]
            items = validation_items(self.validation, reached, self.cursor, self.validation_earlier, self.seed)
            self._items = asked_of, items
        return self._items[1]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are texts and stay on the CPU."""
        return batch

    def train_dataloader(self) -> DataLoader[Any]:
        """One item per epoch: the batch at the cursor."""
        return DataLoader(_CurrentBatch(self), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation set of the edits so far."""
        return DataLoader(_Validation(self), batch_size=None)

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters, as plain values."""
        names = (
            "path batch_size limit subset shuffle skip_unusable target join chat_template protocol neighbors "
            "validation_share validation_earlier preserved preserved_count snippet_corpus seed"
        )
        return {name: getattr(self, name) for name in names.split()} | {"validation": self.validation_file}

    def state_dict(self) -> dict[str, Any]:
        """The number of committed edits, for a checkpoint."""
        return {"cursor": self.cursor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes where a checkpoint stopped."""
        cursor = state_dict.get("cursor")
        if not isinstance(cursor, int) or not 0 <= cursor <= len(self.requests):
            msg = (
                f"expected a checkpoint within the {len(self.requests)} edits, got its cursor {cursor!r}; take another."
            )
            raise InputError(msg)
        self.cursor = cursor
