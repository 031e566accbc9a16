"""docs/settings.md says what the dataclasses say."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_settings_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("docs_settings", DOCS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == module.page(), "run: python docs/settings.py"
