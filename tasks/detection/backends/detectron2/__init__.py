"""The detectron2 backend, the reference protocol. May import what backends/ may.

detectron2 is imported only here, and only by the modules that require it.
"""
