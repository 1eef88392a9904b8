"""The page that a package index shows: README.md without links that lead nowhere. All else stands in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

# The project's files have no public address, and on an index a relative link is a dead one. So a link to a file becomes
# its words and the file's name, which is the name in the source archive; pictures are left out.
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https://)[^)]*\)\n\n")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https://)([^)#\s]+)\)")


def on_an_index(readme: str) -> str:
    """README as an index shows it."""

    def plain(link: re.Match[str]) -> str:
        words, file = link.groups()
        return words if words == file else f"{words} ({file})"

    return _LINK.sub(plain, _PICTURE.sub("", readme)) + "\nFiles named here lie in the source archive.\n"


README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(long_description=on_an_index(README), long_description_content_type="text/markdown")
