"""A packed bundle against its list: what tools of others say, and every way to tamper with it."""

import os
import shutil
import subprocess
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from alignflow.errors import InputError
from alignflow.hashes import (
    PUBLIC_KEY,
    SIGNATURE,
    SUMS,
    TRUST,
    is_inside,
    require_as_packed,
    sign,
    sums_of,
    verify,
)

FILES = {
    "configs/train.json": b"{}\n",
    "alignflow/__init__.py": b"",
    "alignflow/data/case.py": b"x = 1\n",
    "models/model.pt": bytes(range(256)),
    "docs/README.md": b"# Card\n",
}


def keys(folder, name):
    """A new pair of keys as PEM files: (private, public)."""
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    paths = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    for path, content in zip(paths, (secret, public), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def key(tmp_path):
    return keys(tmp_path, "key")


@pytest.fixture
def packed(tmp_path, key):
    """A folder with the files, their list and its signature."""
    root = tmp_path / "packed"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / SUMS).write_bytes(sums_of(FILES))
    (root / SIGNATURE).write_bytes(sign(sums_of(FILES), key[0]))
    return root


def zipped(path, names):
    """A zip with these names, of which those of `FILES` have their content."""
    listed = FILES | {SUMS: sums_of(FILES)}
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, listed.get(name.removeprefix("top/"), b"print('ran')"))
    return path


def test_sha256sum_takes_the_list(packed):
    if shutil.which("sha256sum") is None:
        pytest.skip("no coreutils here")
    subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=packed, check=True)
    (packed / "configs/train.json").write_bytes(b"{ }\n")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=packed).returncode == 1


def test_openssl_takes_the_signature_and_signs_as_we_do(packed, key, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    files = ["-rawin", "-in", packed / SUMS]
    call = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key[1], *files]
    subprocess.run([*call, "-sigfile", packed / SIGNATURE], check=True)
    call = ["openssl", "pkeyutl", "-sign", "-inkey", key[0], *files, "-out", tmp_path / "signature"]
    subprocess.run(call, check=True)
    assert (tmp_path / "signature").read_bytes() == (packed / SIGNATURE).read_bytes()


def test_an_untouched_bundle_passes(packed, key, monkeypatch):
    assert verify(packed) == verify(packed, key[1]) == len(FILES)
    require_as_packed(packed)
    monkeypatch.setenv(PUBLIC_KEY, str(key[1]))
    require_as_packed(packed)


def change(root):
    (root / "configs/train.json").write_bytes(b'{"seed": "$1"}')


def change_the_package(root):
    (root / "alignflow/data/case.py").write_bytes(b"x = 2\n")


def remove(root):
    (root / "alignflow/data/case.py").unlink()


def add_a_config(root):
    (root / "configs/other.json").write_text("{}")


def link_a_folder(root):
    os.symlink(root / "docs", root / "alignflow/more")


def change_and_list_anew(root):
    """As somebody would who means it; only the signature can tell."""
    change(root)
    files = {name: (root / name).read_bytes() for name in FILES}
    (root / SUMS).write_bytes(sums_of(files))


CODE = [
    (change, "'configs/train.json' is changed"),
    (change_the_package, "'alignflow/data/case.py' is changed"),
    (remove, "'alignflow/data/case.py' is missing"),
    (add_a_config, "'configs/other.json' is not listed"),
    (link_a_folder, "'alignflow/more' is a link"),
]


@pytest.mark.parametrize(("tamper", "message"), CODE)
def test_what_a_run_would_execute(packed, monkeypatch, caplog, tamper, message):
    tamper(packed)
    with pytest.raises(InputError, match=message) as caught:
        verify(packed)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"{message}.*{TRUST}=1"):
        require_as_packed(packed)
    monkeypatch.setenv(TRUST, "1")
    require_as_packed(packed)
    assert message in caplog.text


def test_a_new_list_passes_until_a_key_is_named(packed, key, monkeypatch):
    change_and_list_anew(packed)
    verify(packed)
    with pytest.raises(InputError, match="was not made with the key of"):
        verify(packed, key[1])
    require_as_packed(packed)
    monkeypatch.setenv(PUBLIC_KEY, str(key[1]))
    with pytest.raises(InputError, match="was not made with the key of"):
        require_as_packed(packed)


