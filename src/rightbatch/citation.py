"""Internal: the paper that a method comes from, as data."""

from dataclasses import dataclass, replace

MOST_AUTHORS = 3


@dataclass(frozen=True, slots=True)
class Citation:
    """A publication, and the part of it that is meant.

    Args:
        authors: in the order of the paper, such as ("S. De", "A. Yadav"); of long lists the first may stand alone,
            followed by "et al.".
        title: as published.
        year: of publication.
        where: venue and arXiv number, as far as there are such.
        part: equation, algorithm or section; "" is the whole.
    """

    authors: tuple[str, ...]
    title: str
    year: int
    where: str = ""
    part: str = ""

    def at(self, part: str) -> "Citation":
        """The same publication, another part of it."""
        return replace(self, part=part)

    def __str__(self) -> str:
        authors = self.authors if len(self.authors) <= MOST_AUTHORS else (f"{self.authors[0]} et al.",)
        place = ", ".join(filter(None, (str(self.year), self.where)))
        part = f", {self.part}" if self.part else ""
        return f"{', '.join(authors)}, {self.title} ({place}){part}"
