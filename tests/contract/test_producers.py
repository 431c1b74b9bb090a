"""The producers in the docs are stock: nothing of ours in them, and no address in their build."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET

from support.source import ROOT

FOLDER = ROOT / "infra" / "producers"
PROGRAMS = (FOLDER / "java" / "src" / "main" / "java" / "Publish.java", FOLDER / "python" / "publish.py")


def test_they_import_nothing_of_ours() -> None:
    java, python = (program.read_text() for program in PROGRAMS)
    assert not re.search(r"^import .*headrace", java, re.MULTILINE)
    modules = {node.module for node in ast.walk(ast.parse(python)) if isinstance(node, ast.ImportFrom)}
    assert not any((module or "").startswith(("headrace", "svc_")) for module in modules)


def test_the_build_names_versions_and_no_repository() -> None:
    pom = ET.parse(FOLDER / "java" / "pom.xml").getroot()
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    assert not [found for name in ("repositories", "pluginRepositories") for found in pom.iter(f"{{{space['m']}}}{name}")]
    for dependency in (*pom.iterfind(".//m:dependency", space), *pom.iterfind(".//m:plugin", space)):
        version = dependency.findtext("m:version", "", space)
        assert re.fullmatch(r"\d+(\.\d+)+", version), dependency.findtext("m:artifactId", "", space)


def test_their_page_names_them() -> None:
    page = (FOLDER / "README.md").read_text()
    for program in PROGRAMS:
        assert str(program.relative_to(FOLDER)) in page
