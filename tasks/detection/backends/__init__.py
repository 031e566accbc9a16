"""The libraries that train and run detectors, behind one interface (base.py); imports simsiam_eval, tasks.detection.data,
schedule.py and detector_spec.py."""
