"""docs/field_log.md: links have the form of GitHub's, and the tests that rows name are there."""

import re


def test_every_row_links_its_reports_and_names_tests_that_there_are(checkout):
    text = (checkout / "docs" / "field_log.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) >= 20
    seen: set[str] = set()
    for row in rows:
        reports, situation, result, tests = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert situation.endswith(".")
        assert result.endswith(".")
        for link in reports.split(", "):
            found = re.fullmatch(
                r"\[([\w.-]+/[\w.-]+)#(\d+)\]\(https://github\.com/([^)]+)\)", link
            )
            assert found, link
            name, number, rest = found.groups()
            assert rest in (f"{name}/issues/{number}", f"{name}/pull/{number}"), link
            assert link not in seen, link
            seen.add(link)
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert len(named) == tests.count("`") / 2 >= 1, tests
        for path, test in named:
            source = (checkout / path).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (path, test)
