"""Enclaves: evidence, handshakes, and records that are tampered with on their way."""

import hashlib
import json
import os
import random
import sys
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.enclave import dcap, simulated
from covey.enclave.channel import OVERHEAD, Channel, Handshake
from covey.enclave.gramine import GramineSGX
from covey.enclave.provider import Claims, EnclaveError, EnclaveProvider, NoEnclave, Policy
from covey.enclave.simulated import Simulated, platform

pytest.importorskip("dcap_qvl")
NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
PROVIDER = Simulated()


def shaken(own: int = 0, peer: int = 1, **options: bytes) -> tuple[Handshake, Handshake]:
    policy = PROVIDER.policy()
    return Handshake(PROVIDER, policy, own, peer, **options), Handshake(PROVIDER, policy, peer, own, **options)


def channels() -> tuple[Channel, Channel]:
    a, b = shaken()
    to_b, _ = a.finish(b.hello, b.evidence(a.hello), NOW)
    to_a, _ = b.finish(a.hello, a.evidence(b.hello), NOW)
    return to_b, to_a


class Made(EnclaveProvider):
    """A simulated enclave with a report of its own."""

    def __init__(self, measurement: bytes, debug: bool = False) -> None:
        super().__init__()
        self.__dict__.update(_measurement=measurement, _debug=debug)

    simulated = True

    def measurement(self) -> bytes:
        return self.__dict__["_measurement"]

    def quote(self, report_data: bytes) -> bytes:
        return platform().quote(dcap.report(self.measurement(), bytes(32), report_data, self.__dict__["_debug"]))

    def verify(self, evidence: bytes, now: int) -> Claims:
        return PROVIDER.verify(evidence, now)


def test_a_simulated_quote_says_what_it_is():
    data = os.urandom(64)
    claims = PROVIDER.verify(PROVIDER.quote(data), NOW)
    assert claims.simulated
    assert (claims.report_data, claims.measurement) == (data, PROVIDER.measurement())
    assert (claims.status, claims.debug) == ("UpToDate", False)


def test_simulated_evidence_is_refused_by_default():
    claims = PROVIDER.verify(PROVIDER.quote(bytes(64)), NOW)
    with pytest.raises(EnclaveError, match="simulated, and the policy accepts only genuine"):
        Policy(frozenset({claims.measurement})).check(claims, bytes(64))
    PROVIDER.policy().check(claims, bytes(64))


def test_a_simulated_quote_is_not_one_of_intel():
    with pytest.raises(EnclaveError, match="not genuine"):
        dcap.claims_of(PROVIDER.quote(bytes(64)), platform().collateral, None, NOW)


@pytest.mark.parametrize("place", [50, 48 + 64, 48 + 48, 48 + 320, 440, 520, 600])
def test_a_flipped_bit_of_a_quote_is_refused(place):
    quote = bytearray(PROVIDER.quote(bytes(64)))
    quote[place] ^= 1
    with pytest.raises(EnclaveError):
        PROVIDER.verify(bytes(quote), NOW)


@given(st.binary(max_size=500))
@settings(max_examples=30, deadline=None)
def test_other_bytes_are_no_evidence(evidence):
    with pytest.raises(EnclaveError):
        PROVIDER.verify(evidence, NOW)


def test_expired_or_missing_collateral_is_refused():
    quote = PROVIDER.quote(bytes(64))
    with pytest.raises(EnclaveError, match="not genuine or its collateral not valid"):
        PROVIDER.verify(quote, int(datetime(2050, 1, 1, tzinfo=UTC).timestamp()))
    for missing in ("tcb_info", "pck_crl"):
        known = json.loads(platform().collateral)
        known[missing] = ""
        with pytest.raises(EnclaveError):
            dcap.claims_of(quote, json.dumps(known), platform().root, NOW, simulated=True)


def test_a_debug_enclave_and_another_measurement_are_refused():
    for peer, reason in (
        (Made(PROVIDER.measurement(), debug=True), "Debug mode is enabled"),
        (Made(bytes(32)), "measurement 0000000000000000 is not accepted"),
    ):
        a, b = Handshake(PROVIDER, PROVIDER.policy(), 0, 1), Handshake(peer, peer.policy(), 1, 0)
        with pytest.raises(EnclaveError, match=reason):
            a.finish(b.hello, b.evidence(a.hello), NOW)


def test_the_policy_refuses_a_debug_enclave_by_itself():
    claims = Claims(bytes(32), bytes(32), 1, 1, True, "UpToDate", (), bytes(64), False)
    with pytest.raises(EnclaveError, match="debug enclave, whose host reads"):
        Policy(frozenset({bytes(32)})).check(claims, bytes(64))


def test_a_platform_that_is_not_up_to_date_is_refused():
    claims = Claims(bytes(32), bytes(32), 1, 1, False, "OutOfDate", (), bytes(64), False)
    with pytest.raises(EnclaveError, match="status is OutOfDate, not UpToDate"):
        Policy(frozenset({bytes(32)})).check(claims, bytes(64))


def test_a_recorded_quote_is_refused_in_the_next_handshake():
    a, b = shaken()
    recorded_hello, recorded = b.hello, b.evidence(a.hello)
    later, _ = shaken()
    with pytest.raises(EnclaveError, match="another nonce, role or key"):
        later.finish(recorded_hello, recorded, NOW)


