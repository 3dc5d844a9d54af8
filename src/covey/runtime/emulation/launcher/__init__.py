"""The launcher of an emulation, which starts hosts and records their reports."""
