"""The detectron2 backend, the reference protocol; detectron2 is imported only here, and only by the modules that need it.
Imports what backends/ may."""
