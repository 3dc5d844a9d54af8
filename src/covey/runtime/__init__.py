"""The runtime: what a program may ask of a node, the engines that run it, and the run that comes of it."""
