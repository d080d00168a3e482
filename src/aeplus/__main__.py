"""``python -m aeplus``, as launchers of several processes start it."""

from aeplus.commands.main import entry_point

if __name__ == "__main__":
    entry_point()
