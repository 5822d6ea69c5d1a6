"""Writes the texts that `help()` shows on Python's syntax, from the running Python, as data/topics.txt."""

from pathlib import Path
from pydoc_data.topics import topics

target = Path(__file__).parent / "data" / "topics.txt"
target.parent.mkdir(exist_ok=True)
target.write_text("\n\n".join(text for _, text in sorted(topics.items())), encoding="utf-8")
print(f"wrote {target}, {target.stat().st_size:,} bytes")
