"""The AppArmor engine against what a real kernel answered, and its parser's language."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from softsgx.errors import UnsupportedError, UsageError
from softsgx.policy.apparmor import (
    AppArmorPolicy,
    AppArmorProfile,
    compile_profile,
    mask_of,
    mask_text,
)
from tests.lsm.lsm_replay import EXEC, READ, WRITE, File, Vma, replay
from tests.truthrows import TRUTH, Row, Truth, read

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
pytestmark = pytest.mark.skipif(
    shutil.which("apparmor_parser", path=_PATH) is None,
    reason="no apparmor_parser here; to run it: apt-get install apparmor",
)

PROFILE = TRUTH / "apparmor.profile"
PATHS = {"file": "/tmp/f", "zero": "/dev/zero", "sgx": "/dev/sgx_enclave"}


@pytest.fixture(scope="module")
def policy() -> AppArmorPolicy:
    return AppArmorPolicy.load(str(PROFILE))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return read("apparmor")


class Hooks:
    """Linux 6.1 security/apparmor/lsm.c and file.c for one profile, run as root."""

    def __init__(self, profile: AppArmorProfile | None) -> None:
        self.profile = profile
        self.denied: set[tuple[str, str, str]] = set()

    def has(self, file: File, letters: str, operation: str) -> bool:
        missing = "".join(letter for letter in letters if letter not in file.granted)
        if self.profile is None or file.kind not in PATHS or not missing:
            return True
        path = PATHS[file.kind]
        if self.profile.allowed(path, letters):
            return True
        refused = mask_of(letters) & ~self.profile.perms(path, True).allow
        self.denied.add((operation, path, mask_text(refused)))
        return False

    def open(self, file: File) -> bool:
        letters = "rw" if file.writable else "r"
        allowed = self.has(file, letters, "open")
        file.granted = letters
        return allowed

    def mmap_file(self, file: File | None, prot: int, sharing: str) -> bool:
        # MAP_SHARED_VALIDATE (3) has the bit of MAP_PRIVATE (2).
        return self.mapping(file, prot, sharing != "shar", "file_mmap")

    def file_mprotect(self, vma: Vma, prot: int) -> bool:
        return self.mapping(vma.file, prot, not vma.shared, "file_mprotect")

    def mapping(self, file: File | None, prot: int, private: bool, operation: str) -> bool:
        if file is None:
            return True
        letters = "r" if prot & READ else ""
        if prot & WRITE and not private:
            letters += "w"
        if prot & EXEC:
            letters += "m"
        return self.has(file, letters, operation)


@pytest.mark.parametrize("domain", ["unconfined", "loader", "weak"])
def test_open_mmap_and_mprotect_are_answered_as_the_kernel_did(
    policy: AppArmorPolicy, truth: Truth, domain: str
) -> None:
    hooks = Hooks(None if domain == "unconfined" else policy.profile(domain))
    wrong: list[tuple[Row, object]] = []
    for row in truth.of_domain(domain):
        answer = replay(row, hooks)
        if answer != (row.open_answer, row.mmap, row.mprotect):
            wrong.append((row, answer))
    assert not wrong
    # Every line that the kernel logged for the domain was a denial here too.
    logged = {
        (line.fields["operation"], line.fields["name"], line.fields["denied_mask"])
        for line in truth.audit
        if line.fields["profile"] == domain
    }
    assert logged <= hooks.denied


def test_owner_and_deny_rules(policy: AppArmorPolicy) -> None:
    loader = policy.profile("loader")
    assert loader.allowed("/home/a/enclave.so", "mr", owner=True)
    assert not loader.allowed("/home/a/enclave.so", "r", owner=False)
    assert not loader.allowed("/home/a/b/enclave.so", "r")
    assert not loader.allowed("/home/a/secret.so", "m")
    # A deny rule is also silent.
    assert loader.perms("/home/a/secret.so", True).quiet == mask_of("m")
    assert loader.perms("/home/a/enclave.so", False).quiet == 0


@pytest.fixture
def language(tmp_path: Path) -> AppArmorPolicy:
    path = tmp_path / "profile"
    path.write_text(
        """abi <abi/3.0>,
