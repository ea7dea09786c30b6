"""What users send, and what they feel."""

from pathlib import Path

CATALOG = Path(__file__).parent / "catalog"
