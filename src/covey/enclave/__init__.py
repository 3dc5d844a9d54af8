"""Enclaves: attestation of programs that run in them, and sealed messages between attested pairs."""

KINDS = {
    "enclave": {
        "gramine-sgx": "covey.enclave.gramine:GramineSGX",
        "none": "covey.enclave.provider:NoEnclave",
        "simulated": "covey.enclave.simulated:Simulated",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
