"""The parts a method is composed of, and how they edit a batch."""
