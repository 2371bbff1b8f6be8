"""What is put around a payload gives the payload back, and refuses what is not one of ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from querycache.errors import ConfigurationError
from querycache.rows.codec import PayloadRejected
from querycache.rows.envelope import COMPRESSED, SIGNED, Envelope, checked_size, signing_keys_of

KEY, OTHER_KEY = b"key of an entry.", b"another entry..."
OLD, NEW = b"old signing key.", b"new signing key."
LARGE = b"qcr" + b"a row, and another. " * 1000

KINDS = {
    "plain": Envelope(),
    "compressing": Envelope(100),
    "signing": Envelope(None, [NEW]),
    "compressing and signing": Envelope(100, [NEW, OLD]),
}


@pytest.mark.parametrize("envelope", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("payload", [b"", b"x", LARGE, bytes(range(256)) * 20], ids=["empty", "small", "large", "odd"])
def test_what_was_wrapped_comes_back(envelope: Envelope, payload: bytes) -> None:
    wrapped = envelope.wrap(KEY, payload)
    assert envelope.unwrap(KEY, wrapped) == payload
    assert envelope.wrap(KEY, payload) == wrapped


def test_a_large_payload_is_made_small_and_a_small_one_left_alone() -> None:
    envelope = KINDS["compressing"]
    assert len(envelope.wrap(KEY, LARGE)) < len(LARGE) / 10
    assert envelope.wrap(KEY, LARGE[:100]) == LARGE[:100]


def test_what_would_not_become_smaller_stays() -> None:
    noise = bytes((value * value * 167 + value // 7) % 251 for value in range(101))
    assert Envelope(100).wrap(KEY, noise) == noise


@pytest.mark.parametrize(
    "forge",
    [
        lambda wrapped: LARGE,
        lambda wrapped: wrapped[:20] + LARGE[1:],
        lambda wrapped: wrapped[:-1] + b"?",
        lambda wrapped: wrapped[:10],
        lambda wrapped: b"",
        lambda wrapped: Envelope(None, [OLD]).wrap(KEY, LARGE),
    ],
    ids=["unsigned", "another payload", "changed", "cut", "empty", "another signing key"],
)
def test_what_others_wrote_is_refused(forge: Callable[[bytes], bytes]) -> None:
    envelope = KINDS["signing"]
    with pytest.raises(PayloadRejected):
        envelope.unwrap(KEY, forge(envelope.wrap(KEY, LARGE)))


def test_a_signed_payload_moved_to_another_key_is_refused() -> None:
    envelope = KINDS["signing"]
    with pytest.raises(PayloadRejected):
        envelope.unwrap(OTHER_KEY, envelope.wrap(KEY, LARGE))


def test_a_key_is_changed_by_knowing_both_for_a_while() -> None:
    before, between, after = Envelope(None, [OLD]), Envelope(None, [NEW, OLD]), Envelope(None, [NEW])
    assert between.unwrap(KEY, before.wrap(KEY, LARGE)) == LARGE
    assert after.unwrap(KEY, between.wrap(KEY, LARGE)) == LARGE


def test_without_a_key_a_signed_payload_is_refused() -> None:
    with pytest.raises(PayloadRejected, match="no signing key"):
        KINDS["plain"].unwrap(KEY, KINDS["signing"].wrap(KEY, LARGE))


def test_a_payload_that_says_another_size_than_it_has_is_refused() -> None:
    wrapped = KINDS["compressing"].wrap(KEY, LARGE)
    for size in (0, 1, len(LARGE) - 1, len(LARGE) + 1, 2**32 - 1):
        with pytest.raises(PayloadRejected):
            KINDS["plain"].unwrap(KEY, COMPRESSED + size.to_bytes(4) + wrapped[8:])


@given(st.binary(max_size=60), st.sampled_from([b"", COMPRESSED, SIGNED, SIGNED + bytes(16) + COMPRESSED]))
def test_any_bytes_are_a_payload_or_refused(rest: bytes, head: bytes) -> None:
    for envelope in KINDS.values():
        with suppress(PayloadRejected):
            assert isinstance(envelope.unwrap(KEY, head + rest), bytes)


@pytest.mark.parametrize("given_key", ["too short", b"short", [NEW, b"short"], 17, [object()]])
def test_what_is_no_signing_key_is_refused_and_not_shown(given_key: object) -> None:
    with pytest.raises(ConfigurationError, match="signing_key: give 16 bytes") as caught:
        signing_keys_of(given_key)  # type: ignore[arg-type]
    assert "short" not in str(caught.value)


def test_signing_keys_are_given_as_text_bytes_or_several() -> None:
    assert signing_keys_of(None) == ()
    assert signing_keys_of(NEW.decode()) == (NEW,) == signing_keys_of(NEW)
    assert signing_keys_of([NEW, OLD.decode()]) == (NEW, OLD)


@pytest.mark.parametrize("size", [-1, 1.5, "64KB", True])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(ConfigurationError, match=r"compress_above=.*None never"):
        checked_size(size)  # type: ignore[arg-type]
