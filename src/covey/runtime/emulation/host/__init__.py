"""A host of an emulation: the process that some of the nodes are in."""
