"""Secrets at rest: sealed to their row, rotated, moved to another key."""

from __future__ import annotations

import doctest
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text

from outbox import keyring, secrets, subscriptions
from outbox.binary import from_base64, to_base64
from outbox.errors import InvalidInput, NotFound, WrongState
from outbox.keyring import Keyring, StoredSecret, new_key
from outbox.request import prepare
from outbox.signing import new_private_key, new_secret
from tests.factories import BY, rows, subscribe

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

URL = "https://example.com/hooks"
SECRET = new_secret(b"s" * 32)
ONE, TWO = to_base64(b"1" * 32), to_base64(b"2" * 32)


def add(db: Connection, keys: str = ONE, **options: object) -> UUID:
    ring = Keyring.read(keys)
    return subscriptions.add(db, URL, ["*"], by=BY, keyring=ring, **options)[0].id  # type: ignore[arg-type]


def opened(db: Connection, id: UUID, keys: str = ONE) -> list[str]:
    ring = Keyring.read(keys)
    return [ring.open(stored, subscription_id=id) for stored in secrets.live(db, id)]


def sealed(db: Connection) -> list[tuple[str | None, str]]:
    return [(key, text) for key, text in rows(db, "SELECT key_id, sealed FROM outbox.secret")]


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(keyring).failed == 0


def test_sealed_in_its_row(db: Connection) -> None:
    """With a key, no secret stands in the database; it opens with the key, for its row."""
    id = add(db, secret_text=SECRET)
    ((key_id, text_),) = sealed(db)

    assert key_id == Keyring.read(ONE).sealing_key
    assert SECRET not in text_
    assert SECRET[6:] not in text_
    assert opened(db, id) == [SECRET]


def test_like_cryptography(db: Connection) -> None:
    """What is stored is AES-256-GCM: nonce, ciphertext and tag, bound to the three ids."""
    id = add(db, secret_text=SECRET)
    ((stored, key_id, text_),) = rows(db, "SELECT id, key_id, sealed FROM outbox.secret")
    raw = from_base64(text_) or b""

    found = AESGCM(b"1" * 32).decrypt(raw[:12], raw[12:], f"{id}|{stored}|{key_id}".encode())
    assert found.decode() == SECRET


def test_in_clear_without_a_key(db: Connection) -> None:
    """Without a key a secret is stored as it is, and says so by having no key id."""
    id = add(db, keys="", secret_text=SECRET)

    assert sealed(db) == [(None, SECRET)]
    assert opened(db, id) == [SECRET]


def test_swapped_rows_do_not_open(db: Connection) -> None:
    """A sealed secret that was put into another row is no secret there."""
    one, two = add(db), add(db)
    here, there = (secrets.live(db, id)[0] for id in (one, two))
    ring = Keyring.read(ONE)

    for stored, owner in ((here._replace(sealed=there.sealed), one), (here, two)):
        with pytest.raises(InvalidInput, match="does not open"):
            ring.open(stored, subscription_id=owner)


@pytest.mark.parametrize("damage", ["", "AAAA", "é", to_base64(bytes(40)), "not base64"])
def test_damaged_secret(damage: str) -> None:
    """Whatever stands in the row, the error is a line without it."""
    ring = Keyring.read(ONE)
    stored = StoredSecret("a", ring.sealing_key, damage, None)

    with pytest.raises(InvalidInput, match="it does not open: its row was changed"):
        ring.open(stored, subscription_id="b")


def test_unknown_key(db: Connection) -> None:
    """A secret whose key is missing says which key that is, by its id."""
    id = add(db)

    for keys in ("", TWO):
        with pytest.raises(InvalidInput, match=f"lacks the key {Keyring.read(ONE).sealing_key}"):
            opened(db, id, keys)


