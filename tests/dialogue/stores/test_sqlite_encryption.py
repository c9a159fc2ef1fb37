"""Encryption at rest: nothing readable in any file, one key opens, and every other case says what to do.

The contract test runs on an encrypted store too.
"""

import math
import subprocess
import sys
import time
from collections import Counter

import pytest

from memarch.dialogue.errors import StoreCorrupt, StoreLocked, StoreUnavailable, WrongKey
from memarch.dialogue.stores import _sqlite_key, open_store, users
from memarch.dialogue.stores._user_names import user_directory
from memarch.dialogue.stores.sqlite import SQLiteStore

from ._sqlite_tools import ENVIRONMENT
from ._stores import DIM, new_turn, numbers, summary_of, unit

pytest.importorskip("sqlcipher3")

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))  # bytes need no derivation: opening is quick
SECRET = "Nora keeps the spare key under the third flowerpot"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "memories"


def open_with(directory, key, **options):
    return SQLiteStore(directory, user="ada", key=key, **options)


def fill(directory, key, num_turns=40):
    """A store with turns, vectors, a summary and a setting, still open."""
    store = open_with(directory, key)
    store.add_turns([new_turn(f"{SECRET}, said {i} times", source_id=f"letter {i}") for i in range(num_turns)])
    store.use_embedder("model-a", DIM)
    store.put_vectors(numbers(*range(1, num_turns + 1)), unit(num_turns))
    summary_of(store, [1, 2], text=f"summary: {SECRET}")
    store.put_setting("note", SECRET)
    store.put_cache("words", SECRET.encode())
    return store


def bits_a_byte(data):
    """Entropy of the bytes: 8 for what looks random."""
    return -sum(n / len(data) * math.log2(n / len(data)) for n in Counter(data).values())


def test_no_file_holds_a_text_a_vector_or_a_source(directory):
    store = fill(directory, KEY)
    store.nearest(unit(1)[0], 3)
    store.flush()
    for moment in ("open", "compacted", "closed"):  # the log is there, is emptied, is gone
        files = [path for path in directory.rglob("*") if path.is_file()]
        everything = b"".join(path.read_bytes() for path in files)
        for needle in (b"flowerpot", b"letter 7", b"model-a", b"CREATE TABLE", unit(40)[7].tobytes()[:8]):
            assert needle not in everything, moment
        assert "vectors.faiss" not in [path.name for path in files]
        records = (user_directory(directory, "ada") / "memory.db").read_bytes()
        assert moment == "open" or bits_a_byte(records) > 7.9
        if moment == "open":
            store.erase([3], selector={"turn": "3"})
        store.close()
    assert [turn.turn for turn in open_with(directory, KEY).turns()][:4] == [1, 2, 4, 5]


def test_a_plain_store_would_fail_that_scan(directory):
    fill(directory, None).close()
    records = (user_directory(directory, "ada") / "memory.db").read_bytes()
    assert b"flowerpot" in records and unit(40)[7].tobytes() in records and bits_a_byte(records) < 7.9


@pytest.mark.parametrize("key", ["", "with\0nul", "\ud800", b"short", bytes(33), 7])
def test_what_cannot_be_a_key_is_refused_without_a_trace_and_without_telling_it(directory, key):
    with pytest.raises(ValueError, match="passphrase") as caught:
        open_with(directory, key)
    assert not directory.exists() and "nul" not in str(caught.value).lower().replace("without nul", "")


def test_every_passphrase_opens_its_own_memory_only(directory):
    odd = 'it\'s a "käse"; -- 🧀'
    fill(directory, odd, num_turns=2).close()
    with pytest.raises(WrongKey, match="another key"):
        open_with(directory, odd + " ")
    store = open_with(directory, odd)
    assert store.verify() == [] and store.get_setting("note") == SECRET
    store.close()


def test_a_wrong_key_and_none_are_clear_and_change_nothing(directory, capfd):
    fill(directory, KEY).close()
    home = user_directory(directory, "ada")
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for key, message in ((OTHER, "another key"), (None, "is encrypted, or .*MEMARCH_KEY")):
        for read_only in (False, True):
            with pytest.raises(WrongKey, match=message) as caught:
                open_with(directory, key, read_only=read_only)
            assert OTHER.hex() not in str(caught.value)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    assert capfd.readouterr().err == ""  # SQLCipher itself would write there


def test_a_key_for_a_plain_memory_says_how_to_encrypt_it(directory):
    fill(directory, None).close()
    with pytest.raises(WrongKey, match=r"not encrypted.*migrate\(to=..., key=...\).*--new-key-file"):
        open_with(directory, KEY)
    assert open_with(directory, None).get_setting("note") == SECRET


def test_servers_take_no_key(directory):
    with pytest.raises(ValueError, match="encrypt its disk"):
        open_store("postgresql://localhost/nowhere", user="ada", key=KEY)
    with pytest.raises(ValueError, match="vectors in the clear"):
        open_store(directory, user="ada", key=KEY, vectors="milvus.db")
    with pytest.raises(ValueError, match="in the clear"):
        open_with(directory, KEY, open_index=lambda model, dim: None)


