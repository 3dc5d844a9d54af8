"""A host of an emulation: the process of some of the nodes."""
