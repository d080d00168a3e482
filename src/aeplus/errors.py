"""What aeplus tells a person whose input it cannot use."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence that says what was expected, what came and what to do about it. The command
    line prints it without a traceback and ends with status 2.
    """
