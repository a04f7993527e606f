"""The parts of a training: recipe, optimizer, epochs, checkpoints, processes, devices."""
