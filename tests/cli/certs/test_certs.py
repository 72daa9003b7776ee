"""``trio-duplex certs``: what is made is fit for both roles, private, and never overwritten."""

from __future__ import annotations

import ipaddress
import shutil
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.tools import require_tool
from trio_duplex.certificates import Grade, check_certificate
from trio_duplex.cli._certs.certs import OPERATORS
from trio_duplex.cli._command import command


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["certs", *arguments])


def certificate(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(f"lab/{name}.pem").read_bytes())


def grades(name: str) -> set[Grade]:
    checks = check_certificate(
        certificate_chain=f"lab/{name}.pem", private_key=f"lab/{name}.key", trust="lab/ca.pem"
    )
    return {check.grade for check in checks}


def alternative_names(name: str) -> x509.SubjectAlternativeName:
    return certificate(name).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


@pytest.mark.slow
def test_certificates_are_fit_for_both_roles() -> None:
    result = run("lab", "a.example", "b.example")
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("lab").iterdir()} == {
        f"{name}.{suffix}" for name in ("ca", "a.example", "b.example") for suffix in ("pem", "key")
    }
    for name in ("a.example", "b.example"):
        assert grades(name) == {Grade.OK}
        usage = certificate(name).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {*usage} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert f"--cert lab/{name}.pem" in result.output


def test_keys_are_private_whatever_the_umask() -> None:
    run("lab", "a.example")
    for name in ("ca", "a.example"):
        assert stat.S_IMODE(Path(f"lab/{name}.key").stat().st_mode) == 0o600


def test_lifetimes() -> None:
    run("lab", "a.example", "--days", "30")
    leaf, authority = certificate("a.example"), certificate("ca")
    assert timedelta(days=30) <= leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < timedelta(days=31)
    assert authority.not_valid_after_utc > leaf.not_valid_after_utc


@pytest.mark.slow
def test_names_addresses_and_uris() -> None:
    result = run(
        "lab", "A.Example", "192.0.2.1", "bücher.example",
        "--ip", "127.0.0.1", "--ip", "::1", "--uri", "spiffe://lab.example/{name}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    loopback = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    for name, dns in [
        ("a.example", ["a.example"]),
        ("192.0.2.1", []),
        ("xn--bcher-kva.example", ["xn--bcher-kva.example"]),
    ]:
        names = alternative_names(name)
        assert names.get_values_for_type(x509.DNSName) == dns
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
            f"spiffe://lab.example/{name}"
        ]
        own = [] if dns else [ipaddress.ip_address(name)]
        assert names.get_values_for_type(x509.IPAddress) == own + loopback
        assert grades(name) == {Grade.OK}


def test_a_long_name_has_room() -> None:
    name = ".".join(["a" * 60] * 3)
    assert run("lab", name).exit_code == 0
    assert alternative_names(name).get_values_for_type(x509.DNSName) == [name]


@pytest.mark.slow
def test_another_node_of_the_same_authority() -> None:
    run("lab", "a.example")
    before = Path("lab/ca.pem").read_bytes()
    result = run("lab", "b.example")
    assert result.exit_code == 0, result.output
    assert Path("lab/ca.pem").read_bytes() == before
    assert grades("b.example") == {Grade.OK}


@pytest.mark.parametrize("existing", ["a.example.pem", "b.example.key"])
def test_nothing_is_overwritten(existing: str) -> None:
    Path("lab").mkdir()
    Path("lab", existing).write_text("mine")
    result = run("lab", "a.example", "b.example")
    assert result.exit_code == 1
    assert existing in result.output
    assert [path.name for path in Path("lab").iterdir()] == [existing]
    assert Path("lab", existing).read_text() == "mine"


def test_a_link_is_not_followed() -> None:
    Path("lab").mkdir()
    Path("lab/a.example.key").symlink_to("elsewhere")
    assert run("lab", "a.example").exit_code == 1
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_an_authority_without_its_key_issues_nothing(missing: str) -> None:
    run("lab", "a.example")
    Path("lab", missing).unlink()
    result = run("lab", "b.example")
    assert result.exit_code == 1
    assert missing in result.output
    assert not Path("lab/b.example.key").exists()


@pytest.mark.parametrize("replacement", [b"", b"nothing of the kind", "leaf", "other key"])
def test_invalid_authorities(replacement: bytes | str) -> None:
    run("lab", "a.example")
    match replacement:
        case "leaf":
            for suffix in ("pem", "key"):
                shutil.copy(f"lab/a.example.{suffix}", f"lab/ca.{suffix}")
        case "other key":
            shutil.copy("lab/a.example.key", "lab/ca.key")
        case _:
            Path("lab/ca.pem").write_bytes(bytes(replacement))  # type: ignore[arg-type]
    result = run("lab", "b.example")
    assert result.exit_code == 1
    assert result.output.startswith("trio-duplex: lab: ")
    assert result.output.count("\n") == 1


def test_no_certificate_outlasts_its_authority() -> None:
    run("lab", "a.example")
    result = run("lab", "b.example", "--days", "4000")
    assert result.exit_code == 1
    assert "expires" in result.output


def test_a_file_where_the_folder_should_be() -> None:
    Path("lab").write_text("")
    assert run("lab/deeper", "a.example").exit_code == 1
    assert run("lab", "a.example").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.example", "--days", "0"],
        ["a.example", "--ip", "localhost"],
        ["a.example", "--uri", "no uri"],
        ["../a"],
        ["*.example"],
        ["ca"],
        ["a..example"],
        ["a" * 64],
        ["a b"],
        [""],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    assert run("lab", *arguments).exit_code == 2
    assert not Path("lab").exists()


@pytest.mark.parametrize("width", [50, 80])
def test_the_advice_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("lab", "a.example").output.splitlines()
    assert not [line for line in lines if len(line) > width]


def test_a_path_within_a_sentence_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    folder = f"a-folder-{'with-a-long-name-' * 3}"
    assert f"{folder}/ca.key" in run(folder, "a.example").output.split("Keep")[1].split()


@pytest.mark.interop
def test_what_operators_are_told_works() -> None:
    """The `openssl` lines, as they are printed, make a certificate that is fit for both roles."""
    require_tool("openssl")
    run("lab", "a.example")
    script = OPERATORS.partition("openssl:\n")[2].partition("\nPublic")[0]
    subprocess.run(
        ["sh", "-ec", script.replace("NAME", "b.example")],
        cwd="lab",
        check=True,
        capture_output=True,
    )
    assert Grade.DEFECT not in grades("b.example")
