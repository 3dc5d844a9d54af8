"""The launcher of an emulation: it begins hosts, hears what happens at them, and keeps it."""