def test_a_missing_package_names_the_extra(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    with pytest.raises(StoreUnavailable, match=r"memarch\[encrypted\]"):
        open_with(directory, KEY)


def test_vectors_are_found_again_without_a_file(directory):
    store = fill(directory, KEY)
    found = store.nearest(unit(40)[7], 3)
    store.close()
    store = open_with(directory, KEY)
    assert store.nearest(unit(40)[7], 3)[0].tolist() == found[0].tolist() and found[0][0] == 8
    assert store.repair() == [] and store.verify() == []
    assert store.stats().num_vectors == 40 and store.stats().disk_bytes > 8192 and store.stats().encrypted
    assert store._db.value("PRAGMA temp_store") == 2  # sorting and VACUUM write no file
    store.close()
    assert not list(directory.rglob("vectors.faiss"))


def test_an_index_in_the_clear_does_not_stay_beside_encrypted_records(directory):
    fill(directory, KEY).close()
    index = user_directory(directory, "ada") / "vectors.faiss"
    index.write_bytes(b"an older one")
    open_with(directory, KEY).close()
    assert not index.exists()


def test_another_key(directory):
    store = fill(directory, KEY)
    reader = open_with(directory, KEY, read_only=True)
    rows = reader._db.connection.execute("SELECT turn FROM turns")
    rows.fetchone()
    store.add_turns([new_turn("more")])
    store._db.connection.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StoreLocked, match="close that reader"):
        store.change_key(OTHER)
    rows.close()
    reader.close()
    store.change_key("a passphrase")
    store.add_turns([new_turn("and more")])
    assert store.verify() == []
    store.close()
    with pytest.raises(WrongKey):
        open_with(directory, KEY)
    store = open_with(directory, "a passphrase")
    assert store.last_turn() == 42 and store.nearest(unit(40)[7], 1)[0] == [8] and store.verify() == []
    with pytest.raises(ValueError, match="32 bytes"):
        store.change_key(b"short")
    store.close()
    plain = SQLiteStore(directory, user="bob")
    with pytest.raises(ValueError, match="expected an encrypted memory"):
        plain.change_key(KEY)
    plain.close()


def test_kill_9_leaves_records_that_the_key_opens(directory):
    script = (
        "import os, sys; from tests.dialogue.stores import test_sqlite_encryption as t; from pathlib import Path; "
        "store = t.fill(Path(sys.argv[1]), t.KEY); print(store.last_turn(), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, directory], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "40\n" and done.returncode == -9
    home = user_directory(directory, "ada")
    assert (home / "memory.db-wal").stat().st_size > 0
    assert not any(b"flowerpot" in path.read_bytes() for path in home.iterdir())
    store = open_with(directory, KEY)
    assert store.last_turn() == 40 and store.verify() == []
    store.close()


def test_a_changed_page_is_damage_not_a_wrong_key(directory):
    fill(directory, KEY, num_turns=400).close()
    file = user_directory(directory, "ada") / "memory.db"
    data = bytearray(file.read_bytes())
    page = _sqlite_key.PAGE_BYTES
    for start in range(2 * page, len(data), page):
        data[start + 100] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="restore from an export"):
        list(open_with(directory, KEY).turns())


def test_one_changed_bit_is_found(directory):
    fill(directory, KEY, num_turns=400).close()
    file = user_directory(directory, "ada") / "memory.db"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    store = open_with(directory, KEY)
    assert "integrity" in [problem.kind for problem in store.verify()]
    store.close()


def test_users_are_listed_whatever_their_keys(directory, caplog):
    for user, key in (("ada", KEY), ("Bo Ek", OTHER), ("cy", None)):
        store = SQLiteStore(directory, user=user, key=key)
        store.put_setting("a", "1")
        store.close()
    assert users(directory) == ["ada", "cy"] and "bo-ek." in caplog.text and "is encrypted" in caplog.text
    caplog.clear()
    assert users(directory, key=OTHER) == ["Bo Ek", "ada", "cy"] and caplog.text == ""


def test_a_kill_while_the_key_changes_leaves_one_of_the_two(directory):
    fill(directory, KEY, num_turns=4000).close()
    keys = [KEY, OTHER]
    script = (
        "import sys; from tests.dialogue.stores import test_sqlite_encryption as t; from pathlib import Path; "
        "store = t.open_with(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])); print('go', flush=True); "
        "store.change_key(bytes.fromhex(sys.argv[3])); print('done', flush=True); sys.stdin.read()"
    )
    for seconds in (0.002, 0.01, 0.03, None):
        command = [sys.executable, "-c", script, directory, keys[0].hex(), keys[1].hex()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as child:
            assert child.stdout.readline() == b"go\n"
            if seconds is None:
                assert child.stdout.readline() == b"done\n"
            else:
                time.sleep(seconds)
            child.kill()
            done = seconds is None or child.stdout.readline() == b"done\n"
        try:
            store = open_with(directory, keys[0])
            assert not done
        except WrongKey:
            store = open_with(directory, keys[1])
            keys.reverse()
        assert store.last_turn() == 4000 and store.verify() == []
        store.close()
