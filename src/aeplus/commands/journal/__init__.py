"""``aeplus log``, ``show``, ``verify``, ``apply`` and ``undo``: what one does with a journal."""