@{HOME}=/home/*/ /root/
profile p /usr/bin/foo {
  @{HOME}/.x/** rw,
  /e/*.so mr,
  deny /e/bad.so m,
  owner /o/[a-c]?{x,yy} rw,
  /log a,
  audit /seen r,
  /bin/ls ix,
  /bin/cat px,
  /lock/* rwk,
  "/with space/f" r,
  /data/[^.]* r,
  ^hat { /h r, }
  profile child { /c rw, }
}
profile complaining flags=(complain) { /z r, }
profile noisy flags=(audit) { /z r, }
profile empty { }
/usr/bin/other { /q rw, }
/usr/bin/w* { /q r, }
"""
    )
    return AppArmorPolicy.load(str(path))


@pytest.mark.parametrize(
    ("path", "owned", "others"),
    [
        ("/home/me/.x/deep/er", "wra", "wra"),
        ("/root/.x/f", "wra", "wra"),
        ("/home/me/deep/.x/f", "", ""),
        ("/e/a.so", "rm", "rm"),
        ("/e/sub/a.so", "", ""),
        ("/e/bad.so", "r", "r"),
        ("/o/a1x", "wra", ""),
        ("/o/b1yy", "wra", ""),
        ("/o/d1x", "", ""),
        ("/log", "a", "a"),
        ("/seen", "r", "r"),
        ("/bin/ls", "xm", "xm"),
        ("/bin/cat", "x", "x"),
        ("/lock/l", "wrak", "wrak"),
        ("/with space/f", "r", "r"),
        ("/data/x", "r", "r"),
        ("/data/.x", "", ""),
        ("/", "", ""),
        ("", "", ""),
        ("/höhe", "", ""),
    ],
)
def test_the_language_of_rules(
    language: AppArmorPolicy, path: str, owned: str, others: str
) -> None:
    profile = language.profile("p")
    assert mask_text(profile.perms(path, True).allow) == owned
    assert mask_text(profile.perms(path, False).allow) == others
    assert profile.perms("/seen", True).audit == mask_of("r")


def test_profiles_hats_and_attachments(language: AppArmorPolicy) -> None:
    assert language.names() == [
        "/usr/bin/other", "/usr/bin/w*", "complaining", "empty", "noisy", "p", "p//child", "p//hat",
    ]  # fmt: skip
    assert language.profile("p//hat").is_hat
    assert not language.profile("p//child").is_hat
    assert language.profile("p//hat").allowed("/h", "r")
    assert not language.profile("p//hat").allowed("/e/a.so", "r")
    assert language.profile("p//child").allowed("/c", "rw")
    assert language.profile("complaining").mode == "complain"
    assert language.profile("p").mode == "enforce"
    assert language.profile("noisy").audit_all
    assert not language.profile("empty").allowed("/z", "r")
    found = {
        path: profile.name if (profile := language.attached_to(path)) else None
        for path in ("/usr/bin/foo", "/usr/bin/other", "/usr/bin/wc", "/bin/ls")
    }
    assert found == {
        "/usr/bin/foo": "p",
        "/usr/bin/other": "/usr/bin/other",
        "/usr/bin/wc": "/usr/bin/w*",
        "/bin/ls": None,
    }
    with pytest.raises(UsageError, match="no profile named 'q'"):
        language.profile("q")


def test_a_compiled_profile_is_taken_as_it_is(policy: AppArmorPolicy, tmp_path: Path) -> None:
    path = tmp_path / "compiled"
    path.write_bytes(compile_profile(str(PROFILE)))
    compiled = AppArmorPolicy.load(str(path))
    assert compiled.names() == policy.names() == ["loader", "weak"]
    for name in compiled.names():
        for file in ("/tmp/f", "/dev/sgx_enclave", "/dev/sgx_provision", "/dev/zero"):
            one, two = (
                compiled.profile(name).perms(file, True),
                policy.profile(name).perms(file, True),
            )
            assert one.allow == two.allow


def test_bad_profiles_are_one_clear_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    for content in (b"profile x { /a zzz, }", b"profile x {", b"\x00\x01\x02"):
        bad.write_bytes(content)
        with pytest.raises(UsageError, match="does not compile: AppArmor parser error") as caught:
            AppArmorPolicy.load(str(bad))
        assert "\n" not in str(caught.value)
    whole = compile_profile(str(PROFILE))
    for length in (12, 40, 700, len(whole) - 1):
        bad.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            AppArmorPolicy.load(str(bad))
    with pytest.raises(UsageError, match="cannot read the profile"):
        AppArmorPolicy.load(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="letters of xwrakml"):
        mask_of("rz")


def test_a_missing_parser_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    with pytest.raises(UnsupportedError, match="install the package apparmor"):
        compile_profile(str(tmp_path))
