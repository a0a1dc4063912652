// Keeps a layer that has headers only a target of its own.