def test_with_a_key_list_and_signature_must_be_there(packed, key, tmp_path, monkeypatch):
    monkeypatch.setenv(PUBLIC_KEY, str(key[1]))
    (packed / SIGNATURE).unlink()
    with pytest.raises(InputError, match="not signed"):
        require_as_packed(packed)
    (packed / SUMS).unlink()
    with pytest.raises(InputError, match=f"no {SUMS}, so it is no packed bundle"):
        require_as_packed(packed)
    monkeypatch.delenv(PUBLIC_KEY)
    require_as_packed(packed)  # like a checkout


def test_another_key(packed, tmp_path):
    with pytest.raises(InputError, match="was not made with the key of"):
        verify(packed, keys(tmp_path, "other")[1])
    for path in (packed / "docs/README.md", tmp_path / "nowhere.pem", keys(tmp_path, "third")[0]):
        with pytest.raises(InputError, match="no Ed25519 public key"):
            verify(packed, path)
    with pytest.raises(InputError, match="no Ed25519 private key"):
        sign(b"", keys(tmp_path, "third")[1])


def test_what_is_made_by_runs_is_fine_and_what_could_run_is_not(packed):
    for name in ("output/images/pair_00000.png", "models/checkpoints/image_checkpoint_1.pt"):
        (packed / name).parent.mkdir(parents=True)
        (packed / name).write_bytes(b"")
    (packed / "alignflow/__pycache__").mkdir()
    (packed / "alignflow/__pycache__/x.pyc").write_bytes(b"")
    (packed / "models/model.pt").write_bytes(b"trained again")
    require_as_packed(packed)
    with pytest.raises(InputError, match="'models/model.pt' is changed"):
        verify(packed)
    (packed / "models/model.pt").write_bytes(FILES["models/model.pt"])
    with pytest.raises(InputError, match=r"x.pyc' is not listed .*; remove it"):
        verify(packed)
    shutil.rmtree(packed / "alignflow/__pycache__")
    verify(packed)
    (packed / "torch.py").write_text("print('ran')")  # found before the real one
    with pytest.raises(InputError, match="'torch.py' is not listed"):
        verify(packed)


def test_a_zip_is_read_where_it_lies(tmp_path):
    names = [f"top/{name}" for name in (*FILES, SUMS)]
    before = sorted(tmp_path.iterdir())
    assert verify(zipped(tmp_path / "good.zip", names)) == len(FILES)
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "good.zip"]
    for extra, problem in [
        ("top/../../evil.py", "leaves it"),
        ("/top/evil.py", "leaves it"),
        ("top/a\\..\\evil.py", "leaves it"),
        ("other/evil.py", "outside of top/"),
        ("top/evil.py", "not listed"),
        ("top/docs/README.md", "there twice"),
    ]:
        with pytest.warns() if problem == "there twice" else open(os.devnull):
            path = zipped(tmp_path / "bad.zip", [*names, extra])
        with pytest.raises(InputError, match=problem):
            verify(path)
    with pytest.raises(InputError, match="'alignflow/__init__.py' is missing"):
        verify(zipped(tmp_path / "bad.zip", [n for n in names if "__init__" not in n]))
    with pytest.raises(InputError, match="no folder and no zip"):
        verify(tmp_path / "nowhere.zip")


@pytest.mark.parametrize("line", ["", "x", "0" * 64 + "  ../out", "0" * 64 + " one space"])
def test_a_damaged_list(packed, line):
    with open(packed / SUMS, "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=f"{SUMS} has the line"):
        verify(packed)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "/", "C:", "\\", "\0", "\n"])))
def test_names_that_are_inside_stay_inside(parts):
    name = "/".join(parts)
    plain = bool(parts) and set(parts) <= {"a", "b c"}
    assert is_inside(name) == plain
    if plain:
        assert os.path.normpath(f"/top/{name}") == f"/top/{name}"
