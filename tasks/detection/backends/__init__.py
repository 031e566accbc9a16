"""The libraries that train and run detectors, behind one interface. May import the data of detection and its settings."""