@pytest.mark.parametrize(
    "keys", ["x", ONE[:-1], ONE + "=", f"{ONE},", f"{ONE} {TWO}", to_base64(bytes(16)), "é" * 44]
)
def test_malformed_keys(keys: str) -> None:
    """A key of another form is refused with the way to make one, and is not repeated."""
    with pytest.raises(InvalidInput, match=r"^OUTBOX_SECRET_KEY: .*secrets new-key") as error:
        Keyring.read(keys)
    assert keys.split(",")[0] not in str(error.value).split(": ", 1)[1].split()
    assert error.value.__cause__ is None


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are those of OUTBOX_SECRET_KEY, of which the first seals; nobody prints them."""
    monkeypatch.setenv("OUTBOX_SECRET_KEY", f"{TWO}, {ONE}")
    ring = Keyring.read()

    assert list(ring.keys) == [Keyring.read(TWO).sealing_key, Keyring.read(ONE).sealing_key]
    assert repr(ring) == "Keyring()"
    assert Keyring.read("").sealing_key is None
    assert Keyring.read(new_key()).sealing_key is not None


# Another key.


def test_reseal(db: Connection) -> None:
    """Secrets in clear and of old keys move to the first key; the second time none do."""
    ids = [add(db, keys, secret_text=SECRET) for keys in ("", ONE, TWO)]
    ring = Keyring.read(f"{TWO},{ONE}")

    first = secrets.reseal(db, ring)
    second = secrets.reseal(db, ring)

    assert (first.resealed, first.unopened) == (2, 0)
    assert second == (0, 0, None)
    assert {key for key, _ in sealed(db)} == {ring.sealing_key}
    assert [opened(db, id, TWO) for id in ids] == [[SECRET]] * 3


def test_reseal_in_batches(db: Connection) -> None:
    """What does not open is counted and left; those behind it are reached."""
    add(db, ONE)
    last = add(db, "", secret_text=SECRET)
    ring = Keyring.read(TWO)

    first = secrets.reseal(db, ring, limit=1)
    second = secrets.reseal(db, ring, after=first.after, limit=1)

    assert (first.resealed, first.unopened) == (0, 1)
    assert (second.resealed, second.unopened) == (1, 0)
    assert secrets.reseal(db, ring, after=second.after, limit=1).after is None
    assert opened(db, last, TWO) == [SECRET]


def test_reseal_needs_a_key(db: Connection) -> None:
    """Without a key there is nothing to seal with."""
    with pytest.raises(InvalidInput, match="OUTBOX_SECRET_KEY: is not set"):
        secrets.reseal(db, Keyring())


# Rotation.


def ends(db: Connection) -> list[float | None]:
    """Seconds until each secret ends, newest first."""
    query = """
        SELECT extract(epoch FROM expires_at - now())::float8 FROM outbox.secret
        ORDER BY created_at DESC, id DESC
    """
    return [None if end is None else round(end) for (end,) in rows(db, query)]


def test_rotate(db: Connection) -> None:
    """The new secret is the newest, the old one signs for another day, the revision is new."""
    id = add(db, secret_text=SECRET)
    rotated, new = subscriptions.rotate_secret(db, id, by=BY, keyring=Keyring.read(ONE))

    assert new != SECRET
    assert opened(db, id) == [new, SECRET]
    assert ends(db) == [None, 86_400]
    assert rotated.revision == 2


def test_rotation_is_a_fact_without_secrets(db: Connection) -> None:
    """Who rotated is on record; what the secrets are is not."""
    id = add(db, keys="", secret_text=SECRET)
    _, new = subscriptions.rotate_secret(db, id, by=BY, secret_text=new_secret(bytes(32)))
    query = """
        SELECT change, actor, after::text FROM outbox.subscription_change
        ORDER BY revision DESC LIMIT 1
    """
    ((change, actor, after),) = rows(db, query)

    assert (change, actor) == ("rotated", "ada")
    assert json.loads(after)["revision"] == 2
    assert SECRET not in after
    assert new not in after


def test_overlaps_do_not_grow(db: Connection) -> None:
    """A secret that ends earlier already does so; with no overlap the old ones are gone."""
    id = add(db)
    subscriptions.rotate_secret(db, id, by=BY, overlap=60)
    subscriptions.rotate_secret(db, id, by=BY, overlap=3_600)
    assert ends(db) == [None, 3_600, 60]

    _, new = subscriptions.rotate_secret(db, id, by=BY, overlap=0, keyring=Keyring.read(ONE))
    assert opened(db, id) == [new]


def test_at_most_ten_are_live(db: Connection) -> None:
    """The oldest goes when there are too many."""
    id = add(db, keys="")
    new = [subscriptions.rotate_secret(db, id, by=BY)[1] for _ in range(12)]

    assert opened(db, id) == new[:1:-1]
    assert len(rows(db, "SELECT 1 FROM outbox.secret")) == 10


def test_rotation_keeps_the_kind(db: Connection) -> None:
    """A private key is followed by a private key, unless another secret is given."""
    id = add(db, secret_text=new_private_key(bytes(32)))
    ring = Keyring.read(ONE)
    _, second = subscriptions.rotate_secret(db, id, by=BY, keyring=ring)
    _, third = subscriptions.rotate_secret(db, id, by=BY, keyring=ring, secret_text=SECRET)
    _, fourth = subscriptions.rotate_secret(db, id, by=BY, keyring=ring)

    assert [text_.split("_")[0] for text_ in (second, third, fourth)] == ["whsk", "whsec", "whsec"]


def test_a_lost_key_can_be_left_behind(db: Connection) -> None:
    """A secret that does not open can be replaced."""
    id = add(db, ONE)
    ring = Keyring.read(TWO)
    _, new = subscriptions.rotate_secret(db, id, by=BY, overlap=0, keyring=ring)

    assert opened(db, id, TWO) == [new]


@pytest.mark.parametrize("overlap", [-1, 31 * 86_400, float("nan"), float("inf")])
def test_overlap_has_a_range(db: Connection, overlap: float) -> None:
    """An overlap is from none to 30 days."""
    with pytest.raises(InvalidInput, match=r"^overlap: must be from 0"):
        subscriptions.rotate_secret(db, add(db), by=BY, overlap=overlap)


def test_wrong_rotations(db: Connection) -> None:
    """Not of what is removed, unknown or unsigned; not to what its scheme cannot use."""
    removed, github = add(db), add(db, schemes=["github"])
    subscriptions.remove(db, removed, by=BY)

    with pytest.raises(WrongState, match="cannot be given a new secret"):
        subscriptions.rotate_secret(db, removed, by=BY)
    with pytest.raises(InvalidInput, match="cannot sign with a whsk_ key"):
        subscriptions.rotate_secret(db, github, by=BY, secret_text=new_private_key(bytes(32)))
    with pytest.raises(InvalidInput, match="signs nothing"):
        subscriptions.rotate_secret(db, add(db, schemes=["none"]), by=BY)
    with pytest.raises(NotFound):
        subscriptions.rotate_secret(
            db, db.execute(text("SELECT outbox.uuid7()")).scalar_one(), by=BY
        )


def test_add_fits_secret_and_scheme(db: Connection) -> None:
    """A secret belongs to the scheme; none has none; logto's own scheme comes with its format."""
    assert add(db, schemes=["stripe"], secret_text="whsec_test_secret")  # noqa: S106
    assert subscribe(db, URL, format="logto").schemes == ("logto",)
    assert subscriptions.add(db, URL, ["*"], by=BY, schemes=["none"])[1] is None

    with pytest.raises(InvalidInput, match="standard needs a whsec_ secret"):
        add(db, secret_text="hush")  # noqa: S106
    with pytest.raises(InvalidInput, match="signs nothing"):
        add(db, schemes=["none"], secret_text=SECRET)
    with pytest.raises(InvalidInput, match="set by the scheme that signs"):
        add(db, schemes=["slack"], headers={"X-Slack-Signature": "v0=0"})
    with pytest.raises(InvalidInput, match=r"^format: must be one of standard"):
        add(db, format="xml")


def test_keys_are_chosen_at_attempt_time() -> None:
    """Until an old secret ends, both sign; from then on the new one alone; then nobody."""
    old, new = new_secret(b"o" * 32), new_secret(b"n" * 32)
    target = prepare("a", URL, [(new, 200.0), (old, 100.0)], headers={})

    def signatures(now: float) -> int:
        sign = target.sign_at(now)
        return 0 if sign is None else len(sign(b"i", b"1", b"{}")[0][1].split(b" "))

    assert [signatures(now) for now in (0, 99.9, 100, 199, 200)] == [2, 2, 1, 1, 0]
