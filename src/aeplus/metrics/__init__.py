"""What is measured of edits, as torchmetrics classes that never run a model.

A new one is a class here and an entry in ``Protocol`` and ``Suite.measure`` of :mod:`aeplus.evaluation.suite`.
"""
