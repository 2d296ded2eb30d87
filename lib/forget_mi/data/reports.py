"""Section extraction from radiology reports, as published for MIMIC-CXR."""

from __future__ import annotations

import re

SECTIONS = ("IMPRESSION", "FINDINGS", "CONCLUSION", "RECOMMENDATION")


_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /&()-]{2,60}?)(?::|[ \t]*$)", re.MULTILINE)


def report_text(report: str) -> str:
    """The text a model reads: Impression, Findings, Conclusion and Recommendation, in this order,
    one line of single spaces; where none of them has text, what follows the heading FINAL REPORT,
    else the whole report."""
    headings = list(_HEADING.finditer(report))
    sections: dict[str, str] = {}
    ends = [after.start() for after in headings[1:]] + [len(report)]
    for heading, end in zip(headings, ends, strict=False):
        name = next(
            (section for section in SECTIONS if heading.group(1).startswith(section)),
            heading.group(1),
        )
        body = report[heading.end() : end].strip()
        if body:
            sections.setdefault(name, body)
    parts = [sections[name] for name in SECTIONS if name in sections]
    if not parts:
        start = report.find("FINAL REPORT")
        parts = [report[start + len("FINAL REPORT") :] if start >= 0 else report]
    return " ".join(" ".join(parts).split())
