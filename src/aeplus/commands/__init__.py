"""The command line: a module or a package per command, with ``run``; their options are in :mod:`.arguments`."""