def test_every_handshake_has_another_nonce_and_key():
    (a, b), (c, d) = shaken(), shaken()
    assert len({one.hello[1:33] for one in (a, b, c, d)}) == len({one.hello[33:65] for one in (a, b, c, d)}) == 4


def test_swapped_roles_are_refused():
    a, b = shaken()
    with pytest.raises(EnclaveError, match="another nonce, role or key"):
        a.finish(b.hello, a.evidence(b.hello), NOW)
    with pytest.raises(EnclaveError, match="hello is the own one"):
        a.finish(a.hello, a.evidence(b.hello), NOW)


def test_a_key_that_was_put_in_between_is_refused():
    a, b = shaken()
    _, between = shaken()
    mixed = b.hello[:33] + between.hello[33:65] + b.hello[65:]
    with pytest.raises(EnclaveError, match="another nonce, role or key"):
        a.finish(mixed, b.evidence(a.hello), NOW)


def test_another_configuration_is_refused():
    a, _ = shaken(configuration=b"one")
    _, b = shaken(configuration=b"other")
    with pytest.raises(EnclaveError, match="configuration is another one"):
        a.evidence(b.hello)


def test_records_carry_what_was_sealed_and_nothing_else():
    a, b = channels()
    assert a.sends.key == b.receives.key != a.receives.key
    for epoch in range(5):
        content = os.urandom(100)
        record = a.seal(content, epoch)
        assert len(record) == len(content) + OVERHEAD
        assert content not in record
        assert b.open(record, epoch) == content


def test_no_record_is_accepted_that_the_peer_did_not_just_send():
    assert all(refused(cases=400).values())


@pytest.mark.slow
def test_no_record_of_many_is_accepted():
    counts = refused(cases=100_000)
    assert all(counts.values())
    assert sum(counts.values()) == 100_000


def refused(cases: int) -> dict[str, int]:
    """The refusals by what was done to a record; each case fails the test if the record is accepted."""
    a, b = channels()
    counts = dict.fromkeys(("replayed", "reflected", "reordered", "truncated", "flipped", "another epoch"), 0)
    draw = random.Random(1)
    for case in range(cases):
        kind = [*counts][case % len(counts)]
        first, second = a.seal(content := draw.randbytes(40), case), a.seal(b"second", case)
        wrong, opener = first, a if kind == "reflected" else b
        if kind == "replayed":
            assert b.open(first, case) == content
        elif kind == "reordered":
            assert b.open(second, case) == b"second"
        elif kind == "truncated":
            wrong = first[: draw.randrange(len(first))]
        elif kind == "flipped":
            wrong = flip(first, draw.randrange(8 * len(first)))
        try:
            opener.open(wrong, case + (kind == "another epoch"))
        except EnclaveError:
            counts[kind] += 1
        else:
            pytest.fail(f"A record that was {kind} is accepted.")
        if kind not in ("replayed", "reordered"):
            assert b.open(first, case) == content
    return counts


def flip(record: bytes, bit: int) -> bytes:
    return (int.from_bytes(record, "big") ^ (1 << bit)).to_bytes(len(record), "big")


def test_a_channel_gets_a_new_key_after_2_to_the_32_records():
    a, b = channels()
    a.sends, b.receives = a.sends._replace(next=2**32 - 1), b.receives._replace(next=2**32 - 1)
    for number in range(3):
        assert b.open(a.seal(bytes([number]), 0), 0) == bytes([number])
    assert len(a._ciphers) == 2


def test_an_enclave_of_gramine_reads_and_writes_its_files(tmp_path):
    provider = GramineSGX(device=tmp_path, collateral=tmp_path / "collateral.json")
    with pytest.raises(EnclaveError, match="not in an enclave of Gramine"):
        provider.measurement()
    (tmp_path / "attestation_type").write_text("none\n")
    with pytest.raises(EnclaveError, match=r"attests by 'none'. Set sgx.remote_attestation"):
        provider.quote(bytes(64))
    (tmp_path / "attestation_type").write_text("dcap\n")
    data = hashlib.sha512(b"data").digest()
    (tmp_path / "quote").write_bytes(PROVIDER.quote(data))
    assert provider.quote(data) == (tmp_path / "quote").read_bytes()
    assert (tmp_path / "user_report_data").read_bytes() == data
    with pytest.raises(EnclaveError, match="does not hold the report data"):
        provider.quote(bytes(64))
    with pytest.raises(EnclaveError, match="must have 64 bytes"):
        provider.quote(bytes(3))
    with pytest.raises(EnclaveError, match="collateral of quotes cannot be read"):
        provider.verify(PROVIDER.quote(data))
    (tmp_path / "collateral.json").write_text(platform().collateral)
    with pytest.raises(EnclaveError, match="not genuine"):
        provider.verify(PROVIDER.quote(data))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "_sgx_mrenclave").write_bytes(bytes(16))
    assert provider.sealing_key() == bytes(16)


def test_without_an_enclave_there_is_no_evidence():
    with pytest.raises(EnclaveError, match="no quote"):
        NoEnclave().quote(bytes(64))
    with pytest.raises(EnclaveError, match="no evidence"):
        NoEnclave().verify(b"", NOW)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(EnclaveError, match=r"pip install 'covey\[enclave\]'"):
        PROVIDER.verify(simulated.platform().quote(bytes(384)), int(time.time()))
