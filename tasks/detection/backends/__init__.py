"""Detection libraries behind one interface (base.py).

May import simsiam_eval, tasks.detection.data, schedule.py and detector_spec.py.
"""
