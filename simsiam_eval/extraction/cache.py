"""Features of images that a task was given, extracted into the cache folder and reused by later runs."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from simsiam_eval.errors import BeingWritten, DataError
from simsiam_eval.extraction.plan import ExtractionPlan
from simsiam_eval.features.file import NOT_COMPARED
from simsiam_eval.files.cache import cache_folder, make_cache_folder
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted


def extract_to_cache(plan: ExtractionPlan, spec: str) -> Path:
    """Extract features into the cache, keyed by weights, source, preprocessing, layers, precision and dtype.

    Args:
        plan: what is extracted.
        spec: the image source as the user gave it, for messages.

    Returns:
        The feature file.

    Raises:
        DataError: the images or the cache folder cannot be used.
    """
    from simsiam_eval.extraction.to_file import write_extraction

    extraction, attributes = plan.extraction, plan.attributes()
    options = extraction.options
    # Moved images and renamed networks have the same features.
    source_key, encoder_key = (
        {key: value for key, value in attributes[name].items() if key not in NOT_COMPARED}
        for name in ("source", "encoder")
    )
    key_attributes = {key: value for key, value in attributes.items() if key not in NOT_COMPARED}
    key_attributes |= {"encoder": encoder_key, "source": source_key, "computation": None}
    key = json.dumps([key_attributes, options.dtype, list(extraction.columns)], sort_keys=True)
    out = cache_folder() / "features" / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".h5")
    action = "from the cache" if out.exists() else "extracting into the cache"
    say(f"features of {spec}: {action}, {out}")
    if not out.exists():
        make_cache_folder(out.parent)
    waiting = False
    while True:
        try:
            _, unreadable = write_extraction(extraction, attributes, out, Processes(extraction.device), cached=True)
            if unreadable == len(extraction.rows):
                raise DataError(f"None of the {counted(unreadable, 'image')} of {spec} could be read.")
            return out
        except BeingWritten:
            if not waiting:
                say(f"features of {spec}: another process is extracting them; waiting for it")
            waiting = True
            time.sleep(1)
