"""``aeplus export``."""

from argparse import Namespace
from pathlib import Path

from aeplus.errors import InputError
from aeplus.journal import Journal
from aeplus.journal.base import load_base, sources
from aeplus.journal.export.exporter import ExportOptions, export
from aeplus.journal.export.served import check_served
from aeplus.utils.paths import check_output, expanded
from aeplus.utils.tables import print_line


def run(options: Namespace) -> int:
    """Writes the folder, and uploads or checks it where asked.

    Raises:
        InputError: If the journal is damaged, the model is another, the folder may not be written, or the server does
            not serve the edits.
    """
    out = expanded(options.out)
    check_output(out, "--out", folder=True)
    chosen = ExportOptions(
        options.rank, options.tolerance, options.prefix, options.per_batch, options.shard, options.source
    )
    journal = Journal.open(options.journal)
    check_output(out, "--out", sources(journal.chain, options.model, options.source), folder=True)
    model, tokenizer = load_base(journal.chain, options.model)
    done = export(journal, options.format, out, model, tokenizer, options.command, chosen)
    print_line(f"{options.format}: {out}")
    if done.rank is not None:
        print_line(f"rank {done.rank}; relative error of a layer's change at most {max(done.lost.values()):.1e}")
    print_line(f"probe: {done.probe.prompt!r} → {done.probe.after!r} (base model: {done.probe.before!r})")
    if options.push is not None:
        _push(out, options.push)
        print_line(f"uploaded: {options.push}")
    if options.check is not None:
        answer = check_served(options.check, done.probe, options.served)
        print_line(f"served: {options.check} answers {answer!r}")
    return 0


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[".aeplus*"])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"expected to upload {folder} to {repository}, got an error ({reason}); log in: hf auth login."
        raise InputError(msg) from error
