"""The run itself, without a training loop: session, selection, journal, checkpoint, report."""
